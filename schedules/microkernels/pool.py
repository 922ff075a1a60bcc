# SPDX-License-Identifier: Apache-2.0
"""Pooling windows over NHWC: averages, means with a scale of their own, and maxima; whole images and rows are windows too.

What is generated computes all channels of one window; the loops over windows are the schedule's (`schedules/nests/pool`).
Sums of up to 256 bytes stay in halfwords, two channels a register, so that four channels cost one load and two additions an element; the
division or rescaling is one proven multiplication (`requantize_forms`). Maxima are four channels an instruction pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tvm_tiny.ops.requantize_math import quantize_multiplier

from ..requantize_forms import Form, Requantization, RequantParameters, find_form
from .layer import Core, MicroKernel, words
from .pool_block import PoolBlock, channel_blocks, channels_function, most_words
from .requantize import RequantShape

_MOST_SUMMED = 256  # bytes of -128 in a halfword
_UNROLLS = (4, 3, 2, 1)


@dataclass(frozen=True)
class PoolShape:
    """One NHWC image of int8 and its windows; padding top, left, bottom, right, which no window counts."""

    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def out_height(self) -> int:
        """Output rows."""
        return (self.height + self.padding[0] + self.padding[2] - self.kernel[0]) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        """Output columns."""
        return (self.width + self.padding[1] + self.padding[3] - self.kernel[1]) // self.stride[1] + 1

    @property
    def rows(self) -> list[slice]:
        """Rows inside the image of the windows, by output row."""
        return _parts(self.out_height, self.kernel[0], self.stride[0], self.padding[0], self.height)

    @property
    def columns(self) -> list[slice]:
        """Columns inside the image of the windows, by output column."""
        return _parts(self.out_width, self.kernel[1], self.stride[1], self.padding[1], self.width)

    def windows(self) -> list[tuple[slice, slice]]:
        """Rows and columns of every window, in the order of the outputs."""
        return [(rows, columns) for rows in self.rows for columns in self.columns]


def _parts(count: int, size: int, stride: int, before: int, limit: int) -> list[slice]:
    return [slice(max(at, 0), min(at + size, limit)) for at in range(-before, count * stride - before, stride)]


@dataclass(frozen=True)
class WindowWalk:
    """How the block walks the windows of a layer: as rows of pixels, or where that is the same as one row of pixels at equal distances.

    Attributes
    ----------
    row_bytes, pixel_bytes : int
        From row to row and from pixel to pixel of a window.
    joined : bool
        All pixels of a window are one row: whole rows of the image, or a column of it.
    """

    row_bytes: int
    pixel_bytes: int
    joined: bool

    @staticmethod
    def of(shape: PoolShape) -> WindowWalk:
        """The walk over the windows of a layer."""
        row = shape.width * shape.channels
        if {(c.start, c.stop) for c in shape.columns} == {(0, shape.width)}:
            return WindowWalk(row, shape.channels, True)
        single = max(_counts(shape.columns)) == 1
        return WindowWalk(row, row if single else shape.channels, single)

    def extents(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the walk over a window."""
        return (1, rows * columns) if self.joined else (rows, columns)

    def window(self, rows: int, columns: int) -> list[int]:
        """The first words of a window (`pool_block`)."""
        tall, wide = self.extents(rows, columns)
        return [tall, wide, self.row_bytes - wide * self.pixel_bytes, self.pixel_bytes]


def sizes(parts: Sequence[slice]) -> range:
    """From the least to the largest count of what the windows have along one axis."""
    counts = _counts(parts)
    return range(min(counts), max(counts) + 1)


def _counts(parts: Sequence[slice]) -> list[int]:
    return [part.stop - part.start for part in parts]


@dataclass(frozen=True)
class MeanLayer:
    """Constants of a mean that is rescaled (`tiny.mean`); `multiplier` has one over the number of elements in it."""

    multiplier: int
    shift: int
    zero_points: tuple[int, int]
    rounding: str = "gemmlowp"


