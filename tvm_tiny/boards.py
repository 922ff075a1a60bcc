# SPDX-License-Identifier: Apache-2.0
"""Boards as data: what `microtvm_projects/boards.toml` says, validated when loaded.

A board carries facts only (core, clock, memories, which template makes its firmware); behaviour is in the template's handler.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from tvm_tiny.errors import TargetError
from tvm_tiny.target import TinyTarget, parse_target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("flash", "ram")
SECTIONS = ("vectors", "text", "rodata", "data", "bss", "stack", "arena")
ATTRIBUTES = ("tcm", "cached", "external", "retained", "secure", "reserved")
TEMPLATES = ("native", "mps2", "zephyr")


@dataclass(frozen=True)
class MemoryRegion:
    """One memory of a board.

    Attributes
    ----------
    name, kind : str
        Name in linker scripts and reports; `flash` (only read while a model runs) or `ram`.
    base, size : int
        Address and bytes.
    speed : str
        Wait states, or the kind of memory or bus.
    sections : tuple[str, ...]
        What the linker script puts there, of `SECTIONS`.
    attributes : tuple[str, ...]
        Of `ATTRIBUTES`; a `reserved` region counts in no limit.
    arena : int
        Bytes the arena may take of a region among whose sections it is; 0 means all.
    zephyr_section : str
        The linker section that Zephyr puts there; empty where its own data lie.
    """

    name: str
    kind: str
    base: int
    size: int
    speed: str = ""
    sections: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    arena: int = 0
    zephyr_section: str = ""

    def __post_init__(self) -> None:
        _choose("kind", self.kind, KINDS)
        for section in self.sections:
            _choose("section", section, SECTIONS)
        for attribute in self.attributes:
            _choose("attribute", attribute, ATTRIBUTES)
        if self.size <= 0 or self.base < 0 or self.end > 1 << 32:
            raise ValueError(f"memory {self.name}: {self.size:#x} bytes at {self.base:#x} do not fit 32-bit addresses")
        if not 0 <= self.arena <= self.size:
            raise ValueError(f"memory {self.name}: arena may take {self.arena:#x} bytes of {self.size:#x}")

    @property
    def end(self) -> int:
        """First address behind the region."""
        return self.base + self.size

    @property
    def arena_bytes(self) -> int:
        """Most bytes the arena may take."""
        return self.arena or self.size

    @property
    def access_cost(self) -> int:
        """Relative price of a byte accessed, for the planner: tightly coupled 1, external 8, other RAM 2."""
        return 1 if "tcm" in self.attributes else 8 if "external" in self.attributes else 2

    @property
    def usable(self) -> bool:
        """Whether it counts in the board's limits."""
        return "reserved" not in self.attributes


@dataclass(frozen=True)
class Limits:
    """What a program may use of a board, in bytes; None means no limit (the host).

    `flash` and `sram` are totals over all usable regions; `arena` is the largest size of the arena: of the regions that may hold it.
    """

    flash: int | None
    sram: int | None
    arena: int | None


