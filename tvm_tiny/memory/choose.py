# SPDX-License-Identifier: Apache-2.0
"""Ways to run a whole network, compared: layer by layer, streamed by rows, in patches, with recomputation; and which to take.

The unit of cost is the network's own work, layer by layer: 1.0. Extra multiply-accumulates count in full; work that is
streamed costs a little more than the same work done layer by layer, because weights and loop set-up come again for every
row (`Costs`; callers who have measured their kernels pass their own figures).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm_tiny.memory.fit import Change, does_not_fit
from tvm_tiny.memory.patches import PatchStage, patch_curve, patch_steps, tile_plan
from tvm_tiny.memory.plan import MemoryPlan, Region
from tvm_tiny.memory.planner import DEFAULT_EFFORT, plan_memory
from tvm_tiny.memory.recompute import recompute_curve
from tvm_tiny.memory.rows import RowGraph
from tvm_tiny.memory.segments import Cutter, Options, Partition, least_arena, plan_partition, stream_curve

GOALS = ("speed", "balanced", "sram")


@dataclass(frozen=True)
class Costs:
    """Relative cost of streamed work beyond 1.0, and of work in patches (strided reads, small tiles), per unit of work."""

    streamed: float = 0.05
    patched: float = 0.05


@dataclass(frozen=True)
class Candidate:
    """One way to run the network.

    Attributes
    ----------
    kind : str
        "layers", "stream", "patches" or "recompute".
    overhead : float
        Extra multiply-accumulates relative to the network's.
    cost : float
        Estimated work, 1.0 being the network layer by layer.
    partition, patches : Partition or None, PatchStage or None
        How: one of the two.
    """

    kind: str
    graph: RowGraph
    arena_bytes: int
    overhead: float
    cost: float
    plan: MemoryPlan
    partition: Partition | None = None
    patches: PatchStage | None = None

    def describe(self) -> str:
        """For reports and errors: what this is, in a few words."""
        more = f", {100 * self.overhead:.1f} % more work" if self.overhead else ""
        if self.patches is not None:
            down, across = self.patches.grid
            return f"the first {self.patches.depth} operators in {down}×{across} patches{more}"
        segments = sum(r.streamed for r in self.partition.ranges) if self.partition else 0
        return f"{segments} segment{'s' if segments != 1 else ''} streamed by rows{more}" if segments else "layer by layer"


def candidates(
    graph: RowGraph, options: Options, max_overhead: float = 0.1, costs: Costs = Costs(), effort: float = DEFAULT_EFFORT
) -> list[Candidate]:
    """All ways worth having (no other needs both fewer bytes and less work), cheapest first."""
    cutter = Cutter(graph, options)
    found = [_streamed(graph, p, costs, effort) for p in [*stream_curve(cutter), least_arena(cutter, effort)[0]]]
    for choice in patch_curve(graph, options):
        if choice.overhead <= max_overhead:
            found.append(_patched(graph, choice.stage, options, costs, effort))
    for again in recompute_curve(graph, options, max_overhead)[1:]:
        found.append(_streamed(again.graph, again.partition, costs, effort, again.overhead))
    best: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.cost, c.arena_bytes)):
        if not best or candidate.arena_bytes < best[-1].arena_bytes:
            best.append(candidate)
    return best


def _streamed(graph: RowGraph, partition: Partition, costs: Costs, effort: float, overhead: float = 0.0) -> Candidate:
    plan = plan_partition(graph, partition, effort)
    total = sum(op.macs for op in graph.ops) / (1.0 + overhead) or 1.0
    streamed = sum(op.macs for r in partition.ranges if r.streamed for op in graph.ops[r.first : r.last])
    kind = "recompute" if overhead else "stream" if any(r.streamed for r in partition.ranges) else "layers"
    cost = 1.0 + overhead + costs.streamed * streamed / total
    return Candidate(kind, graph, plan.arena_bytes, overhead, cost, plan, partition=partition)


def _patched(graph: RowGraph, stage: PatchStage, options: Options, costs: Costs, effort: float) -> Candidate:
    tiles = tile_plan(graph, stage, options)
    inner = tiles.arena_bytes if any(s.touches() for s in tiles.steps) else 0
    plan = plan_memory(*patch_steps(graph, stage, options, inner), effort=effort)
    total = sum(op.macs for op in graph.ops) or 1
    overhead = (stage.macs - stage.whole_macs) / total
    cost = 1.0 + overhead + costs.patched * stage.macs / total
    return Candidate("patches", graph, plan.arena_bytes, overhead, cost, plan, patches=stage)


def knee(curve: Sequence[Candidate]) -> Candidate:
    """The point farthest from the line between the ends of the curve, bytes on a logarithmic scale (halving is worth the same
    everywhere), both axes scaled to 1. With one or two points: the one with fewer bytes.

    Source: Satopaa et al., Finding a "kneedle" in a haystack, ICDCS workshops 2011.
    """
    first, last = curve[0], curve[-1]
    if len(curve) <= 2:
        return last
    width = last.cost - first.cost
    height = math.log(first.arena_bytes / last.arena_bytes)

    def gain(c: Candidate) -> float:
        return math.log(first.arena_bytes / c.arena_bytes) / height - (c.cost - first.cost) / width

    return max(curve, key=gain)


def choose(curve: Sequence[Candidate], goal: str, budget: int | None = None) -> Candidate:
    """The candidate for a goal within a budget of bytes.

    speed      the least cost that fits
    balanced   the knee of what fits
    sram       the fewest bytes

    Raises
    ------
    MemoryDoesNotFitError
        Nothing fits: by how much the smallest misses, which step of it decides.
    """
    if goal not in GOALS:
        raise ValueError(f"goal {goal!r} is not one of {', '.join(GOALS)}")
    fitting = [c for c in curve if budget is None or c.arena_bytes <= budget]
    if not fitting:
        raise _nothing_fits(curve, budget or 0)
    if goal == "balanced":
        return knee(fitting)
    return fitting[0] if goal == "speed" else fitting[-1]


def _nothing_fits(curve: Sequence[Candidate], budget: int) -> Exception:
    least = min(curve, key=lambda c: c.arena_bytes)
    name = least.plan.regions[0].name
    bounded = replace(least.plan, regions=(Region(name, budget),))
    return does_not_fit(bounded, [Change(c.describe(), c.arena_bytes) for c in curve])
