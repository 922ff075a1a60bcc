# SPDX-License-Identifier: Apache-2.0
"""Streams are legal by replay, their rings minimal by exhaustion, their plans safe in a byte-exact machine."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.random_rows import row_graphs
from tests.support.stream_simulator import Machine
from tvm_tiny.memory.partitions import best_partition, least_arena, least_peak, plan_partition
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor
from tvm_tiny.memory.segments import Cutter, Options, stages_of
from tvm_tiny.memory.stream_check import check_segment
from tvm_tiny.memory.streams import FIRING, Dataflow, compress, reordered, schedule

RANDOM = settings(max_examples=150, deadline=None)


def streamable_length(graph: RowGraph) -> int:
    return len(graph.ops) - 1 if graph.ops[-1].kind == "whole" else len(graph.ops)


@RANDOM
@given(row_graphs(), st.booleans(), st.booleans(), st.sampled_from(FIRING))
def test_every_program_is_legal(graph: RowGraph, pixel: bool, fetched: bool, firing: str) -> None:
    last = streamable_length(graph)
    stages = stages_of(graph, 0, last, pixel)
    inputs = graph.inputs if fetched else ()
    segment = schedule(graph, stages, graph.leaving(0, last), inputs, firing)
    check_segment(graph, segment)
    for other in FIRING:
        check_segment(graph, reordered(graph, segment, other))


@settings(max_examples=60, deadline=None)
@given(row_graphs(max_blocks=3), st.booleans())
def test_rings_are_minimal(graph: RowGraph, pixel: bool) -> None:
    """No cheaper combination of ring heights (up to two rows below each) can run, whatever the heights of the others."""
    last = streamable_length(graph)
    stages = stages_of(graph, 0, last, pixel)
    outputs = graph.leaving(0, last)
    segment = schedule(graph, stages, outputs)
    flow = Dataflow(graph, stages, outputs)
    names = sorted(segment.rings)
    cost = [graph.tensors[t].row_bytes for t in names]
    best = sum(c * segment.rings[t] for c, t in zip(cost, names, strict=True))
    choices = [range(max(1, segment.rings[t] - 2), segment.rings[t] + 2) for t in names[:5]]
    for heights in itertools.product(*choices):
        tried = dict(segment.rings) | dict(zip(names, heights, strict=False))
        if sum(c * tried[t] for c, t in zip(cost, names, strict=True)) < best:
            sequence, _ = flow.run(tried)
            assert len(sequence) < sum(flow.total), f"{tried} would do, {dict(segment.rings)} was found"


@RANDOM
@given(row_graphs(), st.sampled_from(["inside", "external", "fetched"]), st.booleans(), st.booleans())
def test_planned_partitions_never_lose_a_byte(graph: RowGraph, image: str, pixel: bool, both_orders: bool) -> None:
    rights = ("in-place", "ascending", "descending") if both_orders else ("in-place", "ascending")
    options = Options(
        rights, pixel_fusion=pixel, external=graph.inputs if image == "external" else (), fetched=graph.inputs if image == "fetched" else ()
    )
    cutter = Cutter(graph, options)
    partition, plan = least_arena(cutter, effort=1)
    Machine(graph, partition, plan).run()
    assert plan.arena_bytes >= partition.peak or not plan.optimal


@RANDOM
@given(row_graphs())
def test_bounds_hold_and_streaming_never_hurts(graph: RowGraph) -> None:
    cutter = Cutter(graph)
    count = len(graph.ops)
    for first, last in itertools.combinations(range(count + 1), 2):
        found = cutter.range(first, last)
        assert found is None or cutter.bound(first, last) <= found.bytes
    layers = best_partition(cutter, allowed=lambda first, last: last == first + 1)
    assert layers is not None
    assert (least_peak(cutter) or 0) <= layers.peak


@RANDOM
@given(row_graphs(max_blocks=3))
def test_least_peak_is_least(graph: RowGraph) -> None:
    """By trying every set of cut points."""
    cutter, count = Cutter(graph), len(graph.ops)
    peaks = []
    for size in range(count):
        for inner in itertools.combinations(range(1, count), size):
            cuts = [0, *inner, count]
            ranges = [cutter.range(a, b) for a, b in itertools.pairwise(cuts)]
            if all(ranges):
                peaks.append(max(r.bytes for r in ranges if r))
    assert least_peak(cutter) == min(peaks)


@given(st.lists(st.integers(0, 3), max_size=80))
def test_compressed_programs_say_the_same(sequence: list[int]) -> None:
    parts = compress(sequence)
    assert [s for p in parts for _ in range(p.count) for s in p.body] == sequence


def bottleneck(rows: int = 20) -> RowGraph:
    """Inverted bottleneck: 1x1 expand, 3x3 depthwise, 1x1 project, residual sum."""
    same = Axis(3, 1, 1, 1)
    tensors = {"x": RowTensor("x", rows, 4, 2), "e": RowTensor("e", rows, 4, 12), "d": RowTensor("d", rows, 4, 12)}
    tensors |= {"p": RowTensor("p", rows, 4, 2), "y": RowTensor("y", rows, 4, 2)}
    ops = (
        RowOp("expand", "window", ("x",), "e", pointwise=True),
        RowOp("depthwise", "window", ("e",), "d", same, same, in_place=(0,)),
        RowOp("project", "window", ("d",), "p", pointwise=True),
        RowOp("sum", "rows", ("p", "x"), "y", in_place=(0, 1), pointwise=True),
    )
    return RowGraph(tensors, ops, ("x",), ("y",))


def test_bottleneck_keeps_three_expanded_rows_and_runs_in_place() -> None:
    graph = bottleneck()
    segment = schedule(graph, stages_of(graph, 0, 4, False), ["y"])
    assert segment.rings == {"e": 3, "d": 1}
    assert segment.distances == {("y", "x"): 8}  # the projection stores row r of y before the sum reads row r of x
    fused = schedule(graph, stages_of(graph, 0, 4, True), ["y"])
    assert fused.rings == {"e": 3}
    assert fused.ring_bytes(graph) == {"e.ring": 3 * 48, "d.pixel": 12, "p.pixel": 2}


def test_steady_state_is_a_short_loop() -> None:
    graph = bottleneck(rows=100)
    program = schedule(graph, stages_of(graph, 0, 4, False), ["y"]).program
    assert max(p.count for p in program) >= 95
    assert sum(len(p.body) for p in program) < 20


def test_fetched_image_keeps_only_the_window() -> None:
    graph = bottleneck()
    segment = schedule(graph, stages_of(graph, 0, 4, False), ["y"], fetched=("x",))
    assert segment.rings == {"x": 2, "e": 3, "d": 1}  # row r for the sum, row r+1 for the expansion below it
    assert segment.inputs == ()


def test_budget_streams_no_more_than_needed() -> None:
    graph = bottleneck()
    cutter = Cutter(graph)
    least = least_peak(cutter)
    layers = best_partition(cutter, budget=10**6)
    assert least is not None
    assert layers is not None
    assert not any(r.streamed for r in layers.ranges)
    assert best_partition(cutter, budget=least - 1) is None
    tight = best_partition(cutter, budget=least)
    assert tight is not None
    assert any(r.streamed for r in tight.ranges)
    assert plan_partition(graph, tight).arena_bytes == least


@pytest.mark.parametrize("extra", [0, 1])
def test_scratch_is_counted(extra: int) -> None:
    graph = bottleneck()
    cutter = Cutter(graph, Options(scratch=lambda op, streamed: 100 * extra if op.name == "depthwise" else 0))
    assert least_arena(cutter)[1].arena_bytes == least_arena(Cutter(graph))[1].arena_bytes + 100 * extra
