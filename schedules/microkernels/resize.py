# SPDX-License-Identifier: Apache-2.0
"""Resized images, row by row: copies of the nearest pixel, or the four around a point by their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .c_source import CFunction
from .concat import copied
from .layer import MicroKernel

ONE_LOG2 = 10  # of positions between two pixels
ONE = 1 << ONE_LOG2
_MOST_BITS = 6  # of weights, so that 255 times their sum, and the half that is added, stay within 15


@dataclass(frozen=True)
class Axis:
    """One axis of a bilinear resize: output i lies at (i * step + first) / 1024 of `size` positions; `out` of them."""

    size: int
    out: int
    step: int
    first: int

    @property
    def fraction_log2(self) -> int:
        """Bits of a position between two pixels that are ever set, counted from the highest."""
        bits = int(np.bitwise_or.reduce(np.maximum(np.arange(self.out) * self.step + self.first, 0))) & ONE - 1
        return ONE_LOG2 - (bits & -bits).bit_length() + 1 if bits else 0

    def c_position(self, index: str, name: str) -> str:
        """C statements that declare `<name>_low`, `<name>_high` and `<name>_weight` of the second, in as many bits as there are.

        Before the first pixel both are that one, whatever the weights; and behind the last.
        """
        inside, last = f"{name}_point < 0 ? 0 : {name}_point", (self.size - 1) * ONE
        if (self.out - 1) * self.step + self.first >= self.size * ONE:
            inside = f"{name}_point > {last} ? {last} : {inside}"
        return (
            f"const int32_t {name}_point = {index} * {self.step} + ({self.first}), {name}_at = {inside};\n"
            f"const int32_t {name}_low = {name}_at >> {ONE_LOG2}, {name}_next = ({name}_at + {ONE - 1}) >> {ONE_LOG2};\n"
            f"const int32_t {name}_high = {name}_next < {self.size - 1} ? {name}_next : {self.size - 1};\n"
            f"const int32_t {name}_weight = ({name}_at & {ONE - 1}) >> {ONE_LOG2 - self.fraction_log2};\n"
        )


@dataclass(frozen=True)
class Map:
    """One axis of a nearest-neighbour resize: `sources[i]` of `size` positions for output i."""

    size: int
    sources: tuple[int, ...]

    @property
    def times(self) -> int:
        """How often each position is taken, where all are in turn and equally often; else 0."""
        times = len(self.sources) // self.size
        return times if self.sources == tuple(i // times for i in range(times * self.size) if times) else 0

    def c_source(self, index: str, name: str) -> str:
        """C statement that declares `name`: as a quotient where one fits all, else from a table."""
        out, found = len(self.sources), np.asarray(self.sources)
        # floor((i * size + c) / out) == found[i] for all i  <=>  found[i] * out <= i * size + c < (found[i] + 1) * out
        low = max(0, int(np.max(found * out - np.arange(out) * self.size)))
        if low <= int(np.min((found + 1) * out - 1 - np.arange(out) * self.size)):
            return f"const int32_t {name} = ({index} * {self.size} + {low}) / {out};\n"
        numbers = ", ".join(map(str, self.sources))
        return f"static const uint16_t {name}_of[{out}] = {{{numbers}}};\nconst int32_t {name} = {name}_of[{index}];\n"


@dataclass(frozen=True)
class Resize:
    """A resize of `channels` int8 a pixel, by `Axis` or by `Map` along rows and columns."""

    rows: Axis | Map
    columns: Axis | Map
    channels: int

    @property
    def operand(self) -> str:
        """What is read, for reports."""
        return "four pixels" if isinstance(self.rows, Axis) else "words"

    @property
    def in_fours(self) -> bool:
        """Four channels at once are computed in two words: bilinear ones of few bits."""
        axes = [axis for axis in (self.rows, self.columns) if isinstance(axis, Axis)]
        return bool(axes) and sum(axis.fraction_log2 for axis in axes) <= _MOST_BITS

    @property
    def row_bytes(self) -> int:
        """Bytes of an input row."""
        return self.columns.size * self.channels

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width = (axis.out if isinstance(axis, Axis) else len(axis.sources) for axis in (self.rows, self.columns))
        return height, width, self.channels


def resize(name: str, shape: Resize, reference: Callable[[np.ndarray], np.ndarray]) -> MicroKernel:
    """Generate `void name(const int8_t *x, int8_t *out, const void *packed, void *scratch)` for the whole image, rows in order."""
    height, width, channels = shape.out_shape
    line = row_code(name, shape)
    body = f"  for (int32_t y = 0; y < {height}; ++y, out += {width * channels}) {{\n{at_row(line, shape, 'y', 'x', shape.rows.size)}  }}\n"
    signature = f"void {name}(const int8_t *x, int8_t *out, const void *packed, void *scratch)"
    return MicroKernel(
        name=name,
        functions=(line, CFunction(name, f"{signature};\n{signature} {{\n  (void)packed;\n  (void)scratch;\n{body}}}\n")),
        packed=b"",
        scratch_bytes=0,
        input_shape=(shape.rows.size, shape.columns.size, channels),
        output_shape=(height, width, channels),
        macs=0,
        reference=reference,
        choices={"operand": shape.operand},
    )


def at_row(line: CFunction, shape: Resize, row: str, rows: str, slots: int) -> str:
    """C statements that make output row `row` at `out`, where input row r lies in slot r mod `slots` from `rows` on."""

    def slot(name: str) -> str:
        return f"{rows} + {name if slots >= shape.rows.size else f'{name} % {slots}'} * {shape.row_bytes}"

    if isinstance(shape.rows, Axis):
        call = f"{line.name}({slot('y_low')}, {slot('y_high')}, out, y_weight);\n"
        return _indented(shape.rows.c_position(row, "y") + call, 4)
    return _indented(shape.rows.c_source(row, "from") + f"{line.name}({slot('from')}, out);\n", 4)


def row_code(prefix: str, shape: Resize) -> CFunction:
    """The function of one output row: from one input row, or from two and the weight of the second."""
    return _four_pixels(prefix, shape) if isinstance(shape.columns, Axis) else _nearest(prefix, shape)


def _nearest(prefix: str, shape: Resize) -> CFunction:
    assert isinstance(shape.columns, Map), shape
    name, width, channels = f"{prefix}_nearest", shape.out_shape[1], shape.channels
    times = shape.columns.times
    if times:
        loops = (
            f"  for (int32_t x = 0; x < {shape.columns.size}; ++x, row += {channels}) {{\n    for (int32_t n = 0; n < {times}; ++n) {{\n"
            f"      const int8_t *from = row;\n{_lines(copied('from', channels), 6)}    }}\n  }}\n"
        )
    else:
        loops = (
            f"  for (int32_t x = 0; x < {width}; ++x) {{\n{_indented(shape.columns.c_source('x', 'column'), 4)}"
            f"    const int8_t *from = row + column * {channels};\n{_lines(copied('from', channels), 4)}  }}\n"
        )
    return CFunction(name, f"static void {name}(const int8_t *row, int8_t *out) {{\n{loops}}}\n")


def _four_pixels(prefix: str, shape: Resize) -> CFunction:
    """The sum of four products, rounded half away from zero: two pairs of channels at once where few bits do, else one by one."""
    assert isinstance(shape.rows, Axis), shape
    assert isinstance(shape.columns, Axis), shape
    name, channels, by_rows, by_columns = f"{prefix}_bilinear", shape.channels, shape.rows.fraction_log2, shape.columns.fraction_log2
    bits = by_rows + by_columns
    pointers = "".join(
        f"    const int8_t *{left} = {row} + x_low * {channels}, *{right} = {row} + x_high * {channels};\n"
        for left, right, row in (("a", "b", "upper"), ("d", "e", "lower"))
    )
    weights = (
        f"    const int32_t wb = ({1 << by_rows} - below) * x_weight, wa = ({1 << by_rows} - below) * {1 << by_columns} - wb;\n"
        f"    const int32_t we = below * x_weight, wd = below * {1 << by_columns} - we;\n"
    )
    advance = "a += {0}, b += {0}, d += {0}, e += {0}, out += {0}"
    together = [(4, _four_channels(bits))] if shape.in_fours else []
    together += [(2, _channels(bits, 2)), (1, _channels(bits, 1))]
    turns, left = "", channels
    for count, code in together:
        if left >= count:
            advance = ", ".join(f"{pointer} += {count}" for pointer in (*"abde", "out"))
            turns += f"    for (int32_t n = 0; n < {left // count}; ++n, {advance}) {{\n{code}    }}\n"
            left %= count
    loops = (
        f"  for (int32_t x = 0; x < {shape.columns.out}; ++x) {{\n{_indented(shape.columns.c_position('x', 'x'), 4)}{pointers}{weights}"
        f"{turns}  }}\n"
    )
    return CFunction(name, f"static void {name}(const int8_t *upper, const int8_t *lower, int8_t *out, int32_t below) {{\n{loops}}}\n")


def _channels(bits: int, count: int) -> str:
    """A half is added to the sum, less one, and one where the sum is positive."""
    half = (1 << bits >> 1) - 1
    sums = (f"      const int32_t s{c} = a[{c}] * wa + b[{c}] * wb + d[{c}] * wd + e[{c}] * we + {half};\n" for c in range(count))
    rounded = (f"      out[{c}] = (int8_t)((s{c} + (int32_t)((uint32_t)({half} - s{c}) >> 31)) >> {bits});\n" for c in range(count))
    return "".join((*sums, *rounded))


def _four_channels(bits: int) -> str:
    """Bytes as numbers from 0 to 255, 128 more than they are, in the halves of two words; so are their sums below 2^15."""
    one = 1 << bits
    words = "".join(f"      memcpy(&w{p}{p}, {p}, 4u);\n      w{p}{p} ^= 0x80808080u;\n" for p in "abde")
    sums = "".join(
        f"      uint32_t {name} = "
        + " + ".join(f"({f'w{p}{p}' if name == 'even' else f'(w{p}{p} >> 8)'} & 0x00FF00FFu) * (uint32_t)w{p}" for p in "abde")
        + ";\n"
        for name in ("even", "odd")
    )
    half, above = (one >> 1) - 1, 0x8000 - (128 * one + 1)
    rounded = "".join(
        f"      {name} += 0x{half << 16 | half:08X}u + (({name} + 0x{above << 16 | above:08X}u) >> 15 & 0x00010001u);\n"
        for name in ("even", "odd")
    )
    joined = f"((even >> {bits} & 0x00FF00FFu) | (odd >> {bits} & 0x00FF00FFu) << 8) ^ 0x80808080u"
    return (
        f"      uint32_t waa, wbb, wdd, wee;\n{words}{sums}{rounded}      const uint32_t word = {joined};\n      memcpy(out, &word, 4u);\n"
    )


def _indented(text: str, spaces: int) -> str:
    return _lines(text.splitlines(), spaces)


def _lines(lines: Sequence[str], spaces: int) -> str:
    return "".join(f"{' ' * spaces}{line}\n" for line in lines)
