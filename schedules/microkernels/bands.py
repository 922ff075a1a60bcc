# SPDX-License-Identifier: Apache-2.0
"""Convolutions by rows whose neighbouring windows share their columns: a band of the input is widened once for many pixels.

    void name(const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end, const void *packed, void *scratch)

makes output rows [begin, end); `rows[i]` is input row `begin * stride - top + i`, rows in the padding are never read. The products of a
sum are ordered by kernel column, kernel row, channel. The widened input lies column by column, each with the kernel's rows above each
other, so the products of a window are one run of bytes, and the next window's run begins a stride of columns further on, within it.
Gathering every window by itself takes `kernel width / stride` times the bytes and the time. A band is as wide as scratch allows; its
weights are read once, where the flash has next to no cache (beside a Cortex-M4) into a copy of the block of channels at work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from ..requantize_forms import Form
from .assembly import Body
from .c_source import CFunction, copy_function, function_name, naked_function
from .conv2d_shape import Conv2DShape, default_choice
from .expand import R8_FLIP, R8_OFFSET, expanded_pair, fill_function, portable_pair
from .gemm_block import GemmBlock, gemm_function
from .gemm_layer import PackedMatrix, pack_matrix
from .layer import Core, LayerParameters
from .scheduler import RegisterPressureError, schedule

_CHANNELS = 2  # of a block
_STRAIGHT = 16  # words of a column widened without a loop
_REACH = 4095  # of a load's offset
_TAIL_UNROLL = 8
_STREAM = 6  # words of a channel in the stream beside its weights, at most


@dataclass(frozen=True)
class Band:
    """How rows are cut.

    Attributes
    ----------
    pixels : int
        Of a block; what a row leaves over is a block of its own.
    width : int
        Pixels of a band: the whole row, or a multiple of `pixels`.
    copied : bool
        Blocks of weights are copied to scratch, once a band.
    runs : int
        Channels are computed in so many runs over all pixels of a call, whose weights stay in the flash's cache.
    """

    pixels: int
    width: int
    copied: bool = False
    runs: int = 1

    def scratch(self, shape: Conv2DShape) -> int:
        """Bytes of widened columns and copied weights."""
        return self.columns(shape, self.width) * column_bytes(shape) + (copied_bytes(shape) if self.copied else 0)

    @staticmethod
    def columns(shape: Conv2DShape, width: int) -> int:
        """Input columns that so many neighbouring windows read."""
        return (width - 1) * shape.stride[1] + shape.kernel[1]


@dataclass(frozen=True)
class BandKernel:
    """The generated kernel: functions, callees first, the last one as above; constants; bytes of scratch; how weights are stored."""

    functions: tuple[CFunction, ...]
    packed: bytes
    scratch_bytes: int
    operand: str


def column_bytes(shape: Conv2DShape) -> int:
    """Bytes of a widened input column: all kernel rows of it."""
    return 2 * shape.kernel[0] * shape.channels


def copied_bytes(shape: Conv2DShape) -> int:
    """Bytes of a copied block of weights with its constants, at most."""
    return min(_CHANNELS, shape.outputs) * (shape.k + 4 * _STREAM)


def bands_apply(shape: Conv2DShape) -> bool:
    """Whether windows of neighbouring pixels overlap, and lie in whole words."""
    (_, kw), (_, sw), (_, dw) = shape.kernel, shape.stride, shape.dilation
    return kw > sw and dw == 1 and shape.channels % 4 == 0 and not shape.planar and shape.out_width > 1


def band_kernel(name: str, shape: Conv2DShape, layer: LayerParameters, core: Core, band: Band) -> BandKernel | None:
    """Generate the kernel of a shape that `bands_apply` to; None where its requantisation or its registers leave none for this cut."""
    choice = replace(default_choice(shape, core), channels=min(_CHANNELS, shape.outputs), operand=None)
    rows = layer.weights.transpose(0, 2, 1, 3).reshape(shape.outputs, shape.k)
    matrix = pack_matrix(rows, layer, choice)
    if matrix.requant.form is Form.ACCUMULATOR:
        return None
    writer = _Writer(name, shape, layer, core, band, matrix, choice.unroll)
    if any(block.farthest > _REACH for block in writer.every_block()):
        return None
    try:
        text = writer.rows()
    except RegisterPressureError:
        return None
    return BandKernel((*writer.callees.values(), CFunction(name, text)), matrix.stream, band.scratch(shape), matrix.operand)


class _Writer:
    """Writes the C of one layer."""

    def __init__(
        self, name: str, shape: Conv2DShape, layer: LayerParameters, core: Core, band: Band, matrix: PackedMatrix, unroll: int
    ) -> None:
        self.name, self.shape, self.core, self.band, self.matrix, self.unroll = name, shape, core, band, matrix, unroll
        self.pair = expanded_pair(layer.x_zero_point, matrix.operand)
        self.pixel_bytes = shape.stride[1] * column_bytes(shape)
        self.rest = shape.out_width % band.pixels
        whole = matrix.main_bytes // max(1, matrix.block_bytes)
        self.runs = band.runs if whole % band.runs == 0 and not matrix.tail_channels else 1
        self.callees: dict[str, CFunction] = {}

    def _add(self, function: CFunction) -> str:
        self.callees[function.name] = function
        return function.name

    # -- blocks

    def _block(self, channels: int, pixels: int, order: str) -> GemmBlock:
        m, main = self.matrix, (channels, pixels) == (self.matrix.block_channels, self.band.pixels)
        unroll = self.unroll if main else min(_TAIL_UNROLL, self.unroll)
        return GemmBlock(
            channels, pixels, m.groups, m.operand, m.requant, None, unroll,
            dual_issue=self.core.dual_issue, order=order, pixel_bytes=self.pixel_bytes,
        )  # fmt: skip

    @property
    def _by_channels(self) -> bool:
        """A band of one block: all channels in one call."""
        return self.band.width == self.band.pixels and not self.rest

    def every_block(self) -> Iterator[GemmBlock]:
        """Those that the layer needs."""
        order, m = "channels" if self._by_channels else "pixels", self.matrix
        for channels in {m.block_channels if m.main_bytes else 0, m.tail_channels} - {0}:
            for pixels in {self.band.pixels, self.rest} - {0}:
                yield self._block(channels, pixels, order)

    # -- C

    def rows(self) -> str:
        """The function that makes rows."""
        s, b, m = self.shape, self.band, self.matrix
        signature = "const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end, const void *packed, void *scratch"
        body = (
            f"  for (int32_t y = begin; y < end; ++y, at += {s.out_width * s.outputs}, above += {s.stride[0]}) {{\n"
            f"    int8_t *row = at;\n"
            f"    for (int32_t x = 0; x < {s.out_width}; x += {b.width}, row += {b.width * s.outputs}) {{\n"
            f"      const int32_t left = {s.out_width} - x < {b.width} ? {s.out_width} - x : {b.width};\n"
            f"      {self._columns()}(above, y * {s.stride[0]} - {s.padding[0]}, x * {s.stride[1]} - {s.padding[1]},\n"
            f"                        (left - 1) * {s.stride[1]} + {s.kernel[1]}, scratch);\n"
            f"{self._all_channels()}    }}\n  }}\n"
        )
        start = "  const int8_t *const *above = rows;\n  int8_t *at = out;\n"
        if self.runs == 1:
            body = f"{start}  const uint8_t *const stream = packed;\n{body}"
        else:
            body = (
                f"  const uint8_t *stream = packed;\n"
                f"  for (int32_t run = 0; run < {self.runs}; ++run, stream += {m.main_bytes // self.runs}) {{\n"
                f"  const int8_t *const *above = rows;\n  int8_t *at = out + run * {s.outputs // self.runs};\n{body}  }}\n"
            )
        return f"static void {self.name}({signature}) {{\n{body}}}\n"

    def _all_channels(self) -> str:
        """Statements for the pixels of a band, its columns being in scratch."""
        m, s, b = self.matrix, self.shape, self.band
        main = m.main_bytes // self.runs
        if self._by_channels:
            calls = [(m.block_channels, 0, main, 0)] if main else []
            calls += [(m.tail_channels, main, len(m.stream), s.outputs - m.tail_channels)] if m.tail_channels else []
            text = ""
            for channels, start, end, shift in calls:
                function = self._add(gemm_function(self.name, self._block(channels, b.pixels, "channels")))
                text += f"      {function}(scratch, stream + {start}, row + {shift}, stream + {end}, {s.outputs});\n"
            return text
        text = (
            f"      const uint8_t *block = stream;\n      int8_t *to = row;\n"
            f"      const uint8_t *const last = (const uint8_t *)scratch + left / {b.pixels} * {b.pixels * self.pixel_bytes};\n"
        )
        if main:
            step = f"block += {m.block_bytes}, to += {m.block_channels}"
            weights = self._copy() if b.copied else "block"
            text += f"      for (; block != stream + {main}; {step}) {{\n"
            text += f"        const uint8_t *weights = {weights};\n{self._walk(m.block_channels, 'weights')}      }}\n"
        return text + (self._walk(m.tail_channels, "block") if m.tail_channels else "")

    def _copy(self) -> str:
        at = Band.columns(self.shape, self.band.width) * column_bytes(self.shape)
        return f"{self._add(copy_function(self.name))}((uint8_t *)scratch + {at}, block, {self.matrix.block_bytes // 4}u)"

    def _walk(self, channels: int, weights: str) -> str:
        """A block over the pixels of a band; the last band of a row has some left over."""
        s, b = self.shape, self.band
        text = ""
        if s.out_width >= b.pixels:
            main = self._add(gemm_function(self.name, self._block(channels, b.pixels, "pixels")))
            full = f"        {'if (last != scratch) ' if s.out_width % b.width < b.pixels and s.out_width % b.width else ''}"
            text += f"{full}{main}(scratch, {weights}, to, last, {s.outputs});\n"
        if self.rest:
            rest = self._add(gemm_function(self.name, self._block(channels, self.rest, "pixels")))
            end = f"last + {self.rest * self.pixel_bytes}"
            shift = f"(left - {self.rest}) * {s.outputs}"
            only = f"if (left % {b.pixels} != 0) " if b.width < s.out_width else ""
            text += f"        {only}{rest}(last, {weights}, to + {shift}, {end}, {s.outputs});\n"
        return text

    def _columns(self) -> str:
        """Name of the static function that widens columns [x, x + count) of the window's rows; outside the image are zero points."""
        s, words = self.shape, self.shape.channels // 4
        name, column = f"{self.name}_columns", column_bytes(s)
        fill = self._add(fill_function(self.name, 1, self.pair))
        widen = self._add(widen_columns(self.name, words, column, self.matrix.operand, self.core.dual_issue))
        return self._add(
            CFunction(
                name,
                f"static void {name}(const int8_t *const *rows, int32_t y, int32_t x, int32_t count, uint8_t *to) {{\n"
                f"  const int32_t before = x >= 0 ? 0 : -x < count ? -x : count;\n"
                f"  const int32_t inside = {s.width} - x < count ? {s.width} - x : count;\n"
                f"  for (int32_t ky = 0; ky < {s.kernel[0]}; ++ky, to += {8 * words}, y += {s.dilation[0]}) {{\n"
                f"    const int32_t low = y < 0 || y >= {s.height} || inside < before ? count : before;\n"
                f"    const int32_t high = inside < low ? low : inside;\n"
                f"    for (int32_t c = 0; c < low; ++c) {fill}(to + c * {column}, {words});\n"
                f"    if (low < high)\n"
                f"      {widen}(rows[ky * {s.dilation[0]}] + (x + low) * {s.channels}, to + low * {column}, (uint32_t)(high - low));\n"
                f"    for (int32_t c = high; c < count; ++c) {fill}(to + c * {column}, {words});\n"
                f"  }}\n}}\n",
            )
        )


