# SPDX-License-Identifier: Apache-2.0
"""What a legal stream is: replay the program with real ring slots and look at every row that is read.

Shares nothing with the scheduler but the operators' row maps. Reasons (stable names):

    row-not-ready          a firing reads a row that no firing has made yet
    ring-too-small         the row was there, but its slot holds another row by now
    rows-apart             rows made at once do not lie one behind the other in their ring
    rows-missing           the program ends before all rows of all stages are made, or fires a stage too often
    unknown-stage          the program names a stage that does not exist
    insufficient-distance  at the distance declared, an output is stored over bytes of an input that are read at once or later
"""

from __future__ import annotations

from tvm_tiny.memory.check import IllegalPlanError, Violation
from tvm_tiny.memory.rows import RowGraph, RowOp
from tvm_tiny.memory.streams import StreamedSegment

REASONS = tuple(line.split()[0] for line in (__doc__ or "").splitlines() if line.startswith("    "))


def check_segment(graph: RowGraph, segment: StreamedSegment) -> None:
    """Raise `IllegalPlanError` with every violation of the segment's program."""
    violations = find_stream_violations(graph, segment)
    if violations:
        raise IllegalPlanError(violations)


def find_stream_violations(graph: RowGraph, segment: StreamedSegment) -> list[Violation]:
    """Every violation of the segment's program, in the order of execution."""
    replay = _Replay(graph, segment)
    for stage in segment.firings():
        if not 0 <= stage < len(segment.stages) + len(segment.fetched):
            return [Violation("unknown-stage", str(stage), (), f"there are {len(segment.stages)} stages")]
        replay.fire(stage)
    return replay.found + replay.missing() + replay.too_close()


class _Replay:
    def __init__(self, graph: RowGraph, segment: StreamedSegment) -> None:
        self.graph, self.segment = graph, segment
        self.found: list[Violation] = []
        self.fired = [0] * (len(segment.stages) + len(segment.fetched))
        self.slots: dict[tuple[str, int], tuple[str, int]] = {}
        self.made: set[tuple[str, int]] = set()
        self.time = 0
        self.reads: dict[str, list[tuple[int, int]]] = {}  # by tensor: (time of the firing, row)
        self.stores: dict[str, list[tuple[int, int]]] = {}
        self.home = {s.over: s.output for s in segment.stages if s.over is not None}
        for name in segment.inputs:
            for row in range(graph.tensors[name].height):
                self._store(name, row)

    def fire(self, stage: int) -> None:
        firing = self.fired[stage]
        self.fired[stage] += 1
        self.time += 1
        if stage >= len(self.segment.stages):
            self._store(self.segment.fetched[stage - len(self.segment.stages)], firing)
            return
        fired = self.segment.stages[stage]
        for op in fired.ops:
            for k in range(fired.times(op)):
                self._run(op, firing * fired.times(op) + k, fired.inner)

    def _run(self, op: RowOp, firing: int, inner: tuple[str, ...]) -> None:
        if firing >= self.graph.firings(op):
            return  # counted by `missing`
        for position, name in enumerate(op.inputs):
            for row in range(*self.graph.needs(op, firing, position)):
                if name not in inner:
                    self._read(op, name, row)
        rows = range(self.graph.made(op, firing), self.graph.made(op, firing + 1))
        if op.output in inner:
            return
        slots = [self._slot(op.output, row)[1] for row in rows]
        if slots != list(range(slots[0], slots[0] + len(slots)) if slots else []):
            detail = f"rows {rows[0]} to {rows[-1]} are made at once, in slots {', '.join(map(str, slots))}"
            self.found.append(Violation("rows-apart", op.name, (op.output,), detail))
        for row in rows:
            self._store(op.output, row)

    def _slot(self, name: str, row: int) -> tuple[str, int]:
        home = self.home.get(name, name)
        return home, row % self.segment.rings.get(home, self.graph.tensors[home].height)

    def _store(self, name: str, row: int) -> None:
        self.slots[self._slot(name, row)] = (name, row)
        self.made.add((name, row))
        self.stores.setdefault(self._slot(name, row)[0], []).append((self.time, row))

    def _read(self, op: RowOp, name: str, row: int) -> None:
        self.reads.setdefault(name, []).append((self.time, row))
        if (name, row) not in self.made:
            self.found.append(Violation("row-not-ready", op.name, (name,), f"row {row} is not made yet"))
        elif self.slots[self._slot(name, row)] != (name, row):
            held = self.slots[self._slot(name, row)]
            detail = (
                f"row {row} was overwritten by row {held[1]} of {held[0]} in a ring of {self.segment.rings.get(self._slot(name, row)[0])}"
            )
            self.found.append(Violation("ring-too-small", op.name, (name,), detail))

    def missing(self) -> list[Violation]:
        stages = self.segment.stages
        wanted = [self.graph.firings(s.ops[-1]) // s.times(s.ops[-1]) for s in stages] + [
            self.graph.tensors[t].height for t in self.segment.fetched
        ]
        names = [s.name for s in stages] + [f"fetch {t}" for t in self.segment.fetched]
        return [
            Violation("rows-missing", name, (), f"fired {fired} times, {want} needed")
            for name, fired, want in zip(names, self.fired, wanted, strict=True)
            if fired != want
        ]

    def too_close(self) -> list[Violation]:
        """Distances between whole tensors below what the firings need: all a firing reads may be read after all it stores."""
        found = []
        for (out, into), declared in self.segment.distances.items():
            needed = self._distance(out, into)
            if needed is not None and declared < needed:
                found.append(Violation("insufficient-distance", "", (out, into), f"{declared} bytes are declared, {needed} needed"))
        return found

    def _distance(self, out: str, into: str) -> int | None:
        """The most by which the end of a stored row lies above the first byte of the other tensor that is still to be read."""
        row_bytes, other = self.graph.tensors[out].row_bytes, self.graph.tensors[into].row_bytes
        most: int | None = None
        later = sorted(self.reads.get(into, []), reverse=True)
        lowest, at = None, 0
        for time, row in sorted(self.stores.get(out, []), reverse=True):
            while at < len(later) and later[at][0] >= time:
                lowest = later[at][1] if lowest is None else min(lowest, later[at][1])
                at += 1
            if lowest is not None:
                most = max((row + 1) * row_bytes - lowest * other, most if most is not None else -(2**31))
        return most
