# SPDX-License-Identifier: Apache-2.0
"""Whole convolution layers, pointwise layers and dense layers as GEMM over expanded columns.

A group of a few output pixels is gathered (im2col of those pixels only), expanded into scratch, and multiplied with all channels by the
block function. Padding is written into the columns as the input's zero point; the tensor is never copied.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..requantize_forms import Form
from .add import AddLayer
from .c_source import CFunction, copy_function, function_name
from .conv2d_columns import Columns
from .conv2d_shape import Conv2DShape, default_choice
from .gemm_block import GemmBlock, gemm_function
from .gemm_driver import pointwise_shared
from .gemm_layer import BlockChoice, GemmFunctions, PackedMatrix, gemm_functions, pack_matrix
from .layer import Core, LayerParameters, MicroKernel
from .residual import ResidualSum, input_shape, residual_sum, with_residual

_REACH = 4095  # of a store's offset
_UNPACKED = 6  # sums of a block whose weights are unpacked to two more registers
_SHORT_SUMS = 16  # groups up to which several channel blocks may be one body, which runs must not cut


def conv2d(
    name: str,
    shape: Conv2DShape,
    layer: LayerParameters,
    core: Core,
    *,
    choice: BlockChoice | None = None,
    row_form: bool = False,
    together: bool = False,
    over: bool = False,
    residual: AddLayer | None = None,
) -> MicroKernel:
    """Generate an NHWC convolution of any kernel, stride, padding and dilation.

    Parameters
    ----------
    name : str
        External function; helpers are static and named after it and their description.
    row_form : bool
        Also emit `void name_rows(const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end, const void *packed, void *scratch)`:
        output rows [begin, end) to consecutive memory; `rows[i]` is input row `begin * stride - top + i` (entries in the padding are never
        read).
    together : bool
        The input rows of a call of that form lie together, from `rows[0]` on: pointwise layers take their pixels as one run.
    over : bool
        The output of a pointwise layer may lie over its input, from the same byte on.
    residual : AddLayer, optional
        The addition the layer ends in; the function then takes the other operand after the input, and `reference` the bytes of both,
        one after the other. Row forms don't add.

    Raises
    ------
    ValueError
        The output is planar and no block of this choice stores planes, or something is to be added to it.
    """
    choice = choice or default_choice(shape, core)
    choice = replace(choice, channels=min(choice.channels, shape.outputs))
    forms = {"row_form": row_form, "together": together}
    if choice.shared and not over and (made := pointwise_shared(name, shape, layer, core, choice, **forms, residual=residual)) is not None:
        return made
    matrix = pack_matrix(layer.weights.reshape(shape.outputs, shape.k), layer, choice)
    choice = _settled(choice, shape, matrix, row_form=row_form, adds=residual is not None)
    added = residual_sum(name, residual, core) if residual is not None else None
    writer = _Writer(name, shape, layer, core, choice, matrix, added, row_form=row_form, together=together)
    return MicroKernel(
        name=name,
        functions=tuple(writer.functions(name, row_form=row_form)),
        packed=matrix.stream + matrix.fallback + (added.packed if added is not None else b""),
        scratch_bytes=writer.scratch_bytes,
        input_shape=input_shape(shape, residual),
        output_shape=_output_shape(shape),
        macs=shape.macs,
        reference=lambda x: _laid_out(with_residual(x, shape, layer, residual), shape),
        choices=_described(choice, matrix, added),
        row_name=f"{name}_rows" if row_form else None,
        inputs=1 if added is None else 2,
        packing=(choice, matrix),
    )


def _settled(choice: BlockChoice, shape: Conv2DShape, matrix: PackedMatrix, *, row_form: bool, adds: bool) -> BlockChoice:
    """`choice` as far as there is code for it: what the requantisation, the registers and the number of channels rule out is left out."""
    accumulates = matrix.requant.form is Form.ACCUMULATOR
    if accumulates:
        choice = replace(choice, tile=1, weights="flash")
    if choice.tile == 1 and choice.weights == "block":
        choice = replace(choice, weights="flash")
    in_runs = row_form and not accumulates and choice.tile == 1 and matrix.groups > _SHORT_SUMS
    if not in_runs or shape.outputs % (choice.runs * choice.channels) != 0:
        choice = replace(choice, runs=1)
    far = (choice.channels - 1) * shape.plane + choice.pixels > _REACH
    if shape.planar and (far or adds or accumulates):
        raise ValueError("the layer's requantisation or size leaves only kernels that store NHWC")
    if matrix.operand == "w8" and choice.channels * choice.pixels > _UNPACKED:
        choice = replace(choice, pixels=_UNPACKED // choice.channels, ends=None, runs=1)
    return choice


def _described(choice: BlockChoice, matrix: PackedMatrix, added: ResidualSum | None) -> dict[str, object]:
    """What the report tells of a kernel."""
    return {
        "operand": matrix.operand,
        "block": f"{choice.channels}x{choice.pixels}",
        "unroll": choice.unroll,
        "tile": choice.tile,
        "weights": choice.weights,
        "requantise": matrix.requant.form.value + ("" if matrix.requant.shift is not None else " per channel"),
        **({"residual": added.operand} if added is not None else {}),
    }


def _output_shape(shape: Conv2DShape) -> tuple[int, int, int]:
    plane = (shape.out_height, shape.out_width)
    return (shape.outputs, *plane) if shape.planar else (*plane, shape.outputs)


def _laid_out(y: np.ndarray, shape: Conv2DShape) -> np.ndarray:
    return y.transpose(2, 0, 1) if shape.planar else y


class _Writer:
    """Writes the C of one layer."""

    def __init__(
        self,
        prefix: str,
        shape: Conv2DShape,
        layer: LayerParameters,
        core: Core,
        choice: BlockChoice,
        matrix: PackedMatrix,
        residual: ResidualSum | None,
        *,
        row_form: bool = False,
        together: bool = False,
    ) -> None:
        self.row_form = row_form
        self.residual = residual
        self.prefix, self.shape, self.layer, self.core, self.choice, self.matrix = prefix, shape, layer, core, choice, matrix
        self.callees: dict[str, CFunction] = {}
        self.columns = Columns(prefix, shape, layer.x_zero_point, core, choice, matrix, self._add)
        self.in_run = together and shape.is_pointwise and self.columns.by_words
        self.group_bytes = 8 * matrix.groups * choice.pixels

    @property
    def accumulates(self) -> bool:
        return self.matrix.requant.form is Form.ACCUMULATOR

    @property
    def scratch_bytes(self) -> int:
        """Columns of a tile, then gathered bytes, then (fallback only) the int32 sums of a group."""
        sums = 4 * self.shape.outputs * self.choice.pixels if self.accumulates else 0
        copied = {"flash": 0, "layer": len(self.matrix.stream), "block": self.matrix.block_bytes}[self.choice.weights]
        return self._copy_at + sums + copied

    @property
    def _copy_at(self) -> int:
        """Where copied weights lie in scratch (layers with sums there have none)."""
        return self._tile_bytes + self.columns.byte_column * self.choice.pixels

    @property
    def _tile_bytes(self) -> int:
        """Columns of a tile, and of the pixels that a call of a row form leaves over."""
        return self.group_bytes * self.choice.tile + (self.choice.pixels - 1) * self._rest_bytes

    @property
    def _rest_bytes(self) -> int:
        """Columns of a pixel that is left over and computed with the last tile; 0 where such pixels go one by one."""
        return 8 * self.matrix.groups if self.row_form and self.choice.ends is None and self.choice.tile > 1 else 0

    def _copy(self, source: str, nbytes: int) -> str:
        """C expression: the address of the weights at `source` after they were copied."""
        return f"{self._add(copy_function(self.prefix))}((uint8_t *)scratch + {self._copy_at}, {source}, {nbytes // 4}u)"

    def functions(self, name: str, *, row_form: bool) -> list[CFunction]:
        forms = [self._form(name, rows=False)]
        if row_form:
            forms.append(self._form(name, rows=True))
        return [*self.callees.values(), *forms]

    def _add(self, function: CFunction) -> str:
        self.callees[function.name] = function
        return function.name

    def _form(self, name: str, *, rows: bool) -> CFunction:
        s, p = self.shape, self.choice.pixels
        source = "const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end" if rows else f"{self._inputs}, int8_t *out"
        text = f"void {name}{'_rows' if rows else ''}({source}, const void *packed, void *scratch);\n"
        text += f"void {name}{'_rows' if rows else ''}({source}, const void *packed, void *scratch) {{\n"
        if not rows and self._is_one_odd_pixel:
            return CFunction(name, text + self._one_pixel())
        resident = self.choice.weights == "layer"
        text += f"  const uint8_t *stream = {self._copy('packed', len(self.matrix.stream)) if resident else 'packed'};\n"
        text += "  uint8_t *columns = scratch;\n"
        text += f"  int8_t *bytes = (int8_t *)(columns + {self._tile_bytes});\n"
        text += f"  int32_t y = {'begin' if rows else '0'}, x = 0;\n"
        if rows:
            first = f"  const int32_t first = begin * {s.stride[0]} - {s.padding[0]};\n"
            text += "  const int8_t *in = rows[0];\n" if self.in_run else first
            text += f"  int32_t left = (end - begin) * {s.out_width};\n"
        else:
            text += f"  int32_t left = {s.out_height * s.out_width};\n"
        text += "  (void)y;\n  (void)x;\n  (void)bytes;\n"
        body = self._all_pixels(p, rows=rows)
        body = self._in_runs(body) if rows and self.choice.runs > 1 else body
        if self.residual is not None and not rows:
            body = f"  int8_t *summed = out;\n{body}{self._sum(rows=rows, many=False)}"
        return CFunction(f"{name}{'_rows' if rows else ''}", text + body + "}\n")

    @property
    def _is_one_odd_pixel(self) -> bool:
        """The layer is a single pixel whose channels are no whole number of words, requantised as it is stored."""
        s = self.shape
        return s.is_pointwise and s.out_height * s.out_width == 1 and not (self.columns.by_words or self.accumulates or self.residual)

    def _one_pixel(self) -> str:
        """Such a pixel: nothing but its bytes, then zeros."""
        channels, blocks = self.shape.channels, self._blocks({1})
        expand = self.columns.expand(self.matrix.groups, 1, self.columns.byte_column, 1, "bytes", "columns")
        return (
            f"  const uint8_t *stream = packed;\n  uint8_t *columns = scratch;\n"
            f"  int8_t *bytes = (int8_t *)(columns + {self.group_bytes});\n"
            f"  memcpy(bytes, in, {channels});\n  memset(bytes + {channels}, 0, {self.columns.byte_column - channels});\n  {expand};\n"
            + "".join(f"  {line}\n" for line in blocks.call(1, "columns", "stream", "out"))
            + "}\n"
        )

    def _all_pixels(self, p: int, *, rows: bool) -> str:
        """All pixels of a call in groups of `p`, then what is left."""
        text, total = "", self.shape.out_height * self.shape.out_width
        if self.choice.tile > 1:
            text += self._tiles(rows=rows)
            if self._rest_bytes:
                return text
        elif rows or total >= p:
            text += self._groups(p, rows=rows)
        ends = self.choice.ends if rows else None
        if ends is not None and ends[0]:
            text += self._groups(ends[1], rows=rows)
        elif ends is None and p > 1 and (rows or total % p):
            text += self._groups(2, rows=rows) if rows and self.choice.pairs and p > 2 else ""
            text += self._groups(1, rows=rows)
        return text

    def _in_runs(self, body: str) -> str:
        """`body` for each run of channels: from the first pixel on, with the run's weights."""
        c, m, s = self.choice, self.matrix, self.shape
        again = "  in = rows[0];\n" if self.in_run else ""
        return (
            f"  const uint8_t *const weights = stream;\n  int8_t *const row = out;\n"
            f"  for (int32_t run = 0; run < {c.runs}; ++run) {{\n"
            f"  stream = weights + run * {m.main_bytes // c.runs};\n  out = row + run * {s.outputs // c.runs};\n"
            f"  left = (end - begin) * {s.out_width};\n  y = begin;\n  x = 0;\n{again}{body}  }}\n"
        )

    @property
    def _inputs(self) -> str:
        return "const int8_t *in" if self.residual is None else "const int8_t *in, const int8_t *residual"

    def _sum(self, *, rows: bool, many: bool) -> str:
        """C statement adding the residual to what was stored since it was last added; with `many`, where that is worth a call."""
        if self.residual is None or rows:
            return ""
        name = self._add(self.residual.function)
        return self.residual.statement(name, len(self.matrix.stream) + len(self.matrix.fallback), many=many)

    def _gather(self, group: int, dst: str, *, rows: bool) -> str:
        s = self.shape
        if s.is_pointwise and self.columns.by_words and (self.in_run or not rows):
            expand = self.columns.expand(s.channels // 4, group, s.channels, group, "in", dst)
            return f"    {expand};\n    in += {group * s.channels};\n"
        source = "rows, first" if rows else "in"
        text = f"    {self.columns.function(group, rows=rows)}({source}, y, x, {dst}, bytes);\n"
        wrap = "if" if group <= s.out_width else "while"
        return text + f"    x += {group};\n    {wrap} (x >= {s.out_width}) {{ x -= {s.out_width}; ++y; }}\n"

    def _groups(self, group: int, *, rows: bool) -> str:
        s = self.shape
        blocks = self._blocks({group})
        least = self.choice.ends[0] + 1 if rows and self.choice.ends and group == self.choice.pixels else group
        text = f"  for (; left >= {least}; left -= {group}) {{\n" + self._gather(group, "columns", rows=rows)
        if self.accumulates:
            tile = f"(columns + {self.group_bytes * self.choice.tile + self.columns.byte_column * self.choice.pixels})"
            calls = blocks.call(group, "columns", "stream", f"(int8_t *){tile}")
            text += "".join(f"    {line}\n" for line in calls)
            text += f"    {self._finish(group)}({tile}, stream + {len(self.matrix.stream)}, out);\n"
        else:
            text += "".join(f"    {line}\n" for line in blocks.call(group, "columns", "stream", "out"))
        return text + f"    out += {group * s.pixel};\n{self._sum(rows=rows, many=True)}  }}\n"

    def _blocks(self, pixels: set[int]) -> GemmFunctions:
        made = gemm_functions(self.prefix, self.matrix, self.choice, pixels, dual_issue=self.core.dual_issue, plane=self.shape.plane)
        for function in made.functions.values():
            self._add(function)
        if self.choice.runs == 1:
            return made
        return replace(made, matrix=replace(self.matrix, main_bytes=self.matrix.main_bytes // self.choice.runs))

    def _tiles(self, *, rows: bool) -> str:
        """Weight-stationary: expand a tile of pixel groups, then run each channel block over all of it."""
        s, m, c = self.shape, self.matrix, self.choice
        main = GemmBlock(
            c.channels, c.pixels, m.groups, m.operand, m.requant, 1 if s.plane > 1 else None, c.unroll,
            dual_issue=self.core.dual_issue, order="pixels", channel_stride=s.plane,
        )  # fmt: skip
        rest = self._rest_bytes
        text = (
            f"  while (left {'!= 0' if rest else f'>= {c.pixels}'}) {{\n"
            f"    uint8_t *top = columns;\n    int8_t *at = out;\n    const uint8_t *block = stream;\n"
            f"    for (; left >= {c.pixels} && top != columns + {self.group_bytes * c.tile}; left -= {c.pixels}) {{\n"
            f"{self._gather(c.pixels, 'top', rows=rows)}"
            f"      top += {self.group_bytes};\n      out += {c.pixels * s.pixel};\n    }}\n"
        )
        if rest:
            text += (
                f"    uint8_t *end = top;\n    const int32_t apart = (int32_t)(out - at);\n"
                f"    if (left < {c.pixels}) for (; left != 0; --left, end += {rest}, out += {s.pixel}) {{\n"
                f"{self._gather(1, 'end', rows=rows)}    }}\n"
            )
        if m.main_bytes:
            text += f"    for (; block != stream + {m.main_bytes}; block += {main.stream_bytes}, at += {c.channels * s.plane}) {{\n"
            source = self._copy("block", main.stream_bytes) if c.weights == "block" else "block"
            text += f"      const uint8_t *weights = {source};\n{self._walks(main, 'weights')}    }}\n"
        if m.tail_channels:
            text += self._walks(replace(main, channels=m.tail_channels, unroll=min(8, c.unroll)), "block")
        return text + f"{self._sum(rows=rows, many=True)}  }}\n"

    def _walks(self, block: GemmBlock, weights: str) -> str:
        """C calls of a block over the pixel groups of a tile, and of one for single pixels over those left over."""
        stride = self.shape.pixel
        name = self._add(gemm_function(self.prefix, block))
        if not self._rest_bytes:
            return f"      {name}(columns, {weights}, at, top, {stride});\n"
        one = self._add(gemm_function(self.prefix, replace(block, pixels=1, unroll=min(8, block.unroll))))
        return (
            f"      if (top != columns) {name}(columns, {weights}, at, top, {stride});\n"
            f"      if (end != top) {one}(top, {weights}, at + apart, end, {stride});\n"
        )

    def _finish(self, group: int) -> str:
        """C requantisation of the fallback: int32 tiles (block, pixel, channel) to int8 pixels."""
        s, m = self.shape, self.matrix
        name = function_name(self.prefix, "finish", (group, s.outputs, m.block_channels, m.requant, self.layer.clamp, self.layer.rounding))
        rescale = "tiny_rescale" if self.layer.rounding == "gemmlowp" else "tiny_rescale_single"
        low, high = self.layer.clamp
        source = (
            f"static void {name}(const uint8_t *sums, const uint8_t *constants, int8_t *out) {{\n"
            f"  for (int32_t start = 0; start < {s.outputs}; start += {m.block_channels}) {{\n"
            f"    const int32_t width = {s.outputs} - start < {m.block_channels} ? {s.outputs} - start : {m.block_channels};\n"
            f"    for (int32_t p = 0; p < {group}; ++p) {{\n"
            f"      for (int32_t c = 0; c < width; ++c, sums += 4) {{\n"
            f"        const int32_t acc = (int32_t)tiny_load(sums) >> {m.requant.scale_log2}, channel = start + c;\n"
            f"        const int32_t multiplier = (int32_t)tiny_load(constants + 4 * channel);\n"
            f"        const int32_t shift = (int32_t)tiny_load(constants + 4 * ({s.outputs} + channel));\n"
            f"        const int32_t y = {rescale}(acc, multiplier, shift) + {self.layer.y_zero_point};\n"
            f"        out[p * {s.outputs} + channel] = (int8_t)tiny_clamp(y, {low}, {high});\n"
            f"      }}\n    }}\n  }}\n}}\n"
        )
        return self._add(CFunction(name, source))
