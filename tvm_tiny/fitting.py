# SPDX-License-Identifier: Apache-2.0
"""What is said when a network does not fit: by how much, which layer decides, and the nearest change that would fit.

Every change an error names has been tried: the network is compiled with it, and its bytes are those of that plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import tvm

from tvm_tiny.boards import Board, load_boards
from tvm_tiny.errors import DoesNotFitError, TinyError
from tvm_tiny.memory.fit import MemoryDoesNotFitError
from tvm_tiny.memory.plan import Buffer, MemoryPlan
from tvm_tiny.memory.program import KernelCall, Program
from tvm_tiny.ops.stage import NAME as STAGE
from tvm_tiny.passes.apply_schedules import CODE_ATTR
from tvm_tiny.passes.plan_memory import plan_of
from tvm_tiny.pipeline import Options, run_pipeline

_NAMED = 3  # buffers, or boards, that an error names
_MORE_WORK = 0.3
_NO_SAVING = frozenset({"skip-zeros"})  # passes that save no memory

Change = dict[str, tuple[str, Any]]
"""By field of the options: what a user has to write, and the value."""


@dataclass(frozen=True)
class Needs:
    """Bytes a network takes: of memory, and of code (estimated) and constants."""

    arena: int
    flash: int


@dataclass(frozen=True)
class Limits:
    """What a network may take.

    Attributes
    ----------
    sram, flash : int or None
        Budgets in bytes.
    board : Board or None
        Its memories are limits too.
    """

    sram: int | None
    flash: int | None
    board: Board | None

    def check(self, program: Program, plan: MemoryPlan, mod: tvm.IRModule, options: Options) -> None:
        """Refuse what exceeds a limit.

        Raises
        ------
        DoesNotFitError
            By how much, which layer decides, and what would fit.
        """
        if self.sram is not None and plan.arena_bytes > self.sram:
            raise self._beyond_budget(program, plan, self.sram, mod, options)
        if self.flash is not None:
            self._check_flash(program, self.flash, mod, options)
        if self.board is not None:
            self._check_board(self.board, program, plan, mod, options)

    @contextmanager
    def told(self, mod: tvm.IRModule, options: Options) -> Iterator[None]:
        """Add to the error of a board whose memories are too small what would fit them."""
        try:
            yield
        except MemoryDoesNotFitError as error:
            changes = [*_for_memory(options), *([{"pins": ("no pins", {})}] if options.pins else [])]
            change = self._nearest(mod, options, changes, None, None)
            raise MemoryDoesNotFitError(error.message, remedy=f"{error.remedy}{change}") from None

    def _beyond_budget(self, program: Program, plan: MemoryPlan, budget: int, mod: tvm.IRModule, options: Options) -> DoesNotFitError:
        step, need = plan.peak_step(), plan.arena_bytes
        there = sorted((b for b in plan.buffers if b.first_use <= step <= b.last_use), key=lambda b: -b.nbytes)[:_NAMED]
        parts = ", ".join(f"{_buffer_title(program, b)} {b.nbytes:,}" for b in there)
        least = ", the least found" if options.optimize != "speed" else ""
        change = self._nearest(mod, options, _for_memory(options), need, budget)
        return DoesNotFitError(
            f"sram={budget:,}: the network needs {need:,} bytes, {need - budget:,} more; "
            f"layer {_title(program, program.calls[step])} decides: {parts}",
            remedy=f"allow {need:,} bytes{least}{change}; or a smaller input",
        )

    def _check_flash(self, program: Program, budget: int, mod: tvm.IRModule, options: Options) -> None:
        found = program.decisions["code"]
        code, constants = int(found["code_bytes"]), int(found["constants_bytes"])
        if code + constants <= budget:
            return
        largest, most = _most_constants(program)
        change = self._nearest_flash(mod, options, code + constants, budget, _for_flash(options))
        raise DoesNotFitError(
            f"flash={budget:,}: code ({code:,} bytes, estimated) and constants ({constants:,}) need {code + constants - budget:,} more; "
            f"layer {_title(program, largest)} has the most constants ({most:,} bytes)",
            remedy=f"allow {code + constants:,} bytes: every layer has its least code already{change}; or a smaller network",
        )

    def _check_board(self, board: Board, program: Program, plan: MemoryPlan, mod: tvm.IRModule, options: Options) -> None:
        """Code is measured only when the project is built."""
        arena, flash = board.limits.arena, board.limits.flash
        if arena is not None and plan.arena_bytes > arena:
            call = program.calls[plan.peak_step()]
            live = plan.occupied_bytes(plan.peak_step())
            change = self._nearest(mod, options, _for_memory(options, arena), plan.arena_bytes, arena)
            raise DoesNotFitError(
                f"{board.name}: the network needs {plan.arena_bytes:,} bytes of SRAM, {plan.arena_bytes - arena:,} more than the {arena:,} "
                f"there are; layer {_title(program, call)} decides ({live:,} bytes)",
                remedy=f"a board with more SRAM{_roomier(board, arena=plan.arena_bytes)}{change}; or a smaller input",
            )
        total = sum(a.nbytes for a in program.constants.values())
        if flash is not None and total > flash:
            largest, most = _most_constants(program)
            changes: list[Change] = [{"flash": (f"flash={flash}", flash)}, *_for_flash(options)]
            change = self._nearest_flash(mod, options, total, flash, changes)
            raise DoesNotFitError(
                f"{board.name}: the constants need {total:,} bytes of flash, {total - flash:,} more than the {flash:,} there are; "
                f"layer {_title(program, largest)} has the most ({most:,} bytes)",
                remedy=f"a board with more flash{_roomier(board, flash=total)}{change}; or a smaller network",
            )

    def _nearest(self, mod: tvm.IRModule, options: Options, changes: list[Change], need: int | None, budget: int | None) -> str:
        """The first of `changes`, each with those before, that fits; else the one that comes nearest."""

        def lacks(found: Needs) -> int:
            beyond = found.arena - budget if budget is not None else 0
            return max(0, beyond, found.flash - self.flash if self.flash is not None else 0)

        return _first_that_fits(mod, options, changes, lacks, lambda found: found.arena, need)

    def _nearest_flash(self, mod: tvm.IRModule, options: Options, need: int, budget: int, changes: list[Change]) -> str:
        arena = self.sram if self.sram is not None else self.board.limits.arena if self.board is not None else None

        def lacks(found: Needs) -> int:
            return max(0, found.flash - budget, found.arena - arena if arena is not None else 0)

        return _first_that_fits(mod, options, changes, lacks, lambda found: found.flash, need)


def _first_that_fits(
    mod: tvm.IRModule,
    options: Options,
    changes: list[Change],
    lacks: Callable[[Needs], int],
    figure: Callable[[Needs], int],
    need: int | None,
) -> str:
    """In words; empty where no change helps."""
    said: dict[str, str] = {}
    made: dict[str, Any] = {}
    nearest, words = need, ""
    for change in changes:
        tried = {**made, **{name: value for name, (_, value) in change.items()}}
        found = _needs(mod, replace(options, **tried))
        if found is None:  # it can't be had: the next is tried without it
            continue
        made = tried
        said |= {name: title for name, (title, _) in change.items()}
        what = f"{', '.join(said.values())}: {figure(found):,} bytes"
        if lacks(found) == 0:
            return f"; or {what}, which fits"
        if nearest is None or figure(found) < nearest:
            nearest, words = figure(found), f"; the nearest is {what}, still {lacks(found):,} too many"
    return words


def _needs(mod: tvm.IRModule, options: Options) -> Needs | None:
    """What the network takes with these options; None where it can't be compiled with them."""
    try:
        made = run_pipeline(mod, options)
    except TinyError:
        return None
    code = json.loads(str(made.attrs[CODE_ATTR]))
    return Needs(plan_of(made).arena_bytes, int(code["code_bytes"]) + int(code["constants_bytes"]))


