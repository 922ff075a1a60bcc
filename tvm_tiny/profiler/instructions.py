# SPDX-License-Identifier: Apache-2.0
"""Thumb-2 instructions in a typed form: what each reads, writes and addresses, which is all a cycle model asks.

The input is assembly text in unified syntax, as `arm-none-eabi-objdump -d` prints it or as a microkernel generator writes it.
Covered: Armv6-M, Armv7E-M with VFP, and what compilers emit of Armv8-M Mainline without MVE (Arm DDI 0403E chapter A7, DDI 0553).
A mnemonic outside the tables is an error, never a silent one-cycle instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from tvm_tiny.errors import UnknownInstructionError

FLAGS = 16  # pseudo register: APSR's condition flags
FIRST_S = 32  # pseudo registers 32…63: S0…S31; D<n> is the pair S<2n>, S<2n+1>
NUM_REGISTERS = FIRST_S + 32
SP, LR, PC = 13, 14, 15


class Kind(Enum):
    """What an instruction occupies in the pipeline, as far as the models tell instructions apart."""

    ALU = "alu"
    BITFIELD = "bitfield"  # extend, extract, pack, saturate, SIMD add: one cycle, but restricted on the Cortex-M7
    MULTIPLY = "multiply"
    DIVIDE = "divide"
    LOAD = "load"
    STORE = "store"
    LOAD_DOUBLE = "load double"  # LDRD
    STORE_DOUBLE = "store double"
    LOAD_MULTIPLE = "load multiple"  # LDM, POP, VLDM, VPOP
    STORE_MULTIPLE = "store multiple"
    VFP_LOAD = "vfp load"
    VFP_STORE = "vfp store"
    VFP = "vfp"
    BRANCH = "branch"  # direct, perhaps conditional
    COMPARE_BRANCH = "compare branch"  # CBZ, CBNZ
    CALL = "call"  # BL
    BRANCH_REGISTER = "branch register"  # BX, BLX
    TABLE_BRANCH = "table branch"
    LOAD_PC = "load pc"
    POP_PC = "pop pc"
    ALU_PC = "alu pc"  # MOV pc, ADD pc
    IT = "it"
    HINT = "hint"  # NOP, DBG, barriers, MRS, MSR, BKPT


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction. Registers are numbers: 0…15 core, `FLAGS`, `FIRST_S`+n for S<n>.

    Attributes
    ----------
    mnemonic : str
        Without condition, flag-setting `s`, width and type suffixes ("add" for "addseq.w").
    reads, writes, address, accumulators, shifted : tuple of int
        Data operands; results; registers of the address; addend of a multiply-accumulate; register operands that go through the shifter.
        `accumulators` are not repeated in `reads`. A conditional instruction also reads the flags and its own results.
    base, offset : int or None
        Base register of an access and its immediate offset in bytes (0 when post-indexed); None for a register offset.
    count : int
        Registers moved by a load or store (a D register counts two).
    at, size, target : int or None
        Address, size in bytes and branch target, when known (from a disassembly).
    """

    text: str
    mnemonic: str
    kind: Kind
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    address: tuple[int, ...] = ()
    accumulators: tuple[int, ...] = ()
    shifted: tuple[int, ...] = ()
    base: int | None = None
    offset: int | None = None
    writeback: bool = False
    count: int = 1
    condition: str | None = None
    sets_flags: bool = False
    operands: int = 0
    at: int | None = None
    size: int = 4
    target: int | None = None

    @property
    def conditional_branch(self) -> bool:
        """Whether control may continue at either of two places."""
        return self.kind is Kind.COMPARE_BRANCH or (self.kind is Kind.BRANCH and self.condition is not None)


@dataclass(frozen=True, slots=True)
class _Parsed:
    """An instruction cut into words: `name` is the bare mnemonic."""

    text: str
    name: str
    condition: str | None
    sets_flags: bool
    operands: tuple[str, ...]

    def registers(self, *places: int | slice) -> tuple[int, ...]:
        """Registers named by the operands at `places`; places that do not exist name none."""
        chosen: list[str] = []
        for place in places:
            chosen += self.operands[place if isinstance(place, slice) else slice(place, place + 1)]
        return tuple(r for operand in chosen for r in _registers(operand))


