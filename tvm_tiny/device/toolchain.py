# SPDX-License-Identifier: Apache-2.0
"""The programs the device side calls: where they are, which version, which Debian package brings them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_tiny.errors import ToolchainError


@dataclass(frozen=True)
class Tool:
    """A program: its names in order of preference, the apt packages it comes in, and what it is for."""

    names: tuple[str, ...]
    packages: tuple[str, ...]
    purpose: str
    version_option: str = "--version"
    title: str = ""

    @property
    def name(self) -> str:
        """What `doctor` calls it."""
        return self.title or self.names[0]


@dataclass(frozen=True)
class ToolStatus:
    """What `doctor` prints of one tool; `path` is None when it is missing."""

    name: str
    purpose: str
    path: str | None
    version: str
    remedy: str


TOOLS: dict[str, Tool] = {
    "make": Tool(("make",), ("make",), "builds generated projects"),
    "host-cc": Tool(("gcc", "clang", "cc"), ("gcc", "libc6-dev"), "compiles for the board `native`", title="host C compiler"),
    "arm-gcc": Tool(("arm-none-eabi-gcc",), ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi"), "compiles for Cortex-M"),
    "arm-addr2line": Tool(("arm-none-eabi-addr2line",), ("binutils-arm-none-eabi",), "names the source line of a crash"),
    "addr2line": Tool(("addr2line",), ("binutils",), "names the source line of a crash on the host"),
    "cmake": Tool(("cmake",), ("cmake", "device-tree-compiler"), "configures Zephyr projects"),
    "ninja": Tool(("ninja",), ("ninja-build",), "builds Zephyr projects"),
    "qemu": Tool(("qemu-system-arm",), ("qemu-system-arm",), "emulates the mps2 boards"),
}


def find_tool(key: str) -> Path:
    """Path of a tool of `TOOLS`.

    Raises
    ------
    ToolchainError
        It is not on PATH; the remedy is the apt command that brings it.
    """
    tool = TOOLS[key]
    for name in tool.names:
        path = shutil.which(name)
        if path is not None:
            return Path(path)
    raise ToolchainError(f"{' or '.join(tool.names)} is not on PATH: it {tool.purpose}", remedy=install_command(key))


def install_command(key: str) -> str:
    """The command that installs a tool on Debian and Ubuntu."""
    return f"sudo apt-get install {' '.join(TOOLS[key].packages)}"


def survey() -> list[ToolStatus]:
    """State of every tool, for `tvm-tiny doctor`."""
    return [tool_status(key) for key in TOOLS]


def tool_status(key: str, *, version: bool = True) -> ToolStatus:
    """State of one tool; its version only when asked for, because that runs it."""
    try:
        path = find_tool(key)
    except ToolchainError as error:
        return ToolStatus(TOOLS[key].name, TOOLS[key].purpose, None, "", error.remedy)
    found = tool_version(path, TOOLS[key].version_option) if version else ""
    return ToolStatus(TOOLS[key].name, TOOLS[key].purpose, str(path), found, "")


def tool_version(path: Path, option: str = "--version") -> str:
    """First line a program prints about its version; empty when it does not answer within 10 s."""
    try:
        done = subprocess.run([str(path), option], capture_output=True, text=True, errors="replace", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def run_tool(command: Sequence[str], *, cwd: Path, timeout: float, what: str) -> str:
    """Run a tool to its end and return what it printed.

    Raises
    ------
    ToolchainError
        It can't be started, ran longer than `timeout` seconds, or failed; the message ends with the last lines it printed.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            list(command),
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        raise ToolchainError(f"{what}: {command[0]} can't be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"{what}: {Path(command[0]).name} did not end within {timeout:g} s") from None
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise BuildFailure(f"{what}: {Path(command[0]).name} failed with exit code {done.returncode}\n{tail(output)}", output)
    return output


class BuildFailure(ToolchainError):
    """A tool ran and failed; `output` is all it printed."""

    def __init__(self, message: str, output: str) -> None:
        super().__init__(message)
        self.output = output


def tail(text: str, lines: int = 20) -> str:
    """The last lines of a log, indented."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:])
