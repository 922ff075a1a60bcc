# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny doctor`: what of the toolchain is here, what each missing piece is for, and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from tvm_tiny import pins
from tvm_tiny.cli.guard import AsJson, Debug, emit
from tvm_tiny.errors import DependencyError, ToolchainError

VERSION_TIMEOUT_S = 20


@dataclass(frozen=True)
class Check:
    """One thing a user may need.

    Attributes
    ----------
    name, needed_for, remedy : str
        What it is, which part of the library needs it, and the command that gets it.
    found : str
        Its version or place; empty when it is missing.
    required : bool
        Whether nothing at all works without it.
    """

    name: str
    needed_for: str
    remedy: str
    found: str
    required: bool = False


def run_checks() -> list[Check]:
    """Look at this machine; runs the tools with ``--version`` and imports nothing heavy."""
    return [*_python_checks(), *_tool_checks(), *_zephyr_checks()]


def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Say what of the toolchain is missing, what it is for, and how to get it."""
    checks = run_checks()
    missing_required = [c.name for c in checks if c.required and not c.found]
    emit(as_json, {"checks": [asdict(c) for c in checks], "ok": not missing_required}, lambda console: _show(console, checks))
    if missing_required:
        raise typer.Exit(ToolchainError.exit_code)


def _show(console: Console, checks: list[Check]) -> None:
    table = Table("", "piece", "found", "needed for")
    for check in checks:
        mark = "[green]✓[/]" if check.found else "[red]✗[/]" if check.required else "[yellow]–[/]"
        table.add_row(mark, check.name, check.found or "missing", check.needed_for)
    console.print(table)
    for check in checks:
        if not check.found:
            console.print(f"{check.name}: {check.remedy}", markup=False, highlight=False, soft_wrap=True)


def _python_checks() -> list[Check]:
    return [
        Check("python", "everything", "install Python 3.10 to 3.13", platform.python_version(), required=True),
        Check("apache-tvm + ffi", "everything", pins.REMEDY, _pair(), required=True),
        *(Check(name, use, f'pip install "{spec}"', _distribution(name), required) for name, use, spec, required in _DISTRIBUTIONS),
    ]


_DISTRIBUTIONS = (
    ("tflite", "reading TFLite models", "tflite>=2.18", True),
    ("ortools", "planning the arena", "ortools>=9.10", True),
    ("onnx", "reading ONNX models", "tvm_tiny[onnx]", False),
    ("tflite-micro", "compare: the reference interpreter for TFLite", "tvm_tiny[reference]", False),
    ("onnxruntime", "compare: the reference for ONNX", "tvm_tiny[onnx]", False),
    ("xgboost", "tune: the cost model", "tvm_tiny[tune]", False),
)


def _tool_checks() -> list[Check]:
    """The programs of `tvm_tiny.device.toolchain`, and the C library that comes beside the ARM compiler."""
    from tvm_tiny.device.toolchain import survey

    tools = [Check(tool.name, tool.purpose, tool.remedy, tool.version or tool.path or "") for tool in survey()]
    newlib = Check("newlib for ARM", "every Cortex-M board", "sudo apt-get install libnewlib-arm-none-eabi", _newlib())
    place = next((i for i, check in enumerate(tools) if check.name == "arm-none-eabi-gcc"), len(tools) - 1) + 1
    return [*tools[:place], newlib, *tools[place:]]


def _zephyr_checks() -> list[Check]:
    base = os.environ.get("ZEPHYR_BASE", "")
    version = Path(base, "VERSION") if base else None
    found = base if version is not None and version.is_file() else ""
    return [
        Check("Zephyr", "boards with the zephyr template", "docs.zephyrproject.org: getting started; then export ZEPHYR_BASE", found),
        Check("cmake", "the zephyr template", "sudo apt-get install cmake", _first_version("cmake")),
        Check("device tree compiler", "the zephyr template", "sudo apt-get install device-tree-compiler", _first_version("dtc")),
    ]


def _pair() -> str:
    try:
        pins.check_pair()
    except DependencyError:
        return ""
    return " + ".join(pins.PAIR.values())


def _distribution(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _first_version(*names: str) -> str:
    """First line of ``--version`` of the first of `names` on PATH; its path if it says nothing; empty if none is there."""
    path = next(filter(None, map(shutil.which, names)), None)
    return "" if path is None else _output([path, "--version"], lambda text: text.splitlines()[0]) or path


def _newlib() -> str:
    """Path of newlib's libc.a; GCC answers with the bare name when it has none."""
    gcc = shutil.which("arm-none-eabi-gcc")
    if gcc is None:
        return ""
    return _output([gcc, "-print-file-name=libc.a"], lambda text: text.strip() if Path(text.strip()).is_absolute() else "")


def _output(command: list[str], read: Callable[[str], str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return read(done.stdout) if done.returncode == 0 and done.stdout.strip() else ""
