# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions that make several rows at once in a stream: exact for heights they do not divide, legal, and within the arena."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.schedules.test_stream import run_guarded
from tests.support.host import HostModel
from tests.support.random_tiny import tiny_chains
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.memory.stream_check import check_segment
from tvm_tiny.memory.stream_strips import forced
from tvm_tiny.memory.tiny_rows import TinyRows, tiny_rows
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.stream_rows import StreamRows
from tvm_tiny.schedules.stream_costs import COSTS

pytestmark = pytest.mark.host_cc

DISABLED = ["remove-constant-channels"]


def separable(height: int, width: int, channels: int, stride: int = 1, zero_point: int = -128) -> tvm.IRModule:
    """Two depthwise separable blocks between pointwise convolutions, the second depthwise one with `stride` and padding at one side."""
    b = TinyBuilder((1, height, width, 4), seed=height)
    x = b.conv(b.x, channels, 1, y_zp=zero_point)
    x = b.depthwise(x, 3, x_zp=zero_point, y_zp=zero_point)
    x = b.conv(x, channels, 1, x_zp=zero_point, y_zp=zero_point)
    x = b.depthwise(x, 3, x_zp=zero_point, y_zp=zero_point, strides=[stride, stride], padding=[0, 1, 1, 0])
    return b.finish(b.conv(x, 4, 1, x_zp=zero_point))


def rows_of(mod: tvm.IRModule) -> TinyRows:
    rows = tiny_rows(TinyGraph(mod["main"]))
    assert rows is not None
    return rows


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tiny_chains(), st.integers(2, 5))
def test_random_chains_are_exact_and_stay_in_their_arena(mod: tvm.IRModule, strips: int) -> None:
    count = len(rows_of(mod).graph.ops)
    streamed = StreamRows(segments=[(0, count)], strips=strips)(mod)
    model = tvm_tiny.build(streamed, "c", disable=DISABLED, optimize="speed")
    library, rng = HostModel(model), np.random.default_rng(1)
    for fill in (0x00, 0xFF):
        x = rng.integers(-128, 128, model.inputs[0].shape).astype(np.int8)
        np.testing.assert_array_equal(run_guarded(model, library, x, fill), evaluate(mod, x)[0])


@pytest.mark.parametrize("strips", [2, 3, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_programs_are_legal(strips: int, stride: int) -> None:
    rows = rows_of(separable(7, 5, 8, stride))
    (part,) = forced(rows, [(0, 5)], COSTS, strips=strips).ranges
    assert part.segment is not None
    groups = {op.name: op.group for stage in part.segment.stages for op in stage.ops}
    graph = rows.graph
    check_segment(replace(graph, ops=tuple(replace(op, group=groups[op.name]) for op in graph.ops)), part.segment)
    assert list(groups.values()) == [1, min(strips, 7), 1, min(strips, 3 if stride == 2 else 6), 1]


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an500", "mps2_an386"])
@pytest.mark.parametrize("zero_point", [-128, 127])
def test_on_emulated_cores(board: str, zero_point: int, rng: np.random.Generator) -> None:
    mod = separable(7, 5, 7, 2, zero_point)
    model = tvm_tiny.build(StreamRows(segments=[(0, 5)], strips=2)(mod), board=board, optimize="speed", disable=DISABLED)
    images = [rng.integers(-128, 128, model.inputs[0].shape).astype(np.int8), np.full(model.inputs[0].shape, 127, np.int8)]
    for image, result in zip(images, model.run([{model.inputs[0].name: image} for image in images]), strict=True):
        np.testing.assert_array_equal(evaluate(mod, image)[0], result[model.outputs[0].name])


def test_more_rows_are_made_where_they_cost_no_memory() -> None:
    """A larger tensor elsewhere decides the arena, so that rings may be taller; without it they are not."""
    mod = separable(24, 24, 16)
    rows = rows_of(mod)
    (least,) = forced(rows, [(0, 5)], COSTS).ranges
    made = {}
    for arena in (least.bytes, 3 * least.bytes):
        choice = forced(rows, [(0, 5)], COSTS, arena, more=True)
        (part,) = choice.ranges
        assert part.segment is not None
        made[arena] = max(op.group for stage in part.segment.stages for op in stage.ops)
        assert part.bytes <= 1.01 * arena
        assert least.bytes <= choice.chosen["arena_bytes"] <= 1.01 * arena
    assert list(made.values()) == [1, 8]
    streamed = StreamRows("sram", segments=[(0, 5)], arena=3 * least.bytes, taller=True)(mod)
    (stage,) = [n for n in TinyGraph(streamed["main"]).nodes if n.op == "stage"]
    assert max(json.loads(stage.attrs["schedule"])["groups"]) == 8
