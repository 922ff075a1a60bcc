# SPDX-License-Identifier: Apache-2.0
"""Instructions (exact) and cycles (estimated) of an image under QEMU: block counts times block costs, by segment of the run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from tvm_tiny.errors import InputError, UnknownInstructionError
from tvm_tiny.profiler.board_terms import BoardTerm, board_term
from tvm_tiny.profiler.disassembly import Program
from tvm_tiny.profiler.instructions import Instruction
from tvm_tiny.profiler.model import CycleModel, model_for
from tvm_tiny.profiler.qemu_plugin import BlockCount, Counting, SegmentCounts, count


@dataclass(frozen=True)
class FunctionShare:
    """A function's part of a segment: instructions and, by core, cycles without board term and mispredicted branches."""

    name: str
    instructions: int
    cycles: dict[str, float]


@dataclass(frozen=True)
class Segment:
    """What happened between two markers.

    Attributes
    ----------
    opened_by : int or None
        n of the marker ``dbg #n`` at its start, 16 for a ``yield``, 256 + k for the k-th address of `cut_at`, None at the start of the run.
    instructions : int
        Executed, exact.
    cycles : dict of str to float
        Estimated, by core, board term included.
    loads, stores : int
        Memory accesses (a multiple one counts each transfer).
    cache_misses : int
        Loads absent from the board term's data cache, in lines.
    fetch_misses : int
        Lines of code absent from the instruction cache that was asked for. Not part of the cycles.
    mispredicts : int
        Conditional branches that went the rarer way: the M7's estimate of wrong guesses.
    top_functions : tuple of FunctionShare
        Most instructions first.
    """

    opened_by: int | None
    instructions: int
    cycles: dict[str, float]
    loads: int
    stores: int
    cache_misses: int
    fetch_misses: int
    mispredicts: int
    top_functions: tuple[FunctionShare, ...]

    def __add__(self, other: Segment) -> Segment:
        """Both segments as one; it opens where `self` opens."""
        return Segment(
            self.opened_by,
            self.instructions + other.instructions,
            {core: cycles + other.cycles[core] for core, cycles in self.cycles.items()},
            self.loads + other.loads,
            self.stores + other.stores,
            self.cache_misses + other.cache_misses,
            self.fetch_misses + other.fetch_misses,
            self.mispredicts + other.mispredicts,
            _merge(self.top_functions + other.top_functions),
        )


@dataclass(frozen=True)
class Profile:
    """A profiled run.

    Attributes
    ----------
    segments : tuple of Segment
        In order of time; the first is the start-up before any marker.
    cores : tuple of str
        Cores with an estimate; the first is the one the image was compiled for.
    board_term : str
    printed : str
        QEMU's standard output: the image's console, when the command puts it there.
    """

    segments: tuple[Segment, ...]
    cores: tuple[str, ...]
    board_term: str
    printed: str

    @property
    def total(self) -> Segment:
        """The whole run: the sum of the segments."""
        return reduce(Segment.__add__, self.segments)


def profile_elf(
    elf: str | Path,
    qemu_command: Sequence[str],
    cores: str | Sequence[str] = "cortex-m7",
    board: str = "none",
    *,
    cut_at: Sequence[str] = (),
    code_cache: tuple[int, int, int] | None = None,
    yield_marks: bool = False,
    timeout: float = 600.0,
) -> Profile:
    """Run an image under QEMU and profile it.

    Parameters
    ----------
    elf : path
        The image QEMU runs, with symbols. Interrupts should be off: a block an exception leaves counts as a whole.
    qemu_command : sequence of str
        The complete command that runs `elf` to its end, without ``-icount``.
    cores : str or sequence of str
        Cores to estimate cycles for, the one the image was compiled for first; none counts instructions only.
    board : str
        Board term, e.g. "stm32f746@216" (board_terms.py).
    cut_at : sequence of str
        Functions at whose entry a new segment starts, besides the markers ``dbg #n``: for images without markers.
    code_cache : (bytes, ways, bytes a line), optional
        Count the misses of such an instruction cache.
    yield_marks : bool
        The hint ``yield`` is a marker as well: for cores without ``dbg`` (Armv6-M, Armv8-M Baseline).
    timeout : float
        Seconds.

    Raises
    ------
    ToolchainError, DeviceError, InputError
        A tool is missing; the run failed; `elf` is no image, or not the one that ran.
    UnknownInstructionError
        Executed instructions have no known timing; all of them are named.
    """
    names = (cores,) if isinstance(cores, str) else tuple(cores)
    models, term, program = [model_for(name) for name in names], board_term(board), Program(elf)
    entries = tuple(_entry(program, name) for name in cut_at)
    what = Counting(data_cache=term.cache, code_cache=code_cache, cut_at=entries, yield_marks=yield_marks)
    segments, printed = count(qemu_command, what, timeout)
    costs = BlockCosts(program, dict(zip(names, models, strict=True)))
    costs.prepare(block for segment in segments for block in segment.blocks)
    return Profile(tuple(_estimate(segment, costs, term) for segment in segments), names, term.name, printed)


