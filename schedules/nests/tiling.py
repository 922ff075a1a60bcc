# SPDX-License-Identifier: Apache-2.0
"""A layer's own loops tiled as its kernel's are: what a tuning trace does with its decisions.

The kernel is generated from the same decisions (`realise` of the rules); these schedules are its loop structure on the operator's TIR, so a
trace can be read, printed and replayed by whatever knows TVM's schedules. Extents that decisions do not divide get predicates. Axes are
split in two at a time and those of the window stay apart, or TVM finds the loops no longer affine and reorders nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm.s_tir import Schedule

Decisions = Mapping[str, Any]
"""Random variables of a traced schedule, by the name of the decision."""

_GROUP = 4  # products of a packed word, planes of a strip


def products(sch: Schedule, found: Decisions) -> None:
    """Convolutions and fully connected layers as products: tiles of groups of pixels, blocks of channels, groups of k unrolled."""
    loops = sch.get_loops(sch.get_sblock("acc"))
    (*pixels, channel), window, k = (loops[:4], loops[4:6], loops[6]) if len(loops) == 7 else (loops[:2], [], loops[2])
    groups, pixel = sch.split(sch.fuse(*pixels) if len(pixels) > 1 else pixels[0], [None, found["pixels"]])
    tiles, group = sch.split(groups, [None, found["tile"]])
    blocks, channels = sch.split(channel, [None, found["channels"]])
    steps, unrolled, four = _groups(sch, k, found["unroll"])
    sch.reorder(tiles, blocks, group, *window, steps, unrolled, channels, pixel, four)
    sch.unroll(unrolled)


def pairs(sch: Schedule, found: Decisions) -> None:
    """Fully connected layers channel block by channel block, groups of inputs unrolled."""
    row, channel, k = sch.get_loops(sch.get_sblock("acc"))
    blocks, channels = sch.split(channel, [None, found["channels"]])
    steps, unrolled, four = _groups(sch, k, found["unroll"])
    sch.reorder(row, blocks, steps, unrolled, channels, four)
    sch.unroll(unrolled)


def planes(sch: Schedule, found: Decisions) -> None:
    """Depthwise layers strip by strip, four planes at a time, a few outputs of a row together."""
    image, row, column, channel, *window = sch.get_loops(sch.get_sblock("acc"))
    strips, rows = sch.split(row, [None, found["strip"]])
    groups, pixels = sch.split(column, [None, found["pixels"]])
    fours, plane = sch.split(channel, [None, _GROUP])
    sch.reorder(image, strips, fours, plane, rows, groups, *window, pixels)
    sch.unroll(pixels)


def tiles(sch: Schedule, found: Decisions) -> None:
    """Winograd's order: some 2 × 2 tiles side by side, channels walked two by two. How many such groups are kept is no loop of the sums."""
    image, row, column, channel, *reduced = sch.get_loops(sch.get_sblock("acc"))
    lines, down = sch.split(row, [None, 2])
    across, right = sch.split(column, [None, 2])
    groups, tile = sch.split(across, [None, found["tiles"]])
    blocks, channels = sch.split(channel, [None, 2])
    sch.reorder(image, lines, groups, blocks, *reduced, channels, tile, down, right)


def _groups(sch: Schedule, k: Any, unroll: Any) -> tuple[Any, Any, Any]:
    """Iterations, the groups of one, and the products of a group."""
    groups, four = sch.split(k, [None, _GROUP])
    steps, unrolled = sch.split(groups, [None, unroll])
    return steps, unrolled, four
