# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny doctor` finds what is there, misses what is not, and says how to get it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.cli import invoke, invoke_json
from tvm_tiny import pins


def by_name(document: dict) -> dict[str, dict]:
    """The document's checks by their name."""
    return {check["name"]: check for check in document["checks"]}


def test_sound_environment() -> None:
    document = invoke_json("doctor")
    assert document["ok"]
    checks = by_name(document)
    assert checks["python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert checks["apache-tvm + ffi"]["found"] == "0.27.0.post1 + 0.1.14.post0"


def test_nothing_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("ZEPHYR_BASE", raising=False)
    document = invoke_json("doctor")
    missing = {name for name, check in by_name(document).items() if not check["found"]}
    assert {"host C compiler", "arm-none-eabi-gcc", "newlib for ARM", "qemu-system-arm", "Zephyr"} <= missing
    assert document["ok"], "the compiler itself needs none of them"
    text = invoke("doctor").stdout
    assert "qemu-system-arm: sudo apt-get install qemu-system-arm" in text


def test_tool_that_does_not_answer_is_given_by_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mute = tmp_path / "qemu-system-arm"
    mute.write_text("#!/bin/sh\nexit 3\n")
    mute.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert by_name(invoke_json("doctor"))["qemu-system-arm"]["found"] == str(mute)


def test_compiler_without_newlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gcc = tmp_path / "arm-none-eabi-gcc"
    gcc.write_text("#!/bin/sh\ncase $1 in --version) echo 'gcc 99';; *) echo libc.a;; esac\n")
    gcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = by_name(invoke_json("doctor"))
    assert checks["arm-none-eabi-gcc"]["found"] == "gcc 99"
    assert checks["newlib for ARM"]["found"] == ""


def test_drifted_pair_fails_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "installed_pair", lambda: {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.15.post2"})
    result = invoke("doctor", "--json")
    assert result.exit_code == 4
    document = json.loads(result.stdout)
    assert not document["ok"]
    assert by_name(document)["apache-tvm + ffi"]["remedy"] == pins.REMEDY
