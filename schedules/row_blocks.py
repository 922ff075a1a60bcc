# SPDX-License-Identifier: Apache-2.0
"""How the pixels of a row or of a strip are cut into blocks that are computed together, and the scratch that takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm_tiny.schedules.band_costs import band_of
from tvm_tiny.schedules.microkernels import Conv2DShape

_WORK = {1: 2.4, 2: 1.4, 3: 1.15, 4: 1.1}
"""Instructions a multiply-accumulate of blocks of two channels by 1 to 4 pixels, measured on the emulated Cortex-M7, rounded."""


def row_work(width: int, pixels: int) -> float:
    """Relative cost of `width` pixels in groups of `pixels`, the rest one by one."""
    return width // pixels * pixels * _WORK[pixels] + width % pixels * _WORK[1]


BLOCK_CYCLES = {True: {1: 1.30, 2: 1.035, 3: 1.0, 4: 1.055}, False: {1: 1.58, 2: 1.13, 3: 1.0, 4: 0.95}}
"""Cycles of a pixel in blocks of two channels by 1 to 4 pixels against three: of cores that issue two instructions at once (measured on the
emulated Cortex-M7), and of others (Cortex-M4, waiting for weights in the flash)."""

CACHE_BYTES, LINE_BYTES, LINE_CYCLES = 16_384, 32, 12
"""The data cache before a flash, as of the board term stm32h7a3@280 (`tvm_tiny.profiler.board_terms`)."""

ROW_COLUMNS = 2400
"""Bytes of expanded columns that a kernel of one row at a time takes at most."""

_CACHED = 10_000
"""Bytes of weights that stay in a data cache of 16 KB, as beside a Cortex-M7, while a row is computed."""

_WALK = 3.5
"""Reads of weights in the flash, beside a Cortex-M4, that copying them block by block takes, columns of all the pixels kept meanwhile."""

_WIDENING = 2.2
"""Cycles it takes to widen a word of columns again."""

MAX_COLUMNS = 4000
"""Bytes of expanded columns a row kernel may take: more pixels at once are faster, but their scratch is memory streaming has just saved."""


def column_bytes(k: int, *, by_words: bool) -> int:
    """Scratch of one pixel of `k` products: int16 columns, and a copy of the bytes where channels are no multiple of four."""
    return -(-k // 4) * (8 if by_words else 12)


def row_pixels(width: int, k: int, *, by_words: bool) -> int:
    """Pixels a block of a row kernel computes together."""
    fitting = [p for p in (2, 3, 4) if p <= width and p * column_bytes(k, by_words=by_words) <= MAX_COLUMNS]
    return min(fitting, key=lambda p: row_work(width, p), default=1)


@dataclass(frozen=True)
class RowBlock:
    """How a row of pixels is cut: groups of `pixels`, `tile` of them at once for each block of weights, and the last `tail` pixels in
    groups of `group`; channels are computed in `runs`, whose weights stay in the cache. `weights` are read in the flash, or in scratch
    after the whole "layer" or a "block" was copied. `cycles` are against groups of three. Calls of other numbers of pixels than those of a
    row, which are not `even`, leave some over, which are computed with the last tile, or where there are no tiles in `pairs` first."""

    pixels: int
    tail: int = 0
    group: int = 1
    tile: int = 1
    runs: int = 1
    weights: str = "flash"
    cycles: float = 0.0
    even: bool = True
    pairs: bool = False

    def scratch(self, k: int, outputs: int, *, by_words: bool) -> int:
        """Bytes of columns and copied weights."""
        copied = {"flash": 0, "block": copied_bytes(k, 2), "layer": copied_bytes(k, outputs)}[self.weights]
        rest = 0 if self.even or self.tile == 1 else self.pixels - 1
        return (self.pixels * self.tile + rest) * column_bytes(k, by_words=by_words) + copied


def row_block(width: int, k: int, outputs: int, *, by_words: bool, dual_issue: bool, most: int = 4, even: bool = True) -> RowBlock:
    """The best cut of a row of `width` pixels of `k` products a channel into groups of up to `most` pixels.

    `even` tells that every call is of so many pixels; otherwise what is left after the groups is computed by itself. On cores with two
    issue slots weights that exceed the cache are read in runs; on others, beside whose flash there is next to no cache, they are copied, or
    block by block and used for as many pixels as `ROW_COLUMNS` allows.
    """
    column = column_bytes(k, by_words=by_words)
    fitting = [p for p in range(1, most + 1) if p <= width and (p == 1 or p * column <= ROW_COLUMNS)]
    best = replace(min((_cut(width, p, dual_issue, even) for p in fitting), key=lambda cut: (cut.cycles, cut.pixels)), even=even)
    if dual_issue:
        return replace(best, runs=_runs(width, k, outputs, best))
    groups, left = (width - best.tail) // best.pixels, ROW_COLUMNS - best.pixels * column
    if width > best.pixels and copied_bytes(k, outputs) <= left:
        return replace(best, weights="layer")
    fits = max(1, (ROW_COLUMNS - copied_bytes(k, 2)) // (best.pixels * column)) if best.tail < best.pixels else 1
    walks = -(-groups // fits)
    tile = -(-groups // walks)
    return replace(best, tile=tile, weights="block", pairs=False) if tile > 1 and groups > walks * _WALK else best


def strip_block(shape: Conv2DShape, most: int, *, dual_issue: bool, limit: int = 4) -> RowBlock:
    """The cut of up to `most` rows of pixels at once into groups of up to `limit` pixels."""
    return _beside_bands(shape, most * shape.out_width, dual_issue, limit, even=False)


def conv_row_block(shape: Conv2DShape, *, dual_issue: bool) -> RowBlock:
    """The cut of one row of pixels at a time."""
    return _beside_bands(shape, shape.out_width, dual_issue, 4, even=True)


def _beside_bands(shape: Conv2DShape, pixels: int, dual_issue: bool, most: int, *, even: bool) -> RowBlock:
    """The best cut; of what could be cut into bands, in no more scratch than those."""
    by_words, band = shape.channels % 4 == 0, band_of(shape, dual_issue)
    cuts = (
        row_block(pixels, shape.k, shape.outputs, by_words=by_words, dual_issue=dual_issue, most=n, even=even) for n in range(most, 0, -1)
    )
    first, *fewer = cuts
    if band is None:
        return first
    limit = band.scratch(shape)
    return next((cut for cut in (first, *fewer) if cut.scratch(shape.k, shape.outputs, by_words=by_words) <= limit), fewer[-1])


def copied_bytes(k: int, channels: int) -> int:
    """Bytes for a copy of the weights of some channels with their constants, at most."""
    return channels * (-(-k // 4) * 4 + 16)


def _cut(width: int, pixels: int, dual_issue: bool, even: bool) -> RowBlock:
    """The fastest way to use groups of `pixels` and one smaller size, or single pixels."""
    cycles, found = BLOCK_CYCLES[dual_issue], []
    if not even:
        rest = width % pixels
        apart = rest // 2 * 2 * cycles[2] + rest % 2 * cycles[1]
        return RowBlock(pixels, rest, cycles=(width - rest) * cycles[pixels] + apart, pairs=rest > 1)
    for tail in range(width % pixels, width, pixels):
        for group in [g for g in range(1, pixels if even else 2) if tail % g == 0] or [1]:
            found.append(RowBlock(pixels, tail, group if tail else 1, cycles=(width - tail) * cycles[pixels] + tail * cycles[group]))
    return min(found, key=lambda cut: (cut.cycles, cut.tail))


def _runs(width: int, k: int, outputs: int, cut: RowBlock) -> int:
    """Runs of channels whose weights are read once a row, where that saves more than widening the columns again costs."""
    weights, blocks = outputs * k, outputs // 2
    groups = (width - cut.tail) // cut.pixels + cut.tail // cut.group
    runs = next((n for n in range(-(-weights // _CACHED), blocks + 1) if blocks % n == 0), 1)
    saved = (groups - 1) * weights * LINE_CYCLES / LINE_BYTES - (runs - 1) * width * k / 4 * _WIDENING
    return runs if outputs % 2 == 0 and saved > 0 else 1
