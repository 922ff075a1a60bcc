# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny boards` tells what boards.toml says."""

from __future__ import annotations

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