# ---------------------------------------------------------------------------------------------------------------- text

_CONDITIONS = frozenset("eq ne cs hs cc lo mi pl vs vc hi ls ge lt gt le al".split())
_ALIASES = {"sb": 9, "sl": 10, "fp": 11, "ip": 12, "sp": SP, "lr": LR, "pc": PC}
_REGISTER = re.compile(r"\b(?:(r\d+|sb|sl|fp|ip|sp|lr|pc)|([sd])(\d+))\b")
_RANGE = re.compile(r"\b(r|s|d)(\d+)\s*-\s*\1(\d+)\b")
_SHIFT = re.compile(r"(?:lsl|lsr|asr|ror|rrx)\b")
_VECTOR = re.compile(r"q\d")  # Helium shares mnemonics with VFP, but not its timing
_IMMEDIATE = re.compile(r"#\s*(-?(?:0x[0-9a-f]+|\d+))")
_TARGET = re.compile(r"(?:0x)?([0-9a-f]+)\b")
_OPERAND = re.compile(r"\s*((?:\[[^]]*\]|\{[^}]*\}|[^,\[{])+)\s*(?:,|$)")


def _registers(operand: str) -> Iterable[int]:
    """Registers an operand names, in order; ranges such as `r4-r7` expanded."""
    whole = _RANGE.sub(lambda m: ",".join(f"{m[1]}{n}" for n in range(int(m[2]), int(m[3]) + 1)), operand)
    for core, bank, number in _REGISTER.findall(whole):
        if core:
            yield _ALIASES[core] if core in _ALIASES else int(core[1:])
        elif bank == "s":
            yield FIRST_S + int(number)
        else:
            yield from (FIRST_S + 2 * int(number), FIRST_S + 2 * int(number) + 1)


def _split_mnemonic(word: str) -> tuple[str, str | None, bool]:
    """(bare mnemonic, condition, sets flags) of a mnemonic as written. A condition is looked for before a flag-setting `s`: BLS is B+LS."""
    head = word.partition(".")[0]  # .w, .n and the types of VFP instructions do not matter
    if head in _FAMILIES:
        return head, None, False
    if head[-2:] in _CONDITIONS and head[:-2] in _FAMILIES:
        return head[:-2], head[-2:], False
    if head[-1:] == "s" and head[:-1] in _FLAG_SETTING:
        return head[:-1], None, True
    if head[-2:] in _CONDITIONS and head[-3:-2] == "s" and head[:-3] in _FLAG_SETTING:
        return head[:-3], head[-2:], True
    return head, None, False


def _parse(text: str) -> _Parsed:
    """Cut one instruction into mnemonic and operands; comments (`;`, `@`) are dropped."""
    plain = re.split(r"\s*(?:;|@)", text.strip().lower(), maxsplit=1)[0]
    word, _, rest = plain.replace("\t", " ").partition(" ")
    name, condition, sets_flags = _split_mnemonic(word)
    return _Parsed(plain, name, condition, sets_flags, tuple(m.strip() for m in _OPERAND.findall(rest)))


# ------------------------------------------------------------------------------------------------------------ families

_Decoder = Callable[[_Parsed], Instruction]


def _alu(p: _Parsed) -> Instruction:
    """Data processing; a result in the program counter makes it a jump."""
    writes, reads = p.registers(0), p.registers(slice(1, None))
    if p.name in _COMPARES:
        writes, reads = (FLAGS,), writes + reads
    elif (len(p.operands) == 2 and p.name not in _MOVES) or p.name == "movt":
        reads += writes
    if p.sets_flags:
        writes += (FLAGS,)
    if p.name in ("adc", "sbc", "rrx"):
        reads += (FLAGS,)
    shifted = p.registers(-2 % len(p.operands)) if p.operands[1:] and _SHIFT.match(p.operands[-1]) else ()
    kind = Kind.ALU_PC if PC in writes else Kind.ALU
    return Instruction(p.text, p.name, kind, reads, writes, shifted=shifted, sets_flags=p.sets_flags)


