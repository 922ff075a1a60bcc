# SPDX-License-Identifier: Apache-2.0
"""Pooling windows over NHWC: averages, means with a scale of their own, and maxima; whole images and rows are windows too.

Sums of up to 256 bytes stay in halfwords, two channels a register, so that four channels cost one load and two additions an element; the
division or rescaling is one proven multiplication (`requantize_forms`). Maxima are four channels an instruction pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tvm_tiny.ops.requantize_math import quantize_multiplier

from ..requantize_forms import Form, Requantization, RequantParameters, find_form
from .c_source import CFunction, function_name
from .layer import Core, MicroKernel, words
from .pool_block import COLUMNS, GAP, MULTIPLIER, ROWS, STEP, WORDS, PoolBlock, most_words, pool_function
from .requantize import RequantShape

_MOST_SUMMED = 256  # bytes of -128 in a halfword
_TYPES = """\
#ifndef TINY_POOL
#define TINY_POOL
/* Windows of an image, y before x; `whole`: each is some whole rows. Then multiplier and constant of a sum, and what is added to it. */
typedef struct {
  int32_t kernel_y, kernel_x, stride_y, stride_x, top, left, height, width, channels, out_height, out_width, whole;
  uint32_t constants[3];
} tiny_pool;
#endif
"""


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
    def whole_rows(self) -> bool:
        """Every window holds whole rows of the image, which lie one after the other."""
        return self.kernel[1] == self.width and self.out_width == 1 and self.padding[1] == self.padding[3] == 0

    def windows(self) -> list[tuple[slice, slice]]:
        """Rows and columns of every window, in the order of the outputs."""
        (kh, kw), (sh, sw), (top, left, _, _) = self.kernel, self.stride, self.padding

        def part(at: int, size: int, limit: int) -> slice:
            return slice(max(at, 0), min(at + size, limit))

        return [
            (part(y * sh - top, kh, self.height), part(x * sw - left, kw, self.width))
            for y in range(self.out_height)
            for x in range(self.out_width)
        ]


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

    return _kernel(name, shape, PoolBlock(most_words(None), None, clamp, core.dual_issue), b"", largest)


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
    packed = words(np.concatenate([found.multiplier, found.constant, found.offset + (start << found.scale_log2)]))

    def value(window: np.ndarray) -> np.ndarray:
        return problem(window.astype(np.int64).sum(axis=0, keepdims=True) + start)[0]

    return _kernel(name, shape, block, packed, value)


def _kernel(name: str, shape: PoolShape, block: PoolBlock, packed: bytes, value: Callable[[np.ndarray], np.ndarray]) -> MicroKernel:
    def reference(x: np.ndarray) -> np.ndarray:
        flat = [value(x[rows, columns].reshape(-1, shape.channels)) for rows, columns in shape.windows()]
        return np.stack(flat).reshape(shape.out_height, shape.out_width, shape.channels).astype(np.int8)

    functions = _windows(name, shape, block)
    return MicroKernel(
        name=functions[-1].name,
        functions=tuple(functions),
        packed=_head(shape) + packed,
        scratch_bytes=0,
        input_shape=(shape.height, shape.width, shape.channels),
        output_shape=(shape.out_height, shape.out_width, shape.channels),
        macs=0,
        reference=reference,
        choices={"operand": "maximum" if block.requant is None else "halfword sums"},
    )


def _blocks(prefix: str, shape: PoolShape, block: PoolBlock) -> list[tuple[PoolBlock, CFunction]]:
    """The blocks for all whole words of channels of a window: for most of them, and where some are left over for one word."""
    most = min(block.words, shape.channels // 4)
    made = [replace(block, words=size) for size in ((most, 1) if shape.channels // 4 % most else (most,))]
    return [(b, pool_function(prefix, b)) for b in made]


def _head(shape: PoolShape) -> bytes:
    fields = [*shape.kernel, *shape.stride, *shape.padding[:2], shape.height, shape.width, shape.channels]
    return words(np.array([*fields, shape.out_height, shape.out_width, int(shape.whole_rows)]))


def _windows(prefix: str, shape: PoolShape, block: PoolBlock) -> list[CFunction]:
    """The blocks, and the function of every layer that needs these: its geometry is data."""
    made = _blocks(prefix, shape, block)
    left = shape.channels % 4 != 0
    name = function_name(prefix, "windows", ([b for b, _ in made], left))
    text, most = "", 4 * made[0][0].words
    for (_, function), at, chunks in zip(made, ("0", f"g->channels / {most} * {most}"), (f"/ {most}", f"% {most} / 4"), strict=False):
        text += f"      {function.name}(x + {at}, out + {at}, window, (uint32_t)(g->channels {chunks}));\n"
    if left:
        text += f"      for (int32_t c = g->channels & ~3; c < g->channels; ++c) {{\n{block.one_channel('c', 8)}      }}\n"
    signature = f"void {name}(const int8_t *in, int8_t *out, const void *packed, void *scratch)"
    lines = ["  const tiny_pool *g = packed;", f"  uint32_t window[{WORDS}];", "  (void)scratch;"]
    lines += [f"  window[{MULTIPLIER + i}] = g->constants[{i}];" for i in range(3 if block.requant is not None else 0)]
    lines += ["  for (int32_t oy = 0; oy < g->out_height; ++oy) {", "    for (int32_t ox = 0; ox < g->out_width; ++ox) {"]
    for axis, parts, before, limit in (("y", "rows", "top", "height"), ("x", "columns", "left", "width")):
        lines += [f"      const int32_t start_{axis} = o{axis} * g->stride_{axis} - g->{before};"]
        lines += [f"      const int32_t first_{axis} = start_{axis} < 0 ? 0 : start_{axis};"]
        lines += [f"      const int32_t end_{axis} = start_{axis} + g->kernel_{axis};"]
        lines += [f"      const int32_t {parts} = (end_{axis} < g->{limit} ? end_{axis} : g->{limit}) - first_{axis};"]
    lines += ["      const int8_t *x = in + (first_y * g->width + first_x) * g->channels;"]
    lines += [f"      window[{ROWS}] = (uint32_t)rows;", f"      window[{COLUMNS}] = (uint32_t)columns;"]
    lines += [f"      window[{GAP}] = (uint32_t)((g->width - columns) * g->channels);", f"      window[{STEP}] = (uint32_t)g->channels;"]
    lines += ["      if (g->whole || columns == 1) { /* pixels at equal distances */"]
    lines += [f"        window[{ROWS}] = 1;", f"        window[{COLUMNS}] = (uint32_t)(rows * columns);"]
    lines += [f"        if (!g->whole) window[{STEP}] = (uint32_t)(g->width * g->channels);", "      }"]
    body = "\n".join(lines)
    source = f"{_TYPES}{signature};\n{signature} {{\n{body}\n{text}      out += g->channels;\n    }}\n  }}\n}}\n"
    return [*(function for _, function in made), CFunction(name, source)]
