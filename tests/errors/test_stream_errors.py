# SPDX-License-Identifier: Apache-2.0
"""Illegal streams are rejected by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tvm

import tvm_tiny
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.errors import DialectError, OptionError
from tvm_tiny.memory import stream_strips
from tvm_tiny.memory.check import IllegalPlanError
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor
from tvm_tiny.memory.segments import stages_of
from tvm_tiny.memory.stream_check import REASONS, check_segment
from tvm_tiny.memory.streams import Repeat, StreamedSegment, schedule
from tvm_tiny.passes.stream_rows import StreamRows
from tvm_tiny.schedules import stream

WINDOW = Axis(3, 1, 1, 1)
GRAPH = RowGraph(
    {n: RowTensor(n, 8, 2, 1) for n in ("x", "a", "y")},
    (RowOp("first", "window", ("x",), "a", WINDOW), RowOp("second", "window", ("a",), "y", WINDOW)),
    ("x",),
    ("y",),
)
LEGAL = schedule(GRAPH, stages_of(GRAPH, 0, 2, False), ["y"])


def program(*stages: int) -> StreamedSegment:
    return replace(LEGAL, program=(Repeat(1, stages),))


def too_early() -> StreamedSegment:
    """The second stage's first firing moved to the front."""
    firings = LEGAL.firings()
    firings.remove(1)
    return program(1, *firings)


def in_pairs() -> tuple[RowGraph, StreamedSegment]:
    """The same operators, the first making two rows at once: into a ring of five rows, where the third firing's would be torn apart."""
    graph = replace(GRAPH, ops=(replace(GRAPH.ops[0], group=2), GRAPH.ops[1]))
    return graph, schedule(graph, stages_of(graph, 0, 2, False), ["y"])


PAIRS, BATCHED = in_pairs()
ILLEGAL = {
    "row-not-ready": (GRAPH, replace(too_early(), distances={})),
    "ring-too-small": (GRAPH, replace(LEGAL, rings={"a": 2})),
    "rows-apart": (PAIRS, replace(BATCHED, rings={"a": 5})),
    "rows-missing": (GRAPH, program(*LEGAL.firings()[:-1])),
    "unknown-stage": (GRAPH, program(*LEGAL.firings(), 7)),
    "insufficient-distance": (GRAPH, replace(LEGAL, distances={("y", "x"): LEGAL.distances["y", "x"] - 1})),
}


def test_the_schedule_itself_is_legal() -> None:
    assert LEGAL.rings == {"a": 3}
    check_segment(GRAPH, LEGAL)
    assert BATCHED.rings == {"a": 4}
    check_segment(PAIRS, BATCHED)


def test_every_reason_has_a_case() -> None:
    assert set(ILLEGAL) == set(REASONS)


@pytest.mark.parametrize("reason", REASONS)
def test_illegal_stream_is_rejected_by_name(reason: str) -> None:
    with pytest.raises(IllegalPlanError) as caught:
        check_segment(*ILLEGAL[reason])
    assert {v.reason for v in caught.value.violations} == {reason}


def test_firing_too_often_is_named() -> None:
    with pytest.raises(IllegalPlanError, match=r"rows-missing in step second .*fired 9 times, 8 needed"):
        check_segment(GRAPH, program(*LEGAL.firings(), 1))


def test_a_batched_ring_that_is_too_small_is_named() -> None:
    with pytest.raises(IllegalPlanError) as caught:
        check_segment(PAIRS, replace(BATCHED, rings={"a": 2}))
    assert {v.reason for v in caught.value.violations} == {"ring-too-small"}


def test_rows_that_are_torn_apart_are_named() -> None:
    with pytest.raises(IllegalPlanError, match=r"rows-apart in step first \(a\): rows 4 to 5 are made at once, in slots 4, 0"):
        check_segment(*ILLEGAL["rows-apart"])


def test_a_sum_needs_the_rows_of_the_ring_it_takes_over() -> None:
    """A residual: the sum is stored over its operand row by row; fired before the other operand is there, it reads what is not made."""
    add = RowOp("add", "rows", ("b", "x"), "y")
    tensors = {n: RowTensor(n, 8, 2, 1) for n in ("x", "b", "y")}
    graph = RowGraph(tensors, (RowOp("conv", "window", ("x",), "b", WINDOW), add), ("x",), ("y",))
    legal = schedule(graph, stages_of(graph, 0, 2, False), ["y"])
    check_segment(graph, legal)
    turned = replace(legal, program=tuple(Repeat(p.count, p.body[::-1]) for p in legal.program), distances={})
    with pytest.raises(IllegalPlanError, match="row-not-ready"):
        check_segment(graph, turned)


def three_convolutions() -> tvm.IRModule:
    b = TinyBuilder((1, 4, 3, 4), seed=2)
    return b.finish(b.conv(b.conv(b.conv(b.x, 4), 4), 4))


def test_more_operators_than_tables_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_strips, "MOST_STREAMED", 2)
    with pytest.raises(OptionError, match=r"operators 0\.\.2 can't be streamed together: a stream has at most 2 operators"):
        StreamRows(segments=[(0, 3)])(three_convolutions())


def test_a_stage_of_more_operators_than_its_program_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_LONGEST", 2)
    streamed = StreamRows(segments=[(0, 3)])(three_convolutions())
    with pytest.raises(DialectError, match="streams 3 operators, the program in C numbers 2"):
        tvm_tiny.build(streamed, "c", optimize="speed")
