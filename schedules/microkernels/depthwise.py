# SPDX-License-Identifier: Apache-2.0
"""Whole depthwise layers, NHWC out: strips of rows of four channels go to padded planes of int16 in scratch, then channel by channel.

An input that lies in planes already (NCHW, or of a single channel) goes to one padded plane at a time.

Padding exists only in the planes. A layer whose requantisation has no assembly form, or whose geometry exceeds the offsets of the block, is
plain C.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..requantize_forms import Form, find_form
from . import reference
from .c_source import CFunction
from .depthwise_block import (
    DepthwiseBlock,
    default_pixels,
    depthwise_function,
    fits,
    may_copy,
    may_go_together,
    one_row_function,
    rows_and_planes,
)
from .depthwise_shared import SharedWriter
from .gemm_layer import recode_pairs
from .layer import Core, LayerParameters, MicroKernel, words
from .plane_lines import PlaneLines, plane_lines_function
from .planes import PlaneRow, blank_function, plane_row_function
from .requantize import RequantShape, constant_words
from .window import WindowShape


@dataclass(frozen=True)
class DepthwiseShape(WindowShape):
    """Shape of a depthwise convolution of one image; `outputs` is a multiple of `channels`, `planar` is the input's layout."""

    kernel: tuple[int, int] = (3, 3)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)

    @property
    def planes(self) -> int:
        """Planes in scratch at a time."""
        return 4 if self.channels >= 4 and not self.planar else 1

    @property
    def macs(self) -> int:
        """Nominal multiply-accumulates."""
        return self.out_height * self.out_width * self.outputs * self.kernel[0] * self.kernel[1]

    @property
    def row_bytes(self) -> int:
        """Bytes of a plane row: the columns all windows of an output row touch, in whole words."""
        columns = (self.out_width - 1) * self.stride[1] + (self.kernel[1] - 1) * self.dilation[1] + 1
        return (columns + 1) // 2 * 4

    def plane_rows(self, rows: int) -> int:
        """Plane rows behind `rows` output rows."""
        return (rows - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1


@dataclass(frozen=True)
class DepthwiseChoice:
    """What may be tuned of a depthwise layer.

    Attributes
    ----------
    pixels : int or None
        Outputs computed together; None for the default.
    strip : int or None
        Output rows whose planes are built at once; None for as many as `scratch_limit` holds.
    scratch_limit : int
        Bytes.
    shared : bool
        Use the code that serves layers of every geometry (`depthwise_shared`), where it exists.
    fixed : bool
        Of shared code: that of layers of the same shift, an instruction less an output where the kernel has few taps, and of rows of
        the same width, where that is faster.
    """

    pixels: int | None = None
    strip: int | None = None
    scratch_limit: int = 4096
    shared: bool = False
    fixed: bool = False


def depthwise(
    name: str,
    shape: DepthwiseShape,
    layer: LayerParameters,
    core: Core,
    *,
    choice: DepthwiseChoice | None = None,
    row_form: bool = False,
) -> MicroKernel:
    """Generate a depthwise convolution of any kernel, stride, padding, dilation and channel multiplier; weights (kh, kw, outputs).

    `row_form` as in `conv2d`.

    Raises
    ------
    ValueError
        The input is planar and the layer has no kernel that works in planes.
    """
    choice = choice or DepthwiseChoice()
    rows = layer.weights.reshape(-1, shape.outputs).T
    found = find_form(layer.requantization(rows), 0)
    block, plane, strip = _described(shape, RequantShape.of(found), choice, core)
    writer: _PlaneWriter | SharedWriter | _PlainWriter | None = None
    if choice.shared and block.requant.form is not Form.ACCUMULATOR:
        writer = SharedWriter.of(name, shape, layer, block, plane, strip, fixed=choice.fixed)
    if writer is None:
        block = _own_block(block, strip, as_wide=choice.pixels is None)
        writer = _own_writer(name, shape, layer, block, plane, strip, one_row=row_form and strip == 1)
    plain = isinstance(writer, _PlainWriter)
    packed = _plain_parameters(layer) if plain else _pack(block, layer, rows, found.offset, constant_words(found, block.requant))
    functions = [writer.form(name, rows=False)] + ([writer.form(name, rows=True)] if row_form else [])
    return MicroKernel(
        name=name,
        functions=(*writer.callees.values(), *functions),
        packed=packed,
        scratch_bytes=writer.scratch_bytes,
        input_shape=(shape.channels, shape.height, shape.width) if shape.planar else (shape.height, shape.width, shape.channels),
        output_shape=(shape.out_height, shape.out_width, shape.outputs),
        macs=shape.macs,
        reference=lambda x: _reference(x, shape, layer),
        choices={
            "operand": "plain C" if plain else "planes",
            "block": writer.sizes if isinstance(writer, SharedWriter) else f"1x{block.pixels}",
            "strip": strip,
            "requantise": block.requant.form.value + ("" if block.requant.shift is not None else " per channel"),
        },
        row_name=f"{name}_rows" if row_form else None,
        planes=(writer.block, plane, strip) if isinstance(writer, _PlaneWriter) and shape.planes == 4 else None,
    )


def _described(shape: DepthwiseShape, requant: RequantShape, choice: DepthwiseChoice, core: Core) -> tuple[DepthwiseBlock, PlaneRow, int]:
    """The block and the way into planes that a layer asks for, and its output rows whose planes are built at once."""
    strip = choice.strip or default_strip(shape, choice.scratch_limit)
    pixels = choice.pixels or default_pixels(shape.kernel, shape.stride, shape.dilation, dual_issue=core.dual_issue)
    block = DepthwiseBlock(
        shape.out_width, shape.kernel, shape.stride, shape.dilation, shape.row_bytes, shape.outputs, requant,
        min(pixels, shape.out_width), core.dual_issue,
    )  # fmt: skip
    plane = PlaneRow(
        shape.width, shape.padding[1], shape.row_bytes // 4, shape.channels, shape.plane_rows(strip) * shape.row_bytes,
        shape.width * shape.channels, core.dual_issue,
    )  # fmt: skip
    return block, plane, strip


def _reference(x: np.ndarray, shape: DepthwiseShape, layer: LayerParameters) -> np.ndarray:
    nhwc = x.transpose(1, 2, 0) if shape.planar else x
    return reference.depthwise(nhwc, layer, shape.stride, shape.padding, shape.dilation)


def _own_block(block: DepthwiseBlock, strip: int, *, as_wide: bool) -> DepthwiseBlock:
    """The block as code of one layer: `as_wide` as fits, parameters copied and rows in twos where that pays."""
    if block.requant.form is Form.ACCUMULATOR:
        return block
    if as_wide:
        block = _largest_fitting(block)
    reused = strip > 1 or len(block.groups) > 1
    block = replace(block, copied=reused and not block.dual_issue and may_copy(block))  # the M7 has a data cache
    in_twos = replace(block, together=2)
    return in_twos if strip > 1 and may_go_together(block) and fits(in_twos) else block


def _own_writer(
    name: str, shape: DepthwiseShape, layer: LayerParameters, block: DepthwiseBlock, plane: PlaneRow, strip: int, *, one_row: bool
) -> _PlaneWriter | _PlainWriter:
    """What writes code for this layer alone."""
    has_assembly = block.requant.form is not Form.ACCUMULATOR and fits(block)
    if shape.planar and not has_assembly:
        raise ValueError("plain C, the only form of this layer, reads NHWC")
    if has_assembly and (shape.planes == 1 or plane.fits):
        return _PlaneWriter(name, shape, layer, block, plane, strip, one_row=one_row)
    return _PlainWriter(name, shape, layer)


def _largest_fitting(block: DepthwiseBlock) -> DepthwiseBlock:
    """The block with as many pixels as its offsets and registers allow (wide pixels reach the end of an offset sooner); else as it is."""
    for pixels in range(block.pixels, 0, -1):
        smaller = replace(block, pixels=pixels)
        if fits(smaller):
            return smaller
    return block


def default_strip(shape: DepthwiseShape, limit: int) -> int:
    """Output rows whose planes are built at once: as many as `limit` bytes hold, evenly split."""
    strip = shape.out_height
    while strip > 1 and shape.planes * shape.plane_rows(strip) * shape.row_bytes > limit:
        strip -= 1
    return -(-shape.out_height // -(-shape.out_height // strip))  # even strips


def _plain_parameters(layer: LayerParameters) -> bytes:
    """What plain C reads: bias, multiplier and shift of all channels, then the weights as they are."""
    return words(np.stack([layer.bias, layer.multiplier, layer.shift])) + layer.weights.astype(np.int8).tobytes()


def _pack(block: DepthwiseBlock, layer: LayerParameters, rows: np.ndarray, offset: np.ndarray, constants: np.ndarray) -> bytes:
    """Interleave bias, weight words and constants channel by channel."""
    kh, kw = block.kernel
    bias = layer.bias.astype(np.int64) - layer.x_zero_point * rows.astype(np.int64).sum(axis=1) + offset
    taps = np.concatenate([rows.reshape(-1, kh, kw), np.zeros((len(rows), kh, 1), np.int8)], axis=2).astype(np.int64)  # tap -1 is 0
    pairs = np.array(block.pairs)
    packed = recode_pairs(taps[:, :, pairs[:, 0]], taps[:, :, pairs[:, 1]]).reshape(len(rows), -1)
    return words(np.concatenate([bias[:, None], packed, constants.T], axis=1))


class _PlaneWriter:
    """Writes the C of a layer that goes through planes; `one_row` at a time with a block for just that."""

    def __init__(
        self,
        prefix: str,
        shape: DepthwiseShape,
        layer: LayerParameters,
        block: DepthwiseBlock,
        plane: PlaneRow,
        strip: int,
        *,
        one_row: bool,
    ) -> None:
        self.block_function = one_row_function if one_row else depthwise_function
        self.prefix, self.shape, self.layer, self.block, self.plane, self.strip = prefix, shape, layer, block, plane, strip
        self.callees: dict[str, CFunction] = {}

    @property
    def scratch_bytes(self) -> int:
        return self.shape.planes * self.plane.plane_bytes

    def _add(self, function: CFunction) -> str:
        self.callees[function.name] = function
        return function.name

    def form(self, name: str, *, rows: bool) -> CFunction:
        s = self.shape
        name = f"{name}{'_rows' if rows else ''}"
        source = "const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end" if rows else "const int8_t *in, int8_t *out"
        text = f"void {name}({source}, const void *packed, void *scratch);\nvoid {name}({source}, const void *packed, void *scratch) {{\n"
        text += "" if rows else f"  const int32_t begin = 0, end = {s.out_height};\n"
        text += f"  for (int32_t y = begin; y < end; y += {self.strip}) {{\n"
        text += f"    const int32_t count = end - y < {self.strip} ? end - y : {self.strip};\n"
        text += f"    const int32_t top = y * {s.stride[0]} - {s.padding[0]};\n"
        text += f"    const int32_t height = (count - 1) * {s.stride[0]} + {s.plane_rows(1)};\n"
        text += "    const uint8_t *stream = packed;\n    int32_t channel = 0;\n"
        apart = s.width * (1 if s.planar else s.channels)
        row = f"rows[(y - begin) * {s.stride[0]} + r]" if rows else f"(in + (top + r) * {apart})"
        if s.planar or s.channels == 1:
            text += self._lines(row, together=not rows)
        else:
            text += self._four(row, together=not rows) if s.channels >= 4 else self._single(row)
        text += "    (void)stream;\n    (void)channel;\n"
        return CFunction(name, text + f"    out += count * {s.out_width * s.outputs};\n  }}\n}}\n")

    def _four(self, row: str, *, together: bool) -> str:
        """Channels in fours, the last ones among the last four; padding rows stay in the planes for the whole strip."""
        s, half = self.shape, self.layer.x_zero_point & 0xFFFF
        fill = self._add(plane_row_function(self.prefix, self.plane))
        every_byte = f"0x{0x01010101 * (half & 0xFF):08x}u"
        spread = f"{fill}({row} + channel, (uint8_t *)scratch + r * {s.row_bytes}, {every_byte}, "
        joined = "" if together else self._joined(row)
        rest = f"      if (r < last) {spread}(uint32_t)(last - r));\n"
        spread = rest if together else f"      for (; r < joined; ++r) {spread}1);\n{rest}"
        text = (
            f"{self._blanks(4)}{joined}"
            f"    for (; channel + 4 <= {s.channels}; channel += 4) {{\n"
            f"      int32_t r = first;\n"
            f"{spread}"
            f"{self._outputs('scratch', 'channel', 6, planes=4)}"
            f"    }}\n"
        )
        if left := s.channels % 4:  # planes of channels that are done already are filled once more and not read
            plane = f"(const uint8_t *)scratch + {(4 - left) * self.plane.plane_bytes}"
            text += f"    channel = {s.channels - 4};\n    {{\n      int32_t r = first;\n{spread}"
            text += f"      channel = {s.channels - left};\n{self._outputs(plane, 'channel', 6, planes=left)}    }}\n"
        return text

    def _joined(self, row: str) -> str:
        """From which row on the rows lie together, as those of one strip do."""
        s = self.shape
        before = row.replace("+ r]", "+ r - 1]")
        return (
            f"    int32_t joined = last - 1;\n"
            f"    for (int32_t r = joined; r > first && {row} == {before} + {s.width * s.channels}; --r) joined = r - 1;\n"
        )

    def _blanks(self, planes: int) -> str:
        """The rows of the planes that lie outside the image, for all channels of the strip."""
        half = self.layer.x_zero_point & 0xFFFF
        padding = f"0x{half << 16 | half:08x}u"
        blank = self._add(blank_function(self.prefix, self.plane, planes))
        return (
            f"    const int32_t skipped = top < 0 ? -top : 0, first = skipped < height ? skipped : height;\n"
            f"    const int32_t inside = {self.shape.height} - top, last = inside < height ? inside : height;\n"
            f"    {blank}(scratch, {padding}, 0, first);\n"
            f"    {blank}(scratch, {padding}, last > first ? last : first, height);\n"
        )

    def _lines(self, row: str, *, together: bool) -> str:
        """Channels one by one from rows that lie together."""
        s, half = self.shape, self.layer.x_zero_point & 0xFFFF
        lines = PlaneLines(s.width, s.padding[1], s.row_bytes // 4, self.plane.dual_issue)
        fill = self._add(plane_lines_function(self.prefix, lines))
        spread = f"{fill}({row} + channel * {s.height * s.width}, (uint8_t *)scratch + r * {s.row_bytes}, 0x{half << 16 | half:08x}u, "
        if together:
            spread = f"      if (r < last) {spread}(uint32_t)(last - r));\n"
        else:
            spread = f"      for (; r < last; ++r) {spread}1);\n"
        return (
            f"{self._blanks(1)}"
            f"    for (; channel < {s.channels}; ++channel) {{\n"
            f"      int32_t r = first;\n"
            f"{spread}"
            f"{self._outputs('scratch', 'channel', 6, planes=1)}"
            f"    }}\n"
        )

    def _outputs(self, plane: str, channel: str, indent: int, planes: int) -> str:
        """Blocks of all output channels of `planes` input channels."""
        m = self.shape.outputs // self.shape.channels
        block = replace(self.block, planes=self.shape.planes if m == 1 else 1, plane_bytes=self.plane.plane_bytes)
        name = self._add(self.block_function(self.prefix, block))
        pad, bytes_ = " " * indent, block.stream_bytes
        if m == 1:
            count = f"(uint32_t)count{f' | {rows_and_planes(block, 0, planes)}u' if block.planes > 1 else ''}"
            return f"{pad}{name}({plane}, stream, out + {channel}, {count});\n{pad}stream += {bytes_ * planes};\n"
        return (
            f"{pad}for (int32_t m = 0; m < {planes * m}; ++m, stream += {bytes_})\n"
            f"{pad}  {name}((const uint8_t *){plane} + m / {m} * {self.plane.plane_bytes}, stream,"
            f" out + {channel} * {m} + m, (uint32_t)count);\n"
        )

    def _single(self, row: str) -> str:
        """Two or three channels, one plane at a time."""
        s = self.shape
        return (
            f"    for (; channel < {s.channels}; ++channel) {{\n"
            f"      uint8_t *dst = scratch;\n"
            f"      for (int32_t r = 0; r < height; ++r) {{\n"
            f"        const int8_t *src = top + r >= 0 && top + r < {s.height} ? {row} + channel : 0;\n"
            f"        for (int32_t x = -{s.padding[1]}; x < {s.row_bytes // 2 - s.padding[1]}; ++x, dst += 2) {{\n"
            f"          const int16_t value = src != 0 && x >= 0 && x < {s.width} ? src[x * {s.channels}] : {self.layer.x_zero_point};\n"
            f"          memcpy(dst, &value, 2);\n"
            f"        }}\n      }}\n"
            f"{self._outputs('scratch', 'channel', 6, planes=1)}"
            f"    }}\n"
        )


class _PlainWriter:
    """Writes the layer as plain loops: exact for every multiplier and geometry."""

    scratch_bytes = 0

    def __init__(self, prefix: str, shape: DepthwiseShape, layer: LayerParameters) -> None:
        del prefix
        self.shape, self.layer = shape, layer
        self.callees: dict[str, CFunction] = {}

    def form(self, name: str, *, rows: bool) -> CFunction:
        s, m = self.shape, self.shape.outputs // self.shape.channels
        name = f"{name}{'_rows' if rows else ''}"
        source = "const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end" if rows else "const int8_t *in, int8_t *out"
        row = f"rows[(y - begin) * {s.stride[0]} + ky * {s.dilation[0]}]" if rows else f"(in + iy * {s.width * s.channels})"
        rescale = "tiny_rescale" if self.layer.rounding == "gemmlowp" else "tiny_rescale_single"
        n, zero = s.outputs, self.layer.x_zero_point
        low, high = self.layer.clamp
        text = f"void {name}({source}, const void *packed, void *scratch);\nvoid {name}({source}, const void *packed, void *scratch) {{\n"
        text += "  const uint8_t *constants = packed;\n"
        text += f"  const int8_t *taps = (const int8_t *)(constants + {12 * n});\n  (void)scratch;\n"
        text += "" if rows else f"  const int32_t begin = 0, end = {s.out_height};\n"
        return CFunction(
            name,
            text + f"  for (int32_t y = begin; y < end; ++y) {{\n"
            f"    for (int32_t x = 0; x < {s.out_width}; ++x) {{\n"
            f"      for (int32_t c = 0; c < {n}; ++c) {{\n"
            f"        uint32_t sum = tiny_load(constants + 4 * c);\n"
            f"        for (int32_t ky = 0; ky < {s.kernel[0]}; ++ky) {{\n"
            f"          const int32_t iy = y * {s.stride[0]} - {s.padding[0]} + ky * {s.dilation[0]};\n"
            f"          if (iy < 0 || iy >= {s.height}) continue;\n"
            f"          for (int32_t kx = 0; kx < {s.kernel[1]}; ++kx) {{\n"
            f"            const int32_t ix = x * {s.stride[1]} - {s.padding[1]} + kx * {s.dilation[1]};\n"
            f"            if (ix < 0 || ix >= {s.width}) continue;\n"
            f"            const int32_t value = {row}[ix * {s.channels} + c / {m}] - ({zero});\n"
            f"            sum += (uint32_t)(taps[(ky * {s.kernel[1]} + kx) * {n} + c] * value);\n"
            f"          }}\n        }}\n"
            f"        const int32_t multiplier = (int32_t)tiny_load(constants + 4 * ({n} + c));\n"
            f"        const int32_t shift = (int32_t)tiny_load(constants + 4 * ({2 * n} + c));\n"
            f"        const int32_t v = {rescale}((int32_t)sum, multiplier, shift) + ({self.layer.y_zero_point});\n"
            f"        *out++ = (int8_t)tiny_clamp(v, {low}, {high});\n"
            f"      }}\n    }}\n  }}\n}}\n",
        )