def _for_memory(options: Options, budget: int | None = None) -> list[Change]:
    """Options that make the arena smaller, the nearest first; `budget` is the board's memory where nobody asked to keep to it yet."""
    changes: list[Change] = [{"design": ("no design", None)}] if options.design is not None else []
    first: Change = {"sram": ("sram='board'", budget)} if budget is not None else {}
    first |= {"optimize": ("optimize='balanced'", "balanced")} if options.optimize == "speed" else {}
    changes += [first] if first else []
    if saving := options.disable - _NO_SAVING:
        changes.append({"disable": (f"not disable={', '.join(sorted(saving))}", options.disable & _NO_SAVING)})
    if options.optimize != "sram":
        changes.append({"optimize": ("optimize='sram'", "sram")})
    if options.max_overhead < _MORE_WORK:
        changes.append({"max_overhead": (f"max_overhead={_MORE_WORK}", _MORE_WORK)})
    if options.camera is False:
        changes.append({"camera": ("camera=True (the image handed over row by row)", True)})
    return changes


def _for_flash(options: Options) -> list[Change]:
    """Options that make code and constants fewer."""
    removed = "remove-constant-channels"
    changes: list[Change] = [{"disable": (f"not disable={removed}", options.disable - {removed})}] if removed in options.disable else []
    speed: Change = {"optimize": ("optimize='speed' (no code for rows and patches)", "speed")}
    return changes if options.optimize == "speed" else [*changes, speed]


def _roomier(board: Board, *, arena: int = 0, flash: int = 0) -> str:
    """Known boards of the same core with at least so many bytes, those with fewest first."""
    found = [
        (b.limits.arena, b.limits.flash, b.name)
        for b in load_boards().values()
        if b.mcpu == board.mcpu and (b.limits.arena or 0) >= max(arena, board.limits.arena or 0) and (b.limits.flash or 0) >= flash
    ]
    names = ", ".join(name for *_, name in sorted(found)[:_NAMED])
    return f" ({names})" if names else ""


def _most_constants(program: Program) -> tuple[KernelCall, int]:
    sizes = {name: a.nbytes for name, a in program.constants.items()}
    largest = max(program.calls, key=lambda call: _constant_bytes(call, sizes))
    return largest, _constant_bytes(largest, sizes)


def _constant_bytes(call: KernelCall, sizes: Mapping[str, int]) -> int:
    return sum(sizes[name] for name in {name for kind, name in call.args if kind == "constant"})


def _buffer_title(program: Program, buffer: Buffer) -> str:
    """What a buffer holds, in the source model's words."""
    if buffer.kind == "scratch":
        return "scratch"
    name = str(program.model.get("tensors", {}).get(buffer.name, {}).get("name", buffer.name)).split(";")[-1]
    return f"{buffer.kind} {name}" if buffer.kind in ("input", "output") else name


def _title(program: Program, call: KernelCall) -> str:
    """Name in the source model, and the operator; of layers that take turns the last one's."""
    op = "the rows or patches that end there" if call.op == STAGE else call.op.removeprefix("tiny.")
    name = str(program.model.get("tensors", {}).get(call.layer, {}).get("name", call.layer)).split(";")[-1]
    return f"{name} ({op})"
