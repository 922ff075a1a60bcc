# SPDX-License-Identifier: Apache-2.0
"""Flashing a real board: `west flash`, OpenOCD or pyOCD, whichever is installed and knows the board."""

from __future__ import annotations

import shlex
import shutil

from tvm_tiny.boards import Board
from tvm_tiny.device.project import Project
from tvm_tiny.device.toolchain import ToolStatus, run_tool
from tvm_tiny.errors import InputError, ToolchainError

_FLASH_TIMEOUT = 300.0


_REMEDY = "pip install west, with a west workspace around ZEPHYR_BASE; or sudo apt-get install openocd; or pip install pyocd"


def flash_commands(board: Board, image: str) -> dict[str, list[str]]:
    """The command of each tool that knows the board, in order of preference; run in the project's folder, where `image` is."""
    commands = {"west": ["west", "flash", "--build-dir", "build"]}
    if config := board.flash.get("openocd"):
        commands["openocd"] = ["openocd", "-f", config, "-c", f"program {image} verify reset exit"]
    if target := board.flash.get("pyocd"):
        commands["pyocd"] = ["pyocd", "flash", "--target", target, image]
    return commands


def flasher_status(board: Board) -> ToolStatus:
    """Whether one of the tools that can flash the board is here."""
    known = list(flash_commands(board, ""))
    here = next((path for path in map(shutil.which, known) if path is not None), None)
    return ToolStatus(" or ".join(known), "flashes the board", here, "", "" if here else _REMEDY)


def find_flash_command(project: Project) -> list[str]:
    """The command of the first tool that is installed.

    Raises
    ------
    ToolchainError
        None is; the message shows the commands that would have served.
    """
    commands = flash_commands(project.board, str(project.elf.relative_to(project.directory)))
    for name, command in commands.items():
        if shutil.which(name) is not None:
            return command
    shown = "\n".join(f"    {shlex.join(command)}" for command in commands.values())
    raise ToolchainError(
        f"{project.board.name} can't be flashed: {', '.join(commands)} not on PATH. In {project.directory} this would do it:\n{shown}",
        remedy=_REMEDY,
    )


def run_flash_command(project: Project, command: list[str]) -> None:
    """Flash a built project.

    Raises
    ------
    InputError
        It is not built.
    ToolchainError
        The tool failed: the message ends with what it printed.
    """
    if not project.elf.is_file():
        raise InputError(f"{project.directory}: not built, there is nothing to flash", remedy="run `tvm-tiny project build` first")
    run_tool(command, cwd=project.directory, timeout=_FLASH_TIMEOUT, what=f"flashing {project.board.name}: {shlex.join(command)}")
