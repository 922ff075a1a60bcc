# SPDX-License-Identifier: Apache-2.0
"""The depthwise block that layers of every size share: whole kernels for groups of neighbouring outputs, the geometry in a table.

A row is a number of groups of the first size, then of the second. Where the row's width is odd, its last group has one output too many,
which is stored first, to the place of the output before it, and overwritten. Blocks of rows of one width alone have groups of one size
that fill the row. `depthwise_groups_choice` says which block a layer has, `depthwise_groups_code` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .depthwise_block import DepthwiseBlock

FIELDS = ("tap_step", "pixel_stride", "shift", "groups", "rest", "skip", "last", "span", "plane_bytes")
"""Words at the start of `tiny_depthwise`, which the block keeps in its frame."""
NO_EXTRA = 256
"""Added to the number of groups of the second size: their last one has no output too many."""
TALL = 5
"""Kernel rows from which on they are a loop; even numbers of them are not."""


@dataclass(frozen=True)
class SharedBlock:
    """Description of a block function.

    Attributes
    ----------
    taps : DepthwiseBlock
        Kernel, stride, dilation, requantisation and core; what of it is geometry plays no part.
    sizes : tuple of int
        Outputs of a group of the first and of the second kind; even where the stride is odd. The second is 0 in blocks whose groups of
        the first fill a row.
    shift_in_table : bool
        The layer's shift is data: one instruction more an output, and one function for layers of every shift.
    alone : bool
        A row is one group of the first size.
    """

    taps: DepthwiseBlock
    sizes: tuple[int, int]
    shift_in_table: bool
    alone: bool = False

    @property
    def loops(self) -> bool:
        """Kernel rows behind the first are a loop."""
        tall = self.taps.kernel[0]
        return tall >= TALL and tall % 2 == 1

    def split(self, width: int) -> tuple[int, int, bool] | None:
        """Groups of both sizes that make a row, and whether they make an output too many; None where there is no such row.

        Only the last group of a row, or its only one of the first size, can make one too many.
        """
        first, second = self.sizes
        if second == 0:
            fills = width == first if self.alone else width % first == 0 and width // first < NO_EXTRA
            return (width // first, 0, False) if fills else None
        found = [
            (groups, rest // second, extra)
            for extra in (False, True)
            for groups in range((width + extra) // first + 1)
            for rest in (width + extra - groups * first,)
            if rest % second == 0 and (rest > 0 or not extra or groups == 1)
        ]
        found = [each for each in found if max(each[:2]) < NO_EXTRA]
        return min(found, key=lambda each: (each[0] * first + each[1] * second, each[0] + each[1]), default=None)


def table_fields(block: SharedBlock, layer: DepthwiseBlock, plane_bytes: int) -> dict[str, int]:
    """What `FIELDS` are for a layer."""
    split = block.split(layer.width)
    assert split is not None, layer
    groups, rest, extra = split
    apart, size = layer.pixel_stride, block.sizes[0]
    ends_early = extra and rest == 0
    columns = 0 if block.alone else (groups * size + rest * block.sizes[1]) * layer.stride[1]
    return {
        "tap_step": layer.dilation[0] * layer.row_bytes,
        "pixel_stride": apart,
        "shift": layer.requant.shift or 0,
        "groups": groups,
        "rest": rest + (NO_EXTRA if rest and not extra else 0),
        "skip": layer.stride[0] * layer.row_bytes - 2 * columns,
        "last": (size - 1 - ends_early) * apart,
        "span": (size - ends_early) * apart,
        "plane_bytes": plane_bytes,
    }


def words_beyond(block: SharedBlock, layer: DepthwiseBlock) -> int:
    """Words that the last group reads beyond the last row of a plane."""
    split = block.split(layer.width)
    assert split is not None, layer
    columns = (layer.width - 1 + split[2]) * layer.stride[1] + (layer.kernel[1] - 1) * layer.dilation[1] + 1
    return max(0, -(-columns // 2) - layer.row_bytes // 4)
