# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny boards` tells what boards.toml says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import invoke, invoke_json
from tvm_tiny.boards import load_boards


def test_json_lists_every_board_in_order() -> None:
    document = invoke_json("boards")
    assert [b["name"] for b in document["boards"]] == list(load_boards())


def test_one_board_by_alias() -> None:
    document = invoke_json("boards", "an500")
    assert (document["name"], document["mcpu"], document["emulated"]) == ("mps2_an500", "cortex-m7", True)
    assert document["memory"][0]["size"] == 4 * 1024 * 1024


def test_tables_name_boards_and_memories() -> None:
    assert all(name in invoke("boards").stdout for name in load_boards())
    assert "ssram23" in invoke("boards", "mps2_an500").stdout


def test_unknown_board_lists_the_known() -> None:
    result = invoke("boards", "mps2_an501")
    assert result.exit_code == 2
    assert "did you mean mps2_an5" in result.stderr


def test_tools_a_board_needs_and_whether_they_are_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By template: compilers, emulator, Zephyr tree, something to flash with; what is missing with its remedy."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("ZEPHYR_BASE", raising=False)
    found = {b["name"]: {t["name"]: t for t in b["tools"]} for b in invoke_json("boards")["boards"]}
    assert list(found["mps2_an500"]) == ["make", "arm-none-eabi-gcc", "qemu-system-arm"]
    assert list(found["nucleo_h743zi"]) == ["cmake", "ninja", "arm-none-eabi-gcc", "ZEPHYR_BASE", "west or openocd or pyocd"]
    assert "host C compiler" in found["native_sim"]
    assert all(tool["path"] is None and tool["remedy"] for tools in found.values() for tool in tools.values())
    (tmp_path / "openocd").write_text("#!/bin/sh\n")
    (tmp_path / "openocd").chmod(0o755)
    tools = {t["name"]: t for t in invoke_json("boards", "nucleo_h743zi")["tools"]}
    assert tools["west or openocd or pyocd"]["path"] == str(tmp_path / "openocd")
    text = " ".join(invoke("boards", "nucleo_h743zi").stdout.split())
    assert "480 MHz" in text
    assert "missing" in text
