# SPDX-License-Identifier: Apache-2.0
"""Streamed stages as C: bit for bit on random chains, inside their arena, and on the shared models."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.support.demo import MODEL, demo_samples
from tests.support.host import HostModel
from tests.support.random_tiny import tiny_chains
from tests.support.shared import SHARED, needs_shared, shared_models
from tests.support.tiny_builder import TinyBuilder, evaluate
from tests.test_exact_host import assert_exact
from tvm_tiny.compiled import CompiledModel
from tvm_tiny.memory.tiny_rows import tiny_rows
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.fuse_ops import FuseOps
from tvm_tiny.passes.stream_rows import StreamRows
from tvm_tiny.profiler import profile_model
from tvm_tiny.schedules.row_blocks import LINE_BYTES, LINE_CYCLES
from tvm_tiny.schedules.stream_costs import CYCLES, constant_bytes, read_again

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


@settings(max_examples=12, deadline=None)
@given(tiny_chains(more=("resize", "resize")), st.booleans())
def test_random_chains_are_exact_and_stay_in_their_arena(mod: tvm.IRModule, fused: bool) -> None:
    mod = FuseOps()(mod) if fused else mod
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


@pytest.mark.qemu
@pytest.mark.parametrize(
    "path",
    [MODEL, *(pytest.param(p, marks=[pytest.mark.slow, needs_shared]) for p in shared_models("tflite/*.tflite") if p.stem in LIMITS)],
    ids=lambda p: p.stem,
)
def test_balanced_costs_a_tenth_at_most(path: Path) -> None:
    """By the profiler, with a real board's flash, against the same kernels layer by layer."""
    cycles = []
    for disabled in ((), ("stream-rows",)):
        model = tvm_tiny.build(path, "c -mcpu=cortex-m7", optimize="balanced", disable=disabled)
        cycles.append(profile_model(model, "mps2_an500", board_term="stm32h7a3@280").total.cycles["cortex-m7"])
    assert cycles[0] <= 1.1 * cycles[1]


def test_the_report_draws_the_curve_and_marks_the_choice() -> None:
    report = tvm_tiny.build(MODEL, "c").report
    decision = report.decisions["curve"]
    (chosen,) = [p for p in decision["curve"] if p == decision["chosen"]]
    lines = [line for line in str(report).splitlines() if "M cycles" in line]
    assert len(lines) == len(decision["curve"])
    (marked,) = [line for line in lines if line.strip().startswith("*")]
    assert f"{chosen['arena_bytes']:,} bytes" in marked
    assert f"{chosen['cycles'] / 1e6:.2f} M cycles" in marked
    bars = [line.count("█") for line in lines]
    assert bars == sorted(bars), "the curve rises with memory"
    cycles = [p["cycles"] for p in decision["curve"]]
    assert cycles == sorted(cycles, reverse=True), "and falls with cycles"
    assert f"the knee ({chosen['arena_bytes']:,} bytes" in decision["reason"]


def test_constants_that_exceed_the_cache_are_read_again_every_row() -> None:
    b = TinyBuilder((1, 8, 8, 32))
    rows = tiny_rows(TinyGraph(b.finish(b.conv(b.conv(b.x, 96, 3), 32, 1))["main"]))
    assert rows is not None
    parts = [(8, constant_bytes(node)) for node in rows.nodes]
    assert parts == [(8, 96 * (9 * 32 + 12)), (8, 32 * (96 + 12))]
    lines = 7 * sum(size for _, size in parts) / LINE_BYTES
    assert CYCLES * read_again(parts) == pytest.approx(lines * LINE_CYCLES)
    assert read_again(parts[1:]) == 0
