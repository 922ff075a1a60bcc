# SPDX-License-Identifier: Apache-2.0
"""What is said where a network does not fit: the change an error names has been tried, and fits when a user makes it."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from typing import Any

import pytest
import tvm

import tvm_tiny
from tests.support.memories import split_board
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.boards import Board, find_board
from tvm_tiny.errors import DoesNotFitError

M7 = "c -mcpu=cortex-m7"


def pyramid() -> tvm.IRModule:
    """Streams make it much smaller."""
    b = TinyBuilder((1, 32, 32, 8))
    x = b.conv(b.depthwise(b.conv(b.x, 16)), 32, 3, strides=[2, 2], padding=[0, 0, 1, 1])
    return b.finish(b.conv(b.depthwise(x), 8))


def asked(remedy: str) -> dict[str, Any]:
    """The options of the change that fits."""
    (words,) = re.findall(r"; or ([^;]*): [\d,]+ bytes, which fits", remedy)
    found = {name: ast.literal_eval(value) for name, value in re.findall(r"(\w+)=('[^']*'|[\d.]+|True)", words)}
    return {**found, "disable": ()} if "not disable=" in words else found


def refused(**options: Any) -> str:
    with pytest.raises(DoesNotFitError) as caught:
        tvm_tiny.build(pyramid(), name="net", **options)
    return caught.value.remedy


def board_of(ram: int | None = None, flash: int | None = None) -> Board:
    """A Cortex-M7 with so much memory."""
    board = find_board("mps2_an500")
    sizes = {"ram": ram, "flash": flash}
    return replace(board, memory=tuple(replace(r, size=sizes[r.kind] or r.size, arena=0) for r in board.memory))


@pytest.fixture(scope="module")
def least() -> int:
    return tvm_tiny.build(pyramid(), M7, name="net", optimize="sram").workspace_size


@pytest.mark.parametrize(
    "options",
    [{"disable": ("stream-rows", "patch-inference")}, {"optimize": "speed", "disable": ("stream-rows",)}],
    ids=["no streams", "speed without streams"],
)
def test_a_budget_of_memory(options: dict[str, Any], least: int) -> None:
    budget = int(1.1 * least)
    remedy = refused(target=M7, sram=budget, **options)
    model = tvm_tiny.build(pyramid(), M7, name="net", **{**options, "sram": budget, **asked(remedy)})
    assert f": {model.workspace_size:,} bytes, which fits" in remedy


def test_a_budget_below_everything() -> None:
    remedy = refused(target=M7, sram=1000, optimize="speed")
    assert re.search(
        r"^allow [\d,]+ bytes; the nearest is optimize=[^;]*: [\d,]+ bytes, still [\d,]+ too many; or a smaller input$", remedy
    )


def test_layers_that_take_turns_are_named_by_the_last_one() -> None:
    with pytest.raises(DoesNotFitError, match=r"layer \w+ \(the rows or patches that end there\) decides: "):
        tvm_tiny.build(pyramid(), M7, name="net", sram=1000, optimize="sram", max_overhead=0.3, camera=True)


def test_the_memory_of_a_board(least: int) -> None:
    board = board_of(ram=int(1.1 * least))
    remedy = refused(board=board, optimize="speed")
    assert remedy.startswith("a board with more SRAM (")
    assert tvm_tiny.build(pyramid(), board=board, name="net", **asked(remedy)).workspace_size <= 1.1 * least


def test_several_memories_of_a_board(least: int) -> None:
    board = split_board(int(0.8 * least) // 8 * 8, int(0.8 * least) // 8 * 8)
    remedy = refused(board=board, optimize="speed")
    assert tvm_tiny.build(pyramid(), board=board, name="net", **asked(remedy)).workspace_size <= 1.6 * least


def test_the_flash_of_a_board() -> None:
    """Transformed weights are larger than those of the model."""
    b = TinyBuilder((1, 16, 16, 16))
    mod = b.finish(b.conv(b.conv(b.x, 32, 3), 32, 3))
    constants = sum(a.nbytes for a in tvm_tiny.build(mod, M7, name="net").program.constants.values())
    board = board_of(flash=constants - 1000)
    with pytest.raises(DoesNotFitError) as caught:
        tvm_tiny.build(mod, board=board, name="net")
    tvm_tiny.build(mod, board=board, name="net", **asked(caught.value.remedy))
