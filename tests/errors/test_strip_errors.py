# SPDX-License-Identifier: Apache-2.0
"""Illegal strips are rejected by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tvm_tiny.memory.check import IllegalPlanError
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor
from tvm_tiny.memory.stream_scratch import Layout, place
from tvm_tiny.memory.strip_check import REASONS, check_strips, find_strip_violations
from tvm_tiny.memory.strips import StripSegment, in_strips, strip_regions

WINDOW = Axis(3, 1, 1, 1)
GRAPH = RowGraph(
    {n: RowTensor(n, 12, 2, 1) for n in ("x", "a", "b", "y")},
    (
        RowOp("first", "window", ("x",), "a", WINDOW),
        RowOp("second", "window", ("a",), "b", WINDOW),
        RowOp("third", "window", ("b",), "y", WINDOW),
    ),
    ("x",),
    ("y",),
)
SCRATCH = {"first": 5, "third": 8}


def legal() -> StripSegment:
    segment = in_strips(GRAPH, GRAPH.ops, ["y"], 4)
    assert segment is not None
    return segment


LEGAL = legal()
LAYOUT = place(strip_regions(GRAPH, LEGAL, SCRATCH), 1)


def paced(**change: int) -> StripSegment:
    """The second operator at another pace."""
    first, second, third = LEGAL.paces
    return replace(LEGAL, paces=(first, replace(second, **change), third))


def moved(name: str, onto: str) -> Layout:
    return replace(LAYOUT, offsets={**LAYOUT.offsets, name: LAYOUT.offsets[onto]})


ILLEGAL = {
    "row-not-ready": (replace(paced(shift=0), distances={}), replace(LAYOUT, distances={})),
    "row-overwritten": (replace(LEGAL, kept={**LEGAL.kept, "a": 1}), LAYOUT),
    "strip-too-small": (replace(LEGAL, fresh={**LEGAL.fresh, "b": LEGAL.fresh["b"] - 1}), LAYOUT),
    "rows-missing": (paced(height=11), LAYOUT),
    "insufficient-distance": (replace(LEGAL, distances={("y", "x"): -GRAPH.tensors["x"].nbytes}), LAYOUT),
}


def test_the_strips_themselves_are_legal() -> None:
    assert dict(LEGAL.kept) == {"a": 2, "b": 2}
    check_strips(GRAPH, LEGAL, LAYOUT, SCRATCH)


def test_every_reason_has_a_case() -> None:
    assert set(ILLEGAL) == set(REASONS)


@pytest.mark.parametrize("reason", REASONS)
def test_illegal_strips_are_rejected_by_name(reason: str) -> None:
    with pytest.raises(IllegalPlanError) as caught:
        check_strips(GRAPH, *ILLEGAL[reason], SCRATCH)
    assert reason in {v.reason for v in caught.value.violations}


@pytest.mark.parametrize(
    ("name", "onto"), [("a.kept", "b.kept"), ("b.fresh", "a.fresh"), ("a.kept", "a.fresh"), ("first", "a.fresh"), ("third", "b.kept")]
)
def test_regions_that_share_bytes_while_both_are_needed(name: str, onto: str) -> None:
    violations = find_strip_violations(GRAPH, LEGAL, moved(name, onto), SCRATCH)
    assert {v.reason for v in violations} - {"insufficient-distance"} == {"row-overwritten"}


def test_scratch_too_close_below_the_input() -> None:
    close = replace(LAYOUT, distances={"x": LAYOUT.distances["x"] - LAYOUT.nbytes})
    with pytest.raises(IllegalPlanError, match=r"insufficient-distance \(scratch, x\): .* needed"):
        check_strips(GRAPH, LEGAL, close, SCRATCH)
