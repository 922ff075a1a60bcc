# SPDX-License-Identifier: Apache-2.0
"""What a legal plan is. Written apart from the planners and sharing none of their logic, so that each checks the other.

Reasons (stable names, one per kind of illegality):

    ambiguous-name          two buffers, steps or regions share a name
    missing-buffer          a step uses a buffer the plan does not declare or place
    wrong-order             a step reads a buffer no earlier step has written
    written-twice           two steps write one buffer, or a step writes a model input or constant
    lifetime-too-short      the plan declares a buffer dead while a step still needs it
    live-overlap            two live buffers share bytes
    alias-without-right     output and dying input of one step share bytes, the step grants no right
    insufficient-distance   it grants a right, but not at these addresses
    order-conflict          the rights in use need both row orders, or the plan names another order than they need
    shared-scratch          a scratch buffer is a tensor too, or shares bytes with something live in its step without a right
    misaligned              an offset is not a multiple of its buffer's alignment
    outside-region          a buffer lies (partly) outside its region, or in a region that does not exist
    moved-pin               a buffer is not where it was pinned
    wrong-size              the plan's `used` is not the highest occupied byte, or counts a region that does not exist
    wrong-bound             the plan claims a bound that its own size disproves, or to be optimal above it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_tiny.errors import TinyError
from tvm_tiny.memory.plan import Buffer, MemoryPlan, Right, Step

REASONS = tuple(line.split()[0] for line in (__doc__ or "").splitlines() if line.startswith("    "))


@dataclass(frozen=True)
class Violation:
    """One illegality: `reason` is one of `REASONS`, `step` the step's name or empty, `buffers` those involved."""

    reason: str
    step: str
    buffers: tuple[str, ...]
    detail: str

    def __str__(self) -> str:
        where = f" in step {self.step}" if self.step else ""
        return f"{self.reason}{where} ({', '.join(self.buffers)}): {self.detail}"


class IllegalPlanError(TinyError):
    """A memory plan that would corrupt data; `violations` carries every reason found."""

    code = "TINY402"
    exit_code = 5

    def __init__(self, violations: Sequence[Violation]) -> None:
        lines = "\n".join(f"  {i}. {v}" for i, v in enumerate(violations, 1))
        super().__init__(f"illegal memory plan: {len(violations)} violation(s)\n{lines}")
        self.violations = tuple(violations)


def check_plan(plan: MemoryPlan, steps: Sequence[Step] | None = None) -> None:
    """Raise `IllegalPlanError` with every violation of `plan` under `steps` (the plan's own when None)."""
    violations = find_violations(plan, plan.steps if steps is None else steps)
    if violations:
        raise IllegalPlanError(violations)


def find_violations(plan: MemoryPlan, steps: Sequence[Step]) -> list[Violation]:
    """Every violation, structural ones first; addresses are only looked at when all buffers are there."""
    found = _ambiguous(plan, steps) or _missing(plan, steps)
    if found:
        return found
    found = _dataflow(plan, steps) + _tensors_as_scratch(plan, steps)
    needed = _needed(plan, steps)
    found += _too_short(plan, needed)
    found += _addresses(plan)
    found += _sizes(plan)
    return found + _sharing(plan, steps, needed)


def _ambiguous(plan: MemoryPlan, steps: Sequence[Step]) -> list[Violation]:
    found = []
    for what, things in (("buffers", plan.buffers), ("steps", steps), ("regions", plan.regions)):
        count = Counter(thing.name for thing in things)
        found += [Violation("ambiguous-name", "", (name,), f"{n} {what} are called so") for name, n in count.items() if n > 1]
    return found


def _missing(plan: MemoryPlan, steps: Sequence[Step]) -> list[Violation]:
    declared = {b.name for b in plan.buffers}
    found = []
    for step in steps:
        for name in dict.fromkeys(step.touches()):
            if name not in declared or name not in plan.placements:
                what = "declared" if name not in declared else "placed"
                found.append(Violation("missing-buffer", step.name, (name,), f"it is not {what} in the plan"))
    unplaced = sorted(declared - set(plan.placements) - {v.buffers[0] for v in found})
    return found + [Violation("missing-buffer", "", (name,), "it is declared but not placed") for name in unplaced]


