# SPDX-License-Identifier: Apache-2.0
"""Cortex-M0 and M0+: short in-order pipelines without overlap, so every instruction has its own fixed cost.

Source: Arm Technical Reference Manuals, Cortex-M0 (DDI 0432) and Cortex-M0+ (DDI 0484), section "Instruction set summary", with the
single-cycle multiplier and memory without wait states. Not validated on hardware.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm_tiny.errors import UnknownInstructionError
from tvm_tiny.profiler.instructions import Instruction, Kind

_SLOW_HINTS = frozenset("mrs msr dmb dsb isb".split())
# Armv6-M (Arm DDI 0419, chapter A6): no instruction of these kinds, and of these only those named
_ABSENT = frozenset(
    {Kind.DIVIDE, Kind.IT, Kind.COMPARE_BRANCH, Kind.TABLE_BRANCH, Kind.LOAD_DOUBLE, Kind.STORE_DOUBLE}
    | {Kind.VFP, Kind.VFP_LOAD, Kind.VFP_STORE}
)
_PRESENT = {Kind.MULTIPLY: frozenset(["mul"]), Kind.BITFIELD: frozenset("sxtb sxth uxtb uxth rev rev16 revsh".split())}


@dataclass(frozen=True)
class FixedCostModel:
    """Costs that differ between the two cores: branches by the depth of the pipeline (three stages, two stages)."""

    name: str
    source: str
    direct: int  # extra cycles of a taken B
    call: int  # BL
    register: int  # BX, BLX, MOV pc
    pop: int  # extra of POP {…, pc} over 1+n
    slow_hint: int  # MRS, MSR and barriers
    mispredict: float = 0.0

    def block(self, block: Sequence[Instruction]) -> tuple[float, float]:
        """(cycles, extra when the final branch is taken) of one basic block."""
        taken = self.direct if block and block[-1].kind is Kind.BRANCH else 0
        return float(sum(map(self._cycles, block))), taken

    def loop(self, body: Sequence[Instruction]) -> float:
        """Cycles of one iteration, its closing branch taken."""
        return sum(self.block(body))

    def _cycles(self, i: Instruction) -> int:
        if i.kind in _ABSENT or i.mnemonic not in _PRESENT.get(i.kind, (i.mnemonic,)):
            raise self._foreign(i)
        match i.kind:
            case Kind.LOAD | Kind.STORE:
                return 2
            case Kind.LOAD_MULTIPLE | Kind.STORE_MULTIPLE:
                return 1 + i.count
            case Kind.POP_PC:
                return 1 + i.count + self.pop
            case Kind.CALL:
                return self.call
            case Kind.BRANCH_REGISTER | Kind.ALU_PC:
                return self.register
            case Kind.HINT if i.mnemonic in _SLOW_HINTS:
                return self.slow_hint
            case _:
                return 1

    def _foreign(self, i: Instruction) -> UnknownInstructionError:
        return UnknownInstructionError(f"{i.text!r} is not an instruction of the {self.name} (Armv6-M)", remedy="compile for this core")


CORTEX_M0 = FixedCostModel("cortex-m0", "Arm TRM DDI 0432; not validated", direct=2, call=4, register=3, pop=3, slow_hint=4)
CORTEX_M0PLUS = FixedCostModel("cortex-m0plus", "Arm TRM DDI 0484; not validated", direct=1, call=3, register=2, pop=2, slow_hint=3)