def _entry(program: Program, function: str) -> int:
    if function not in program.functions:
        raise InputError(f"{program.elf} has no function {function!r} to cut at")
    return program.functions[function]


class BlockCosts:
    """Costs of the blocks of a program on some cores, each computed once.

    Parameters
    ----------
    program : Program
    models : dict of str to CycleModel
        By the name the estimates go under.
    """

    def __init__(self, program: Program, models: dict[str, CycleModel]) -> None:
        self.program, self.models = program, models
        self._costs: dict[tuple[int, int], dict[str, tuple[float, float]]] = {}
        self._last: dict[tuple[int, int], Instruction] = {}

    def prepare(self, blocks: Iterable[BlockCount]) -> None:
        """Cost all `blocks`. Raises UnknownInstructionError naming every instruction without a timing."""
        unknown: dict[str, int] = defaultdict(int)
        for block in blocks:
            if (block.start, block.end) not in self._costs or unknown:
                self._cost(block, unknown)
        if unknown:
            listed = "".join(f"\n  {text} (executed {times} times)" for text, times in sorted(unknown.items()))
            remedy = "profile for the core the image was compiled for, or add the instruction to tvm_tiny/profiler/instructions.py"
            raise UnknownInstructionError(f"{len(unknown)} instructions have no known timing:{listed}", remedy=remedy)

    def _cost(self, block: BlockCount, unknown: dict[str, int]) -> None:
        addresses = self.program.addresses(block.start, block.end)
        if len(addresses) != block.instructions:
            where = f"{block.start:#x} to {block.end:#x}"
            remedy = "profile the image that runs; code copied or generated at run time can't be profiled"
            raise InputError(f"the emulator ran code from {where} that {self.program.elf} does not hold", remedy=remedy)
        if not self.models:
            return
        try:
            code = [self.program.instruction(address) for address in addresses]
            self._costs[block.start, block.end] = {name: model.block(code) for name, model in self.models.items()}
            self._last[block.start, block.end] = code[-1]
        except UnknownInstructionError:
            for address in addresses:
                if not self._known(address):
                    unknown[self.program.lines[address].text.replace("\t", " ")] += block.executions

    def _known(self, address: int) -> bool:
        try:
            instruction = self.program.instruction(address)
            for model in self.models.values():
                model.block([instruction])
        except UnknownInstructionError:
            return False
        return True

    def cycles(self, block: BlockCount) -> dict[str, float]:
        """Cycles of all executions of a block, by core; mispredicted branches are not among them."""
        costs = self._costs.get((block.start, block.end), {})
        return {name: block.executions * cycles + block.taken * taken for name, (cycles, taken) in costs.items()}

    def branch(self, block: BlockCount) -> int | None:
        """Address of the conditional branch that ends the block, if one does."""
        last = self._last.get((block.start, block.end))
        return last.at if last is not None and last.conditional_branch else None


def _estimate(counts: SegmentCounts, costs: BlockCosts, term: BoardTerm) -> Segment:
    """Sum up a segment."""
    functions: list[FunctionShare] = []
    directions: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for block in counts.blocks:
        name = costs.program.lines[block.start].function
        functions.append(FunctionShare(name, block.executions * block.instructions, costs.cycles(block)))
        if (branch := costs.branch(block)) is not None:
            directions[branch][0] += block.taken
            directions[branch][1] += block.executions - block.taken
    mispredicts, shares = sum(min(ways) for ways in directions.values()), _merge(functions)
    beside = {name: mispredicts * model.mispredict + term.cycles(counts.misses) for name, model in costs.models.items()}
    return Segment(
        counts.opened_by,
        sum(share.instructions for share in shares),
        {name: extra + sum(share.cycles[name] for share in shares) for name, extra in beside.items()},
        sum(counts.loads.values()),
        sum(counts.stores.values()),
        sum(counts.misses.values()),
        counts.fetch_misses,
        mispredicts,
        shares,
    )


def _merge(shares: Iterable[FunctionShare]) -> tuple[FunctionShare, ...]:
    """Shares of the same function added up, most instructions first."""
    instructions: dict[str, int] = defaultdict(int)
    cycles: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for share in shares:
        instructions[share.name] += share.instructions
        for core, n in share.cycles.items():
            cycles[share.name][core] += n
    merged = [FunctionShare(name, n, dict(cycles[name])) for name, n in instructions.items()]
    return tuple(sorted(merged, key=lambda share: (-share.instructions, share.name)))