def _bitfield(p: _Parsed) -> Instruction:
    reads = p.registers(slice(1, None)) + (p.registers(0) if p.name in ("bfi", "bfc") else ())
    return Instruction(p.text, p.name, Kind.BITFIELD, reads + ((FLAGS,) if p.name == "sel" else ()), p.registers(0))


def _multiply(p: _Parsed) -> Instruction:
    """Multiplies; the addend of an accumulating one is kept apart, since cores forward it."""
    results = 2 if p.name in _LONG_MULTIPLIES else 1
    writes, reads = p.registers(slice(0, results)), p.registers(slice(results, None))
    addend: tuple[int, ...] = ()
    if p.name in _ACCUMULATING:
        addend = writes if results == 2 else p.registers(3)
        reads = p.registers(slice(results, results + 2))
    elif len(p.operands) == 2:
        reads += p.registers(0)  # MUL Rdm, Rn
    return Instruction(p.text, p.name, Kind.MULTIPLY, reads, writes + ((FLAGS,) if p.sets_flags else ()), accumulators=addend)


def _divide(p: _Parsed) -> Instruction:
    return Instruction(p.text, p.name, Kind.DIVIDE, p.registers(slice(0 if len(p.operands) == 2 else 1, None)), p.registers(0))


_SINGLE = {Kind.LOAD, Kind.LOAD_DOUBLE, Kind.VFP_LOAD}


def _access(kind: Kind) -> _Decoder:
    """Loads and stores with a `[base, offset]` address."""

    def decode(p: _Parsed) -> Instruction:
        place = [operand[0] for operand in p.operands].index("[")
        inside, post = p.operands[place], p.operands[place + 1 :]
        data, address = p.registers(slice(0, place)), p.registers(place)
        found = _IMMEDIATE.search(inside)
        offset = None if len(address) > 1 else int(found[1], 0) if found and not post else 0
        writeback = bool(post) or inside.endswith("!")
        base = address[0]
        moved = (base,) if writeback else ()
        loads = kind in _SINGLE
        return Instruction(
            p.text, p.name, Kind.LOAD_PC if kind is Kind.LOAD and PC in data else kind,
            reads=() if loads else data, writes=moved + (data if loads else ()), address=address,
            base=base, offset=offset, writeback=writeback, count=len(data) if kind in (Kind.VFP_LOAD, Kind.VFP_STORE) else _COUNT[kind],
        )  # fmt: skip

    return decode


_COUNT = {Kind.LOAD: 1, Kind.STORE: 1, Kind.LOAD_DOUBLE: 2, Kind.STORE_DOUBLE: 2}


def _multiple(loads: bool, on_stack: bool) -> _Decoder:
    """LDM, STM, PUSH, POP and their VFP forms: count of registers, and whether the program counter is loaded."""

    def decode(p: _Parsed) -> Instruction:
        data = p.registers(-1 % len(p.operands))
        address = (SP,) if on_stack else p.registers(0)
        writeback = on_stack or p.operands[0].endswith("!")
        moved = address[:1] if writeback else ()
        kind = Kind.POP_PC if loads and PC in data else Kind.LOAD_MULTIPLE if loads else Kind.STORE_MULTIPLE
        return Instruction(
            p.text, p.name, kind, () if loads else data, moved + (data if loads else ()), address,
            base=address[0], writeback=writeback, count=len(data),
        )  # fmt: skip

    return decode


def _branch(kind: Kind) -> _Decoder:
    def decode(p: _Parsed) -> Instruction:
        reads = p.registers(0) if kind in (Kind.BRANCH_REGISTER, Kind.COMPARE_BRANCH) else ()
        if kind is Kind.BRANCH and p.condition:
            reads = (FLAGS,)
        address = p.registers(0) if kind is Kind.TABLE_BRANCH else ()
        writes = (LR,) if p.name in ("bl", "blx", "blxns") else ()
        return Instruction(p.text, p.name, kind, reads, writes, address)

    return decode


