# SPDX-License-Identifier: Apache-2.0
"""Strips: replayed with real buffers, every row that is read is there; what a strip keeps is no more than is read again."""

from __future__ import annotations

import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.random_tiny import tiny_chains
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor
from tvm_tiny.memory.stream_scratch import place
from tvm_tiny.memory.strip_check import check_strips
from tvm_tiny.memory.strips import StripSegment, in_strips, strip_regions
from tvm_tiny.memory.tiny_rows import tiny_rows
from tvm_tiny.ops.graph import TinyGraph


def check(graph: RowGraph, segment: StripSegment) -> None:
    """Also with kernels that work in some bytes each, of a number of their own."""
    for scratch in ({}, {op.name: 3 + 2 * j for j, op in enumerate(segment.ops)}):
        check_strips(graph, segment, place(strip_regions(graph, segment, scratch), 1), scratch)


@settings(max_examples=40, deadline=None)
@given(tiny_chains(), st.integers(1, 5), st.booleans(), st.booleans())
def test_every_row_is_there_when_it_is_read(mod: tvm.IRModule, rows: int, late: bool, over: bool) -> None:
    found = tiny_rows(TinyGraph(mod["main"]))
    assert found is not None
    graph = found.graph
    able = [j for j, op in enumerate(graph.ops) if op.kind == "window"]
    segment = in_strips(graph, graph.ops, [graph.ops[-1].output], rows, late=late, over=able if over else ())
    if segment is not None:
        check(graph, segment)


def separable(height: int = 25) -> RowGraph:
    """Pointwise and 3x3 depthwise in turns."""
    window = Axis(3, 1, 1, 1)
    ops = []
    for i in range(4):
        ops.append(RowOp(f"dw{i}", "window", (f"t{2 * i}",), f"t{2 * i + 1}", window, window))
        ops.append(RowOp(f"pw{i}", "window", (f"t{2 * i + 1}",), f"t{2 * i + 2}", pointwise=True))
    tensors = {f"t{i}": RowTensor(f"t{i}", height, 5, 64) for i in range(9)}
    return RowGraph(tensors, tuple(ops), ("t0",), ("t8",))


def test_a_strip_keeps_what_windows_read_again_and_no_more() -> None:
    graph = separable()
    segment = in_strips(graph, graph.ops, ["t8"], 5)
    assert segment is not None
    assert {t: n for t, n in segment.kept.items() if n} == {"t2": 2, "t4": 2, "t6": 2}
    assert set(segment.fresh.values()) == {5 * 320}
    regions = strip_regions(graph, segment, {})
    assert place(regions).nbytes == (3 * 2 + 2 * 5) * 320  # kept rows, and the two strips one operator works with
    assert segment.count == 6
    check(graph, segment)
    over = in_strips(graph, graph.ops, ["t8"], 5, over=range(8))
    assert over is not None
    assert len(over.over) == 6  # the first reads what is whole, the last writes it
    assert place(strip_regions(graph, over, {})).nbytes == (3 * 2 + 5 + 2) * 320  # one strip, and the rows that are put aside
    check(graph, over)


def test_a_join_of_two_paces_is_refused() -> None:
    tensors = {"x": RowTensor("x", 8, 4, 4), "a": RowTensor("a", 8, 4, 4), "b": RowTensor("b", 4, 4, 4), "y": RowTensor("y", 8, 4, 4)}
    ops = (RowOp("a", "rows", ("x",), "a"), RowOp("b", "window", ("x",), "b", Axis(1, 2), Axis()), RowOp("y", "rows", ("a", "b"), "y"))
    assert in_strips(RowGraph(tensors, ops, ("x",), ("y",)), ops, ["y"], 2) is None
