# SPDX-License-Identifier: Apache-2.0
"""How a convolution is cut into blocks, and what putting its columns together costs: windows that the edges cut told apart."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from tvm_tiny.schedules.base import Layer

_GROUP = 4  # products a group
_GATHERED = 24  # words of a column that straight code puts together, at most
_REACH = 4095  # bytes of a load's offset


@dataclass(frozen=True)
class Blocks:
    """How a convolution or a dense layer is cut.

    Attributes
    ----------
    channels, pixels : int
        Outputs a block computes together.
    operand : str
        How columns and weights meet ("r8", "w8", "w16", …).
    requantise : str
        The form of the requantisation, as a kernel tells it.
    shared : bool
        The code serves layers of all lengths.
    fixed : bool
        Or of all that are as short.
    driven : bool
        So does the driver: the last pixels are computed with some that were, an odd channel with its neighbour again.
    unroll : int
        Groups of products an iteration.
    tile : int
        Groups of pixels for which weights are read once.
    weights : str
        Where they are read, as of `BlockChoice`.
    rows : bool
        Rows are found by pointers.
    run : bool
        Or the rows of a call lie together, and a pixel reads a pixel.
    ends : tuple of (pixels, group)
        The last pixels of a call are computed in groups of so many.
    pairs : bool
        Or, whatever a call leaves over, in pairs.
    runs : int
        Of channels, for each of which columns are put together again.
    """

    channels: int = 2
    pixels: int = 3
    operand: str = "r8"
    requantise: str = "double"
    shared: bool = False
    fixed: bool = False
    driven: bool = False
    unroll: int = 16
    tile: int = 1
    weights: str = "flash"
    rows: bool = False
    run: bool = False
    ends: tuple[int, int] = (0, 1)
    pairs: bool = False
    runs: int = 1

    def cut(self, pixels: int) -> list[tuple[int, int]]:
        """Groups of a call: how many, and their pixels."""
        if self.ends[0]:
            return [((pixels - self.ends[0]) // self.pixels, self.pixels), (self.ends[0] // self.ends[1], self.ends[1])]
        groups, left = divmod(pixels, self.pixels)
        if self.driven and left and groups:
            return [(groups + 1, self.pixels)]
        pairs = left // 2 if self.pairs and self.pixels > 2 else 0
        return [(groups, self.pixels), (pairs, 2), (left - 2 * pairs, 1)]

    def walks(self, pixels: int) -> int:
        """How often a call walks over the weights of all its channels."""
        (groups, _), *ends = self.cut(pixels)
        left = sum(count for count, _ in ends)
        if self.driven:  # the last group by itself
            return -(-(pixels // self.pixels) // self.tile) + (pixels % self.pixels > 0)
        if self.runs > 1:
            return 1
        return max(1, -(-groups // self.tile)) if self.rows and self.tile > 1 else -(-groups // self.tile) + left

    @property
    def code(self) -> str:
        """Whose code it is."""
        return "shared" if self.shared else "own"


def column_terms(layer: Layer, blocks: Blocks, groups: int, times: int) -> Counter[str]:
    """Columns of `groups` groups of pixels, put together `times` times."""
    weights, channels = layer.shapes[1], layer.shapes[0][-1]
    if len(weights) == 2 or (tuple(weights[1:3]) == (1, 1) and tuple(layer.attrs.get("strides", (1, 1))) == (1, 1)):
        found = _pointwise(blocks, channels, groups)
    else:
        found = _by_words(layer, blocks, groups) if channels % _GROUP == 0 else _by_bytes(layer, blocks, groups)
    return Counter({name: count * times for name, count in found.items()})


def _pointwise(blocks: Blocks, channels: int, groups: int) -> dict[str, int]:
    pixels, code = groups * blocks.pixels, _code(blocks)
    by = "words" if channels % _GROUP == 0 or blocks.driven else "bytes"
    words = pixels * -(-channels // _GROUP)
    return {f"expand {code} {by}": words, f"expand {code} calls {by}": groups, f"expand {code} pixels {by}": pixels}


def _by_words(layer: Layer, blocks: Blocks, groups: int) -> dict[str, int]:
    """Windows of whole words: rows of all pixels of a group at once where the image has all their columns."""
    kh, kw = layer.shapes[1][1:3]
    pixels, code, (_, wide) = groups * blocks.pixels, _code(blocks), _inner(layer, blocks.pixels)
    return {
        f"gather {code} words": pixels * -(-math.prod(layer.shapes[1][1:]) // _GROUP),
        f"gather {code} segments": round(groups * wide * kh),
        f"gather {code} calls": groups,
        f"gather {code} single segments": round(groups * (1 - wide) * blocks.pixels * kh),
        f"gather {code} taps": round(_edge(layer) * pixels * kh * kw),
    }


def _by_bytes(layer: Layer, blocks: Blocks, groups: int) -> dict[str, int]:
    """Other windows: straight code for whole groups inside the image, where there is some, else bytes are copied first."""
    kh, kw = layer.shapes[1][1:3]
    pixels, k, code = groups * blocks.pixels, math.prod(layer.shapes[1][1:]), blocks.code
    words, (tall, wide) = -(-k // _GROUP), _inner(layer, blocks.pixels)
    straight = not blocks.shared and words <= _GATHERED and (wide > 0 if blocks.rows else _reaches(layer))
    edge, by_rows = _edge(layer), " rows" if blocks.rows else ""
    share = tall * (1 - edge if blocks.rows else wide) if straight else 0.0
    fast = round(groups * share) * blocks.pixels
    slow = pixels - fast
    return {
        f"gather straight{by_rows} words": fast * words,
        f"gather straight{by_rows} rows": fast * kh if blocks.rows else 0,
        f"gather straight{by_rows} calls": groups if blocks.rows and straight else fast // blocks.pixels,
        f"gather bytes {code}": slow * k,
        f"gather bytes {code} words": slow * words,
        f"gather bytes {code} segments": slow * kh,
        f"gather bytes {code} pixels": slow,
        f"gather bytes {code} taps": round(edge * pixels * kh * kw),
    }


def _code(blocks: Blocks) -> str:
    return f"{blocks.code}-rows" if blocks.rows and not blocks.run else blocks.code


def _reaches(layer: Layer) -> bool:
    """Whether a window lies within the offsets of a load."""
    _, _, width, channels = layer.shapes[0]
    kh, kw = layer.shapes[1][1:3]
    return (kh - 1) * width * channels + kw * channels <= _REACH and tuple(layer.attrs.get("dilation", (1, 1))) == (1, 1)


def _inner(layer: Layer, pixels: int) -> tuple[float, float]:
    """Shares of the groups of pixels whose windows lie inside the image from top to bottom, and from left to right."""
    x, y, a = layer.shapes[0], layer.shapes[-1], layer.attrs
    (kh, kw), (sy, sx), (dy, dx) = layer.shapes[1][1:3], a["strides"], a.get("dilation", (1, 1))
    tall = _inside(x[1], y[1], sy, (kh - 1) * dy + 1, a["padding"][0], 1)
    return tall, _inside(x[2], y[2], sx, (kw - 1) * dx + 1, a["padding"][1], pixels) if dx == 1 else 0.0


def _edge(layer: Layer) -> float:
    """The share of windows that the image's left or right edge cuts."""
    x, y, a = layer.shapes[0], layer.shapes[-1], layer.attrs
    kw, sx, dx = layer.shapes[1][2], a["strides"][1], a.get("dilation", (1, 1))[1]
    return 1 - _inside(x[2], y[2], sx, (kw - 1) * dx + 1, a["padding"][1], 1) if dx == 1 else 1.0


@lru_cache(maxsize=4096)
def _inside(size: int, out: int, stride: int, extent: int, before: int, together: int) -> float:
    """Of `out` windows in groups of `together`, counted on from line to line, the share that lies inside `size` on one line."""
    starts = [at % out for at in range(0, out * min(together, 4), together)]
    good = [s for s in starts if s + together <= out and s * stride >= before and (s + together - 1) * stride - before + extent <= size]
    return len(good) / len(starts)
