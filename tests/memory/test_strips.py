# SPDX-License-Identifier: Apache-2.0
"""Strips: replayed with real buffers, every row that is read is there; what a strip keeps is no more than is read again."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.random_tiny import tiny_chains
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor
from tvm_tiny.memory.stream_scratch import place
from tvm_tiny.memory.strips import Firing, StripSegment, in_strips, needed, strip_regions
from tvm_tiny.memory.tiny_rows import tiny_rows
from tvm_tiny.ops.graph import TinyGraph


class Replay:
    """The firings run on buffers that hold (tensor, row), overwritten as the planned offsets say."""

    def __init__(self, graph: RowGraph, segment: StripSegment) -> None:
        self.graph, self.segment = graph, segment
        self.at = place(strip_regions(graph, segment, {}), 1).offsets
        self.memory: dict[int, tuple[str, int]] = {}
        self.whole = {(t, r) for t in segment.inputs for r in range(graph.tensors[t].height)}
        self.makers = {op.output: j for j, op in enumerate(segment.ops)}
        self.starts, self.done = [0] * len(segment.ops), [0] * len(segment.ops)

    def run(self) -> None:
        seen = -1
        for strip, firing in self.segment.firings():
            if strip != seen:
                seen, self.starts = strip, list(self.done)
            aside = self.segment.set_aside(firing.op)
            if aside in firing.copies:
                self.move(str(aside), self.now, lambda t, r: self.slot(t, r, "aside"))
            if firing.begin < firing.end:
                self.fire(firing)
            self.done[firing.op] = firing.end
            for tensor in firing.copies:
                source = self.now if tensor != aside else lambda t, r: self.slot(t, r, "aside")
                self.move(tensor, source, lambda t, r: self.slot(t, r, "kept"))
        assert self.done == [pace.height for pace in self.segment.paces]

    def fire(self, firing: Firing) -> None:
        op = self.segment.ops[firing.op]
        for k, tensor in enumerate(op.inputs):
            for row in range(*needed(self.graph, op, k, firing.begin, firing.end)):
                self.read(tensor, row)
        last = firing.end == self.segment.paces[firing.op].height
        for row in range(firing.begin, firing.end) if op.kind != "reduce" else range(int(last)):
            if self.segment.home(op.output) in self.segment.outputs:
                self.whole.add((op.output, row))
            else:
                self.write(op.output, row, self.now(op.output, row))

    def now(self, tensor: str, row: int) -> int:
        """Where a row of this strip lies."""
        first = self.starts[self.makers[tensor]]
        return self.at[f"{self.segment.home(tensor)}.fresh"] + (row - first) * self.graph.tensors[tensor].row_bytes

    def slot(self, tensor: str, row: int, region: str) -> int:
        return self.at[f"{tensor}.{region}"] + row % self.segment.kept[tensor] * self.graph.tensors[tensor].row_bytes

    def write(self, tensor: str, row: int, where: int) -> None:
        self.memory |= dict.fromkeys(range(where, where + self.graph.tensors[tensor].row_bytes), (tensor, row))

    def holds(self, tensor: str, row: int, where: int) -> None:
        held = {self.memory.get(where + k) for k in range(self.graph.tensors[tensor].row_bytes)}
        assert held == {(tensor, row)}, f"{tensor} row {row}: {held}"

    def read(self, tensor: str, row: int) -> None:
        if self.segment.home(tensor) in (*self.segment.outputs, *self.segment.inputs):
            assert (tensor, row) in self.whole, f"{tensor} row {row} is not there"
            return
        early = row < self.starts[self.makers[tensor]]
        self.holds(tensor, row, self.slot(tensor, row, "kept") if early else self.now(tensor, row))

    def move(self, tensor: str, source: Callable[[str, int], int], to: Callable[[str, int], int]) -> None:
        """Copy the last rows of this strip."""
        maker = self.makers[tensor]
        for row in range(max(self.starts[maker], self.done[maker] - self.segment.kept[tensor]), self.done[maker]):
            self.holds(tensor, row, source(tensor, row))
            self.write(tensor, row, to(tensor, row))


@settings(max_examples=40, deadline=None)
@given(tiny_chains(), st.integers(1, 5), st.booleans(), st.booleans())
def test_every_row_is_there_when_it_is_read(mod: tvm.IRModule, rows: int, late: bool, over: bool) -> None:
    found = tiny_rows(TinyGraph(mod["main"]))
    assert found is not None
    graph = found.graph
    able = [j for j, op in enumerate(graph.ops) if op.kind == "window"]
    segment = in_strips(graph, graph.ops, [graph.ops[-1].output], rows, late=late, over=able if over else ())
    if segment is not None:
        Replay(graph, segment).run()


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
    Replay(graph, segment).run()
    over = in_strips(graph, graph.ops, ["t8"], 5, over=range(8))
    assert over is not None
    assert len(over.over) == 6  # the first reads what is whole, the last writes it
    assert place(strip_regions(graph, over, {})).nbytes == (3 * 2 + 5 + 2) * 320  # one strip, and the rows that are put aside
    Replay(graph, over).run()


def test_a_join_of_two_paces_is_refused() -> None:
    tensors = {"x": RowTensor("x", 8, 4, 4), "a": RowTensor("a", 8, 4, 4), "b": RowTensor("b", 4, 4, 4), "y": RowTensor("y", 8, 4, 4)}
    ops = (RowOp("a", "rows", ("x",), "a"), RowOp("b", "window", ("x",), "b", Axis(1, 2), Axis()), RowOp("y", "rows", ("a", "b"), "y"))
    assert in_strips(RowGraph(tensors, ops, ("x",), ("y",)), ops, ["y"], 2) is None
