# SPDX-License-Identifier: Apache-2.0
"""Runs a planned partition in one byte array, row by row, exactly as generated code would, and checks every row read.

Each row has an identity of its own (a tag in every byte). A read asserts that all bytes of the row are still there; a store
writes them; scratch rows live in their rings. Dead bytes keep stale tags, so a wrong address is always noticed.
"""

from __future__ import annotations

import numpy as np

from tvm_tiny.memory.plan import MemoryPlan
from tvm_tiny.memory.rows import RowGraph, RowOp
from tvm_tiny.memory.segments import Partition, Range


class Machine:
    """The arena; `run` raises AssertionError at the first wrong byte."""

    def __init__(self, graph: RowGraph, partition: Partition, plan: MemoryPlan) -> None:
        self.graph, self.partition, self.plan = graph, partition, plan
        self.memory = np.zeros(plan.arena_bytes, np.int64)
        self.outside: dict[str, np.ndarray] = {}
        self.tags: dict[tuple[str, int], int] = {}

    def run(self) -> None:
        for name in self.graph.inputs:
            if name not in self.partition.options.fetched:
                self._allocate_outside(name)
                for row in range(self.graph.tensors[name].height):
                    self.store(name, row)
        for part, step in zip(self.partition.ranges, self.plan.steps, strict=True):
            if part.segment is None:
                self._layer(self.graph.ops[part.first], self.plan.orders.get(step.name, "ascending"))
            else:
                self._stream(part)
        for name in self.graph.outputs:
            for row in range(self.graph.tensors[name].height):
                self.read(name, row)

    def _allocate_outside(self, name: str) -> None:
        if name in self.partition.options.external:
            self.outside[name] = np.zeros(self.graph.tensors[name].nbytes, np.int64)

    def _bytes(self, name: str, row: int, ring: int | None = None) -> np.ndarray:
        """The bytes of a row: of a whole tensor, or of the slot of a ring."""
        tensor = self.graph.tensors[name]
        slot = row if ring is None else row % ring
        if name in self.outside:
            return self.outside[name][slot * tensor.row_bytes : (slot + 1) * tensor.row_bytes]
        base = self.plan.offset(name if ring is None else f"{name}.ring")
        start = base + slot * tensor.row_bytes
        assert start + tensor.row_bytes <= len(self.memory), f"row {row} of {name} lies outside the arena"
        return self.memory[start : start + tensor.row_bytes]

    def _tag(self, name: str, row: int) -> int:
        return self.tags.setdefault((name, row), len(self.tags) + 1)

    def store(self, name: str, row: int, ring: int | None = None, home: str | None = None) -> None:
        self._bytes(home or name, row, ring)[:] = self._tag(name, row)

    def read(self, name: str, row: int, ring: int | None = None, home: str | None = None) -> None:
        held = self._bytes(home or name, row, ring)
        assert (name, row) in self.tags, f"row {row} of {name} is read before it is made"
        assert (held == self._tag(name, row)).all(), f"row {row} of {name} was overwritten"

    def _layer(self, op: RowOp, order: str) -> None:
        count = self.graph.firings(op)
        firings = range(count - 1, -1, -1) if order == "descending" else range(count)
        if order == "in-place" and op.kind == "window":  # channel by channel, each plane copied before its first store
            for f in firings:
                self._reads(op, f)
            for row in range(self.graph.tensors[op.output].height):
                self.store(op.output, row)
            return
        for f in firings:
            self._reads(op, f)
            for row in range(self.graph.made(op, f), self.graph.made(op, f + 1)):
                self.store(op.output, row)

    def _reads(self, op: RowOp, firing: int) -> None:
        for position, name in enumerate(op.inputs):
            for row in range(*self.graph.needs(op, firing, position)):
                self.read(name, row)

    def _stream(self, part: Range) -> None:
        segment = part.segment
        assert segment is not None
        assert set(segment.outputs) == set(self.graph.leaving(part.first, part.last))
        home = {s.over: s.output for s in segment.stages if s.over is not None}
        fired = [0] * (len(segment.stages) + len(segment.fetched))
        for stage in segment.firings():
            firing = fired[stage]
            fired[stage] += 1
            if stage >= len(segment.stages):
                name = segment.fetched[stage - len(segment.stages)]
                self.store(name, firing, segment.rings[name])
                continue
            self._scribble(part)
            inner = segment.stages[stage].inner
            for op in segment.stages[stage].ops:
                self._fire(part, op, firing, inner, home)

    def _fire(self, part: Range, op: RowOp, firing: int, inner: tuple[str, ...], home: dict[str, str]) -> None:
        rings = part.segment.rings if part.segment else {}
        for position, name in enumerate(op.inputs):
            for row in range(*self.graph.needs(op, firing, position)):
                if name not in inner:
                    place = home.get(name, name)
                    self.read(name, row, rings.get(place), place)
        if op.output not in inner:
            place = home.get(op.output, op.output)
            for row in range(self.graph.made(op, firing), self.graph.made(op, firing + 1)):
                self.store(op.output, row, rings.get(place), place)

    def _scribble(self, part: Range) -> None:
        """Sums and pixels may be written at any firing."""
        for name, size in part.segment.ring_bytes(self.graph).items() if part.segment else ():
            if not name.endswith(".ring"):
                base = self.plan.offset(name)
                self.memory[base : base + size] = -1