def _vfp(p: _Parsed) -> Instruction:
    """Floating-point arithmetic, conversions and moves between register files."""
    writes, reads = p.registers(0), p.registers(slice(1, None))
    if p.name in ("vcmp", "vcmpe"):
        writes, reads = (), writes + reads
    elif p.name == "vmrs":
        writes, reads = (writes or (FLAGS,)), ()
    elif p.name == "vmsr":
        writes, reads = (), p.registers(1)
    elif p.name == "vmov" and len(p.operands) == 3 and not p.operands[0].startswith("d"):
        writes, reads = p.registers(0, 1), p.registers(2)
    addend = writes if p.name in VFP_ACCUMULATING else ()
    return Instruction(p.text, p.name, Kind.VFP, reads, writes, accumulators=addend)


def _hint(p: _Parsed) -> Instruction:
    return Instruction(p.text, p.name, Kind.HINT, writes=p.registers(0) if p.name == "mrs" else ())


def _it(p: _Parsed) -> Instruction:
    return Instruction(p.text, p.name, Kind.IT)


# -------------------------------------------------------------------------------------------------------------- tables

_COMPARES = frozenset("cmp cmn tst teq".split())
_MOVES = frozenset("mov mvn movw neg adr cpy rrx".split())
_ALU = _COMPARES | _MOVES | frozenset("add addw sub subw rsb adc sbc and orr eor bic orn movt lsl lsr asr ror".split())
_HALF_MULTIPLIES = frozenset(f"{op}{x}{y}" for op in ("smul", "smla", "smlal") for x in "bt" for y in "bt")
_WORD_BY_HALF = frozenset("smulwb smulwt smlawb smlawt".split())
_MULTIPLIES = _HALF_MULTIPLIES | _WORD_BY_HALF | frozenset(
    "mul mla mls smull umull smlal umlal umaal smlad smladx smlsd smlsdx smuad smuadx smusd smusdx smlald smlaldx smlsld smlsldx "
    "smmul smmulr smmla smmlar smmls smmlsr".split()
)  # fmt: skip
_LONG_MULTIPLIES = frozenset(m for m in _MULTIPLIES if re.fullmatch(r"[su]mull|[su]mlal|umaal|smlal[bt][bt]|smlaldx?|smlsldx?", m))
_ACCUMULATING = frozenset(m for m in _MULTIPLIES if re.match(r"ml|smla|umla|umaal|smls|smmla|smmls", m))
_PARALLEL = frozenset(
    prefix + op for prefix in ("s", "q", "sh", "u", "uq", "uh") for op in ("add8", "add16", "sub8", "sub16", "asx", "sax")
)  # fmt: skip
_BITFIELDS = _PARALLEL | frozenset(
    "uxtb uxth sxtb sxth uxtab uxtah sxtab sxtah uxtb16 sxtb16 uxtab16 sxtab16 ubfx sbfx bfi bfc pkhbt pkhtb rev rev16 revsh rbit clz "
    "ssat usat ssat16 usat16 sel qadd qsub qdadd qdsub usad8 usada8".split()
)  # fmt: skip
_FLAG_SETTING = (_ALU - _COMPARES) | {"mul"}
_WIDTHS = ("", "b", "h", "sb", "sh")
_LOADS = {f"ldr{w}{t}" for w in _WIDTHS for t in ("", "t")} | set("ldrex ldrexb ldrexh lda ldab ldah ldaex ldaexb ldaexh".split())
_STORES = {f"str{w}{t}" for w in ("", "b", "h") for t in ("", "t")} | set("strex strexb strexh stl stlb stlh stlex stlexb stlexh".split())
VFP_ACCUMULATING = frozenset("vmla vmls vfma vfms vnmla vnmls vfnma vfnms".split())
_VFP = VFP_ACCUMULATING | frozenset(
    "vmov vadd vsub vmul vnmul vdiv vsqrt vneg vabs vcmp vcmpe vcvt vcvtr vcvtb vcvtt vcvta vcvtn vcvtp vcvtm vmrs vmsr vsel vmaxnm vminnm "
    "vrinta vrintn vrintp vrintm vrintr vrintx vrintz".split()
)  # fmt: skip
_HINTS = frozenset("nop dbg dmb dsb isb cpsie cpsid bkpt svc yield wfi wfe sev mrs msr pld pli clrex sg udf csdb ssbb pssbb".split())