def _dataflow(plan: MemoryPlan, steps: Sequence[Step]) -> list[Violation]:
    kinds = {b.name: b.kind for b in plan.buffers}
    given = {name for name, kind in kinds.items() if kind in ("input", "constant")}
    written = set(given)
    found = []
    for step in steps:
        found += [Violation("wrong-order", step.name, (n,), "read before any step wrote it") for n in step.reads if n not in written]
        for name in step.writes:
            if name in written:
                who = f"it is a model {kinds[name]}" if name in given else "an earlier step wrote it"
                found.append(Violation("written-twice", step.name, (name,), who))
            written.add(name)
    lost = [b.name for b in plan.buffers if b.kind == "output" and b.name not in written]
    return found + [Violation("wrong-order", "", (name,), "no step writes this model output") for name in lost]


def _tensors_as_scratch(plan: MemoryPlan, steps: Sequence[Step]) -> list[Violation]:
    """Scratch is scribbled on: what is anywhere a tensor must not be lent for it, not even by the step that makes it."""
    tensors = {name for step in steps for name in step.reads + step.writes}
    tensors |= {b.name for b in plan.buffers if b.kind in ("input", "output", "constant") or b.keep}
    found = [(step, name) for step in steps for name in dict.fromkeys(step.scratch) if name in tensors]
    return [Violation("shared-scratch", step.name, (name,), "it is a tensor, and scratch of this step") for step, name in found]


def _needed(plan: MemoryPlan, steps: Sequence[Step]) -> dict[str, tuple[int, int]]:
    """First and last step in which each buffer's bytes matter, from the steps alone; one past the last step: after the run."""
    end = len(steps)
    needed = {}
    for b in plan.buffers:
        uses = [i for i, step in enumerate(steps) if b.name in step.touches()] or [0]
        first = 0 if b.kind in ("input", "constant") else uses[0]
        last = end if b.keep or b.kind in ("output", "constant") else uses[-1]
        needed[b.name] = (first, last)
    return needed


def _too_short(plan: MemoryPlan, needed: dict[str, tuple[int, int]]) -> list[Violation]:
    found = []
    for b in plan.buffers:
        first, last = needed[b.name]
        if b.first_use > first or b.last_use < last:
            detail = f"declared live in steps {b.first_use}..{b.last_use}, needed in {first}..{last}"
            found.append(Violation("lifetime-too-short", "", (b.name,), detail))
    return found


def _addresses(plan: MemoryPlan) -> list[Violation]:
    sizes = {r.name: r.nbytes for r in plan.regions}
    found = []
    for b in plan.buffers:
        where = plan.placements[b.name]
        end = where.offset + b.nbytes
        if where.region not in sizes:
            found.append(Violation("outside-region", "", (b.name,), f"there is no region {where.region}"))
            continue
        size = sizes[where.region]
        if where.offset < 0 or (size is not None and end > size):
            found.append(Violation("outside-region", "", (b.name,), f"bytes {where.offset}..{end} of {where.region}, which has {size}"))
        if where.offset % b.align:
            found.append(Violation("misaligned", "", (b.name,), f"offset {where.offset} is not a multiple of {b.align}"))
        region = b.region or (plan.regions[0].name if b.offset is not None else where.region)
        if region != where.region or b.offset not in (None, where.offset):
            pin = f"{region} at {'any offset' if b.offset is None else b.offset}"
            found.append(Violation("moved-pin", "", (b.name,), f"pinned to {pin}, lies in {where.region} at {where.offset}"))
    return found


def _sizes(plan: MemoryPlan) -> list[Violation]:
    found = []
    for region in plan.regions:
        inside = [b for b in plan.buffers if plan.placements[b.name].region == region.name]
        top = max((plan.placements[b.name].offset + b.nbytes for b in inside), default=0)
        if plan.used.get(region.name, 0) != top:
            detail = f"the plan says {plan.used.get(region.name, 0)} bytes of {region.name}, its buffers reach {top}"
            found.append(Violation("wrong-size", "", (region.name,), detail))
    for name in sorted(set(plan.used) - {r.name for r in plan.regions}):
        found.append(Violation("wrong-size", "", (name,), f"the plan counts {plan.used[name]} bytes of a region that does not exist"))
    if plan.lower_bound > plan.arena_bytes or (plan.optimal and plan.lower_bound != plan.arena_bytes):
        claim = "is optimal" if plan.optimal else "says that no plan needs fewer"
        detail = f"the plan of {plan.arena_bytes} bytes {claim}; its bound is {plan.lower_bound}"
        found.append(Violation("wrong-bound", "", (), detail))
    return found


