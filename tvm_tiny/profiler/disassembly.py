# SPDX-License-Identifier: Apache-2.0
"""The code of an ELF file as typed instructions, disassembled by the toolchain's objdump."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tvm_tiny.errors import InputError, ToolchainError
from tvm_tiny.profiler.instructions import Instruction, decode_at

_FUNCTION = re.compile(r"^([0-9a-f]+) <([^>]+)>:$")
_LINE = re.compile(r"^\s*([0-9a-f]+):\t([0-9a-f ]+)\t(.*)$")


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction as objdump prints it; `size` in bytes, `function` the symbol it stands under."""

    text: str
    size: int
    function: str


class Program:
    """Instructions of an ELF file by address; decoded when asked for, since most code never runs.

    Parameters
    ----------
    elf : path
        A linked image for Cortex-M.

    Raises
    ------
    ToolchainError
        objdump is missing.
    InputError
        The file is no such image.
    """

    def __init__(self, elf: str | Path, objdump: str = "arm-none-eabi-objdump") -> None:
        self.elf = Path(elf)
        self.lines: dict[int, Line] = {}
        self.functions: dict[str, int] = {}
        self._decoded: dict[int, Instruction] = {}
        function = ""
        for text in _disassemble(self.elf, objdump).splitlines():
            if found := _FUNCTION.match(text):
                function = found[2]
                self.functions[function] = int(found[1], 16)
            elif (found := _LINE.match(text)) and not found[3].startswith("."):  # .word and its like are literals
                self.lines[int(found[1], 16)] = Line(found[3], len(found[2].replace(" ", "")) // 2, function)

    def instruction(self, address: int) -> Instruction:
        """The instruction at `address`. Raises UnknownInstructionError when no timing is known for it, KeyError when there is none."""
        if address not in self._decoded:
            line = self.lines[address]
            self._decoded[address] = decode_at(line.text, address, line.size)
        return self._decoded[address]

    def addresses(self, start: int, end: int) -> list[int]:
        """Addresses of the instructions in [start, end), or an empty list when that is not code of this file."""
        found = []
        while start < end and start in self.lines:
            found.append(start)
            start += self.lines[start].size
        return found if start == end else []


def _disassemble(elf: Path, objdump: str) -> str:
    program = shutil.which(objdump)
    if program is None:
        raise ToolchainError(f"{objdump} is not installed", remedy="install the Debian package binutils-arm-none-eabi")
    run = subprocess.run([program, "-d", "-z", str(elf)], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise InputError(f"{elf} can't be disassembled: {run.stderr.strip()}", remedy="give a linked Cortex-M image (ELF)")
    return run.stdout
