# SPDX-License-Identifier: Apache-2.0
"""The geometry of a convolution, and the block it gets without tuning."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .gemm_layer import BlockChoice
from .gemm_shared import multiple_of
from .layer import Core
from .window import WindowShape

_CONSTANTS = 4  # words of a channel in the stream beside its weights, at most
_ALWAYS_COPIED = 512  # bytes of weights that are copied even where scratch is not free
_SHORT_SUMS = 4  # groups up to which an M7 is faster with four pixels and weights of 16 bits: such layers have few
SHARED_PIXELS = 3
"""Pixels of the block that most layers share."""
_LEAST_TILE = 2  # pixel groups that pay for copying a block


@dataclass(frozen=True)
class Conv2DShape(WindowShape):
    """Shape of a convolution: NHWC input of one image, OHWI weights; `planar` is the output's layout."""

    @property
    def plane(self) -> int:
        """Bytes from one output channel to the next."""
        return self.out_height * self.out_width if self.planar else 1

    @property
    def pixel(self) -> int:
        """Bytes from one output pixel to the next."""
        return 1 if self.planar else self.outputs

    @property
    def k(self) -> int:
        """Products a sum."""
        return self.kernel[0] * self.kernel[1] * self.channels

    @property
    def macs(self) -> int:
        """Nominal multiply-accumulates."""
        return self.out_height * self.out_width * self.outputs * self.k

    @property
    def is_pointwise(self) -> bool:
        """Output pixel i reads input pixel i only."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0, 0, 0)


def default_choice(shape: Conv2DShape, core: Core, scratch_limit: int = 0) -> BlockChoice:
    """Block for a shape without tuning.

    The M7 has the fewest cycles with 2x3 (registers to spare hide latency), single-issue cores with 2x4 until the sums grow long. Short
    sums take four pixels and their weights as int16 on an M7: 1 to 4 per cent fewer cycles for a byte more a weight. Weights that the
    flash's data cache can't hold (16 kB beside an M7, half a kB beside an M4) are kept over a tile of pixel groups, as many as fit into
    `scratch_limit` bytes.
    """
    pixels, groups = shape.out_height * shape.out_width, -(-shape.k // 4)
    if pixels == 1:
        return BlockChoice(channels=min(6 if shape.outputs % 6 == 0 or shape.outputs > 24 else 4, shape.outputs), pixels=1, unroll=8)
    together = 3 if core.dual_issue or groups > 16 else 4
    if core.dual_issue and (pixels in (4, 8) or groups <= _SHORT_SUMS):
        together = 4
    together = min(together, pixels)
    wide = core.dual_issue and groups <= _SHORT_SUMS
    choice = BlockChoice(min(2, shape.outputs), together, "w16" if wide else None, _unroll(groups))
    return held_weights(shape, core, choice, scratch_limit)


def shared_choice(shape: Conv2DShape, core: Core, choice: BlockChoice, scratch_limit: int = 0, *, fixed: bool = False) -> BlockChoice:
    """The block of least code for a layer whose default is `choice`: the form that most layers share, in no more scratch.

    `fixed` is the form that layers of equally long sums share.
    """
    shared = replace(choice, shared=True, tile=1, operand=None, channels=min(2, shape.outputs), pixels=min(choice.pixels, SHARED_PIXELS))
    if shape.is_pointwise:
        shared = replace(shared, pixels=SHARED_PIXELS if shape.out_height * shape.out_width >= SHARED_PIXELS else 1)
    groups = -(-shape.k // 4)
    multiple = multiple_of(groups, fixed=fixed and shared.pixels > 1)
    if not shape.is_pointwise:
        padded = groups % multiple != 0  # copied weights would take more than they did
        return replace(shared, fixed=fixed, weights="flash" if padded or choice.weights == "block" else choice.weights)
    even = replace(shape, channels=-(-groups // multiple) * 4 * multiple, outputs=shape.outputs + shape.outputs % 2)
    return held_weights(even, core, replace(shared, fixed=fixed, weights="flash"), scratch_limit)


def held_weights(shape: Conv2DShape, core: Core, choice: BlockChoice, scratch_limit: int) -> BlockChoice:
    """`choice` with weights that the flash's data cache can't hold read once a tile of pixel groups or, beside an M4, copied to scratch."""
    pixels, groups, tile = shape.out_height * shape.out_width, -(-shape.k // 4), 1
    if pixels > 1 and shape.outputs * shape.k > (4096 if core.dual_issue else 512):
        most = max(1, scratch_limit // (8 * groups * choice.pixels))
        whole = pixels // choice.pixels
        tile = -(-whole // -(-whole // most))  # even tiles
    choice = replace(choice, tile=tile)
    return choice if core.dual_issue or pixels == 1 else _copied_weights(shape, choice, scratch_limit)


def _copied_weights(shape: Conv2DShape, choice: BlockChoice, scratch_limit: int) -> BlockChoice:
    """Weights in scratch where they are read more than once: all that fit beside the columns of one group, else block by block."""
    groups = -(-shape.k // 4)
    columns, a_channel = 8 * groups * choice.pixels, 4 * (groups + _CONSTANTS)
    if shape.outputs * a_channel <= max(_ALWAYS_COPIED, scratch_limit - columns):
        return replace(choice, tile=1, weights="layer")
    most = (scratch_limit - choice.channels * a_channel) // columns
    if choice.tile == 1 or most < _LEAST_TILE:
        return choice
    whole = shape.out_height * shape.out_width // choice.pixels
    return replace(choice, tile=-(-whole // -(-whole // most)), weights="block")


def _unroll(groups: int) -> int:
    """Groups an iteration (a dozen are a kilobyte of code): all of short sums, of long ones 10 to 16, which leaves fewest behind."""
    return groups if groups <= 20 else min(range(16, 9, -1), key=lambda u: groups % u)
