# SPDX-License-Identifier: Apache-2.0
"""Cortex-M4: one instruction at a time, so a table of costs with a few rules between neighbours.

Source: Arm Cortex-M4 Technical Reference Manual (100166), table 3-1 and section 3.3.3, for memory without wait states. One number is
fitted, not published: `fetch`. Against 47 published measurements of pqm4 on an STM32L4R5 the table gives 0.996 of the cycles, ± 3 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tvm_tiny.profiler.instructions import VFP_ACCUMULATING, Instruction, Kind

_LOADS = (Kind.LOAD, Kind.VFP_LOAD)
_PRODUCERS = (Kind.ALU, Kind.BITFIELD, Kind.MULTIPLY, Kind.HINT)  # results an address can wait for
_BY_COUNT = (*_LOADS, Kind.VFP_STORE, Kind.LOAD_MULTIPLE, Kind.STORE_MULTIPLE, Kind.POP_PC)  # one cycle, and one a register
_DIRECT = (Kind.BRANCH, Kind.COMPARE_BRANCH)


@dataclass(frozen=True)
class TableModel:
    """A single-issue core as a table. The defaults are the Cortex-M4.

    Attributes
    ----------
    direct, indirect, pop : int
        Extra cycles of a taken direct branch (the manual says 1 to 3), of a jump to a register, of loading the program counter by POP.
    address : int
        Extra cycles when the instruction just before computed the address.
    fetch : float
        Cycles an instruction for fetch stalls and all the table leaves out.
    multiply : dict
        Cycles of a multiply by mnemonic, where it is not 1.
    """

    name: str
    source: str
    direct: int = 1
    indirect: int = 2
    pop: int = 2
    address: int = 1
    divide: int = 6  # 2…12, early termination
    fetch: float = 0.08
    multiply: dict[str, int] = field(default_factory=dict)
    mispredict: float = 0.0

    def block(self, block: Sequence[Instruction]) -> tuple[float, float]:
        """(cycles, extra when the final branch is taken) of one basic block."""
        total, before = 0, None
        for instruction in block:
            total += self._cycles(instruction, before)
            before = instruction
        taken = self.direct if before is not None and before.kind in _DIRECT else 0
        return total + self.fetch * len(block), taken

    def loop(self, body: Sequence[Instruction]) -> float:
        """Cycles of one iteration, its closing branch taken."""
        return sum(self.block(body))

    def _cycles(self, i: Instruction, before: Instruction | None) -> int:
        """Cycles of one instruction after `before`."""
        if before is None:
            return self._alone(i)
        depends = not set(before.writes).isdisjoint(i.address)
        if before.kind in _LOADS and not depends and i.kind in (*_LOADS, Kind.STORE, Kind.VFP_STORE):
            return self._alone(i) - 1  # its address phase runs under the load's data phase
        if before.kind in _PRODUCERS and depends:
            return self._alone(i) + self.address
        if i.kind is Kind.IT and before.kind is Kind.ALU and before.size == 2:
            return 0  # folded into the 16-bit instruction before it
        if i.kind is Kind.VFP and before.kind is Kind.VFP and before.mnemonic != "vmov":
            return self._alone(i) + (not set(before.writes).isdisjoint(i.reads + i.accumulators))
        return self._alone(i)

    def _alone(self, i: Instruction) -> int:
        """Cycles of one instruction that no neighbour delays or hides."""
        if i.kind in _BY_COUNT:
            return 1 + i.count + (self.pop if i.kind is Kind.POP_PC else 0)
        match i.kind:
            case Kind.STORE:
                return 2 if i.offset is None and not i.writeback else 1  # a register offset, scaled or not, takes a cycle
            case Kind.MULTIPLY:
                return self.multiply.get(i.mnemonic, 1)
            case Kind.VFP:
                return _vfp(i)
        return self._fixed.get(i.kind, 1)

    @cached_property
    def _fixed(self) -> dict[Kind, int]:
        """Cycles by kind, where they are not 1 and depend on nothing else."""
        return {
            **dict.fromkeys((Kind.LOAD_DOUBLE, Kind.STORE_DOUBLE), 3),
            **dict.fromkeys((Kind.ALU_PC, Kind.BRANCH_REGISTER), 1 + self.indirect),
            Kind.LOAD_PC: 5,
            Kind.TABLE_BRANCH: 6,
            Kind.CALL: 1 + self.direct,
            Kind.DIVIDE: self.divide,
        }


def _vfp(i: Instruction) -> int:
    """Cycles of a floating-point instruction (TRM 100166, table 7-1)."""
    if i.mnemonic in VFP_ACCUMULATING:
        return 3
    if i.mnemonic in ("vdiv", "vsqrt"):
        return 14
    return 2 if i.mnemonic == "vmov" and i.operands == 3 else 1


CORTEX_M4 = TableModel("cortex-m4", "Arm TRM 100166 table 3-1, section 3.3.3; fetch stalls fitted on pqm4 (0.996 ± 3 % on 47 points)")
CORTEX_M33 = TableModel("cortex-m33", "estimate: as Cortex-M4 (Arm publishes no instruction timing for the Cortex-M33; not validated)")
