# SPDX-License-Identifier: Apache-2.0
"""Partitions of a network into streamed segments and single layers: the least peak, and the least streamed work within a budget."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence

from tvm_tiny.errors import OptionError
from tvm_tiny.memory.plan import Buffer, MemoryPlan, Region, Step
from tvm_tiny.memory.planner import DEFAULT_EFFORT, plan_memory
from tvm_tiny.memory.rows import RowGraph
from tvm_tiny.memory.segments import NEVER, Cutter, Partition, Range, range_step

Allowed = Callable[[int, int], bool]

Weigh = Callable[[tuple[int, int], int], tuple[int, int]]


def best_partition(cutter: Cutter, budget: int | None = None, allowed: Allowed | None = None) -> Partition | None:
    """The partition that streams least work within `budget` bytes (the least possible peak when None); None when none fits.

    `allowed(first, last)` may forbid ranges (`single_head`).
    """
    return next(partitions(cutter, budget, allowed), None)


def partitions(cutter: Cutter, budget: int | None = None, allowed: Allowed | None = None) -> Iterator[Partition]:
    """Distinct partitions within `budget` (None: within the least peak), best first by each preference in turn.

    Preferences: least streamed work (then fewest segments), fewest ranges, least bytes over all ranges. They differ in how
    well their offsets chain up, which the peak does not tell.
    """
    budget = least_peak(cutter, allowed) if budget is None else budget
    if budget is None:
        return
    graph, count = cutter.graph, len(cutter.graph.ops)
    spans = [(i, j) for j in range(1, count + 1) for i in range(j) if allowed is None or allowed(i, j)]
    spans = [s for s in spans if cutter.bound(*s) <= budget]
    work = {(i, j): sum(op.macs for op in graph.ops[i:j]) if cutter.streams(i, j) else 0 for i, j in spans}
    preferences: tuple[Weigh, ...] = (
        lambda span, need: (work[span], int(cutter.streams(*span))),
        lambda span, need: (1, work[span]),
        lambda span, need: (need, work[span]),
    )
    seen = set()
    for weigh in preferences:
        ranges = _cheapest(cutter, spans, budget, weigh)
        cuts = tuple(r.first for r in ranges or ())
        if ranges is not None and cuts not in seen:
            seen.add(cuts)
            yield Partition(ranges, max(r.bytes for r in ranges), cutter.options)


def _cheapest(cutter: Cutter, spans: Sequence[tuple[int, int]], budget: int, weigh: Weigh) -> tuple[Range, ...] | None:
    """The path of ranges over all operators with the least sum of weights (lexicographic), each within `budget`.

    Ranges are scheduled only when they lie on the best path so far: until then their lower bound stands for their bytes.
    `spans` is sorted by end.
    """
    open_spans = dict.fromkeys(spans)
    while True:
        path = _path(cutter, open_spans, weigh)
        if path is None:
            return None
        unknown = [span for span in path if cutter.known(*span) is None]
        for span in path:
            found = cutter.range(*span)
            if found is None or found.bytes > budget:
                del open_spans[span]
                unknown.append(span)
        if not unknown:
            return tuple(r for span in path if (r := cutter.range(*span)) is not None)


def _path(cutter: Cutter, spans: Iterable[tuple[int, int]], weigh: Weigh) -> list[tuple[int, int]] | None:
    best: dict[int, tuple[tuple[int, int], tuple[int, int] | None]] = {0: ((0, 0), None)}
    for span in spans:
        if span[0] in best:
            (a, b), _ = best[span[0]]
            known = cutter.known(*span)
            more = weigh(span, cutter.bound(*span) if known is None else known.bytes)
            total = (a + more[0], b + more[1])
            if span[1] not in best or total < best[span[1]][0]:
                best[span[1]] = (total, span)
    at, path = len(cutter.graph.ops), []
    if at not in best:
        return None
    while (step := best[at][1]) is not None:
        path.append(step)
        at = step[0]
    return path[::-1]


def least_peak(cutter: Cutter, allowed: Allowed | None = None) -> int | None:
    """The least peak of any partition: a minimax shortest path that schedules a range only when its lower bound comes up.

    Of equal peaks exact ranges go first and those that end last before others, so that beyond the bottleneck the search
    runs straight to the end.
    """
    count = len(cutter.graph.ops)
    heap = [(0, 0, 0, 0)]  # peak, 0 when exact and 1 when a bound, minus the end, the start
    reached: set[int] = set()
    while heap:
        peak, bound, minus_last, first = heapq.heappop(heap)
        last = -minus_last
        if last in reached:
            continue
        if bound:
            found = cutter.range(first, last)
            if found is not None:
                heapq.heappush(heap, (max(peak, found.bytes), 0, minus_last, first))
            continue
        if last == count:
            return peak
        reached.add(last)
        for j in range(last + 1, count + 1):
            if j not in reached and (allowed is None or allowed(last, j)) and cutter.bound(last, j) < NEVER:
                heapq.heappush(heap, (max(peak, cutter.bound(last, j)), 1, -j, last))
    return None


def partition_steps(graph: RowGraph, partition: Partition) -> tuple[list[Buffer], list[Step]]:
    """Buffers and steps of the whole partition, ready for `plan_memory`."""
    buffers: dict[str, Buffer] = {}
    steps = []
    for part in partition.ranges:
        touched, step = range_step(graph, part, partition.options)
        buffers |= {b.name: b for b in touched}
        steps.append(step)
    return list(buffers.values()), steps


def plan_partition(
    graph: RowGraph, partition: Partition, effort: float = DEFAULT_EFFORT, regions: Sequence[Region] = (Region(),)
) -> MemoryPlan:
    """Offsets of a partition; the arena may exceed `partition.peak` where shared bytes do not chain up."""
    return plan_memory(*partition_steps(graph, partition), regions, effort=effort)


def least_arena(cutter: Cutter, effort: float = DEFAULT_EFFORT, allowed: Allowed | None = None) -> tuple[Partition, MemoryPlan]:
    """The partition with the least arena and its plan: partitions of the least peak first, then of higher ones.

    Stops as soon as a plan meets its peak: no partition of a higher peak can be smaller.
    """
    budget = least_peak(cutter, allowed)
    best: tuple[Partition, MemoryPlan] | None = None
    for partition in partitions(cutter, budget, allowed):
        plan = plan_partition(cutter.graph, partition, effort)
        if best is None or plan.arena_bytes < best[1].arena_bytes:
            best = (partition, plan)
        if plan.arena_bytes <= partition.peak:
            break
    if best is None:
        raise OptionError(f"no way to run the {len(cutter.graph.ops)} operators under these options")
    return best
