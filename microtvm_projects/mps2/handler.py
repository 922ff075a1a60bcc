# SPDX-License-Identifier: Apache-2.0
"""Template `mps2`: bare metal on a board QEMU emulates, with a start-up, linker script and fault handling of our own."""

from __future__ import annotations

from pathlib import Path

from tvm_tiny.boards import SECTIONS, Board, MemoryRegion
from tvm_tiny.device.artifact import Artifact
from tvm_tiny.device.link import Link
from tvm_tiny.device.project import Project, ProjectHandler, ProjectOptions, does_not_fit, model_variables, write_make_project
from tvm_tiny.device.qemu import boot_with_pipes, boot_with_uart
from tvm_tiny.device.toolchain import BuildFailure, find_tool
from tvm_tiny.errors import TargetError


class Handler(ProjectHandler):
    """Handler of the `mps2` template."""

    template = "mps2"

    def tools(self, board: Board) -> tuple[str, ...]:
        """Make, the cross compiler and the emulator."""
        return ("make", "arm-gcc", "qemu")

    def write_template(self, artifact: Artifact, board: Board, directory: Path, options: ProjectOptions) -> None:
        """Add Makefile, config.mk, board.h, memory.ld and the bare-metal sources."""
        variables = {
            "CC": "arm-none-eabi-gcc",
            "CPU_FLAGS": " ".join(board.target.cflags),
            "PORT": options.line,
            **model_variables(artifact, board, options),
        }
        write_make_project("mps2", directory, variables)
        (directory / "board.h").write_text(board_header(board), encoding="utf-8")
        (directory / "memory.ld").write_text(memory_script(board, options.stack_bytes), encoding="utf-8")
        (directory / "arenas.ld").write_text(arenas_script(board), encoding="utf-8")

    def build(self, project: Project, *, timeout: float = 600) -> Path:
        """Compile and link; a region that overflows becomes a DoesNotFitError that says by how much."""
        find_tool("arm-gcc")
        try:
            return super().build(project, timeout=timeout)
        except BuildFailure as error:
            raise does_not_fit(project, error) or error from None

    def flash(self, project: Project) -> None:
        """Nothing to do: QEMU loads the image when the line opens."""

    def open_transport(self, project: Project) -> Link:
        """Boot the image in QEMU."""
        boot = boot_with_uart if project.options.line == "uart" else boot_with_pipes
        return boot(project.board, project.elf)


def board_header(board: Board) -> str:
    """Text of board.h: UART and the ranges the MPU makes read-only."""
    ranges = ", ".join(f"{{{r.base:#010x}u, {r.size:#x}u}}" for r in board.memory if r.kind == "flash" and _mpu_can(r))
    lines = [f"/* Generated from boards.toml: {board.title}. */", "#ifndef TINY_BOARD_H", "#define TINY_BOARD_H", ""]
    if board.uart:
        lines += [f"#define BOARD_UART_{str(board.uart['type']).upper()} 1", f"#define BOARD_UART_BASE {board.uart['base']:#010x}u"]
    if board.timer:
        lines += [f"#define BOARD_TIMER_{str(board.timer['type']).upper()} 1", f"#define BOARD_TIMER_BASE {board.timer['base']:#010x}u"]
    lines += [f"#define BOARD_CLOCK_HZ {board.clock_hz}u"]
    lines += [f"#define BOARD_READ_ONLY {{{ranges}}}", "", "#endif", ""]
    return "\n".join(lines)


def _mpu_can(region: MemoryRegion) -> bool:
    """ARMv7-M's MPU knows powers of two, at multiples of their size."""
    return region.size & (region.size - 1) == 0 and region.base % region.size == 0


def memory_script(board: Board, stack_bytes: int) -> str:
    """Text of memory.ld: the memories, and which of them holds which section."""
    access = {"flash": "rx", "ram": "rwx"}
    rows = "".join(f"  {r.name} ({access[r.kind]}) : ORIGIN = {r.base:#010x}, LENGTH = {r.size:#x}\n" for r in board.memory)
    return f"/* Generated from boards.toml: {board.title}. */\nMEMORY\n{{\n{rows}}}\n{_aliases(board)}__stack_bytes = {stack_bytes};\n"


def arenas_script(board: Board) -> str:
    """Text of arenas.ld: the parts of an arena that is spread over several memories, each in its own."""
    regions = [r.name for r in board.arena_regions] if len(board.arena_regions) > 1 else []
    parts = "".join(f"  .arena_{n} (NOLOAD) : ALIGN(16) {{ *(.bss.tvmgen_*_workspace_{n}) }} > {n}\n" for n in regions)
    return f"/* Generated from boards.toml: {board.title}. */\n{parts}"


def _aliases(board: Board) -> str:
    lines = []
    for section in SECTIONS:
        region = board.region(section)
        if region is None:
            raise TargetError(f"board {board.name}: no memory holds the section {section}", remedy="add it to `sections` in boards.toml")
        lines.append(f'REGION_ALIAS("{section.upper()}", {region.name})\n')
    return "".join(lines)