def _sharing(plan: MemoryPlan, steps: Sequence[Step], needed: dict[str, tuple[int, int]]) -> list[Violation]:
    found: dict[tuple[str, str], Violation] = {}
    for index, step in enumerate(steps):
        live = [b for b in plan.buffers if needed[b.name][0] <= index <= needed[b.name][1]]
        orders: set[frozenset[str]] = set()
        for i, a in enumerate(live):
            for b in live[i + 1 :]:
                if (a.name, b.name) not in found and _share_bytes(plan, a, b):
                    verdict = _judge(plan, index, step, a, b, needed)
                    if isinstance(verdict, Violation):
                        found[a.name, b.name] = verdict
                    else:
                        orders.add(verdict)
        conflict = _order_conflict(plan, step, orders)
        if conflict is not None:
            found[step.name, "order"] = conflict
    return list(found.values())


def _share_bytes(plan: MemoryPlan, a: Buffer, b: Buffer) -> bool:
    at, bt = plan.placements[a.name], plan.placements[b.name]
    return at.region == bt.region and at.offset < bt.offset + b.nbytes and bt.offset < at.offset + a.nbytes


def _judge(
    plan: MemoryPlan, index: int, step: Step, a: Buffer, b: Buffer, needed: dict[str, tuple[int, int]]
) -> Violation | frozenset[str]:
    """Two live buffers share bytes in `step`: the row orders that make it legal, or why nothing does."""
    names = (a.name, b.name)
    where = ", ".join(f"{x.name} {plan.offset(x.name)}..{plan.offset(x.name) + x.nbytes}" for x in (a, b))
    scratch = set(names) & set(step.scratch)
    if scratch and not any(r.output in scratch and {r.output, r.input} == set(names) for r in step.rights):
        return Violation("shared-scratch", step.name, names, where)
    made = step.writes + step.scratch
    out, inp = (a, b) if a.name in made else (b, a)
    meets = out.name in made and inp.name in step.reads
    if not meets or needed[out.name][0] != index or needed[inp.name][1] != index:
        return Violation("live-overlap", step.name, names, where)
    rights = [r for r in step.rights if (r.output, r.input) == (out.name, inp.name)]
    if not rights:
        return Violation("alias-without-right", step.name, (out.name, inp.name), where)
    held = frozenset(r.order for r in rights if _condition(r, plan, out, inp))
    if not held:
        wanted = " or ".join(f"{r.order} {r.distance}" for r in rights)
        return Violation("insufficient-distance", step.name, (out.name, inp.name), f"{where}; granted: {wanted}")
    return held


def _condition(right: Right, plan: MemoryPlan, out: Buffer, inp: Buffer) -> bool:
    lead = plan.offset(inp.name) - plan.offset(out.name)
    if right.order == "ascending":
        return lead >= right.distance
    if right.order == "descending":
        return out.nbytes - inp.nbytes - lead >= right.distance
    return lead == 0


def _order_conflict(plan: MemoryPlan, step: Step, orders: set[frozenset[str]]) -> Violation | None:
    """One row order must serve every sharing pair of the step ("in-place" goes with either), and the plan must name it."""
    if not orders:
        return None
    possible = [o for o in ("in-place", "ascending", "descending") if all(held & {o, "in-place"} for held in orders)]
    if not possible:
        return Violation("order-conflict", step.name, step.writes, "its inputs need different row orders")
    if plan.orders.get(step.name) not in possible:
        detail = f"the plan runs it {plan.orders.get(step.name, 'in any order')}, its addresses need {' or '.join(possible)}"
        return Violation("order-conflict", step.name, step.writes, detail)
    return None
