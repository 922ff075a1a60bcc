# SPDX-License-Identifier: Apache-2.0
"""The Zephyr template without Zephyr: its C against stub headers, its devicetree overlays through dtc, its Kconfig through kconfiglib."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import kconfiglib
import pytest

from tests.support.device_model import write_crasher
from tests.support.shared import ROOT
from tvm_tiny.boards import load_boards
from tvm_tiny.device import generate_project

STUBS = ROOT / "tests/data/zephyr_stubs"
TEMPLATE = ROOT / "microtvm_projects/zephyr"
SOURCES = sorted(TEMPLATE.glob("*.c"))
BOARDS = [board for board in load_boards().values() if board.zephyr]
INCLUDES = ["-I", str(STUBS), "-I", str(ROOT / "microtvm_projects/app"), "-I", str(ROOT / "microtvm_projects/mps2")]
WARNINGS = ["-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only"]
ARM = ["-mcpu=cortex-m7", "-mthumb", "-ffreestanding", "-DCONFIG_CPU_CORTEX_M=1", "-DCONFIG_ARMV7_M_ARMV8_M_MAINLINE=1"]
COMMON = ["-DCONFIG_MAIN_STACK_SIZE=4096", "-DCONFIG_TINY_RECEIVE_BYTES=1024"]


def compiles(compiler: str, *flags: str) -> None:
    """Every source of the template is accepted without a warning."""
    command = [compiler, *WARNINGS, *INCLUDES, *COMMON, *flags, *map(str, SOURCES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.host_cc
def test_c_for_native_sim() -> None:
    compiles("gcc", "-DCONFIG_ARCH_POSIX=1")


@pytest.mark.qemu
@pytest.mark.parametrize("line", [[], ["-DCONFIG_UART_INTERRUPT_DRIVEN=1"]], ids=["polled", "interrupt"])
@pytest.mark.parametrize("end", ["CONFIG_TINY_EXIT_SEMIHOSTING", "CONFIG_TINY_EXIT_REBOOT"])
def test_c_for_cortex_m(line: list[str], end: str) -> None:
    hardware = ["-DCONFIG_TINY_CYCLES_TIMING=1", "-DCONFIG_TIMING_FUNCTIONS=1"] if end.endswith("REBOOT") else []
    compiles("arm-none-eabi-gcc", *ARM, *line, f"-D{end}=1", *hardware)


def overlay_of(name: str) -> Path:
    """The overlay under the name Zephyr looks for."""
    return TEMPLATE / "boards" / f"{name.replace('/', '_')}.overlay"


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.name)
def test_overlay(board: object, tmp_path: Path) -> None:
    """Each board has one; on a tree that has its labels it chooses the line."""
    overlay = overlay_of(board.zephyr)  # type: ignore[attr-defined]
    assert overlay.is_file()
    if shutil.which("dtc") is None:
        pytest.skip("dtc: not installed (apt-get install device-tree-compiler)")
    text = overlay.read_text(encoding="utf-8")
    labels = sorted(set(re.findall(r"&(\w+)", text)))
    nodes = "".join(f"\t{label}: {label}_node {{ }};\n" for label in labels)
    (tmp_path / "all.dts").write_text(f"/dts-v1/;\n/ {{\n\tchosen {{ }};\n{nodes}}};\n{text}")
    done = subprocess.run(["dtc", "-I", "dts", "-O", "dts", str(tmp_path / "all.dts")], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert re.search(rf'tiny,line = "/({"|".join(labels)})_node"', done.stdout)
    assert done.stdout.count("current-speed = <0x1c200>") == text.count("current-speed")


def test_no_overlay_without_a_board() -> None:
    names = {board.zephyr.replace("/", "_") for board in BOARDS}
    assert {path.stem for path in (TEMPLATE / "boards").iterdir()} == names


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A generated project with Zephyr's Kconfig stubbed."""
    folder = generate_project(write_crasher(tmp_path / "mlf", 64), tmp_path / "project", "nucleo_h743zi", stack_bytes=4096)
    shutil.copyfile(STUBS / "Kconfig.zephyr", folder / "Kconfig.zephyr")
    return folder


def configured(project: Path, soc: str, monkeypatch: pytest.MonkeyPatch) -> kconfiglib.Kconfig:
    """The project's configuration for a chip; assignments that do not hold are failures."""
    monkeypatch.setenv("srctree", str(project))
    monkeypatch.setenv("STUB_SOC", soc)
    config = kconfiglib.Kconfig(str(project / "Kconfig"), warn_to_stderr=False)
    family = TEMPLATE / f"family_{'posix' if soc == 'native' else 'arm'}.conf"
    for path in (project / "prj.conf", family):
        config.load_config(str(path), replace=False)
    assert config.warnings == []
    for path in (project / "prj.conf", family):
        for name, value in re.findall(r"^CONFIG_(\w+)=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert config.syms[name].str_value == value, f"{soc}: {name}"
    return config


@pytest.mark.parametrize(
    ("soc", "on", "off"),
    [
        (
            "an385",
            ("TINY_EXIT_SEMIHOSTING", "ARM_MPU", "HW_STACK_PROTECTION", "UART_INTERRUPT_DRIVEN"),
            ("FPU", "TICKLESS_KERNEL", "REBOOT"),
        ),
        ("an386", ("FPU", "CPU_HAS_FPU", "TINY_EXIT_SEMIHOSTING"), ("CPU_HAS_FPU_DOUBLE_PRECISION",)),
        ("an500", ("FPU", "CPU_HAS_FPU_DOUBLE_PRECISION", "TINY_EXIT_SEMIHOSTING"), ("TINY_CYCLES_TIMING",)),
        ("an547", ("TINY_EXIT_SEMIHOSTING",), ("REBOOT",)),
        ("stm32", ("FPU", "TINY_EXIT_REBOOT", "REBOOT", "TIMING_FUNCTIONS", "TICKLESS_KERNEL"), ("TINY_EXIT_SEMIHOSTING", "CONSOLE")),
        ("native", ("UART_NATIVE_PTY_0_ON_STDINOUT", "CONSOLE"), ("TINY_EXIT_SEMIHOSTING", "REBOOT", "UART_INTERRUPT_DRIVEN", "FPU")),
    ],
)
def test_kconfig(soc: str, on: tuple[str, ...], off: tuple[str, ...], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(project, soc, monkeypatch)
    assert {name: config.syms[name].str_value for name in on} == dict.fromkeys(on, "y")
    assert {name: config.syms[name].str_value for name in off} == dict.fromkeys(off, "n")
    assert config.syms["TVMGEN_CRASHER"].str_value == "y"
    assert config.syms["MAIN_STACK_SIZE"].str_value == "4096"
