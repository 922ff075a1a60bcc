# SPDX-License-Identifier: Apache-2.0
"""What the profiler says when a tool is missing or asked for what there is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tvm_tiny.errors import DeviceError, InputError, TargetError, ToolchainError
from tvm_tiny.profiler import profile_elf
from tvm_tiny.profiler.board_terms import board_term
from tvm_tiny.profiler.disassembly import Program
from tvm_tiny.profiler.qemu_plugin import Counting, build_plugin, count, plugin_api


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_missing_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError) as raised:
        build_plugin()
    assert str(raised.value) == "qemu-system-arm is not installed\n  remedy: install the Debian package qemu-system-arm"


def test_missing_host_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(tmp_path / "qemu-system-arm", "echo QEMU emulator version 7.2.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ToolchainError, match=r"no C compiler for the host.*\n  remedy: install the Debian packages gcc and libc6-dev"):
        build_plugin()
    assert not (tmp_path / "cache").exists()


def test_failing_host_compiler_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(tmp_path / "qemu-system-arm", "echo QEMU emulator version 7.2.0")
    script(tmp_path / "gcc", "echo no such header >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ToolchainError, match=r"does not compile with .*gcc: no such header"):
        build_plugin()
    assert list((tmp_path / "cache" / "tvm_tiny").iterdir()) == []


@pytest.mark.parametrize(
    ("version", "api"), [("4.2.1", 1), ("7.2.22 (Debian 1:7.2)", 1), ("8.2.0", 1), ("9.0.4", 2), ("9.1.0", 3), ("10.0.2", 3)]
)
def test_the_plugin_interface_follows_the_version(version: str, api: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(tmp_path / "qemu-system-arm", f"echo 'QEMU emulator version {version}'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert plugin_api("qemu-system-arm") == api


def test_a_program_that_is_no_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(tmp_path / "qemu-system-arm", "echo hello")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ToolchainError, match=r"says 'hello', which is no version of QEMU"):
        plugin_api("qemu-system-arm")


@pytest.mark.qemu
def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "x.elf").write_text("no ELF")
    with pytest.raises(InputError, match=r"x\.elf can't be disassembled"):
        Program(tmp_path / "x.elf")


def test_missing_objdump(tmp_path: Path) -> None:
    with pytest.raises(
        ToolchainError, match=r"no-such-objdump is not installed\n  remedy: install the Debian package binutils-arm-none-eabi"
    ):
        Program(tmp_path / "x.elf", objdump="no-such-objdump")


def test_unknown_core_and_board_term_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"no cycle model for 'cortex-a53'"):
        profile_elf(tmp_path / "x.elf", ["qemu-system-arm"], "cortex-a53")
    with pytest.raises(TargetError, match=r"no board term 'z80'; there are: none, stm32l4r5@120"):
        board_term("z80")


@pytest.mark.host_cc
@pytest.mark.parametrize(
    ("behaviour", "kind", "message"),
    [
        ("echo '-plugin: invalid option' >&2; exit 1", ToolchainError, "does not load the counting plugin: -plugin: invalid option"),
        ("exit 0", DeviceError, "left no complete counts"),
        ("echo booting; exit 3", DeviceError, "ended with code 3: booting"),
    ],
)
def test_an_emulator_that_does_not_count(
    behaviour: str, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(tmp_path / "qemu-system-arm", f'[ "$1" = --version ] && echo QEMU emulator version 7.2.0 && exit\n{behaviour}')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(kind, match=message):
        count(["qemu-system-arm", "-M", "mps2-an500"], Counting())