@dataclass(frozen=True)
class _Averages(Requantization):
    """Rounded averages of `count` bytes, halves away from zero, as a requantisation problem."""

    count: int = 1

    def __call__(self, acc: np.ndarray) -> np.ndarray:
        return np.clip(np.sign(acc) * ((np.abs(acc) + self.count // 2) // self.count), *self.clamp)


def average_problem(count: int, clamp: tuple[int, int]) -> Requantization:
    """The requantisation from sums of `count` bytes to their rounded averages."""
    multiplier, shift, low, high = (np.array([v], np.int64) for v in (*quantize_multiplier(1.0 / count), -128 * count, 127 * count))
    return _Averages(multiplier, shift, 0, clamp, low, high, "average", count)


def mean_problem(count: int, layer: MeanLayer) -> Requantization:
    """The requantisation of a mean, from sums without the zero point."""
    multiplier, shift, low, high = (
        np.array([v], np.int64)
        for v in (layer.multiplier, layer.shift, count * (-128 - layer.zero_points[0]), count * (127 - layer.zero_points[0]))
    )
    return Requantization(multiplier, shift, layer.zero_points[1], (-128, 127), low, high, layer.rounding)


def average_pool(name: str, shape: PoolShape, core: Core, clamp: tuple[int, int] = (-128, 127)) -> MicroKernel | None:
    """Generate averages of windows, or None where there is no such kernel: long sums, few channels, windows of several sizes."""
    count = _summed(shape)
    return None if count is None else _summing(name, shape, core, average_problem(count, clamp), 0)


def mean_pool(name: str, shape: PoolShape, core: Core, layer: MeanLayer) -> MicroKernel | None:
    """Generate rescaled means of windows, or None where there is no such kernel."""
    count = _summed(shape)
    return None if count is None else _summing(name, shape, core, mean_problem(count, layer), -layer.zero_points[0] * count)


def max_pool(name: str, shape: PoolShape, core: Core, clamp: tuple[int, int] = (-128, 127)) -> MicroKernel | None:
    """Generate maxima of windows, or return None for fewer than four channels."""
    if shape.channels < 4:
        return None
    low, high = clamp

    def largest(window: np.ndarray) -> np.ndarray:
        return np.clip(window.max(axis=0), low, high)

    return _kernel(name, shape, PoolBlock(most_words(None), None, clamp, core.dual_issue), [], largest)


def _summed(shape: PoolShape) -> int | None:
    """Bytes of every sum; None where windows differ, or sums leave a halfword, or there are fewer than four channels."""
    counts = {(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in shape.windows()}
    return counts.pop() if len(counts) == 1 and max(counts) <= _MOST_SUMMED and shape.channels >= 4 else None


def find_sum_form(problem: Requantization) -> RequantParameters | None:
    """The cheapest form; sums of one or two bytes are scaled by four first, lest the multiplier exceed 32 bits."""
    for scale_log2 in (0, 2):
        found = find_form(problem, scale_log2)
        if found.form is not Form.ACCUMULATOR and found.uniform:
            return found
    return None


def _summing(name: str, shape: PoolShape, core: Core, problem: Requantization, start: int) -> MicroKernel | None:
    """A kernel of sums; `start` is added to a sum to make the problem's accumulator."""
    found = find_sum_form(problem)
    if found is None:
        return None
    requant = RequantShape.of(found)
    block = PoolBlock(most_words(requant), requant, (-128, 127), core.dual_issue)
    constants = np.concatenate([found.multiplier, found.constant, found.offset + (start << found.scale_log2)]).tolist()

    def value(window: np.ndarray) -> np.ndarray:
        return problem(window.astype(np.int64).sum(axis=0, keepdims=True) + start)[0]

    return _kernel(name, shape, block, constants, value)


def _unroll(shape: PoolShape, walk: WindowWalk) -> int:
    """Pixels a turn: as many as divide the columns of every window."""
    columns = [walk.extents(tall, wide)[1] for tall in sizes(shape.rows) for wide in sizes(shape.columns)]
    return next(count for count in _UNROLLS if all(wide % count == 0 for wide in columns))


def _kernel(name: str, shape: PoolShape, block: PoolBlock, constants: list[int], value: Callable[[np.ndarray], np.ndarray]) -> MicroKernel:
    def reference(x: np.ndarray) -> np.ndarray:
        flat = [value(x[rows, columns].reshape(-1, shape.channels)) for rows, columns in shape.windows()]
        return np.stack(flat).reshape(shape.out_height, shape.out_width, shape.channels).astype(np.int8)

    walk = WindowWalk.of(shape)
    blocks = channel_blocks(replace(block, unroll=_unroll(shape, walk)), shape.channels)
    functions = channels_function(name, blocks)
    records = [[*walk.window(tall, wide), *constants] for tall in sizes(shape.rows) for wide in sizes(shape.columns)]
    return MicroKernel(
        name=functions[-1].name,
        functions=tuple(functions),
        packed=words(np.array(records)),
        scratch_bytes=0,
        input_shape=(shape.height, shape.width, shape.channels),
        output_shape=(shape.out_height, shape.out_width, shape.channels),
        macs=0,
        reference=reference,
        choices={"operand": "maximum" if block.requant is None else "halfword sums"},
        windows=blocks,
    )
