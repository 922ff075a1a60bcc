# SPDX-License-Identifier: Apache-2.0
"""Streamed stages as C: bit for bit on random chains, inside their arena, and on the shared models."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings

import tvm_tiny
from tests.support.demo import MODEL, demo_samples
from tests.support.host import HostModel
from tests.support.random_tiny import tiny_chains
from tests.support.shared import SHARED, needs_shared
from tests.support.tiny_builder import evaluate
from tests.test_exact_host import assert_exact
from tvm_tiny.compiled import CompiledModel
from tvm_tiny.memory.tiny_rows import tiny_rows
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.stream_rows import StreamRows

pytestmark = pytest.mark.host_cc

GUARD = 64
LIMITS = {  # the project's goals: bytes of the arena, image and kernel scratch inside
    "pretrainedResnet_quant": 16_000,
    "vww_96_int8": 33_000,
    "kws_ref_model": 7_200,
    "person_detect": 20_500,
    "mcunet_vww_80": 30_000,
    "mcunetv2_large": 232_000,
}


def streams(model: CompiledModel) -> int:
    """How many streamed stages a model has."""
    return sum(call.op == "tiny.stage" for call in model.program.calls)


def run_guarded(model: CompiledModel, library: HostModel, x: np.ndarray, fill: int) -> np.ndarray:
    """Run in an arena full of `fill` with canaries on both sides; the output."""
    size = model.workspace_size
    raw = np.full(size + 2 * GUARD + 16, fill, np.uint8)
    start = GUARD + -(raw.ctypes.data + GUARD) % 16
    raw[:start] = raw[start + size :] = 0xA5
    run = ctypes.CDLL(str(library.library))[f"tvmgen_{model.name}_run_with_workspace"]
    out = np.zeros(model.outputs[0].shape, np.int8)
    pointers = [(ctypes.c_void_p * 1)(a.ctypes.data) for a in (np.ascontiguousarray(x), out)]
    assert run(*pointers, ctypes.c_void_p(raw.ctypes.data + start)) == 0
    assert (raw[:start] == 0xA5).all(), "bytes below the arena were written"
    assert (raw[start + size :] == 0xA5).all(), "bytes above the arena were written"
    return out


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tiny_chains())
def test_random_chains_are_exact_and_stay_in_their_arena(mod: tvm.IRModule) -> None:
    rows = tiny_rows(TinyGraph(mod["main"]))
    assert rows is not None
    model = tvm_tiny.build(
        StreamRows(segments=[(0, len(rows.graph.ops))])(mod), "c", disable=["remove-constant-channels"], optimize="speed"
    )
    assert streams(model) == 1
    library, rng = HostModel(model), np.random.default_rng(1)
    for fill in (0x00, 0xFF):
        x = rng.integers(-128, 128, model.inputs[0].shape).astype(np.int8)
        np.testing.assert_array_equal(run_guarded(model, library, x, fill), evaluate(mod, x)[0])


def test_the_demo_network_streamed_is_the_demo_network() -> None:
    whole, streamed = (tvm_tiny.build(MODEL, "c", optimize=goal) for goal in ("speed", "sram"))
    assert streams(streamed) >= 1
    assert streams(whole) == 0
    assert streamed.workspace_size < whole.workspace_size
    images, _ = demo_samples(50)
    one, other = HostModel(whole), HostModel(streamed)
    for image in images:
        np.testing.assert_array_equal(one(image)[0], other(image)[0])


@pytest.mark.qemu
def test_the_demo_network_streamed_on_the_emulated_m7() -> None:
    images, _ = demo_samples(3)
    host, board = (tvm_tiny.build(MODEL, target, optimize="sram") for target in ("c", "c -mcpu=cortex-m7"))
    library, name = HostModel(host), board.inputs[0].name
    results = board.run([{name: image.reshape(board.inputs[0].shape)} for image in images], board="mps2-an500")
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(library(image)[0], result[board.outputs[0].name])


LARGE = ("mcunetv2_large", "mcunet_vww_80")


@needs_shared
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in LIMITS])
def test_shared_models_streamed_are_exact_and_small(name: str, rng: np.random.Generator) -> None:
    path = Path(SHARED) / "models/tflite" / f"{name}.tflite"
    assert tvm_tiny.build(path, "c -mcpu=cortex-m7", optimize="sram").workspace_size <= LIMITS[name]
    assert_exact(path, rng, 1, optimize="sram")
