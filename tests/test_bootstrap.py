# SPDX-License-Identifier: Apache-2.0
"""tools/bootstrap.sh on a machine without root or apt: it says exactly what to install, and goes on where it can."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.shared import ROOT

NEEDED_BY_THE_SCRIPT = ("bash", "dirname", "cksum", "grep", "id", "env")


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A folder for PATH with Python and what the script itself calls: no compiler, no emulator, no apt-get, no sudo."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NEEDED_BY_THE_SCRIPT:
        (folder / name).symlink_to(shutil.which(name) or pytest.skip(f"{name} is missing"))
    (folder / "python3").symlink_to(sys.executable)
    return folder


@pytest.fixture
def ready_venv(tmp_path: Path) -> Path:
    """A virtual environment that says it is up to date, so that the script installs nothing."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    checksum = subprocess.run(["cksum"], stdin=(ROOT / "pyproject.toml").open(), capture_output=True, text=True, check=True).stdout.strip()
    (folder / ".tvm_tiny").write_text(f"dev {checksum}\n")
    return folder


def bootstrap(purpose: str, path: Path, venv: Path) -> subprocess.CompletedProcess[str]:
    """Run the script with only `path` on PATH."""
    command = [str(path / "bash"), str(ROOT / "tools" / "bootstrap.sh"), purpose]
    environment = {"PATH": str(path), "VENV": str(venv), "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def test_without_a_c_compiler_it_stops_and_names_everything(bare_path: Path, ready_venv: Path) -> None:
    done = bootstrap("test", bare_path, ready_venv)
    assert done.returncode == 4
    everything = "gcc libc6-dev gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm clang"
    assert f"sudo apt-get update && sudo apt-get install {everything}\n" in done.stdout
    assert "gcc can't be done without" in done.stdout


def test_without_the_arm_tools_the_demo_goes_on(bare_path: Path, ready_venv: Path) -> None:
    (bare_path / "gcc").symlink_to("/bin/true")
    done = bootstrap("demo", bare_path, ready_venv)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm\n" in done.stdout
    assert "emulated boards are left out" in done.stdout


def test_with_everything_it_is_silent(bare_path: Path, ready_venv: Path) -> None:
    for tool in ("gcc", "clang", "qemu-system-arm"):
        (bare_path / tool).symlink_to("/bin/true")
    gcc = bare_path / "arm-none-eabi-gcc"
    gcc.write_text("#!/usr/bin/env bash\necho /usr/lib/libc.a\n")
    gcc.chmod(0o755)
    done = bootstrap("test", bare_path, ready_venv)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_python_it_stops(bare_path: Path, tmp_path: Path) -> None:
    (bare_path / "python3").unlink()
    done = bootstrap("demo", bare_path, tmp_path / "none")
    assert done.returncode == 4
    assert "python3 python3-venv" in done.stdout
