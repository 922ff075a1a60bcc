# SPDX-License-Identifier: Apache-2.0
"""Illegal streams are rejected by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tvm_tiny.memory.check import IllegalPlanError
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor
from tvm_tiny.memory.segments import stages_of
from tvm_tiny.memory.stream_check import REASONS, check_segment
from tvm_tiny.memory.streams import Repeat, StreamedSegment, schedule

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


ILLEGAL = {
    "row-not-ready": too_early(),
    "ring-too-small": replace(LEGAL, rings={"a": 2}),
    "rows-missing": program(*LEGAL.firings()[:-1]),
    "unknown-stage": program(*LEGAL.firings(), 7),
}


def test_the_schedule_itself_is_legal() -> None:
    assert LEGAL.rings == {"a": 3}
    check_segment(GRAPH, LEGAL)


def test_every_reason_has_a_case() -> None:
    assert set(ILLEGAL) == set(REASONS)


@pytest.mark.parametrize("reason", REASONS)
def test_illegal_stream_is_rejected_by_name(reason: str) -> None:
    with pytest.raises(IllegalPlanError) as caught:
        check_segment(GRAPH, ILLEGAL[reason])
    assert {v.reason for v in caught.value.violations} == {reason}


def test_firing_too_often_is_named() -> None:
    with pytest.raises(IllegalPlanError, match=r"rows-missing in step second .*fired 9 times, 8 needed"):
        check_segment(GRAPH, program(*LEGAL.firings(), 1))
