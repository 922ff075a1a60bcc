# SPDX-License-Identifier: Apache-2.0
"""Cortex-M7: two instructions a cycle, in order. The rules of which pair, and of when a result may be used.

Arm publishes no timing of this core. Source: public measurements (quinapalus; jnk0le, "Cortex-M7 instruction cycle counts") and the
Cortex-M7 model of SLOTHY. Against exact MLPerf Tiny binaries on an STM32F746 and an STM32H7A3 it gives, with the board term, 0.984 ± 3.3 %
of the measured cycles, and it follows the effect of re-scheduling (1.94 where hardware gained 1.97).

The model is a simulation of issue. An instruction issues when its operands are ready and either the cycle is fresh or the instruction
already issued in it (the *older* of the pair) lets it join. Only relative time matters, so a loop is run until its state repeats.

It is written for a scheduler that tries thousands of orders of the same instructions: `BlockTimer` turns each into a short tuple once,
and an evaluation is one pass over tuples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from tvm_tiny.profiler.instructions import FIRST_S, FLAGS, NUM_REGISTERS, VFP_ACCUMULATING, Instruction, Kind

# --------------------------------------------------------------------------------------------------------------- pairing

_BITFIELD_EARLY = frozenset("ubfx sbfx rbit rev rev16 revsh bfi pkhbt pkhtb uxtab uxtah sxtab sxtah uxtab16 sxtab16".split())
_REVERSALS = frozenset("rev rev16 revsh rbit".split())
_SHIFTS = frozenset("lsl lsr asr ror".split())
_SIMPLE = _SHIFTS | frozenset("add addw sub subw mov movw movt adr".split())

PLAIN, ALONE, MULTIPLY, STORE, LOAD, BITFIELD, BITFIELD_EARLY, SHIFTED, VFP, BRANCH = range(10)  # what the pairing rules tell apart
_KIND_TO_CLASS = {
    **dict.fromkeys((Kind.LOAD_MULTIPLE, Kind.STORE_MULTIPLE, Kind.LOAD_DOUBLE, Kind.STORE_DOUBLE), ALONE),
    **dict.fromkeys((Kind.POP_PC, Kind.LOAD_PC, Kind.DIVIDE, Kind.TABLE_BRANCH), ALONE),
    Kind.MULTIPLY: MULTIPLY,
    **dict.fromkeys((Kind.STORE, Kind.VFP_STORE), STORE),
    **dict.fromkeys((Kind.LOAD, Kind.VFP_LOAD), LOAD),
    Kind.VFP: VFP,
    **dict.fromkeys((Kind.BRANCH, Kind.COMPARE_BRANCH, Kind.CALL, Kind.BRANCH_REGISTER), BRANCH),
}
# (older, younger) pairs that do not share a cycle. Two loads do unless they are known to hit the same 64-bit bank half.
_REFUSED = frozenset(
    {(MULTIPLY, MULTIPLY), (STORE, MULTIPLY), (STORE, STORE), (MULTIPLY, STORE)}
    | {(SHIFTED, SHIFTED), (BITFIELD_EARLY, SHIFTED), (VFP, VFP), (BRANCH, BRANCH)}
    | {(older, younger) for older in range(10) for younger in (ALONE, BITFIELD, BITFIELD_EARLY)}
)
_REFUSES = tuple(tuple((older, younger) in _REFUSED for younger in range(10)) for older in range(10))
_ENDS_CYCLE = frozenset((Kind.CALL, Kind.BRANCH_REGISTER, Kind.POP_PC, Kind.ALU_PC, Kind.TABLE_BRANCH, Kind.LOAD_PC))
_INDIRECT = _ENDS_CYCLE - {Kind.CALL}

_BANK_UNKNOWN = 0.5  # cycles two loads lose on average when their banks are unknown


def pairing_class(i: Instruction) -> int:
    """What the pairing rules see of an instruction: PLAIN, ALONE, MULTIPLY, …"""
    if i.kind is Kind.BITFIELD:
        return BITFIELD_EARLY if i.mnemonic in _BITFIELD_EARLY else BITFIELD
    if i.kind is Kind.VFP and i.mnemonic == "vmov" and i.operands == 3:
        return ALONE  # two registers at once
    return SHIFTED if i.shifted else _KIND_TO_CLASS.get(i.kind, PLAIN)


def may_pair(older: Instruction, younger: Instruction) -> bool:
    """Whether `younger` may issue in the cycle of `older`, its operands being ready."""
    a, b = pairing_class(older), pairing_class(younger)
    if a == ALONE or _REFUSES[a][b]:
        return False
    return not (a == b == LOAD and _bank_penalty(older, younger) is None)


def _bank_penalty(older: Instruction, younger: Instruction) -> float | None:
    """Cycles a second load in the cycle costs: 0 in the other bank, None (refused) in the same, `_BANK_UNKNOWN` if unknown."""
    known = older.base == younger.base and not older.writeback and older.offset is not None and younger.offset is not None
    if not known:
        return _BANK_UNKNOWN
    return None if (older.offset >> 2 & 1) == (younger.offset >> 2 & 1) else 0.0  # type: ignore[operator]  # not None: `known`


# --------------------------------------------------------------------------------------------------------- ready times

ADDRESS, OPERAND, MULTIPLICAND, ADDEND = range(4)  # uses of a register, by the pipeline stage that wants it


class Latency(NamedTuple):
    """Cycles from issue to each use of a result. Negative waiting does not exist: 0 means "in the same cycle"."""

    address: int
    operand: int
    multiplicand: int
    addend: int


def _same(address: int, operand: int) -> Latency:
    return Latency(address, operand, operand, operand)


_SIMPLE_ALU, _ALU = _same(1, 0), _same(2, 1)
_REVERSAL, _VMOV_FROM_CORE, _VMOV_TO_CORE, _FLOAT = _same(2, 0), _same(3, 3), _same(2, 1), _same(3, 3)
_LOAD_WORD, _LOAD_NARROW, _LOAD_FLOAT = Latency(2, 1, 2, 1), Latency(3, 2, 2, 1), Latency(1, 1, 1, 3)
_PRODUCT = Latency(3, 2, 2, 1)
_FLOAT_MLA, _FLOAT_FMA, _FLOAT_DIVIDE = Latency(6, 6, 6, 3), Latency(5, 5, 5, 3), _same(15, 15)
_WRITEBACK = _same(1, 1)
_DIVIDE = _same(6, 6)
_NOTHING: tuple[tuple[tuple[int, ...], Latency], ...] = ()


def _block_latency(count: int) -> Latency:
    """LDM and LDRD bring 64 bits a cycle; the last word counts."""
    n = (count + 1) // 2
    return Latency(n + 1, n, n + 1, n)


def needs(i: Instruction) -> tuple[tuple[int, int], ...]:
    """(register, use) pairs that must be ready for the instruction to issue."""
    early, late = i.address, i.reads
    if i.kind in (Kind.STORE, Kind.STORE_DOUBLE, Kind.STORE_MULTIPLE, Kind.VFP_STORE, Kind.BRANCH, Kind.IT, Kind.HINT):
        late = ()  # stored data may arrive in the same cycle, a branch is predicted
    elif i.kind in (Kind.BRANCH_REGISTER, Kind.COMPARE_BRANCH) or i.mnemonic in _BITFIELD_EARLY:
        early, late = early + late, ()
    elif i.shifted:
        early, late = early + i.shifted, tuple(r for r in late if r not in i.shifted)
    use = MULTIPLICAND if i.kind is Kind.MULTIPLY else OPERAND
    pairs = [(r, ADDRESS) for r in early] + [(r, use) for r in late] + [(r, ADDEND) for r in i.accumulators]
    return tuple(dict.fromkeys(pairs))


def results(i: Instruction) -> tuple[tuple[tuple[int, ...], Latency], ...]:
    """(registers, latency) of what the instruction writes. An ALU instruction may be faster: see `forwards`."""
    moved = (i.base,) if i.writeback and i.base is not None else ()
    loaded = tuple(r for r in i.writes if r not in moved)
    match i.kind:
        case Kind.ALU:
            return ((i.writes, _ALU),)
        case Kind.BITFIELD:
            return ((i.writes, _REVERSAL if i.mnemonic in _REVERSALS else _ALU),)
        case Kind.LOAD:
            return ((loaded, _LOAD_WORD if i.mnemonic == "ldr" else _LOAD_NARROW), (moved, _WRITEBACK))
        case Kind.VFP_LOAD:
            return ((i.writes, _LOAD_FLOAT),)
        case Kind.STORE | Kind.VFP_STORE | Kind.STORE_DOUBLE | Kind.STORE_MULTIPLE:
            return ((moved, _WRITEBACK),)
        case Kind.LOAD_DOUBLE | Kind.LOAD_MULTIPLE | Kind.POP_PC:
            return ((i.writes, _block_latency(i.count)),)
        case Kind.MULTIPLY:
            return ((i.writes, _PRODUCT),)
        case Kind.DIVIDE:
            return ((i.writes, _DIVIDE),)
        case Kind.VFP:
            return ((i.writes, _vfp_latency(i)),)
        case _:
            return _NOTHING


def _vfp_latency(i: Instruction) -> Latency:
    if i.mnemonic in VFP_ACCUMULATING:
        return _FLOAT_FMA if "fm" in i.mnemonic or "fnm" in i.mnemonic else _FLOAT_MLA
    if i.mnemonic in ("vdiv", "vsqrt"):
        return _FLOAT_DIVIDE
    if i.mnemonic == "vmov":
        return _VMOV_FROM_CORE if i.writes and i.writes[0] >= FIRST_S else _VMOV_TO_CORE
    return _FLOAT


def forwards(i: Instruction) -> bool:
    """Whether the result may leave the early ALU (`_SIMPLE_ALU`): plain adds and moves as the older of a pair, shifts in either slot.

    MOVS is not among them, as measured; the other flag-setting forms are.
    """
    return i.kind is Kind.ALU and i.mnemonic in _SIMPLE and not i.shifted and not (i.mnemonic == "mov" and i.sets_flags)


def stall(i: Instruction) -> int:
    """Cycles during which nothing else issues, beyond the one of issue."""
    if i.kind in (Kind.LOAD_DOUBLE, Kind.LOAD_MULTIPLE, Kind.STORE_DOUBLE, Kind.STORE_MULTIPLE):
        return (i.count + 1) // 2 - 1
    if i.kind is Kind.POP_PC:
        return (i.count + 1) // 2 - 1 + CortexM7.indirect
    if i.kind is Kind.DIVIDE:
        return 4
    if i.kind is Kind.VFP and i.mnemonic in ("vdiv", "vsqrt"):
        return 14
    return CortexM7.indirect if i.kind in _INDIRECT else 0


# ---------------------------------------------------------------------------------------------------------- simulation

_Ready = list[int]
_Getter = Callable[[_Ready], Sequence[int]]
_Places = tuple[tuple[int, int], ...]  # (place in the list of ready times, cycles after issue)
_NOBODY = -1
_UNREAD = 4 * NUM_REGISTERS  # two places that stay 0, so that every getter returns a tuple


class _Fast(NamedTuple):
    """What an instruction that `forwards` does when its operands are there for the early ALU."""

    any_slot: bool  # shifts; the others only as the older of a pair
    operands: _Getter
    latencies: _Places


class _Issue(NamedTuple):
    """An instruction as the simulation wants it. Ready times are kept in one list, at places 4 · register + use."""

    pairing: int
    number: int
    refused: tuple[bool, ...]  # by pairing class of the older instruction
    needs: _Getter
    latencies: _Places
    fast: _Fast | None
    stall: int
    ends: bool  # the cycle takes no further instruction
    banks: tuple[float | None, ...]  # loads: penalty by number of the older load, None for refusal


def _getter(places: Iterable[int]) -> _Getter:
    return itemgetter(_UNREAD, _UNREAD + 1, *places)


def _places(registers: Iterable[int], latency: Latency, read: frozenset[int]) -> _Places:
    """When each use of each register is ready; uses nobody in the block makes (not in `read`) are left out."""
    return tuple((4 * r + use, cycles) for r in registers for use, cycles in enumerate(latency) if 4 * r + use in read)


def _prepare(i: Instruction, number: int, read: frozenset[int], block: Sequence[Instruction]) -> _Issue:
    pairing = pairing_class(i)
    operands = _getter(4 * r + ADDRESS for r in i.reads if r != FLAGS)
    return _Issue(
        pairing,
        number,
        tuple(older_refuses[pairing] for older_refuses in _REFUSES),
        _getter(4 * r + use for r, use in needs(i)),
        tuple(place for registers, latency in results(i) for place in _places(registers, latency, read)),
        _Fast(i.mnemonic in _SHIFTS, operands, _places(i.writes, _SIMPLE_ALU, read)) if forwards(i) else None,
        stall(i),
        pairing == ALONE or i.kind in _ENDS_CYCLE,
        tuple(_bank_penalty(older, i) for older in block) if pairing == LOAD else (),
    )


def _run(sequence: Sequence[_Issue], ready: _Ready, time: int, older: int, first: int) -> tuple[int, int, int, float]:
    """Issue `sequence` from cycle `time`, in which so far the instruction number `first` of class `older` has issued (or `_NOBODY`).

    Updates `ready`. Returns the cycle reached, `older` and `first` then, and the cycles lost to unknown banks.
    """
    lost = 0.0
    for pairing, number, refused, wants, latencies, fast, stalled, ends, banks in sequence:
        start = max(wants(ready))
        if start > time:
            time = start
            older = _NOBODY
        elif older != _NOBODY:
            penalty = None if refused[older] else banks[first] if banks and older == LOAD else 0.0
            if penalty is None:
                time += 1
                older = _NOBODY
            else:
                lost += penalty
        if fast is not None and (older == _NOBODY or fast.any_slot) and max(fast.operands(ready)) <= time:
            latencies = fast.latencies
        for place, cycles in latencies:
            ready[place] = time + cycles
        time += stalled
        if ends or older != _NOBODY:
            time += 1
            older = _NOBODY
        else:
            older = pairing
            first = number
    return time, older, first, lost


class BlockTimer:
    """Cycles of orderings of one set of instructions on the Cortex-M7.

    Parameters
    ----------
    block : sequence of Instruction
        The instructions (`instructions.decode`), in any order.

    Examples
    --------
    >>> from tvm_tiny.profiler.instructions import decode
    >>> texts = ["ldr r3, [r0], #4", "smlad r2, r3, r4, r2", "sxtb16 r4, r5", "subs r1, r1, #1"]
    >>> timer = BlockTimer([decode(text) for text in texts])
    >>> timer.loop(), timer.loop((0, 2, 3, 1))
    (4.0, 2.0)
    """

    _SETTLE, _REPEATS = 4, 8  # a loop that has not settled after 4 rounds is averaged over the 4 that follow

    def __init__(self, block: Sequence[Instruction]) -> None:
        read = {4 * r + use for i in block for r, use in needs(i)} | {4 * r + ADDRESS for i in block if forwards(i) for r in i.reads}
        self._issues = [_prepare(i, n, frozenset(read), block) for n, i in enumerate(block)]
        self._branches = {n for n, i in enumerate(block) if i.kind in (Kind.BRANCH, Kind.COMPARE_BRANCH)}
        self._state = _getter(sorted(read))

    def once(self, order: Sequence[int] | None = None) -> float:
        """Cycles of one execution from an idle pipeline. `order` is a permutation of the instructions' numbers."""
        return next(self._rounds(order))[0]

    def loop(self, order: Sequence[int] | None = None) -> float:
        """Cycles of one iteration in the steady state."""
        marks: list[float] = []
        state: tuple[int, ...] | None = None
        for elapsed, reached in islice(self._rounds(order), self._REPEATS):
            marks.append(elapsed)
            if reached == state and len(marks) <= self._SETTLE + 1:
                break
            state = reached
        else:
            return (marks[-1] - marks[-1 - self._SETTLE]) / self._SETTLE
        return marks[-1] - marks[-2]

    def _rounds(self, order: Sequence[int] | None) -> Iterator[tuple[float, tuple[int, ...]]]:
        """After each execution: cycles so far (half of one for a cycle with a free slot), and the state relative to that time."""
        sequence = self._issues if order is None else [self._issues[n] for n in order]
        ready = [0] * (_UNREAD + 2)
        time, older, first, total = 0, _NOBODY, 0, 0.0
        while True:
            time, older, first, lost = _run(sequence, ready, time, older, first)
            if older != _NOBODY and first in self._branches:  # a branch closes its cycle
                time, older = time + 1, _NOBODY
            total += lost
            waiting = tuple([r - time if r > time else 0 for r in self._state(ready)])
            yield time + total + (0.5 if older != _NOBODY else 0.0), (older, first if older == LOAD else 0, *waiting)


@dataclass(frozen=True)
class CortexM7:
    """The model as `model.CycleModel`. A block that branches to itself costs its steady state, any other one pass."""

    name: str = "cortex-m7"
    source: str = "public measurements (quinapalus, jnk0le, SLOTHY); 0.984 ± 3.3 % of 8 MLPerf Tiny binaries with the board term"
    mispredict: float = 8.0  # a conditional branch is guessed wrong min(taken, not taken) times
    indirect = 2  # extra cycles of a jump through a register or memory

    def block(self, block: Sequence[Instruction]) -> tuple[float, float]:
        """(cycles, 0) of one basic block: taken branches are predicted and free."""
        timer = BlockTimer(block)
        closed = bool(block) and block[0].at is not None and block[-1].target == block[0].at
        return (timer.loop() if closed else timer.once()), 0.0

    def loop(self, body: Sequence[Instruction]) -> float:
        """Cycles of one iteration of a loop body in its steady state."""
        return BlockTimer(body).loop()


CORTEX_M7 = CortexM7()
