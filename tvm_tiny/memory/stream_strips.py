# SPDX-License-Identifier: Apache-2.0
"""Streams of given ranges: through rings row by row, or in strips of several rows (`tvm_tiny.memory.strips`), of which height.

Taller strips read constants less often and fill the kernels' blocks better; they need more bytes while an operator works with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tvm_tiny.errors import OptionError
from tvm_tiny.memory.partitions import plan_partition
from tvm_tiny.memory.segments import Cutter, Partition, Range
from tvm_tiny.memory.stream_choice import EFFORT, MOST_STREAMED, Choice, Costs, cutter_of, in_pairs, may_stream, with_rights
from tvm_tiny.memory.strips import StripSegment, in_strips
from tvm_tiny.memory.tiny_rows import TinyRows
from tvm_tiny.ops.graph import Node

STRIPS = ("none", "tall", "within", "least")
"""Streams go through rings; in strips as tall as the arena leaves room for, where that is less work; in strips of the fewest bytes that
keep within the work allowed; in strips of the fewest bytes. Where one range decides the arena, the others are as tall as there is room."""

_SURE = 0.92  # of the extra work allowed, what the estimate may be: it is some per cent of a network's off

_MORE = 1.01  # of the arena, what taller strips may make of it
_HEIGHTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)  # rows of the first operator's output


def forced(
    rows: TinyRows,
    segments: Sequence[tuple[int, int]],
    costs: Costs,
    arena: int | None = None,
    strips: str | int = "none",
    max_overhead: float = 0.1,
) -> Choice:
    """Exactly these ranges of operators [first, last), streamed; everything else layer by layer.

    Parameters
    ----------
    arena : int, optional
        What the network may take.
    strips : str or int
        Of `STRIPS`, or rows of the first operator's output at once.
    max_overhead : float
        Work that strips "within" may take beyond the same kernels layer by layer.

    Raises
    ------
    OptionError
        A range can't be streamed, has several results or too many operators.
    """
    paired = in_pairs(rows, costs)
    cutter = cutter_of(paired, costs)
    ranges = []
    for first, last in segments:
        if last - first > MOST_STREAMED:
            raise OptionError(
                f"operators {first}..{last - 1} can't be streamed together: a stream has at most {MOST_STREAMED} operators",
                remedy="stream them in several segments",
            )
        found = cutter.range(first, last)
        if found is None or not found.streamed or not may_stream(rows.graph, first, last):
            raise OptionError(
                f"operators {first}..{last - 1} can't be streamed together", remedy="leave out operators that need whole tensors"
            )
        ranges.append(found)
    chosen: dict[str, Any] = {"segments": [list(s) for s in segments]}
    cut = _Cut(rows, paired, costs)
    if isinstance(strips, int):
        ranges = [min(cut.of_height(part, strips), key=lambda p: p.bytes, default=part) for part in ranges]
    elif strips in ("within", "least"):
        allowed = _SURE * max_overhead if strips == "within" else None
        ranges = [cut.smallest(part, allowed) for part in ranges]
        ranges, arena = cut.tall(ranges, cut.planned(ranges))
    elif strips == "tall" and arena is not None:
        ranges, arena = cut.tall(ranges, arena)
    return Choice(tuple(ranges), "forced", "asked for", chosen | ({"arena_bytes": arena} if arena is not None else {}))


class _Cut:
    """A network whose streamed ranges are tried in strips."""

    def __init__(self, rows: TinyRows, paired: TinyRows, costs: Costs) -> None:
        self.rows, self.paired, self.costs = with_rights(rows, costs), paired, costs
        self.cutter: Cutter = cutter_of(self.rows, costs)
        self.able: dict[tuple[str, int], bool] = {}
        self.found: dict[tuple[int, int], list[Range]] = {}

    def of_height(self, part: Range, height: int) -> Iterator[Range]:
        """The range in strips of so many rows, operators early or late, writing over their inputs or not: those that differ."""
        graph, first, last = self.rows.graph, part.first, part.last
        seen: list[StripSegment] = []
        for late in (False, True):
            bare = in_strips(graph, graph.ops[first:last], graph.leaving(first, last), height, late=late)
            if bare is None:
                return
            able = [j for j, node in enumerate(self.rows.nodes[first:last]) if self._over(node, bare.most(j))]
            for over in ((), able):
                segment = in_strips(graph, bare.ops, bare.outputs, height, late=late, over=over)
                if segment is not None and all((s.paces, s.over) != (segment.paces, segment.over) for s in seen):
                    seen.append(segment)
                    yield self.cutter.range_of(first, last, segment)

    def _over(self, node: Node, rows: int) -> bool:
        """Whether the operator's kernel of so many rows can write over what it reads, remembered."""
        key = (node.name, rows)
        if key not in self.able:
            self.able[key] = self.costs.over(node, rows)
        return self.able[key]

    def candidates(self, part: Range) -> list[Range]:
        """The range in strips of every height worth trying, remembered."""
        if (key := (part.first, part.last)) not in self.found:
            op = self.rows.graph.ops[part.first]
            height = self.rows.graph.tensors[op.inputs[0] if op.kind == "reduce" else op.output].height
            self.found[key] = [found for rows in _HEIGHTS if rows <= height for found in self.of_height(part, rows)]
        return self.found[key]

    def smallest(self, part: Range, allowed: float | None) -> Range:
        """The range in the fewest bytes with at most `allowed` extra work (None: any); where nothing keeps to that, of least work."""
        found = [part, *self.candidates(part)]
        if allowed is not None:
            ops, nodes = self.paired.graph.ops[part.first : part.last], self.rows.nodes[part.first : part.last]
            layers = self.costs.layers_work(self.paired.graph, ops, nodes)
            direct = self.costs.layers_work(self.rows.graph, self.rows.graph.ops[part.first : part.last], nodes)
            # Poolings of one element are no work at all.
            extra = {id(r): self.work(r) / ((direct if isinstance(r.segment, StripSegment) else layers) or 1.0) - 1 for r in found}
            found = [r for r in found if extra[id(r)] <= allowed] or [min(found, key=lambda r: extra[id(r)])]
        return min(found, key=lambda r: r.bytes)

    def tall(self, streamed: Sequence[Range], arena: int) -> tuple[list[Range], int]:
        """The ranges in strips where those are less work, as tall as the planned arena hardly grows; and that arena."""
        ranges, limit = list(streamed), int(arena * _MORE)
        macs = [sum(op.macs for op in self.rows.graph.ops[r.first : r.last]) for r in ranges]
        for number in sorted(range(len(ranges)), key=lambda n: -macs[n]):
            part = ranges[number]
            fitting = [r for r in self.candidates(part) if r.bytes <= max(limit, part.bytes) and self.work(r) < self.work(part)]
            for tried in sorted(fitting, key=self.work):
                trial = [*ranges[:number], tried, *ranges[number + 1 :]]
                needed = self.planned(trial)
                if needed <= limit:
                    ranges, arena = trial, max(arena, needed)
                    break
        return ranges, arena

    def work(self, part: Range) -> float:
        """Estimated work of a streamed range."""
        nodes = self.rows.nodes[part.first : part.last]
        if isinstance(part.segment, StripSegment):
            return self.costs.strip_work(self.rows.graph, part.segment, nodes)
        return self.costs.ring_work(self.paired.graph, self.paired.graph.ops[part.first : part.last], nodes)

    def planned(self, streamed: Sequence[Range]) -> int:
        """Bytes of the arena with these ranges."""
        covered = {i for r in streamed for i in range(r.first, r.last)}
        layers = [r for i in range(len(self.rows.graph.ops)) if i not in covered and (r := self.cutter.range(i, i + 1)) is not None]
        ranges = tuple(sorted([*layers, *streamed], key=lambda r: r.first))
        partition = Partition(ranges, max(r.bytes for r in ranges), self.cutter.options)
        return plan_partition(self.paired.graph, partition, EFFORT / 4).arena_bytes
