# SPDX-License-Identifier: Apache-2.0
"""How large an image is, read from the linked ELF file: what the linker says, not what the planner hoped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section, SymbolTableSection

from tvm_tiny.errors import InputError

_KINDS = ("text", "rodata", "data", "bss", "stack")


@dataclass(frozen=True)
class Symbol:
    """A function or object of the image: address, bytes and the section it lies in."""

    name: str
    address: int
    size: int
    section: str


@dataclass(frozen=True)
class ImageSize:
    """Bytes of an image by kind.

    Attributes
    ----------
    text, rodata, data, bss, stack : int
        Code; constants; initialised variables; zeroed variables with the arena; the reserved stacks.
    symbols : tuple[Symbol, ...]
        Every function and object with a size, largest first.
    """

    text: int
    rodata: int
    data: int
    bss: int
    stack: int
    symbols: tuple[Symbol, ...]

    @property
    def flash(self) -> int:
        """Bytes that have to be stored: code, constants and initial values."""
        return self.text + self.rodata + self.data

    @property
    def sram(self) -> int:
        """Bytes of RAM: variables, arena and stacks."""
        return self.data + self.bss + self.stack

    def symbol(self, name: str) -> Symbol | None:
        """The symbol of a name, or None."""
        return next((s for s in self.symbols if s.name == name), None)

    def workspace(self, model: str) -> int | None:
        """Bytes of a model's static arena in the image; None when it is not linked."""
        whole = self.symbol(f"tvmgen_{model}_workspace")
        prefix = f"tvmgen_{model}_workspace_"  # one array a memory, where the arena is spread over several
        parts = [s.size for s in self.symbols if s.name.startswith(prefix) and s.section.startswith((".arena", ".bss"))]
        return whole.size if whole is not None else sum(parts) or None


def measure_image(elf: str | Path) -> ImageSize:
    """Sizes of a linked image.

    Raises
    ------
    InputError
        The file is missing or is no ELF file.
    """
    try:
        with Path(elf).open("rb") as stream:
            return _measure(ELFFile(stream))
    except (OSError, ELFError) as error:
        raise InputError(f"{elf}: no linked image: {error}") from None


def measure_objects(objects: Iterable[str | Path]) -> ImageSize:
    """Sum over object files, such as those of the model alone (`Project.model_objects`): bytes before unused functions are dropped."""
    parts = [measure_image(path) for path in objects]
    totals = {kind: sum(getattr(part, kind) for part in parts) for kind in _KINDS}
    symbols = sorted((s for part in parts for s in part.symbols), key=lambda s: (-s.size, s.name))
    return ImageSize(symbols=tuple(symbols), **totals)


def _measure(image: ELFFile) -> ImageSize:
    totals = dict.fromkeys(_KINDS, 0)
    for section in image.iter_sections():
        if section["sh_flags"] & SH_FLAGS.SHF_ALLOC:
            totals[_kind(section)] += section["sh_size"]
    return ImageSize(symbols=_symbols(image), **totals)


def _kind(section: Section) -> str:
    if section.name == ".stack":
        return "stack"
    if section["sh_type"] == "SHT_NOBITS":
        return "bss"
    if section["sh_flags"] & SH_FLAGS.SHF_WRITE:
        return "data"
    return "text" if section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR else "rodata"


def _symbols(image: ELFFile) -> tuple[Symbol, ...]:
    found = []
    for table in image.iter_sections():
        if not isinstance(table, SymbolTableSection):
            continue
        for symbol in table.iter_symbols():
            index = symbol["st_shndx"]
            if symbol["st_info"]["type"] in ("STT_FUNC", "STT_OBJECT") and symbol["st_size"] and isinstance(index, int):
                found.append(Symbol(symbol.name, symbol["st_value"], symbol["st_size"], image.get_section(index).name))
    return tuple(sorted(set(found), key=lambda s: (-s.size, s.name)))
