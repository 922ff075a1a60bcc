# SPDX-License-Identifier: Apache-2.0
"""Small bare-metal programs of the profiler's tests (tests/data/profiler), compiled for QEMU's Arm MPS machines."""

from __future__ import annotations

import subprocess
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "data" / "profiler"
MACHINES = {
    "cortex-m0": "mps2-an385",
    "cortex-m3": "mps2-an385",
    "cortex-m4": "mps2-an386",
    "cortex-m7": "mps2-an500",
    "cortex-m55": "mps3-an547",
}
_FLOAT = {
    "cortex-m0": ("-mfloat-abi=soft",),
    "cortex-m3": ("-mfloat-abi=soft",),
    "cortex-m4": ("-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "cortex-m7": ("-mfloat-abi=hard", "-mfpu=fpv5-d16"),
    "cortex-m55": ("-mfloat-abi=hard", "-mfpu=auto"),
}


def build_firmware(directory: Path, program: str, core: str, *flags: str) -> Path:
    """Compile ``tests/data/profiler/<program>.c`` with its start-up code; returns the ELF file."""
    elf = directory / f"{program}-{core}.elf"
    options = [f"-mcpu={core}", "-mthumb", *_FLOAT[core], "-O2", "-ffreestanding", "-nostartfiles", "--specs=nosys.specs", *flags]
    sources = [str(DATA / "start.c"), str(DATA / f"{program}.c")]
    command = ["arm-none-eabi-gcc", *options, "-T", str(DATA / "mps2.ld"), *sources, "-o", str(elf)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return elf


def qemu(elf: Path, core: str) -> list[str]:
    """The command that runs `elf` to its end, its console on standard output."""
    machine = ["-M", MACHINES[core], "-display", "none", "-monitor", "none", "-serial", "none", "-chardev", "stdio,id=console"]
    return ["qemu-system-arm", *machine, "-semihosting-config", "enable=on,target=native,chardev=console", "-kernel", str(elf)]
