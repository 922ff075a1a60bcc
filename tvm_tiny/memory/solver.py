# SPDX-License-Identifier: Apache-2.0
"""Optimal placement with OR-Tools CP-SAT: offsets and regions as integers, every conflict a clause.

    for each pair alive together:   a below b  or  b below a  or  different regions  or  one of the pair's rights
    for each step:                  all rights in use agree on one row order

Goals in this order, each solved to the end before the next: bytes beyond the regions' sizes, cost of all accesses (only
with several regions), bytes used. One worker, a fixed seed and deterministic time make equal problems give equal plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from tvm_tiny.memory.greedy import overflow, used_bytes
from tvm_tiny.memory.pairs import Pair
from tvm_tiny.memory.plan import Buffer, Placement, Region, Right


@dataclass(frozen=True)
class Solution:
    """Placements, and for the last goal (bytes used) the proved bound and CP-SAT's own word for the outcome."""

    placed: dict[str, Placement]
    bound: int
    proved: bool
    status: str


class _Model:
    """The CP-SAT model of one placement problem; `start` is a legal placement that bounds and seeds the search."""

    def __init__(
        self, buffers: Sequence[Buffer], pairs: Sequence[Pair], regions: Sequence[Region], start: Mapping[str, Placement], floor: int
    ) -> None:
        self.cp = cp_model.CpModel()
        self.buffers, self.regions = buffers, regions
        # An optimal plan need not respect the start's use of each region, so several regions get room for everything.
        room = sum(b.nbytes + b.align for b in buffers) + max((b.offset or 0 for b in buffers), default=0)
        ceiling = max(used_bytes(buffers, start, regions).values()) if len(regions) == 1 else room
        self.offset = {b.name: self._offset(b, ceiling) for b in buffers}
        self.inside = {b.name: [self.cp.new_bool_var(f"{b.name}@{r.name}") for r in regions] for b in buffers}
        self.used = [self.cp.new_int_var(0, ceiling, f"used {r.name}") for r in regions]
        self.order: dict[int, cp_model.IntVar] = {}
        for b in buffers:
            self._place(b)
        for number, pair in enumerate(pairs):
            self._separate(number, pair)
        self.cp.add(sum(self.used) >= floor)
        for b in buffers:
            self.cp.add_hint(self.offset[b.name], start[b.name].offset)
            for r, literal in zip(regions, self.inside[b.name], strict=True):
                self.cp.add_hint(literal, start[b.name].region == r.name)

    def _offset(self, b: Buffer, ceiling: int) -> cp_model.IntVar:
        if b.offset is not None:
            return self.cp.new_constant(b.offset)
        if b.align == 1:
            return self.cp.new_int_var(0, max(0, ceiling - b.nbytes), b.name)
        slots = self.cp.new_int_var(0, max(0, ceiling - b.nbytes) // b.align, f"{b.name} slot")
        offset = self.cp.new_int_var(0, max(0, ceiling - b.nbytes), b.name)
        self.cp.add(offset == b.align * slots)
        return offset

    def _place(self, b: Buffer) -> None:
        literals = self.inside[b.name]
        self.cp.add_exactly_one(literals)
        pinned = b.region or (self.regions[0].name if b.offset is not None else None)
        for r, literal, used in zip(self.regions, literals, self.used, strict=True):
            if pinned not in (None, r.name):
                self.cp.add(literal == 0)
            self.cp.add(self.offset[b.name] + b.nbytes <= used).only_enforce_if(literal)

    def _separate(self, number: int, pair: Pair) -> None:
        a, b = pair.first, pair.second
        below = self.cp.new_bool_var(f"{number} below")
        above = self.cp.new_bool_var(f"{number} above")
        self.cp.add(self.offset[a.name] + a.nbytes <= self.offset[b.name]).only_enforce_if(below)
        self.cp.add(self.offset[b.name] + b.nbytes <= self.offset[a.name]).only_enforce_if(above)
        ways = [below, above, *(self._right(number, pair, right) for right in pair.rights)]
        if len(self.regions) == 1:
            self.cp.add_bool_or(ways)
            return
        for mine, theirs in zip(self.inside[a.name], self.inside[b.name], strict=True):
            self.cp.add_bool_or([*ways, mine.Not(), theirs.Not()])

    def _right(self, number: int, pair: Pair, right: Right) -> cp_model.IntVar:
        granted = self.cp.new_bool_var(f"{number} {right.order}")
        sizes = {b.name: b.nbytes for b in (pair.first, pair.second)}
        out, inp = self.offset[right.output], self.offset[right.input]
        if right.order == "in-place":
            self.cp.add(out == inp).only_enforce_if(granted)
            return granted
        descending = self.order.setdefault(pair.step, self.cp.new_bool_var(f"descending {pair.step}"))
        if right.order == "ascending":
            self.cp.add(out + right.distance <= inp).only_enforce_if(granted)
            self.cp.add_implication(granted, descending.Not())
        else:
            ends = inp + sizes[right.input] + right.distance <= out + sizes[right.output]
            self.cp.add(ends).only_enforce_if(granted)
            self.cp.add_implication(granted, descending)
        return granted

    def overflow(self) -> cp_model.LinearExprT:
        """Bytes beyond the regions' sizes."""
        beyond = []
        for r, used in zip(self.regions, self.used, strict=True):
            if r.nbytes is not None:
                extra = self.cp.new_int_var(0, 1 << 40, f"beyond {r.name}")
                self.cp.add(extra >= used - r.nbytes)
                beyond.append(extra)
        return sum(beyond)

    def cost(self, traffic: Mapping[str, int]) -> cp_model.LinearExprT:
        """Price of all accesses."""
        literals = ((r.cost * traffic[b.name], lit) for b in self.buffers for r, lit in zip(self.regions, self.inside[b.name], strict=True))
        return sum(weight * literal for weight, literal in literals if weight)


def solve(
    buffers: Sequence[Buffer],
    pairs: Sequence[Pair],
    regions: Sequence[Region],
    traffic: Mapping[str, int],
    start: Mapping[str, Placement],
    floor: int,
    effort: float,
    seed: int,
) -> Solution:
    """The best placement found within `effort` (CP-SAT's deterministic seconds per goal), starting from the legal `start`."""
    model = _Model(buffers, pairs, regions, start, floor)
    best, status, bound = dict(start), cp_model.UNKNOWN, floor
    goals: list[cp_model.LinearExprT] = [sum(model.used)]
    if len(regions) > 1:
        goals.insert(0, model.cost(traffic))
        if overflow(used_bytes(buffers, start, regions), regions):
            goals.insert(0, model.overflow())
        else:
            model.cp.add(model.overflow() == 0)
    proved = True
    for goal in goals:
        solver = _solver(effort, seed)
        model.cp.minimize(goal)
        status = solver.solve(model.cp)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return Solution(best, floor, False, solver.status_name(status))
        best = {b.name: _placement(b, model, solver, regions) for b in buffers}
        proved = proved and status == cp_model.OPTIMAL
        bound = round(solver.best_objective_bound)
        model.cp.add(goal <= round(solver.objective_value))
        model.cp.clear_hints()  # type: ignore[no-untyped-call, unused-ignore]
        for b in buffers:
            model.cp.add_hint(model.offset[b.name], solver.value(model.offset[b.name]))
    return Solution(best, max(bound, floor), proved, solver.status_name(status))


def _solver(effort: float, seed: int) -> cp_model.CpSolver:
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = effort
    return solver


def _placement(b: Buffer, model: _Model, solver: cp_model.CpSolver, regions: Sequence[Region]) -> Placement:
    chosen = next(r for r, literal in zip(regions, model.inside[b.name], strict=True) if solver.boolean_value(literal))
    return Placement(chosen.name, solver.value(model.offset[b.name]))
