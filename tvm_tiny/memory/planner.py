# SPDX-License-Identifier: Apache-2.0
"""`plan_memory`: lifetimes, placement, proof, and the legality check around it, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tvm_tiny.errors import OptionError
from tvm_tiny.memory import fit, greedy, solver
from tvm_tiny.memory.check import check_plan
from tvm_tiny.memory.lifetimes import with_lifetimes
from tvm_tiny.memory.pairs import Pair, conflicts, lower_bound
from tvm_tiny.memory.plan import Buffer, MemoryPlan, Placement, Region, SolverInfo, Step

DEFAULT_EFFORT = 4.0


def plan_memory(
    buffers: Sequence[Buffer],
    steps: Sequence[Step],
    regions: Sequence[Region] = (Region(),),
    *,
    effort: float = DEFAULT_EFFORT,
    seed: int = 0,
) -> MemoryPlan:
    """Place every buffer so that the fewest bytes are used, and prove it where time allows.

    Parameters
    ----------
    buffers, steps
        What to place and the order of execution; lifetimes are computed here.
    regions
        Memories to place them in. With several, all accesses are made as cheap as possible first, then bytes are saved.
    effort
        CP-SAT's deterministic seconds; 0 takes the greedy plan. The same effort gives the same plan on any machine.

    Returns
    -------
    MemoryPlan
        Checked by `check_plan`.

    Raises
    ------
    DoesNotFitError
        A region is too small: by how much, which step decides, and the nearest change that would fit.
    IllegalPlanError
        Pinned offsets contradict each other.
    ValueError
        Two steps share a name.
    """
    _check_options(buffers, steps, regions)
    plan = _best_plan(with_lifetimes(buffers, steps), tuple(steps), tuple(regions), effort, seed)
    if greedy.overflow(plan.used, plan.regions):
        raise fit.does_not_fit(plan)
    check_plan(plan)
    return plan


def _best_plan(buffers: tuple[Buffer, ...], steps: tuple[Step, ...], regions: tuple[Region, ...], effort: float, seed: int) -> MemoryPlan:
    fastest = min(regions, key=lambda r: r.cost)
    if len(regions) > 1 and fastest.nbytes is not None and all(b.region in (None, fastest.name) and b.offset is None for b in buffers):
        alone = _best_plan(buffers, steps, (fastest,), effort, seed)
        if alone.used[fastest.name] <= fastest.nbytes:  # no access can be cheaper
            used = {r.name: alone.used.get(r.name, 0) for r in regions}
            return replace(alone, regions=regions, used=used)
    pairs = conflicts(buffers, steps)
    floor = lower_bound(buffers, steps, pairs, len(regions))
    load = traffic(buffers, steps)
    start = greedy.place(buffers, pairs, regions, load)
    if sum(greedy.used_bytes(buffers, start, regions).values()) == floor and len(regions) == 1:
        info = SolverInfo("greedy", "OPTIMAL", seed, "meets the lower bound")
        return _assemble(buffers, steps, regions, pairs, start, floor, info)
    if effort <= 0:
        return _assemble(buffers, steps, regions, pairs, start, floor, SolverInfo("greedy", "FEASIBLE", seed, "no time given"))
    found = solver.solve(buffers, pairs, regions, load, start, floor, effort, seed)
    if found.status in ("OPTIMAL", "FEASIBLE"):
        bound = found.bound if found.proved or len(regions) == 1 else floor
        note = "" if found.proved else "time ran out before the proof"
        info = SolverInfo("cp-sat", "OPTIMAL" if found.proved else "FEASIBLE", seed, note)
        return _assemble(buffers, steps, regions, pairs, found.placed, bound, info)
    note = f"cp-sat ended {found.status}; greedy plan kept"
    return _assemble(buffers, steps, regions, pairs, start, floor, SolverInfo("greedy", "FEASIBLE", seed, note))


def traffic(buffers: Sequence[Buffer], steps: Sequence[Step]) -> dict[str, int]:
    """Bytes accessed of each buffer: its size for every step that touches it, or `accesses` where that is more."""
    counts = {b.name: 0 for b in buffers}
    for step in steps:
        for name in step.touches():
            counts[name] += 1
    return {b.name: max(b.accesses, b.nbytes * counts[b.name]) for b in buffers}


def _assemble(
    buffers: tuple[Buffer, ...],
    steps: tuple[Step, ...],
    regions: tuple[Region, ...],
    pairs: Sequence[Pair],
    placed: Mapping[str, Placement],
    bound: int,
    info: SolverInfo,
) -> MemoryPlan:
    used = greedy.used_bytes(buffers, placed, regions)
    placements = {b.name: placed[b.name] for b in buffers}
    optimal = info.status == "OPTIMAL"
    return MemoryPlan(steps, buffers, placements, regions, used, bound, optimal, info, row_orders(steps, pairs, placed))


def row_orders(steps: Sequence[Step], pairs: Sequence[Pair], placed: Mapping[str, Placement]) -> dict[str, str]:
    """The row order each step's kernel must run in, for steps whose output shares bytes with an input."""
    held: dict[int, list[set[str]]] = {}
    for pair in pairs:
        a, b = placed[pair.first.name], placed[pair.second.name]
        apart = a.offset + pair.first.nbytes <= b.offset or b.offset + pair.second.nbytes <= a.offset
        if pair.rights and a.region == b.region and not apart:
            size = {pair.first.name: pair.first.nbytes, pair.second.name: pair.second.nbytes}
            spots = {name: placed[name].offset for name in size}
            holding = (r for r in pair.rights if r.holds(spots[r.output], size[r.output], spots[r.input], size[r.input]))
            held.setdefault(pair.step, []).append({r.order for r in holding})
    orders = {}
    for step, sets in sorted(held.items()):
        fitting = (o for o in ("in-place", "ascending", "descending") if all(s & {o, "in-place"} for s in sets))
        orders[steps[step].name] = next(fitting, "in-place")
    return orders


def _check_options(buffers: Sequence[Buffer], steps: Sequence[Step], regions: Sequence[Region]) -> None:
    if len({s.name for s in steps}) != len(steps):
        raise ValueError("step names must be distinct: the plan names the row order of a step by it")
    names = [r.name for r in regions]
    if not names or len(set(names)) != len(names):
        raise OptionError(f"memory regions {names} must have distinct names and there must be one")
    for b in buffers:
        if b.region is not None and b.region not in names:
            raise OptionError(
                f"buffer {b.name} is pinned to region {b.region}, which the board has not", remedy=f"regions: {', '.join(names)}"
            )
