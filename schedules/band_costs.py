# SPDX-License-Identifier: Apache-2.0
"""How streamed convolutions of overlapping windows cut their rows into bands (`microkernels/bands.py`), and what a cut costs.

Cycles rank cuts; what is profiled of whole networks prices them (`schedules/cycle_terms.py`).
"""

from __future__ import annotations

from functools import lru_cache

from tvm_tiny.schedules.microkernels import Conv2DShape
from tvm_tiny.schedules.microkernels.bands import Band, bands_apply, column_bytes

MOST_SCRATCH = {True: 1600, False: 2070}
"""Bytes of widened columns and copied weights that a band takes, on cores that issue two instructions at once, and others: wider ones read
weights less often, which costs the others more, but these are bytes to be saved."""

_PRODUCT = {True: {1: 0.73, 2: 0.58, 3: 0.56, 4: 0.59}, False: {1: 1.35, 2: 1.08, 3: 0.99, 4: 0.945}}
"""Cycles of a product in blocks of two channels by 1 to 4 pixels, weights at hand: on cores with two issue slots, and on others."""

_PIXELS = 4  # of a block, at most
_WIDEN = {True: 1.0, False: 1.7}  # cycles of an element
_BAND = 150.0  # cycles of a band beside its products
_BLOCK = 30.0  # of a call of a block
_FLASH = {True: 12 / 32, False: 5 / 8}  # cycles of waiting for a byte of weights
_CACHED = 10_000  # bytes of weights that stay in the cache of a core that issues two instructions at once; others have next to none
_COPY = 1.0  # cycles of copying a byte


@lru_cache(maxsize=512)
def band_of(shape: Conv2DShape, dual_issue: bool) -> Band | None:
    """The fastest cut of a row in at most `MOST_SCRATCH`; None where bands don't apply or don't fit."""
    if not bands_apply(shape):
        return None
    width = shape.out_width
    cuts = [
        Band(pixels, wide, copied, runs)
        for pixels in range(1, min(_PIXELS, width) + 1)
        for wide in {*range(pixels, width, pixels), width}
        for copied in ((False,) if dual_issue else (False, True))
        for runs in (_runs(shape) if dual_issue else (1,))
    ]
    fitting = [band for band in cuts if band.scratch(shape) <= MOST_SCRATCH[dual_issue]]
    return min(fitting, key=lambda band: (_cycles(shape, band, dual_issue), band.scratch(shape)), default=None)


def _runs(shape: Conv2DShape) -> tuple[int, ...]:
    """One run, or the fewest whose weights stay in the cache."""
    least = -(-shape.outputs * shape.k // _CACHED)
    blocks = shape.outputs // 2
    return (1, *[n for n in range(max(2, least), blocks + 1) if blocks % n == 0][:1]) if shape.outputs % 2 == 0 else (1,)


def bands_in_row(shape: Conv2DShape, band: Band) -> int:
    """Bands of a row."""
    return -(-shape.out_width // band.width)


def widened(shape: Conv2DShape, band: Band) -> int:
    """Elements that are widened for a row, in one run."""
    whole, last = divmod(shape.out_width, band.width)
    columns = whole * Band.columns(shape, band.width) + (Band.columns(shape, last) if last else 0)
    return columns * column_bytes(shape) // 2


def weights_read(shape: Conv2DShape, band: Band, dual_issue: bool) -> int:
    """Times a row reads all weights in the flash."""
    if (dual_issue or band.copied) and (band.width > band.pixels or shape.out_width % band.pixels):
        return bands_in_row(shape, band)
    return -(-shape.out_width // band.pixels)


def _cycles(shape: Conv2DShape, band: Band, dual_issue: bool) -> float:
    """Of a row, about."""
    rest, weights = shape.out_width % band.pixels, shape.outputs * shape.k
    product, bands = _PRODUCT[dual_issue], bands_in_row(shape, band)
    cycles = weights * ((shape.out_width - rest) * product[band.pixels] + (rest * product[rest] if rest else 0.0))
    cycles += band.runs * (widened(shape, band) * _WIDEN[dual_issue] + bands * _BAND)
    if band.width > band.pixels or rest:
        cycles += (bands + (1 if rest else 0)) * -(-shape.outputs // 2) * _BLOCK
    cycles += bands * weights * _COPY if band.copied else 0.0
    cached = dual_issue and weights <= _CACHED * band.runs
    return cycles + _FLASH[dual_issue] * weights * (1 if cached else weights_read(shape, band, dual_issue))
