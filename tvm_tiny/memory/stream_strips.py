# SPDX-License-Identifier: Apache-2.0
"""Streams of given ranges, and how many rows at once their operators make: as many as cost next to no memory.

Depthwise convolutions widen every row of their input once for each output row that reads it; several rows at once widen it less often, and
what reads them finds its weights in the cache. They need taller rings, which cost nothing where another part of the network decides the
arena.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm_tiny.errors import OptionError
from tvm_tiny.memory.rows import RowGraph
from tvm_tiny.memory.segments import Options, Partition, Range, plan_partition, scratch_layout
from tvm_tiny.memory.stream_choice import EFFORT, Choice, Costs, cutter_of, grouped, in_pairs, may_stream, with_rights
from tvm_tiny.memory.tiny_rows import TinyRows

_MORE = 1.01  # of the arena, what more rows at once may make of it under "sram"
_STRIPS = (8, 6, 4, 3, 2)  # rows at once
_SHARES = ((1.0, False), (1.0, True), (0.5, True))
"""How more rows at once are tried: with this share of the bytes that are left, and whether scratch must find room beside the inputs; what
slides under them pushes them up, and the range before with them."""


def forced(
    rows: TinyRows, segments: Sequence[tuple[int, int]], costs: Costs, arena: int | None = None, strips: int = 1, *, more: bool = False
) -> Choice:
    """Exactly these ranges of operators [first, last), streamed; everything else layer by layer.

    Parameters
    ----------
    arena : int, optional
        What the network may take.
    strips : int
        Rows at once, where an operator has such a form.
    more : bool
        As many of them as `arena` and a hundredth of it leave room for.

    Raises
    ------
    OptionError
        A range can't be streamed, or has several results.
    """
    rows = in_pairs(rows, costs)
    pairs = {op.name: op.group for op in rows.graph.ops}
    rows = grouped(rows, pairs | {name: min(strips, high) for name, high in _heights(rows, costs).items()})
    cutter = cutter_of(rows, costs)
    ranges = []
    for first, last in segments:
        found = cutter.range(first, last)
        if found is None or not found.streamed or not may_stream(rows.graph, first, last):
            raise OptionError(
                f"operators {first}..{last - 1} can't be streamed together", remedy="leave out operators that need whole tensors"
            )
        ranges.append(found)
    chosen: dict[str, Any] = {"segments": [list(s) for s in segments]}
    if arena is not None and more:
        ranges, arena = _in_strips(rows, ranges, arena, costs)
    return Choice(tuple(ranges), "forced", "asked for", chosen | ({"arena_bytes": arena} if arena is not None else {}))


def _heights(rows: TinyRows, costs: Costs) -> dict[str, int]:
    """Rows of the results of operators that can make several at once, by name."""
    pairs = zip(rows.graph.ops, rows.nodes, strict=True)
    return {op.name: rows.graph.tensors[op.output].height for op, node in pairs if costs.strip(node, 2)}


def _in_strips(rows: TinyRows, streamed: list[Range], arena: int, costs: Costs) -> tuple[list[Range], int]:
    """The same ranges, their operators making more rows at once as far as the planned arena hardly grows; and that arena."""
    rows = _with_in_place(rows, costs)
    limit = int(arena * _MORE)
    alone, covered = cutter_of(rows, costs), {i for r in streamed for i in range(r.first, r.last)}
    layers = [r for i in range(len(rows.graph.ops)) if i not in covered and (r := alone.range(i, i + 1)) is not None]
    for number, part in sorted(enumerate(streamed), key=lambda e: -sum(op.macs for op in rows.graph.ops[e[1].first : e[1].last])):
        for share, beside in _SHARES:
            tried = _more_rows(rows, part, (part.bytes + int(share * (limit - part.bytes)), beside), costs)
            if tried is part:
                continue
            trial = [*streamed[:number], tried, *streamed[number + 1 :]]
            needed = _planned(rows, sorted([*layers, *trial], key=lambda r: r.first), costs)
            if needed <= limit:
                streamed, arena = trial, max(arena, needed)
                break
    return streamed, arena


def _with_in_place(rows: TinyRows, costs: Costs) -> TinyRows:
    """`with_rights`, rows at once kept."""
    return grouped(with_rights(rows, costs), {op.name: op.group for op in rows.graph.ops})


def _planned(rows: TinyRows, ranges: Sequence[Range], costs: Costs) -> int:
    """Bytes of the arena with these ranges."""
    streamed = [r.segment for r in ranges if r.segment is not None]
    groups = {op.name: op.group for segment in streamed for stage in segment.stages for op in stage.ops}
    changed = grouped(rows, groups)
    partition = Partition(tuple(ranges), max(r.bytes for r in ranges), cutter_of(changed, costs).options)
    return plan_partition(changed.graph, partition, EFFORT / 4).arena_bytes


def _more_rows(rows: TinyRows, part: Range, limit: tuple[int, bool], costs: Costs) -> Range:
    """A range whose operators make more rows at once: as many for all as fit `limit` (bytes, and whether scratch lies beside the inputs),
    then more for one after the other."""
    ops = rows.graph.ops[part.first : part.last]
    heights = {name: high for name, high in _heights(rows, costs).items() if name in {op.name for op in ops}}
    best, groups = part, {op.name: op.group for op in rows.graph.ops}

    def fitting(trial: Mapping[str, int]) -> Range | None:
        graph = grouped(rows, trial)
        cutter = cutter_of(graph, costs)
        found = cutter.range(part.first, part.last)
        if found is None or found.segment is None or found.bytes > limit[0]:
            return None
        return found if not limit[1] or _beside(graph.graph, found, cutter.options) <= limit[0] else None

    whole = [{**groups, **{name: min(count, high) for name, high in heights.items()}} for count in _STRIPS if heights]
    alone = [[(op.name, n) for n in _STRIPS if n <= heights[op.name]] for op in sorted(ops, key=lambda op: -op.macs) if op.name in heights]
    for trial in whole:
        if (found := fitting(trial)) is not None:
            best, groups = found, trial
            break
    for choices in alone:
        for name, n in choices:
            if n > groups[name] and (found := fitting({**groups, name: n})) is not None:
                best, groups = found, {**groups, name: n}
                break
    return best


def _beside(graph: RowGraph, part: Range, options: Options) -> int:
    """Bytes of a streamed range, inputs and scratch beside each other."""
    assert part.segment is not None
    inputs = sum(graph.tensors[t].nbytes for t in part.segment.inputs if t not in options.external)
    return inputs + scratch_layout(graph, part.segment, graph.ops[part.first : part.last], options).nbytes
