# SPDX-License-Identifier: Apache-2.0
"""The scratch of a streamed segment: what is needed at once never shares a byte, by replay; what is not does, by size."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.random_rows import row_graphs
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor
from tvm_tiny.memory.segments import stages_of
from tvm_tiny.memory.stream_scratch import Layout, Part, Use, least_distance, place, place_thoroughly, regions_of
from tvm_tiny.memory.streams import FIRING, SUM_BYTES, StreamedSegment, schedule


class Bytes:
    """The scratch, every byte tagged with what was stored there last; a read of anything else is an error."""

    def __init__(self, graph: RowGraph, segment: StreamedSegment, layout: Layout, scratch: dict[str, int]) -> None:
        self.graph, self.segment, self.layout, self.scratch = graph, segment, layout, scratch
        self.memory = np.full(layout.nbytes, -1, np.int64)
        self.tags: dict[tuple[str, int], int] = {}
        self.fired = dict.fromkeys((op.name for stage in segment.stages for op in stage.ops), 0)

    def run(self) -> None:
        """Fire the whole program."""
        for number in self.segment.firings():
            stage = self.segment.stages[number]
            for op in stage.ops:
                for _ in range(stage.times(op)):
                    self._fire(op, stage.inner)

    def _fire(self, op: RowOp, inner: tuple[str, ...]) -> None:
        firing = self.fired[op.name]
        self.fired[op.name] += 1
        for position, name in enumerate(op.inputs):
            for row in range(*self.graph.needs(op, firing, position)):
                self._read(name, row, inner)
        self._store((op.name, 0), self._region(op.name, 0, self.scratch.get(op.name, 0)))
        if op.kind == "reduce":
            sums = self._region(f"{op.output}.sums", 0, SUM_BYTES * self.graph.tensors[op.output].channels)
            assert firing == 0 or (sums == self._tag((op.output, -1))).all(), f"sums of {op.output} are gone"
            self._store((op.output, -1), sums)
        for row in range(self.graph.made(op, firing), self.graph.made(op, firing + 1)):
            if op.output in self.segment.rings:
                self._store((op.output, row), self._row(op.output, row))

    def _read(self, name: str, row: int, inner: tuple[str, ...]) -> None:
        if name in self.segment.rings and name not in inner:
            assert (self._row(name, row) == self._tag((name, row))).all(), f"row {row} of {name} is gone"

    def _row(self, name: str, row: int) -> np.ndarray:
        size = self.graph.tensors[name].row_bytes
        return self._region(f"{name}.ring", row % self.segment.rings[name] * size, size)

    def _region(self, name: str, at: int, size: int) -> np.ndarray:
        start = self.layout.offsets[name] + at if size else 0
        assert start + size <= self.layout.nbytes
        return self.memory[start : start + size]

    def _tag(self, what: tuple[str, int]) -> int:
        return self.tags.setdefault(what, len(self.tags))

    def _store(self, what: tuple[str, int], where: np.ndarray) -> None:
        where[:] = self._tag(what)


@settings(max_examples=100, deadline=None)
@given(row_graphs(), st.sampled_from(FIRING), st.integers(0, 3), st.sampled_from([1, 4]))
def test_nothing_that_is_needed_is_overwritten(graph: RowGraph, firing: str, most: int, align: int) -> None:
    last = len(graph.ops) - 1 if graph.ops[-1].kind == "whole" else len(graph.ops)
    segment = schedule(graph, stages_of(graph, 0, last, False), graph.leaving(0, last), firing=firing)
    scratch = {op.name: 5 * (i % (most + 1)) for i, op in enumerate(graph.ops[:last])}
    regions = regions_of(graph, segment, scratch)
    layout = place(regions, align)
    Bytes(graph, segment, layout, scratch).run()
    assert layout.nbytes <= sum(-(-r.nbytes // align) * align for r in regions)
    for name, distance in layout.distances.items():
        assert distance == max(layout.offsets[r.name] + r.nbytes - r.use.freed[name] for r in regions)
    better = place_thoroughly(regions, align)
    Bytes(graph, segment, better, scratch).run()
    assert sum(better.distances.values()) <= sum(layout.distances.values())
    assert (sum(better.distances.values()) if better.distances else better.nbytes) >= least_distance(regions)


def chain(blocks: int) -> RowGraph:
    """`blocks` times a 3x3 depthwise and a pointwise convolution, on 12 rows of 10 bytes."""
    same, tensors, ops = Axis(3, 1, 1, 1), {"x": RowTensor("x", 12, 5, 2)}, []
    before = "x"
    for i in range(blocks):
        for name, fields in ((f"d{i}", {"rows": same, "columns": same}), (f"p{i}", {"pointwise": True})):
            tensors[name] = RowTensor(name, 12, 5, 2)
            ops.append(RowOp(f"make {name}", "window", (before,), name, **fields))  # type: ignore[arg-type]
            before = name
    return RowGraph(tensors, tuple(ops), ("x",), (before,))


def test_rows_that_are_handed_on_share_their_bytes() -> None:
    graph = chain(4)
    segment = schedule(graph, stages_of(graph, 0, 8, False), ["p3"], firing="prompt")
    assert segment.rings == {"d0": 1, "p0": 3, "d1": 1, "p1": 3, "d2": 1, "p2": 3, "d3": 1}
    assert place(regions_of(graph, segment, {}), 1).nbytes == 3 * 30 + 10
    early = schedule(graph, stages_of(graph, 0, 8, False), ["p3"], firing="early")
    assert place(regions_of(graph, early, {}), 1).nbytes > 3 * 30 + 10


def test_regions_needed_at_different_times_lie_in_the_same_bytes() -> None:
    parts = [Part("a", 10, Use(0b0011, {"x": 0})), Part("b", 6, Use(0b1100, {"x": 8})), Part("c", 4, Use(0b0110, {"x": 4}))]
    layout = place(parts, 4)
    assert least_distance(parts) == 10
    assert layout.nbytes == 16
    assert layout.distances == {"x": 12}


def test_under_an_input_that_lies_elsewhere_nothing_slides() -> None:
    """Early regions low is what an input above wants; without one, only bytes count."""
    parts = [Part("late", 10, Use(0b01, {"x": 90})), Part("early", 4, Use(0b11, {"x": 0})), Part("last", 6, Use(0b10, {"x": 95}))]
    assert place_thoroughly(parts, 1).distances == {"x": 4}
    alone = place_thoroughly(parts, 1, ["x"])
    assert (alone.nbytes, alone.distances) == (14, {})
