# SPDX-License-Identifier: Apache-2.0
"""Boards whose arena may lie in several memories."""

from __future__ import annotations

import dataclasses

from tvm_tiny.boards import Board, MemoryRegion, find_board

_BASE, _END = 0x2000_0000, 0x2040_0000  # the emulated Cortex-M7's RAM
_FAST = 0x1_0000


def split_board(*arenas: int) -> Board:
    """The emulated Cortex-M7, its RAM as one or two small memories and a large one, the faster first.

    Parameters
    ----------
    arenas : int
        Bytes the arena may take of each, at most 64 KB of the small ones; 0 for all. With one size alone there is a large one beside it.
    """
    board = find_board("mps2_an500")
    flash = tuple(r for r in board.memory if r.kind == "flash")
    sizes = arenas if len(arenas) > 1 else (*arenas, 0)
    kinds = [("tcm", ("tcm",)), ("sram1", ())]
    small = [
        MemoryRegion(name, "ram", _BASE + i * _FAST, _FAST, name.upper(), ("arena",), kind, arena=size)
        for i, ((name, kind), size) in enumerate(zip(kinds, sizes[:-1], strict=False))
    ]
    base = _BASE + len(small) * _FAST
    slow = ("external",) if len(small) > 1 else ()
    large = MemoryRegion("sram", "ram", base, _END - base, "SRAM", ("data", "bss", "stack", "arena"), slow, arena=sizes[-1])
    return dataclasses.replace(board, memory=(*flash, *small, large))