@dataclass(frozen=True)
class Board:
    """One board; see the head of boards.toml for the meaning of the fields."""

    name: str
    title: str
    target: TinyTarget
    clock_hz: int
    template: str
    memory: tuple[MemoryRegion, ...]
    source: str
    aliases: tuple[str, ...] = ()
    zephyr: str = ""
    qemu: Mapping[str, str] = field(default_factory=dict)
    uart: Mapping[str, Any] = field(default_factory=dict)
    timer: Mapping[str, Any] = field(default_factory=dict)
    flasher: str = ""
    flash: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        _choose("template", self.template, TEMPLATES)
        if self.qemu and "machine" not in self.qemu:
            raise ValueError("qemu names no machine")
        if not self.source:
            raise ValueError("no source is given for its facts")
        _check_overlaps(self.memory)
        if not self.target.is_host and not all(any(r.kind == kind for r in self.memory) for kind in KINDS):
            raise ValueError("a board with a Cortex-M needs at least one flash and one ram region")

    @property
    def mcpu(self) -> str:
        """Name of the core, `native` for the host."""
        return self.target.mcpu

    @property
    def emulated(self) -> bool:
        """True when QEMU runs it."""
        return bool(self.qemu)

    def region(self, section: str) -> MemoryRegion | None:
        """The region that holds a section (`arena`, `text`, …), or None."""
        return next((r for r in self.memory if section in r.sections), None)

    @property
    def limits(self) -> Limits:
        """Totals of flash and SRAM, and the largest arena."""
        if self.target.is_host:
            return Limits(None, None, None)
        return Limits(_total(self.memory, "flash"), _total(self.memory, "ram"), sum(r.arena_bytes for r in self.arena_regions))

    @property
    def arena_regions(self) -> tuple[MemoryRegion, ...]:
        """The regions the arena may lie in, as listed; the largest usable RAM where none is named. None on the host."""
        named = tuple(r for r in self.memory if "arena" in r.sections)
        usable = [r for r in self.memory if r.kind == "ram" and r.usable]
        return named or ((max(usable, key=lambda r: r.size),) if usable else ())


def _total(memory: tuple[MemoryRegion, ...], kind: str) -> int:
    return sum(region.size for region in memory if region.kind == kind and region.usable)


def _choose(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {what} {value!r} (known: {', '.join(known)})")


def _check_overlaps(memory: tuple[MemoryRegion, ...]) -> None:
    ordered = sorted(memory, key=lambda r: r.base)
    for left, right in itertools.pairwise(ordered):
        if left.end > right.base:
            raise ValueError(f"memories {left.name} and {right.name} overlap")


def boards_file() -> Path:
    """Path of the boards.toml that comes with the library."""
    return Path(str(resources.files("tvm_tiny.microtvm_projects"))) / "boards.toml"


def load_boards(path: Path | None = None) -> dict[str, Board]:
    """Every board by its name.

    Parameters
    ----------
    path
        Another file of the same form; None reads the library's own (once).

    Raises
    ------
    TargetError
        The file can't be read, or a board in it is not valid; the message names file, board and fact.
    """
    return dict(_own_boards()) if path is None else _read(path)


@functools.lru_cache(maxsize=1)
def _own_boards() -> dict[str, Board]:
    return _read(boards_file())


def find_board(board: str | Board) -> Board:
    """The board of a name or alias; a `Board` is returned as it is.

    Raises
    ------
    TargetError
        No such board; the message lists the known ones and the closest.
    """
    if isinstance(board, Board):
        return board
    boards = load_boards()
    names = {name: b for b in boards.values() for name in (b.name, *b.aliases)}
    if board not in names:
        close = difflib.get_close_matches(str(board), names, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise TargetError(f"unknown board {board!r}", remedy=f"{hint}known: {', '.join(boards)}")
    return names[board]


def _read(path: Path) -> dict[str, Board]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TargetError(f"{path}: the boards can't be read: {error}") from None
    boards = {name: _board(path, name, entry) for name, entry in data.get("boards", {}).items()}
    _check_names(path, boards)
    return boards


def _board(path: Path, name: str, entry: Mapping[str, Any]) -> Board:
    try:
        facts = dict(entry)
        memory = tuple(_region(row) for row in facts.pop("memory"))
        aliases = tuple(facts.pop("aliases", ()))
        return Board(name=name, target=parse_target(facts.pop("target")), memory=memory, aliases=aliases, **facts)
    except (TypeError, ValueError, KeyError, AttributeError, TargetError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else getattr(error, "message", str(error))
        raise TargetError(f"{path}: board {name}: {reason}", remedy="docs/boards.md describes the fields") from None


def _region(row: Mapping[str, Any]) -> MemoryRegion:
    facts: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return MemoryRegion(**facts)


def _check_names(path: Path, boards: Mapping[str, Board]) -> None:
    owner: dict[str, str] = {}
    for board in boards.values():
        for name in (board.name, *board.aliases):
            if name in owner:
                raise TargetError(f"{path}: the name {name} belongs to both {owner[name]} and {board.name}")
            owner[name] = board.name
