# SPDX-License-Identifier: Apache-2.0
"""Issue models of the Cortex-M7 (two slots, in order) and Cortex-M4 (one slot) for straight-line bodies.

The rules are the public measurements behind the profiler's table model (jnk0le's Cortex-M7 notes, SLOTHY's model, Arm TRM 100166 for the
M4); this form of them is incremental: the list scheduler asks what may issue now. Register names are virtual here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .assembly import Instruction, Kind

_LATENCY = {
    # result ready as: address / shifter input, ALU operand, multiplicand, accumulator (cycles after issue)
    Kind.LOAD: (2, 1, 2, 1),
    Kind.MAC: (3, 2, 2, 1),
    Kind.FIELD: (2, 1, 1, 1),
    Kind.SHIFTED: (2, 1, 1, 1),
    Kind.FLAGS: (3, 2, 2, 2),
    Kind.ALU: (1, 1, 1, 1),
    Kind.STORE: (1, 1, 1, 1),
}


@dataclass
class DualIssue:
    """The M7's two issue slots and the time each virtual register becomes usable."""

    cycle: int = 0
    older: Instruction | None = None
    ready: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)

    def earliest(self, ins: Instruction) -> int:
        """The first cycle in which all operands of `ins` are there, of those that have issued."""
        first = 0
        for index, reg in enumerate(ins.src):
            times = self.ready.get(reg)
            if times is None:
                continue
            if index in ins.early:
                need = times[0]
            elif index == ins.acc:
                need = times[3]
            elif ins.kind is Kind.MAC:
                need = times[2]
            else:
                need = times[1]
            if ins.kind is Kind.STORE and index == 0:
                need -= 1  # store data may arrive in the same cycle
            first = max(first, need)
        return first

    def pairs(self, ins: Instruction) -> bool:
        """Whether `ins` may go into the current slot beside what the cycle has issued already."""
        first = self.older
        if first is None:
            return True
        if Kind.FLAGS in (ins.kind, first.kind) or ins.kind is Kind.FIELD:
            return False
        if ins.kind is Kind.MAC:
            return first.kind not in (Kind.MAC, Kind.STORE)
        if ins.kind is Kind.STORE:
            return first.kind not in (Kind.MAC, Kind.STORE)
        if ins.kind is Kind.SHIFTED:
            return first.kind is not Kind.SHIFTED and not (first.kind is Kind.FIELD and first.early)
        if ins.kind is Kind.LOAD and first.kind is Kind.LOAD:
            same = ins.base == first.base and ins.imm is not None and first.imm is not None
            return same and (ins.imm >> 2 & 1) != (first.imm >> 2 & 1)  # type: ignore[operator]
        return True

    def can_issue(self, ins: Instruction) -> bool:
        """Tell whether `ins` may issue in the current slot of the current cycle."""
        return self.pairs(ins) and self.earliest(ins) <= self.cycle

    def issue(self, ins: Instruction) -> None:
        """Issue `ins` now and move to the next slot."""
        if ins.dst is not None:
            a, b, c, d = _LATENCY[ins.kind]
            t = self.cycle
            self.ready[ins.dst] = (t + a, t + b, t + c, t + d)
        if ins.kind is Kind.FLAGS:
            self.cycle += ins.size - 1
            self.next_cycle()
        elif self.older is None:
            self.older = ins
        else:
            self.next_cycle()

    def next_cycle(self) -> None:
        """Close the current issue pair."""
        self.cycle += 1
        self.older = None

    def total(self) -> float:
        """Cycles so far; half a cycle for an unpaired last instruction."""
        return self.cycle + (0.5 if self.older is not None else 0.0)


def dual_issue_cycles(order: list[Instruction]) -> float:
    """Estimated M7 cycles of `order`, everything in zero-wait memory."""
    state = DualIssue()
    for ins in order:
        while not state.can_issue(ins):
            state.next_cycle()
        state.issue(ins)
    return state.total()


def single_issue_cycles(order: list[Instruction]) -> float:
    """Estimated M4 cycles of `order`: a load costs two, one when it follows a load; a store hides behind a load."""
    total, previous = 0.0, None
    for ins in order:
        if ins.kind is Kind.LOAD:
            total += 1.0 if previous is Kind.LOAD else 2.0
        elif ins.kind is Kind.STORE:
            total += 0.0 if previous is Kind.LOAD else 1.0
        else:
            total += float(ins.size)
        previous = ins.kind
    return total
