# SPDX-License-Identifier: Apache-2.0
"""A byte-exact memory simulator that knows nothing of the planner: every byte carries the tag of who wrote it last.

A step's kernel is given by its access pattern: row by row it reads input bytes, then stores output bytes. Kernels without
a right are simulated at their worst: they store first and read afterwards. Scratch is scribbled on between any two rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_tiny.memory.plan import Buffer, MemoryPlan, Right, Step

Memory = dict[tuple[str, int], tuple[str, int]]


@dataclass(frozen=True)
class Pattern:
    """Before storing output bytes [r*row, (r+1)*row) the kernel reads input bytes [low[r], high[r]) of each input."""

    row: int
    low: tuple[int, ...]
    high: tuple[int, ...]

    def distance(self) -> int:
        """The least safe distance: no byte is stored that this or a later row still reads."""
        lowest_later = [min(self.low[r:]) for r in range(len(self.low))]
        return max((r + 1) * self.row - low for r, low in enumerate(lowest_later))


class Simulator:
    """Runs the steps of a plan; `run` raises AssertionError at the first byte read that is not what was meant."""

    def __init__(self, plan: MemoryPlan, patterns: dict[str, Pattern]) -> None:
        self.plan, self.patterns = plan, patterns
        self.memory: Memory = {}

    def run(self) -> None:
        for b in self.plan.buffers:
            if b.kind in ("input", "constant"):
                self._store(b, 0, b.nbytes)
        for step in self.plan.steps:
            self._step(step)
        for b in self.plan.buffers:
            if b.keep or b.kind in ("output", "constant"):
                self._read(b, 0, b.nbytes)

    def _step(self, step: Step) -> None:
        order = self.plan.orders.get(step.name)
        pattern = self.patterns.get(step.name)
        self._scribble(step)
        if order == "in-place":
            for i in range(self._buffer(step.writes[0]).nbytes):
                self._rows(step, i, 1, [(i, i + 1)] * len(step.reads))
        elif pattern is None:
            for name in step.writes:
                self._store(self._buffer(name), 0, self._buffer(name).nbytes)
            for name in step.reads:
                self._read(self._buffer(name), 0, self._buffer(name).nbytes)
        else:
            self._by_rows(step, pattern, order == "descending")
        self._scribble(step)

    def _by_rows(self, step: Step, pattern: Pattern, mirrored: bool) -> None:
        out = self._buffer(step.writes[0])
        for r, (low, high) in enumerate(zip(pattern.low, pattern.high, strict=True)):
            reads = [(low, high)] * len(step.reads)
            start = r * pattern.row
            if mirrored:
                sizes = [self._buffer(name).nbytes for name in step.reads]
                reads = [(n - high, n - low) for n in sizes]
                start = out.nbytes - start - pattern.row
            self._rows(step, start, pattern.row, reads)
            self._scribble(step)

    def _rows(self, step: Step, start: int, count: int, reads: list[tuple[int, int]]) -> None:
        for name, (low, high) in zip(step.reads, reads, strict=True):
            self._read(self._buffer(name), low, high)
        self._store(self._buffer(step.writes[0]), start, start + count)

    def _buffer(self, name: str) -> Buffer:
        return self.plan.buffer(name)

    def _store(self, b: Buffer, low: int, high: int) -> None:
        where = self.plan.placements[b.name]
        size = self.plan.used[where.region]
        for i in range(low, high):
            assert 0 <= where.offset + i < size, f"{b.name} writes outside {where.region}"
            self.memory[where.region, where.offset + i] = (b.name, i)

    def _read(self, b: Buffer, low: int, high: int) -> None:
        where = self.plan.placements[b.name]
        for i in range(low, high):
            held = self.memory.get((where.region, where.offset + i))
            assert held == (b.name, i), f"byte {i} of {b.name} was overwritten by {held}"

    def _scribble(self, step: Step) -> None:
        for name in step.scratch:
            self._store(self._buffer(name), 0, self._buffer(name).nbytes)


def rights_of(pattern: Pattern, output: str, inputs: tuple[str, ...]) -> tuple[Right, ...]:
    """Both row orders' rights of a kernel with this pattern."""
    return tuple(Right(output, name, order, pattern.distance()) for name in inputs for order in ("ascending", "descending"))
