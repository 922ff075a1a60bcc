# SPDX-License-Identifier: Apache-2.0
"""Which shared depthwise block a layer has, and how its rows are made of groups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from ..requantize_forms import Form
from .depthwise_block import DepthwiseBlock
from .depthwise_groups import TALL, SharedBlock
from .depthwise_groups_code import fits
from .requantize import RequantShape

_MOST_FITTED = 6  # outputs of a group that fills rows of one width
_GROUP_WORK = 2  # outputs' worth of work that a group takes besides

MOST_TAPS = 9
"""Taps of the largest kernels that have a block for layers of one shift."""


def shared_block(block: DepthwiseBlock, *, fixed: bool = False) -> SharedBlock | None:
    """The block for layers of this kernel: of the largest groups that fit the registers; None where none do.

    `fixed` asks for the block of layers of this shift, which kernels of few taps have, and of rows of this width, or multiples of it,
    where that takes fewer groups or outputs.
    """
    copied = not block.dual_issue  # the M7 has a data cache
    anonymous = replace(block, width=0, row_bytes=0, pixel_stride=0, pixels=0, planes=1, plane_bytes=0, copied=copied, together=1)
    in_table = block.requant.shift is not None and not (fixed and block.kernel[0] * block.kernel[1] <= MOST_TAPS)
    if in_table:
        anonymous = replace(anonymous, requant=replace(block.requant, shift=0))
    # Many sums leave little room for the words of wide kernels and strides; a group's columns fill whole words.
    wide = block.kernel[1] <= 5 if copied or block.kernel[0] >= TALL else block.kernel[1] <= 3 and block.stride[1] == 1
    few = (4, 3) if block.stride[1] % 2 == 0 else (4, 2)
    made = [SharedBlock(anonymous, sizes, in_table) for sizes in ((6, 4), few)[not wide :]]
    found = next((each for each in made if each.split(block.width) is not None and fits(each)), None)
    if not fixed:
        return found
    whole = [SharedBlock(anonymous, (size, 0), in_table, size == block.width) for size in _fitted_sizes(block.width, block.stride[1])]
    alone = next((each for each in whole if fits(each)), None)
    return min((each for each in (found, alone) if each is not None), key=lambda each: _row_work(each, block.width), default=None)


@dataclass(frozen=True)
class RowGroups:
    """How a row is made: its groups, the outputs they compute, and whether their kernel rows are a loop."""

    groups: int
    outputs: int
    looped: bool


@lru_cache(maxsize=256)
def row_groups(
    width: int, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], *, dual_issue: bool, fixed: bool
) -> RowGroups | None:
    """How shared code makes rows of `width` outputs of a layer whose channels have a shift in common; None where it doesn't."""
    plain = RequantShape(Form.SINGLE, 0, 8, None)
    found = shared_block(DepthwiseBlock(width, kernel, stride, dilation, 0, 0, plain, 0, dual_issue), fixed=fixed)
    split = found.split(width) if found is not None else None
    if found is None or split is None:
        return None
    return RowGroups(split[0] + split[1], split[0] * found.sizes[0] + split[1] * found.sizes[1], found.loops)


def _fitted_sizes(width: int, stride: int) -> list[int]:
    """Sizes of groups that fill a row, largest first; several in a row must share one alignment."""
    return [n for n in range(_MOST_FITTED, 1, -1) if width % n == 0 and (n == width or n * stride % 2 == 0)]


def _row_work(block: SharedBlock, width: int) -> int:
    """Outputs computed for a row, and what a group costs besides, in outputs."""
    split = block.split(width)
    assert split is not None, block
    groups, rest, _ = split
    return groups * block.sizes[0] + rest * block.sizes[1] + _GROUP_WORK * (groups + rest)
