# SPDX-License-Identifier: Apache-2.0
"""Which part of a network is streamed, for a goal: the candidates on the memory / work curve, and the choice among them.

Candidates are the partitions of least streamed work within a row of budgets from the least possible peak up to that of whole layers; each
is planned for real (offsets, kernel scratch estimated), its cycles estimated (`tvm_tiny.schedules.stream_costs`). The goals:

    speed      nothing is streamed
    sram       the least arena; arenas within a fiftieth of it count as the least: the smallest of them that takes no more than a per cent
               of work beyond the least among them
    balanced   of the candidates within `max_overhead` extra work: the knee, that is the least work among those whose arena is within a
               tenth of the smallest, or gives up an eighth of what that saves at most
With a budget, "balanced" is the least work that fits it; when none does, the smallest arena.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from tvm_tiny.errors import OptionError
from tvm_tiny.memory.partitions import least_peak, partitions, plan_partition
from tvm_tiny.memory.rows import RowGraph, RowOp, RowTensor
from tvm_tiny.memory.segments import Cutter, Options, Partition, Range
from tvm_tiny.memory.strips import StripSegment
from tvm_tiny.memory.tiny_rows import TinyRows
from tvm_tiny.ops.graph import Node

GOALS = ("speed", "sram", "balanced")
_STEPS = (1.0, 1.05, 1.1, 1.25, 1.5, 2.0)  # budgets, as multiples of the least peak
_KNEE = 1.1  # of the smallest arena, what less work may take
_GIVEN_UP = 1 / 8  # of the bytes the smallest arena saves against the largest: so much it may take besides
_SAME = 0.01  # of the network's work: what estimates do not tell apart
_LEAST = 1.02  # arenas that count as the least: a fiftieth is no reason to run longer
MOST_STREAMED = 250
"""Operators a segment: the tables in C have a byte for each."""

EFFORT = 2.0
_ALIGN = 4


@dataclass(frozen=True)
class StreamOptions:
    """The goal, a budget in bytes (None: none), and the extra work allowed as a fraction."""

    goal: str = "balanced"
    budget: int | None = None
    max_overhead: float = 0.1

    def __post_init__(self) -> None:
        if self.goal not in GOALS:
            raise OptionError(f"optimize={self.goal!r} is no goal", remedy=f"choose from {', '.join(GOALS)}")
        if self.max_overhead < 0:
            raise OptionError(f"max_overhead={self.max_overhead} is negative", remedy="give a fraction, for example 0.1 for 10 %")


@dataclass(frozen=True)
class Candidate:
    """A partition, its arena as planned with estimated scratch, the estimated work that streaming adds as a fraction, and its cycles."""

    partition: Partition
    arena_bytes: int
    overhead: float
    cycles: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form: arena, work, and the streamed ranges of operators."""
        segments = [[r.first, r.last] for r in self.partition.ranges if r.streamed]
        figures = {"arena_bytes": self.arena_bytes, "cycles": round(self.cycles), "extra_work": round(self.overhead, 4)}
        return {**figures, "segments": segments}


@dataclass(frozen=True)
class Verdict:
    """What became of a candidate: its streamed ranges of operators, its arena less that of nothing streamed (None: not known), and why."""

    segments: tuple[tuple[int, int], ...]
    chosen: bool
    reason: str
    bytes: int | None = None