# -- widening


def widen_columns(prefix: str, words: int, step: int, operand: str, dual_issue: bool) -> CFunction:
    """Emit `static void f(const int8_t *src, uint8_t *dst, uint32_t count)`: `count` > 0 runs of `words` words that follow each other, each
    widened to `dst`, then `step` bytes further on."""
    name = function_name(prefix, "band", (words, step, operand, dual_issue))
    parameters = ("const int8_t *src", "uint8_t *dst", "uint32_t count")
    first, second = portable_pair(operand)
    portable = (
        f"  for (; count != 0; --count, src += {4 * words}, dst += {step}) {{\n"
        f"    for (uint32_t i = 0; i < {words}u; ++i) {{\n"
        f"      const uint32_t raw = tiny_load(src + 4 * i);\n"
        f"      tiny_store(dst + 8 * i, {first});\n      tiny_store(dst + 8 * i + 4, {second});\n    }}\n  }}\n"
    )
    return naked_function(name, parameters, _widening(words, step, operand, dual_issue), portable)


@lru_cache(maxsize=64)
def _widening(words: int, step: int, operand: str, dual_issue: bool) -> tuple[str, ...]:
    lines = ["push {r4-r8, lr}"]
    if operand == "r8":
        lines += [f"movw r3, #{R8_OFFSET & 0xFFFF}", f"movt r3, #{R8_OFFSET >> 16}"]
        lines += [f"movw r12, #{R8_FLIP & 0xFFFF}", f"movt r12, #{R8_FLIP >> 16}"]
    turns, rest = divmod(words, _STRAIGHT)
    lines.append("1:")
    if turns:
        lines += [f"movw r8, #{turns}", "2:", *_straight(_STRAIGHT, operand, dual_issue), "subs r8, r8, #1", "bne 2b"]
    lines += _straight(rest, operand, dual_issue) if rest else ()
    jump = step - 8 * words
    lines += [f"movw r8, #{jump}", "add r1, r1, r8"] if jump > _REACH else [f"add r1, r1, #{jump}"] if jump else []
    return (*lines, "subs r2, r2, #1", "bne 1b", "pop {r4-r8, pc}")


def _straight(words: int, operand: str, dual_issue: bool) -> Iterable[str]:
    body = Body()
    for i in range(words):
        raw = body.ldr("r0", 4 * i)
        if operand == "r8":
            first, second = body.field_op("sxtab16", raw, head="r3", early=True), body.alu("eor", raw, tail="r12")
        else:
            first, second = body.sxtb16(raw), body.sxtb16(raw, 8)
        body.store(first, "r1", 8 * i)
        body.store(second, "r1", 8 * i + 4)
    lines = schedule(body, ("r4", "r5", "r6", "r7", "lr"), dual_issue=dual_issue).lines
    return (*lines, f"add r0, r0, #{4 * words}", f"add r1, r1, #{8 * words}")
