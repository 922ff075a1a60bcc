# SPDX-License-Identifier: Apache-2.0
"""boards.toml: every board is valid, and its limits are what the memories say."""

from __future__ import annotations

import pytest

from tvm_tiny.boards import Board, find_board, load_boards


@pytest.mark.parametrize("board", load_boards().values(), ids=lambda b: b.name)
def test_board_is_complete(board: Board) -> None:
    """Title, source and memories are there; the arena has one region to go to."""
    assert board.title
    assert board.source
    limits = board.limits
    if board.target.is_host:
        assert limits.sram is None
        return
    assert limits.flash is not None
    assert limits.sram is not None
    assert limits.arena is not None
    assert limits.arena <= limits.sram
    assert board.clock_hz > 0


def test_emulated_boards_place_every_section() -> None:
    """The mps2 linker script is generated from the regions, so each section needs one."""
    for board in load_boards().values():
        if board.template == "mps2":
            assert all(board.region(s) for s in ("vectors", "text", "rodata", "data", "bss", "stack", "arena")), board.name


def test_aliases() -> None:
    """Short names and QEMU's spelling find the board; a Board is its own answer."""
    board = find_board("an500")
    assert board.name == "mps2_an500"
    assert find_board("mps2-an500") is board
    assert find_board(board) is board
    assert board.mcpu == "cortex-m7"
    assert board.emulated


def test_reserved_memory_is_in_no_limit() -> None:
    """The Discovery board's SDRAM and QSPI flash do not count; SRAM is the 320 KB of the chip."""
    assert find_board("nucleo_h743zi").limits.arena == (128 + 512) << 10, "DTCM and AXI SRAM"
    limits = find_board("stm32f746g_disco").limits
    assert (limits.flash, limits.sram, limits.arena) == (1 << 20, 320 << 10, 256 << 10)
