# SPDX-License-Identifier: Apache-2.0
"""recompute: what it copies, what it leaves, and that neither a bit nor the arena it promised is lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given, settings

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.random_tiny import tiny_chains
from tests.support.shared import SHARED, needs_shared
from tests.support.tiny_builder import TinyBuilder, assert_same_meaning, evaluate, op_names
from tests.test_exact_host import assert_exact
from tvm_tiny.ops import add as add_op
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.ops.mul import quantize_params
from tvm_tiny.passes.recompute import RECOMPUTE_ATTR, Recompute

LEAST_WITH_COPIES = 190_000  # bytes of the arena of mcunetv2_large, at most 12 % of the multiply-accumulates done again


def squeeze_and_excite(size: int = 24) -> tvm.IRModule:
    """An inverted bottleneck whose expanded tensor is scaled by a value made of its own mean."""
    b = TinyBuilder((1, size, size, 8))
    d = b.depthwise(b.conv(b.x, 48))
    mean = {"x_zp": 5, "y_zp": 5, "keepdims": True}
    rows = b.call("mean", d, axes=[2], multiplier=(1 << 30) // size, shift=1, **mean)
    one = b.call("mean", rows, axes=[1], multiplier=(1 << 30) // size, shift=1, **mean)
    scaled = b.call("mul", d, b.conv(one, 48), a_zp=5, b_zp=5, y_zp=-3, **quantize_params(0.1, 0.1, 0.9))
    thin = b.conv(scaled, 8)
    return b.finish(b.call("add", thin, b.x, a_zp=3, b_zp=-7, y_zp=1, **add_op.quantize_params(0.11, 0.37, 0.2)))


def chosen(mod: tvm.IRModule) -> dict:
    return json.loads(str(mod.attrs[RECOMPUTE_ATTR]))["chosen"]


def test_the_expanded_tensor_is_made_again_for_the_product(rng: np.random.Generator) -> None:
    before = squeeze_and_excite()
    after = Recompute("sram", max_overhead=1.0)(before)
    assert op_names(before) == ["conv2d", "depthwise_conv2d", "mean", "mean", "conv2d", "mul", "conv2d", "add"]
    assert op_names(after) == ["conv2d", "depthwise_conv2d", "mean", "mean", "conv2d", "conv2d", "depthwise_conv2d", "mul", "conv2d", "add"]
    graph = TinyGraph(after["main"])
    assert [len(graph.consumers[n.var]) for n in graph.nodes if n.op == "depthwise_conv2d"] == [1, 1]
    assert chosen(after)["extra_macs"] > 0
    assert_same_meaning(before, after, rng)


def test_no_more_is_done_again_than_allowed() -> None:
    after = Recompute("sram", max_overhead=0.05)(squeeze_and_excite())
    assert op_names(after) == op_names(squeeze_and_excite())


@pytest.mark.parametrize("arguments", [{"goal": "speed"}, {"goal": "sram", "rows": False}])
def test_nothing_is_copied_without_streamed_rows(arguments: dict) -> None:
    after = Recompute(max_overhead=1.0, **arguments)(squeeze_and_excite())
    assert op_names(after) == op_names(squeeze_and_excite())


def test_a_network_without_such_tensors_is_left() -> None:
    b = TinyBuilder((1, 8, 8, 4))
    mod = b.finish(b.depthwise(b.conv(b.x, 16)))
    after = Recompute("sram", max_overhead=1.0)(mod)
    tvm.ir.assert_structural_equal(after["main"], mod["main"])


@pytest.mark.host_cc
def test_built_it_is_exact_and_as_small_as_promised() -> None:
    mod = squeeze_and_excite()
    plain, twice = (tvm_tiny.build(mod, "c", name="net", optimize="sram", max_overhead=m) for m in (0.0, 1.0))
    promised = twice.report.decisions["curve"]["chosen"]["arena_bytes"]
    assert twice.workspace_size <= promised < plain.workspace_size
    assert "computed twice" in str(twice.report)
    library, rng = GuardedModel(twice), np.random.default_rng(0)
    for x in (rng.integers(-128, 128, (1, 24, 24, 8)), np.full((1, 24, 24, 8), 127), np.full((1, 24, 24, 8), -128)):
        np.testing.assert_array_equal(library(x)[0], evaluate(mod, x.astype(np.int8))[0])
        assert not library.faults


@pytest.mark.host_cc
@settings(max_examples=4, deadline=None)
@given(tiny_chains(2, 5, ("squeeze", "squeeze", "squeeze")))
def test_random_networks_are_exact(mod: tvm.IRModule) -> None:
    library = GuardedModel(tvm_tiny.build(mod, "c", name="net", optimize="sram", max_overhead=2.0))
    x = np.random.default_rng(0).integers(-128, 128, library.model.inputs[0].shape).astype(np.int8)
    np.testing.assert_array_equal(library(x)[0].reshape(-1), evaluate(mod, x)[0].reshape(-1))
    assert not library.faults


@needs_shared
@pytest.mark.slow
@pytest.mark.host_cc
def test_the_large_network_in_less_than_its_largest_tensor_and_the_image(rng: np.random.Generator) -> None:
    path = Path(SHARED) / "models/tflite/mcunetv2_large.tflite"
    model = tvm_tiny.build(path, "c -mcpu=cortex-m7", optimize="sram", max_overhead=0.12)
    assert model.workspace_size <= LEAST_WITH_COPIES
    assert model.report.decisions["recompute"]["chosen"]["extra_macs"] <= 0.12
    assert_exact(path, rng, 1, optimize="sram", max_overhead=0.12)