@dataclass(frozen=True)
class Choice:
    """What was chosen, why, and what else there was. `ranges` cover all operators."""

    ranges: tuple[Range, ...]
    goal: str
    reason: str
    chosen: dict[str, Any] = field(default_factory=dict)
    curve: tuple[dict[str, Any], ...] = ()
    log: tuple[Verdict, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For the report."""
        return {"goal": self.goal, "reason": self.reason, "chosen": self.chosen, "curve": list(self.curve)}


@dataclass(frozen=True)
class Costs:
    """What the kernels cost: `scratch(node, streamed)` bytes; `work(graph, op, node)` instructions as a whole layer and as a stream.

    `paired(node)` is the scratch of a form that makes two rows at once in a stream, for less work; 0 where there is none.
    `roomy(node)` is the scratch without which a whole layer takes more work than `work` says. `fewer(node, pixels)` is the scratch of a
    whole layer whose kernel computes only so many pixels together, and its work against that of the usual number; None where that is none.
    `constants(node)` is the bytes of a layer's constants, `reads(graph, op, node)` how often a stream reads them, and the bytes of each;
    `again` the instructions' worth of reading them again where operators take turns row by row; `cycles` those of an instruction.
    `in_place(node)` tells whether the whole-layer kernel of a window writes over its input.
    `strip(node, segment, j, graph)` is the scratch of operator j of a segment in strips, `over(node, rows)` whether a kernel of up to
    `rows` rows can write over those it reads. `strip_work(graph, segment, nodes)` is the work of a segment in strips, `ring_work(graph,
    ops, nodes)` through rings, `layers_work(graph, ops, nodes)` that of the same kernels layer by layer.
    """

    scratch: Callable[[Node, bool], int]
    work: Callable[[RowGraph, RowOp, Node], tuple[float, float]]
    in_place: Callable[[Node], bool]
    paired: Callable[[Node], int] = lambda node: 0
    roomy: Callable[[Node], int] = lambda node: 0
    constants: Callable[[Node], int] = lambda node: 0
    reads: Callable[[RowGraph, RowOp, Node], tuple[int, int]] = lambda graph, op, node: (1, 0)
    again: Callable[[Sequence[tuple[int, int]]], float] = lambda parts: 0.0
    cycles: float = 1.0
    strip: Callable[[Node, StripSegment, int, RowGraph], int] = lambda node, segment, j, graph: 0
    over: Callable[[Node, int], bool] = lambda node, rows: False
    strip_work: Callable[[RowGraph, StripSegment, Sequence[Node]], float] = lambda graph, segment, nodes: 0.0
    layers_work: Callable[[RowGraph, Sequence[RowOp], Sequence[Node]], float] = lambda graph, ops, nodes: 0.0
    ring_work: Callable[[RowGraph, Sequence[RowOp], Sequence[Node]], float] = lambda graph, ops, nodes: 0.0
    fewer: Callable[[Node, int], tuple[int, float] | None] = lambda node, pixels: None


def cutter_of(rows: TinyRows, costs: Costs) -> Cutter:
    """The needs of all ranges of a network, kernel scratch estimated."""
    nodes = {op.name: node for op, node in zip(rows.graph.ops, rows.nodes, strict=True)}

    def scratch(op: RowOp, streamed: bool) -> int:
        node = nodes[op.name]
        return costs.paired(node) if streamed and op.group > 1 else costs.scratch(node, streamed)

    def strip_scratch(op: RowOp, segment: StripSegment) -> int:
        return costs.strip(nodes[op.name], segment, segment.ops.index(op), rows.graph)

    return _cutter(rows.graph, _outside(rows), scratch, strip_scratch)


def _cutter(
    graph: RowGraph,
    external: tuple[str, ...],
    scratch: Callable[[RowOp, bool], int],
    strip_scratch: Callable[[RowOp, StripSegment], int] = lambda op, segment: 0,
) -> Cutter:
    rights = ("in-place", "ascending")
    options = Options(rights, external=external, one_scratch=True, scratch=scratch, strip_scratch=strip_scratch, align=_ALIGN)
    return Cutter(graph, options)


def grouped(rows: TinyRows, groups: Mapping[str, int]) -> TinyRows:
    """The same rows, operators making as many at once as `groups` says."""
    ops = tuple(replace(op, group=groups.get(op.name, 1)) for op in rows.graph.ops)
    return replace(rows, graph=RowGraph(rows.graph.tensors, ops, rows.graph.inputs, rows.graph.outputs))


def with_rights(rows: TinyRows, costs: Costs) -> TinyRows:
    """The same rows, windows that run in place marked."""
    ops = [replace(op, in_place=(0,)) if costs.in_place(node) else op for op, node in zip(rows.graph.ops, rows.nodes, strict=True)]
    return replace(rows, graph=RowGraph(rows.graph.tensors, tuple(ops), rows.graph.inputs, rows.graph.outputs))


def _outside(rows: TinyRows) -> tuple[str, ...]:
    """What stays in the caller's memory, as `tvm_tiny.memory.program` decides: float inputs only quantised, float outputs nobody reads,
    inputs that are fetched."""
    graph = rows.graph
    floats = {t for t in (*graph.inputs, *graph.outputs) if graph.tensors[t].itemsize == 4}
    quantised = {t for t in graph.inputs if graph.readers(t) and all(rows.nodes[r].op == "quantize" for r in graph.readers(t))}
    unread = {t for t in graph.outputs if not graph.readers(t)}
    fetched = {t for t in graph.inputs if any(rows.nodes[r].op == "fetch" for r in graph.readers(t))}
    return tuple(sorted(floats & (quantised | unread) | fetched))


def may_stream(graph: RowGraph, first: int, last: int) -> bool:
    """Whether operators [first, last) can be one stage: not too many, and of one result."""
    return last - first <= MOST_STREAMED and (last == first + 1 or len(graph.leaving(first, last)) == 1)


def choose(rows: TinyRows, options: StreamOptions, costs: Costs) -> Choice:
    """Decide what is streamed."""
    if options.goal == "speed" or len(rows.graph.ops) < 2:
        reason = "layer by layer: the goal is speed" if options.goal == "speed" else "a single operator"
        return Choice((), options.goal, reason, log=(Verdict((), True, reason),))
    found = stream_candidates(with_rights(rows, costs), options, costs)
    if not found:
        reason = "layer by layer: no partition could be planned"
        return Choice((), options.goal, reason, log=(Verdict((), True, reason),))
    best, reason = pick(found, options)
    log = [_verdict(c, best, reason, found) for c in found]
    curve = [c for i, c in enumerate(found) if c is best or all(c.overhead < other.overhead for other in found[:i])]
    return Choice(best.partition.ranges, options.goal, reason, best.to_dict(), tuple(c.to_dict() for c in curve), tuple(log))


class _Point(Protocol):
    @property
    def arena_bytes(self) -> int: ...

    @property
    def overhead(self) -> float: ...


Point = TypeVar("Point", bound=_Point)


def pick(found: Sequence[Point], options: StreamOptions) -> tuple[Point, str]:
    """The candidate for the goal, and why; `found` is sorted by bytes, then work."""
    smallest = found[0]
    if options.goal == "sram":
        least = [c for c in found if c.arena_bytes <= smallest.arena_bytes * _LEAST]
        fast = min(c.overhead for c in least) + _SAME
        best = next(c for c in least if c.overhead <= fast)
        return best, "the least arena" if best is smallest else f"the least work within {_LEAST - 1:.0%} of the least arena"
    fits = [c for c in found if options.budget is not None and c.arena_bytes <= options.budget]
    if fits:
        return min(fits, key=lambda c: c.overhead), f"the least work within {options.budget:,} bytes"
    if options.budget is not None:
        return smallest, f"nothing fits {options.budget:,} bytes: the least arena"
    cheap = [c for c in found if c.overhead <= options.max_overhead] or [min(found, key=lambda c: c.overhead)]
    low, high = cheap[0].arena_bytes, found[-1].arena_bytes
    near = [c for c in cheap if c.arena_bytes <= max(low * _KNEE, low + (high - low) * _GIVEN_UP)]
    fast = min(c.overhead for c in near) + _SAME
    knee = next(c for c in near if c.overhead <= fast)
    where = f"{knee.arena_bytes:,} bytes, {knee.overhead:+.1%} estimated cycles"
    return knee, f"the knee ({where}): the least work near the smallest arena within {options.max_overhead:.0%} more cycles"


@dataclass(frozen=True)
class _Problem:
    """All that the search for partitions depends on, by operator: scratch (whole, streamed), instructions (whole, streamed), constants
    (times read, bytes)."""

    tensors: tuple[RowTensor, ...]
    ops: tuple[RowOp, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    external: tuple[str, ...]
    scratch: tuple[tuple[int, int], ...]
    work: tuple[tuple[float, float], ...]
    read: tuple[tuple[int, int], ...]
    again: Callable[[Sequence[tuple[int, int]]], float]
    cycles: float
    options: StreamOptions

    @property
    def graph(self) -> RowGraph:
        return RowGraph({t.name: t for t in self.tensors}, self.ops, self.inputs, self.outputs)


def layer_by_layer(rows: TinyRows, costs: Costs) -> Candidate:
    """Every operator by itself, planned."""
    cutter = cutter_of(rows, costs)
    ranges = tuple(r for i in range(len(rows.graph.ops)) if (r := cutter.range(i, i + 1)) is not None)
    partition = Partition(ranges, max(r.bytes for r in ranges), cutter.options)
    return Candidate(partition, plan_partition(rows.graph, partition, EFFORT).arena_bytes, 0.0)


def in_pairs(rows: TinyRows, costs: Costs) -> TinyRows:
    """The same rows, operators that can make two output rows at once doing so."""
    ops = [replace(op, group=2) if costs.paired(node) else op for op, node in zip(rows.graph.ops, rows.nodes, strict=True)]
    return replace(rows, graph=RowGraph(rows.graph.tensors, tuple(ops), rows.graph.inputs, rows.graph.outputs))


def stream_candidates(rows: TinyRows, options: StreamOptions, costs: Costs) -> tuple[Candidate, ...]:
    """Partitions of the whole network, sorted by bytes, then work. Searches are remembered: several passes ask for the same.

    Where less work is worth bytes, also those of the forms that make two rows at once.
    """
    found = _searched(rows, options, costs)
    paired = in_pairs(rows, costs)
    if options.goal != "sram" and paired.graph.ops != rows.graph.ops:
        found = tuple(sorted([*found, *_searched(paired, options, costs)], key=lambda c: (c.arena_bytes, c.overhead)))
    return found


def _searched(rows: TinyRows, options: StreamOptions, costs: Costs) -> tuple[Candidate, ...]:
    graph, nodes = rows.graph, rows.nodes
    tensors = tuple(graph.tensors[t] for t in sorted(graph.tensors))
    pairs = list(zip(graph.ops, nodes, strict=True))
    fast = options.goal == "balanced" and options.budget is None
    whole = [max(costs.scratch(n, False), costs.roomy(n) if fast else 0) for n in nodes]
    rows_of = [costs.paired(n) if op.group > 1 else costs.scratch(n, True) for op, n in pairs]
    scratch = tuple(zip(whole, rows_of, strict=True))
    work = tuple(costs.work(graph, op, node) for op, node in zip(graph.ops, nodes, strict=True))
    read = tuple(costs.reads(graph, op, node) for op, node in pairs)
    figures = (scratch, work, read, costs.again, costs.cycles)
    return _search(_Problem(tensors, graph.ops, graph.inputs, graph.outputs, _outside(rows), *figures, options))


@lru_cache(maxsize=4)
def _search(problem: _Problem) -> tuple[Candidate, ...]:
    scratch = {op.name: pair for op, pair in zip(problem.ops, problem.scratch, strict=True)}
    cutter = _cutter(problem.graph, problem.external, lambda op, streamed: scratch[op.name][streamed])
    return tuple(sorted(_candidates(problem, cutter), key=lambda c: (c.arena_bytes, c.overhead)))


def _candidates(problem: _Problem, cutter: Cutter) -> Iterator[Candidate]:
    graph, options = cutter.graph, problem.options

    def allowed(first: int, last: int) -> bool:
        return may_stream(graph, first, last)

    least = least_peak(cutter, allowed)
    layers = least_peak(cutter, _alone)
    if least is None or layers is None:
        return
    budgets = [int(least * step) for step in _STEPS if least * step < layers] if options.goal != "sram" else [least, int(least * 1.02)]
    seen = set()
    for budget, rule in [*((b, allowed) for b in budgets), (layers, _alone)]:
        for partition in partitions(cutter, budget, rule):
            cuts = tuple(r.first for r in partition.ranges)
            if cuts not in seen:
                seen.add(cuts)
                plan = plan_partition(graph, partition, EFFORT)
                yield Candidate(partition, plan.arena_bytes, *_cost(problem, partition))
                if plan.arena_bytes <= partition.peak:
                    break


def _alone(first: int, last: int) -> bool:
    return last == first + 1


def _cost(problem: _Problem, partition: Partition) -> tuple[float, float]:
    """What streaming adds, estimated, as a fraction of the whole network's work layer by layer; and all of the partition's cycles."""
    streamed = [slice(r.first, r.last) for r in partition.ranges if r.streamed]
    extra = sum(rows - whole for part in streamed for whole, rows in problem.work[part])
    extra += sum(problem.again(problem.read[part]) for part in streamed)
    whole = sum(work for work, _ in problem.work)
    return extra / (whole or 1.0), problem.cycles * (whole + extra)


def _verdict(candidate: Candidate, best: Candidate, reason: str, found: Sequence[Candidate]) -> Verdict:
    """Why a candidate is or is not the choice."""
    segments = tuple((r.first, r.last) for r in candidate.partition.ranges if r.streamed)
    whole = next((c.arena_bytes for c in found if not any(r.streamed for r in c.partition.ranges)), None)
    figures = f"{candidate.arena_bytes:,} bytes, {candidate.overhead:+.1%} work"
    why = reason if candidate is best else f"not {reason}: that is {best.arena_bytes:,} bytes, {best.overhead:+.1%} work"
    return Verdict(segments, candidate is best, f"{figures}: {why}", None if whole is None else candidate.arena_bytes - whole)