_FAMILIES: dict[str, _Decoder] = {
    **dict.fromkeys(_ALU, _alu),
    **dict.fromkeys(_BITFIELDS, _bitfield),
    **dict.fromkeys(_MULTIPLIES, _multiply),
    **dict.fromkeys(("sdiv", "udiv"), _divide),
    **dict.fromkeys(_LOADS, _access(Kind.LOAD)),
    **dict.fromkeys(_STORES, _access(Kind.STORE)),
    "ldrd": _access(Kind.LOAD_DOUBLE),
    "strd": _access(Kind.STORE_DOUBLE),
    "vldr": _access(Kind.VFP_LOAD),
    "vstr": _access(Kind.VFP_STORE),
    **dict.fromkeys("ldm ldmia ldmdb ldmfd ldmea vldm vldmia vldmdb".split(), _multiple(loads=True, on_stack=False)),
    **dict.fromkeys("stm stmia stmdb stmfd stmea vstm vstmia vstmdb".split(), _multiple(loads=False, on_stack=False)),
    **dict.fromkeys(("pop", "vpop"), _multiple(loads=True, on_stack=True)),
    **dict.fromkeys(("push", "vpush"), _multiple(loads=False, on_stack=True)),
    "b": _branch(Kind.BRANCH),
    "bl": _branch(Kind.CALL),
    **dict.fromkeys("bx blx bxns blxns".split(), _branch(Kind.BRANCH_REGISTER)),
    **dict.fromkeys(("cbz", "cbnz"), _branch(Kind.COMPARE_BRANCH)),
    **dict.fromkeys(("tbb", "tbh"), _branch(Kind.TABLE_BRANCH)),
    **dict.fromkeys(_VFP, _vfp),
    **dict.fromkeys(_HINTS, _hint),
    **dict.fromkeys(["it" + "".join(f"{n:b}"[1:]).replace("1", "t").replace("0", "e") for n in range(1, 16)], _it),
}


@lru_cache(maxsize=1 << 16)
def decode(text: str) -> Instruction:
    """Decode one instruction from its assembly text, e.g. ``"ldr.w r4, [r0], #4"``.

    Raises
    ------
    UnknownInstructionError
        The mnemonic is in no table, or its operands are not those of the mnemonic.
    """
    p = _parse(text)
    family = _FAMILIES.get(p.name)
    if family is None or any(_VECTOR.match(operand) for operand in p.operands):
        raise UnknownInstructionError(
            f"no timing is known for the instruction {text.strip()!r}",
            remedy="if the core has it, add the mnemonic to its family in tvm_tiny/profiler/instructions.py",
        )
    try:
        plain = family(p)
        if not p.operands and plain.kind not in (Kind.HINT, Kind.IT):
            raise ValueError("no operands")
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise UnknownInstructionError(f"the operands of {text.strip()!r} can't be read") from error
    return replace(plain, operands=len(p.operands), condition=p.condition, reads=plain.reads + _condition_reads(p, plain))


def _condition_reads(p: _Parsed, plain: Instruction) -> tuple[int, ...]:
    """A conditional instruction depends on the flags and, when skipped, passes its old results on."""
    return () if p.condition is None or plain.kind is Kind.BRANCH else (*plain.writes, FLAGS)


def decode_at(text: str, at: int, size: int) -> Instruction:
    """`decode` with the place of the instruction: address and size in bytes; direct branches get their target."""
    plain = decode(text)
    target = None
    if plain.kind in (Kind.BRANCH, Kind.COMPARE_BRANCH, Kind.CALL):
        last = _parse(text).operands[-1]
        found = _TARGET.match(last)
        target = int(found[1], 16) if found else None
    return replace(plain, at=at, size=size, target=target)
