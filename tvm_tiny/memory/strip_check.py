# SPDX-License-Identifier: Apache-2.0
"""What legal strips are: replay them on the bytes of their scratch and look at every row that is read.

Shares nothing with what makes strips but the operators' row maps and the order of firings. Reasons (stable names):

    row-not-ready          a firing reads a row that no firing has made yet
    row-overwritten        the row was there, but its bytes hold something else by now, or it was not kept for a later strip
    strip-too-small        a firing makes more rows than its strip has bytes for
    rows-missing           the strips end before all rows of all operators are made
    insufficient-distance  at the distance declared, bytes of an input are written that are read at once or later
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tvm_tiny.memory.check import IllegalPlanError, Violation
from tvm_tiny.memory.rows import RowGraph
from tvm_tiny.memory.stream_scratch import Layout
from tvm_tiny.memory.streams import SUM_BYTES
from tvm_tiny.memory.strips import Firing, StripSegment, needed

REASONS = tuple(line.split()[0] for line in (__doc__ or "").splitlines() if line.startswith("    "))
_Where = Callable[[str, int], int]


def check_strips(graph: RowGraph, segment: StripSegment, layout: Layout, scratch: Mapping[str, int] | None = None) -> None:
    """Raise `IllegalPlanError` with every violation of strips whose scratch is laid out so; `scratch` is bytes of kernels by operator."""
    violations = find_strip_violations(graph, segment, layout, scratch or {})
    if violations:
        raise IllegalPlanError(violations)


def find_strip_violations(graph: RowGraph, segment: StripSegment, layout: Layout, scratch: Mapping[str, int]) -> list[Violation]:
    """Every violation, in the order of execution."""
    replay = _Replay(graph, segment, layout, scratch)
    replay.run()
    return list({(v.reason, v.step, v.buffers): v for v in (*replay.found, *replay.missing(), *replay.too_close())}.values())


class _Replay:
    def __init__(self, graph: RowGraph, segment: StripSegment, layout: Layout, scratch: Mapping[str, int]) -> None:
        self.graph, self.segment, self.layout, self.scratch = graph, segment, layout, scratch
        self.memory = np.full(layout.nbytes, -1)
        self.whole: dict[tuple[str, int], int] = {}  # by output and row: the tag of what lies there
        self.tags: dict[tuple[str, int], int] = {(t, r): -1 for t in segment.inputs for r in range(graph.tensors[t].height)}
        self.makers = {op.output: j for j, op in enumerate(segment.ops)}
        self.starts, self.done = [0] * len(segment.ops), [0] * len(segment.ops)
        self.found: list[Violation] = []
        self.time = 0
        self.reads: dict[str, list[tuple[int, int]]] = {t: [] for t in segment.inputs}  # (time, first byte read)
        self.ends: dict[str, list[tuple[int, int]]] = {"": []}  # by output, "" for scratch: (time, end of what is written)

    def run(self) -> None:
        seen = -1
        for strip, firing in self.segment.firings():
            if strip != seen:
                seen, self.starts = strip, list(self.done)
            self.time += 1
            aside = self.segment.set_aside(firing.op)
            if aside in firing.copies:
                self._copy(str(aside), self._fresh, self._slot("aside"))
            if firing.begin < firing.end:
                self._fire(firing)
            self.done[firing.op] = firing.end
            for tensor in firing.copies:
                self._copy(tensor, self._slot("aside") if tensor == aside else self._fresh, self._slot("kept"))

    def _fire(self, firing: Firing) -> None:
        op, last = self.segment.ops[firing.op], firing.end == self.segment.paces[firing.op].height
        self._scribble(op.name, -2)
        sums = f"{op.output}.sums"
        if op.kind == "reduce" and firing.begin == 0:
            self._scribble(sums, -3)
        for k, tensor in enumerate(op.inputs):
            for row in range(*needed(self.graph, op, k, firing.begin, firing.end)):
                self._read(op.name, tensor, row)
        for row in range(firing.begin, firing.end) if op.kind != "reduce" else range(int(last)):
            self._make(firing, op.output, row)
        for name, tag in ((op.name, -2), *([(sums, -3)] if op.kind == "reduce" else [])):
            if (self._region(name) != tag).any():
                self.found.append(Violation("row-overwritten", op.name, (name,), "what the kernel works in is written over"))

    def _region(self, name: str) -> np.ndarray:
        """The bytes of a kernel's scratch or sums."""
        if name not in self.layout.offsets:
            return self.memory[:0]
        start = self.layout.offsets[name]
        sums = name.endswith(".sums")
        size = SUM_BYTES * self.graph.tensors[name.removesuffix(".sums")].channels if sums else self.scratch[name]
        return self.memory[start : start + size]

    def _scribble(self, name: str, tag: int) -> None:
        region = self._region(name)
        region[:] = tag
        if len(region):
            self._written(self.layout.offsets[name] + len(region))

    def _written(self, end: int, out: str = "") -> None:
        self.ends.setdefault(out, []).append((self.time, end))

    def _make(self, firing: Firing, tensor: str, row: int) -> None:
        home, data = self.segment.home(tensor), self.graph.tensors[tensor]
        tag = self.tags.setdefault((tensor, row), len(self.tags))
        if home in self.segment.outputs:
            self.whole[home, row] = tag
            self._written((row + 1) * data.row_bytes, home)
            return
        where = self._fresh(tensor, row)
        if where + data.row_bytes > self.layout.offsets[f"{home}.fresh"] + self.segment.fresh[home]:
            detail = f"row {row} lies beyond the {self.segment.fresh[home]} bytes of a strip"
            self.found.append(Violation("strip-too-small", self.segment.ops[firing.op].name, (tensor,), detail))
        self._store(where, data.row_bytes, tag)

    def _store(self, where: int, nbytes: int, tag: int) -> None:
        self.memory[where : where + nbytes] = tag
        self._written(where + nbytes)

    def _fresh(self, tensor: str, row: int) -> int:
        """Where a row of this strip lies."""
        first = self.starts[self.makers[tensor]]
        return self.layout.offsets[f"{self.segment.home(tensor)}.fresh"] + (row - first) * self.graph.tensors[tensor].row_bytes

    def _slot(self, region: str) -> _Where:
        def where(tensor: str, row: int) -> int:
            slot = row % self.segment.kept[tensor]
            return self.layout.offsets[f"{tensor}.{region}"] + slot * self.graph.tensors[tensor].row_bytes

        return where

    def _holds(self, tensor: str, row: int, where: int) -> bool:
        held = self.memory[where : where + self.graph.tensors[tensor].row_bytes]
        return bool((held == self.tags[tensor, row]).all())

    def _read(self, step: str, tensor: str, row: int) -> None:
        if (tensor, row) not in self.tags:
            self.found.append(Violation("row-not-ready", step, (tensor,), f"row {row} is not made yet"))
            return
        if tensor in self.reads:
            self.reads[tensor].append((self.time, row * self.graph.tensors[tensor].row_bytes))
        home = self.segment.home(tensor)
        if tensor in self.segment.inputs:
            return
        if home in self.segment.outputs:
            if self.whole[home, row] != self.tags[tensor, row]:
                self.found.append(Violation("row-overwritten", step, (tensor,), f"row {row} was written over by {home}"))
            return
        early = row < self.starts[self.makers[tensor]]
        kept = self.segment.kept[tensor]
        if early and not kept:
            self.found.append(Violation("row-overwritten", step, (tensor,), f"row {row} is of an earlier strip, of which none is kept"))
        elif not self._holds(tensor, row, self._slot("kept")(tensor, row) if early else self._fresh(tensor, row)):
            detail = f"row {row} is gone from the {kept} rows kept" if early else f"row {row} of the strip was written over"
            self.found.append(Violation("row-overwritten", step, (tensor,), detail))

    def _copy(self, tensor: str, source: _Where, to: _Where) -> None:
        """Keep the last rows of this strip."""
        maker, kept, nbytes = self.makers[tensor], self.segment.kept[tensor], self.graph.tensors[tensor].row_bytes
        for row in range(max(self.starts[maker], self.done[maker] - kept), self.done[maker]):
            if not self._holds(tensor, row, source(tensor, row)):
                self.found.append(Violation("row-overwritten", "", (tensor,), f"row {row} is gone before it is kept"))
            self._store(to(tensor, row), nbytes, self.tags[tensor, row])

    def missing(self) -> Iterator[Violation]:
        for op, pace, done in zip(self.segment.ops, self.segment.paces, self.done, strict=True):
            want = self.graph.tensors[op.inputs[0] if op.kind == "reduce" else op.output].height
            if done != want or pace.height != want:
                yield Violation("rows-missing", op.name, (op.output,), f"{done} rows are done of {want}")

    def too_close(self) -> Iterator[Violation]:
        """Distances below what is written needs: all that a firing reads may be read after all it writes."""
        pairs = [(out, into, d) for (out, into), d in self.segment.distances.items()]
        pairs += [("", into, d) for into, d in self.layout.distances.items()]
        for out, into, declared in pairs:
            later, lowest, at, most = sorted(self.reads[into], reverse=True), None, 0, None
            for time, end in sorted(self.ends.get(out, []), reverse=True):
                while at < len(later) and later[at][0] >= time:
                    lowest = later[at][1] if lowest is None else min(lowest, later[at][1])
                    at += 1
                if lowest is not None:
                    most = end - lowest if most is None else max(most, end - lowest)
            if most is not None and declared < most:
                buffers = (out or "scratch", into)
                yield Violation("insufficient-distance", "", buffers, f"{declared} bytes are declared, {most} needed")
