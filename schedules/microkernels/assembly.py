# SPDX-License-Identifier: Apache-2.0
"""Straight-line Thumb-2 code over virtual registers: what the body generators write and the scheduler orders.

A `Body` is a list of `Instruction` in static single assignment form: every instruction defines at most one virtual register (an `int`),
so the only orders that bind are true dependences, plus the readers of an operand that is overwritten in place (`tied`).
Pointers are *pinned*: they are named by their core register inside the text, are never changed by the body, and take no part in
dependences. Stores and loads of one body never touch the same bytes (scratch, weights and outputs are distinct), so memory adds no order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

CORE_REGISTERS = ("r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr")
"""The fourteen registers a naked function may use after saving r4-r11 and lr; sp must stay a stack, pc is pc."""


class Kind(Enum):
    """What the issue rules distinguish (CYCLES: M7 younger-slot rules, M4 table)."""

    LOAD = "load"
    STORE = "store"
    MAC = "mac"
    FIELD = "field"  # SXTB16, SSAT, PKHBT...: older slot only
    ALU = "alu"
    SHIFTED = "shifted"  # ALU with a shifted second operand
    FLAGS = "flags"  # an inseparable CMP / IT / MOV bundle


@dataclass(frozen=True)
class Instruction:
    """One instruction (or inseparable bundle).

    Attributes
    ----------
    text : str
        Assembly with `{d}` for the result and `{0}`, `{1}`... for the operands.
    kind : Kind
        Issue class.
    dst : int or None
        Virtual register defined.
    src : tuple of int
        Virtual registers read.
    acc : int or None
        Index into `src` of the accumulate operand of a MAC (forwarded a cycle earlier than the multiplicands).
    early : tuple of int
        Indices into `src` that are needed a stage earlier (addresses, inputs of the shifter and of SXTAB16, PKHBT).
    tied : int or None
        Index into `src` of the operand whose core register the result must keep.
    base, imm : str or None, int or None
        Address of a load or store through a pinned pointer: the bank rule of paired loads.
    size : int
        Instructions in the bundle.
    """

    text: str
    kind: Kind
    dst: int | None
    src: tuple[int, ...] = ()
    acc: int | None = None
    early: tuple[int, ...] = ()
    tied: int | None = None
    base: str | None = None
    imm: int | None = None
    size: int = 1


@dataclass
class Body:
    """Builder of a straight-line body; each method appends one instruction and returns the virtual register it defines."""

    instructions: list[Instruction] = field(default_factory=list)
    count: int = 0

    def new(self) -> int:
        """Return a fresh virtual register."""
        self.count += 1
        return self.count - 1

    def emit(self, text: str, kind: Kind, *src: int, **options: object) -> int:
        """Append an instruction that defines a register."""
        dst = self.new()
        self.instructions.append(Instruction(text, kind, dst, src, **options))  # type: ignore[arg-type]
        return dst

    def ldr(self, base: str, imm: int, width: str = "") -> int:
        """Load a word (`width` "" ), signed byte ("sb") or signed halfword ("sh") at `[base, #imm]`; `base` is a pinned pointer."""
        return self.emit(f"ldr{width} {{d}}, [{base}, #{imm}]", Kind.LOAD, base=base, imm=imm)

    def store(self, value: int, base: str, imm: int, width: str = "") -> None:
        """Store a word (`width` ""), byte ("b") or halfword ("h") at `[base, #imm]`; `base` is a pinned pointer."""
        self.instructions.append(Instruction(f"str{width} {{0}}, [{base}, #{imm}]", Kind.STORE, None, (value,), base=base, imm=imm))

    def store_at(self, value: int, pointer: int, imm: int, width: str = "b") -> None:
        """Store through a pointer that is itself a virtual register."""
        self.instructions.append(Instruction(f"str{width} {{0}}, [{{1}}, #{imm}]", Kind.STORE, None, (value, pointer), early=(1,), imm=imm))

    def mac(self, mnemonic: str, a: int, b: int, acc: int, *, keep: bool = True) -> int:
        """Multiply-accumulate `d = acc + a op b`; `keep` leaves the sum in the accumulator's own register."""
        return self.emit(f"{mnemonic} {{d}}, {{0}}, {{1}}, {{2}}", Kind.MAC, a, b, acc, acc=2, tied=2 if keep else None)

    def mul(self, mnemonic: str, a: int, b: int) -> int:
        """Multiply `d = a op b` without an accumulator (MUL, SMMULR, SMUAD...)."""
        return self.emit(f"{mnemonic} {{d}}, {{0}}, {{1}}", Kind.MAC, a, b)

    def sxtb16(self, a: int, rotate: int = 0) -> int:
        """Bytes 0 and 2 (or, rotated by 8, 1 and 3) sign-extended to two halfwords."""
        return self.emit(f"sxtb16 {{d}}, {{0}}{f', ror #{rotate}' if rotate else ''}", Kind.FIELD, a, early=(0,))

    def alu(self, mnemonic: str, *src: int, tail: str = "") -> int:
        """Plain two- or three-operand ALU instruction; `tail` is an immediate operand such as `#1`."""
        operands = "".join(f", {{{i}}}" for i in range(len(src))) + (f", {tail}" if tail else "")
        return self.emit(f"{mnemonic} {{d}}{operands}", Kind.ALU, *src)

    def shifted(self, mnemonic: str, a: int, b: int, shift: str) -> int:
        """ALU instruction whose second operand passes the shifter, e.g. `add d, a, b, asr #31`."""
        return self.emit(f"{mnemonic} {{d}}, {{0}}, {{1}}, {shift}", Kind.SHIFTED, a, b, early=(1,))

    def field_op(self, mnemonic: str, *src: int, head: str = "", tail: str = "", early: bool = False) -> int:
        """SSAT, USAT, PKHBT, SXTAB16 and the parallel additions: `head` before, `tail` after the register operands."""
        operands = (f", {head}" if head else "") + "".join(f", {{{i}}}" for i in range(len(src))) + (f", {tail}" if tail else "")
        return self.emit(f"{mnemonic} {{d}}{operands}", Kind.FIELD, *src, early=tuple(range(len(src))) if early else ())

    def bundle(self, text: str, a: int, size: int) -> int:
        """An inseparable group that rewrites `a` in place and uses the flags (clamps); `text` names it `{d}`."""
        return self.emit(text, Kind.FLAGS, a, tied=0, size=size)
