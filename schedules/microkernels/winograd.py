# SPDX-License-Identifier: Apache-2.0
"""Whole 3x3 stride-1 convolutions by exact integer Winograd F(2x2, 3x3), NHWC in and out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..requantize_forms import Form, RequantParameters, find_form
from .add import AddLayer
from .c_source import CFunction
from .conv2d_shape import Conv2DShape
from .gemm_layer import recode_weights
from .layer import Core, LayerParameters, MicroKernel, words
from .requantize import RequantShape, constant_words
from .residual import ResidualSum, input_shape, residual_sum, with_residual
from .winograd_block import ProductBlock, TileGroup, product_function, transform_function

_FILTER = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.int64)  # twice Lavin and Gray's G
_BLOCK = 2


@dataclass(frozen=True)
class WinogradChoice:
    """What may be tuned.

    Attributes
    ----------
    tiles : int
        2x2 tiles of a group.
    groups : int
        Tile groups transformed before the weights are walked (weight-stationary over them); limited to a row of tiles times `rows`.
    """

    tiles: int = 4
    groups: int = 1


def winograd_applies(shape: Conv2DShape) -> bool:
    """Tell whether the shape is within reach: 3x3, stride 1, even output, channels in fours, offsets encodable."""
    if shape.kernel != (3, 3) or shape.stride != (1, 1) or shape.dilation != (1, 1) or shape.channels % 4 or shape.outputs % _BLOCK:
        return False
    if shape.out_height % 2 or shape.out_width % 2:
        return False
    group = TileGroup(shape.channels, _BLOCK, min(4, shape.out_width // 2), _row_bytes(shape))
    widest = ProductBlock(group, RequantShape(Form.SINGLE, 2, 0, None), shape.outputs, shape.out_width * shape.outputs)
    return widest.fits


def _row_bytes(shape: Conv2DShape) -> int:
    return (shape.out_width + 2) * shape.channels


def winograd(
    name: str,
    shape: Conv2DShape,
    layer: LayerParameters,
    core: Core,
    *,
    choice: WinogradChoice | None = None,
    residual: AddLayer | None = None,
) -> MicroKernel | None:
    """Generate the layer, or return None where it does not apply (shape, or no requantisation form).

    The weights take 16/9 times two bytes in the blob. `residual` is the addition the layer ends in, as of `conv2d`: rows are summed as
    soon as all their tiles are computed.
    """
    if not winograd_applies(shape):
        return None
    choice = choice or WinogradChoice()
    rows = layer.weights.reshape(shape.outputs, shape.k)
    found = find_form(layer.requantization(rows), 2)
    requant = RequantShape.of(found)
    if requant.form is Form.ACCUMULATOR:
        return None
    added = residual_sum(name, residual, core) if residual is not None else None
    stream = pack(shape, layer, found, requant)
    writer = _Writer(name, shape, layer, core, choice, requant)
    form = writer.form() if added is None else writer.form(added, len(stream))
    return MicroKernel(
        name=name,
        functions=(*writer.callees.values(), form),
        packed=stream if added is None else stream + added.packed,
        scratch_bytes=writer.scratch_bytes,
        input_shape=input_shape(shape, residual),
        output_shape=(shape.out_height, shape.out_width, shape.outputs),
        macs=shape.macs,
        reference=lambda x: with_residual(x, shape, layer, residual),
        choices={
            "operand": "winograd",
            "block": f"{_BLOCK}x{choice.tiles} tiles",
            "groups": choice.groups,
            "requantise": requant.form.value + ("" if requant.shift is not None else " per channel"),
            **({"residual": added.operand} if added is not None else {}),
        },
        inputs=1 if added is None else 2,
    )


def transform_weights(weights: np.ndarray) -> np.ndarray:
    """OHWI int8 3x3 weights to (outputs, 16, channels) int64: four times the Winograd-domain filter."""
    return np.einsum("ri,oijc,sj->orsc", _FILTER, weights.astype(np.int64), _FILTER).reshape(len(weights), 16, -1)


def pack(shape: Conv2DShape, layer: LayerParameters, found: RequantParameters, requant: RequantShape) -> bytes:
    """The parameter stream: of every channel block transformed weights, biases and requantisation constants."""
    transformed = transform_weights(layer.weights)
    pairs = recode_weights(transformed.reshape(shape.outputs, -1), "w16").reshape(shape.outputs, 16, -1)  # position, pair
    total = layer.weights.reshape(shape.outputs, -1).astype(np.int64).sum(axis=1)
    bias = 4 * (layer.bias.astype(np.int64) - layer.x_zero_point * total) + found.offset
    constants = constant_words(found, requant)
    parts = []
    for start in range(0, shape.outputs, _BLOCK):
        rows = slice(start, start + _BLOCK)
        parts.append(words(pairs[rows].transpose(1, 2, 0)) + words(bias[rows]) + words(constants[:, rows]))
    return b"".join(parts)


class _Writer:
    """Writes the C of one layer."""

    def __init__(
        self, prefix: str, shape: Conv2DShape, layer: LayerParameters, core: Core, choice: WinogradChoice, requant: RequantShape
    ) -> None:
        self.prefix, self.shape, self.layer, self.core, self.choice, self.requant = prefix, shape, layer, core, choice, requant
        self.row_tiles = shape.out_width // 2
        self.tiles = min(choice.tiles, self.row_tiles)
        self.callees: dict[str, CFunction] = {}

    @property
    def input_bytes(self) -> int:
        """Four padded int8 rows."""
        return 4 * _row_bytes(self.shape)

    @property
    def group_bytes(self) -> int:
        return self._block(self.tiles).group.bytes

    @property
    def scratch_bytes(self) -> int:
        return self.input_bytes + self.group_bytes * self.choice.groups

    def _block(self, tiles: int) -> ProductBlock:
        s = self.shape
        group = TileGroup(s.channels, _BLOCK, tiles, _row_bytes(s), self.core.dual_issue)
        return ProductBlock(group, self.requant, s.outputs, s.out_width * s.outputs)

    def _add(self, function: CFunction) -> str:
        self.callees[function.name] = function
        return function.name

    def form(self, added: ResidualSum | None = None, constants_at: int = 0) -> CFunction:
        """The layer's function; with what it adds, whose constants lie at `constants_at` in the blob."""
        s = self.shape
        full, rest = divmod(self.row_tiles, self.tiles)
        load = self._add(self._load_rows())
        keep = f"int8_t *where[{self.choice.groups}];\n  uint32_t kept = 0;\n"
        inputs = "const int8_t *in" if added is None else "const int8_t *in, const int8_t *residual"
        text = f"void {self.prefix}({inputs}, int8_t *out, const void *packed, void *scratch);\n"
        text += f"void {self.prefix}({inputs}, int8_t *out, const void *packed, void *scratch) {{\n"
        text += "" if added is None else "  int8_t *summed = out;\n"
        text += f"  int8_t *rows = scratch;\n  uint8_t *groups = (uint8_t *)scratch + {self.input_bytes};\n  {keep}"
        text += f"  for (int32_t y = 0; y < {s.out_height}; y += 2, out += {2 * s.out_width * s.outputs}) {{\n"
        text += f"    {load}(in, y, rows);\n"
        text += f"    for (int32_t n = 0; n < {full}; ++n) {{\n"
        text += self._group(self.tiles, f"n * {self.tiles}", 6)
        text += "    }\n"
        if rest:
            # tiles of another width are computed at once, after what is kept
            text += f"    {self._flush()}(groups, kept, where, packed);\n    kept = 0;\n"
            text += self._one(rest, str(full * self.tiles), 4)
        sums = ""
        if added is not None:
            done = f"(const uint8_t *)packed + {constants_at}, (uint32_t)(done - summed)"
            sums = f"{self._add(added.function)}(summed, residual, {done});\n"
            text += f"    if (kept == 0) {{\n      int8_t *const done = out + {2 * s.out_width * s.outputs};\n      {sums}"
            text += "      residual += done - summed;\n      summed = done;\n    }\n"
            sums = f"  int8_t *const done = out;\n  if (done != summed) {sums}"
        text += f"  }}\n  {self._flush()}(groups, kept, where, packed);\n{sums}}}\n"
        return CFunction(self.prefix, text)

    def _group(self, tiles: int, first: str, indent: int) -> str:
        s, pad = self.shape, " " * indent
        transform = self._add(transform_function(self.prefix, self._block(tiles).group))
        return (
            f"{pad}{transform}(rows + {first} * {2 * s.channels}, groups + kept * {self.group_bytes}u);\n"
            f"{pad}where[kept++] = out + {first} * {2 * s.outputs};\n"
            f"{pad}if (kept == {self.choice.groups}) {{\n"
            f"{pad}  {self._flush()}(groups, kept, where, packed);\n{pad}  kept = 0;\n{pad}}}\n"
        )

    def _one(self, tiles: int, first: str, indent: int) -> str:
        s, pad, block = self.shape, " " * indent, self._block(tiles)
        transform = self._add(transform_function(self.prefix, block.group))
        products = self._add(product_function(self.prefix, block))
        return (
            f"{pad}{transform}(rows + {first} * {2 * s.channels}, groups);\n"
            f"{pad}for (int32_t b = 0; b < {s.outputs // _BLOCK}; ++b)\n"
            f"{pad}  {products}(groups, (const uint8_t *)packed + b * {block.stream_bytes},"
            f" out + {first} * {2 * s.outputs} + {_BLOCK} * b);\n"
        )

    def _flush(self) -> str:
        """Each channel block over all kept groups."""
        s, block = self.shape, self._block(self.tiles)
        products = self._add(product_function(self.prefix, block))
        name = f"{self.prefix}_flush"
        return self._add(
            CFunction(
                name,
                f"static void {name}(uint8_t *groups, uint32_t kept, int8_t *const *where, const void *packed) {{\n"
                f"  const uint8_t *stream = packed;\n"
                f"  for (int32_t b = 0; b < {s.outputs // _BLOCK}; ++b, stream += {block.stream_bytes})\n"
                f"    for (uint32_t n = 0; n < kept; ++n) {products}(groups + n * {self.group_bytes}u, stream, where[n] + {_BLOCK} * b);\n"
                f"}}\n",
            )
        )

    def _load_rows(self) -> CFunction:
        """Copy the four input rows behind two output rows into the padded rows."""
        s, name = self.shape, f"{self.prefix}_load"
        top, left = s.padding[0], s.padding[1]
        columns = s.out_width + 2
        used = min(s.width, columns - left)
        right = columns - left - used
        zero, row = self.layer.x_zero_point, _row_bytes(s)
        text = (
            f"static void {name}(const int8_t *in, int32_t y, int8_t *rows) {{\n"
            f"  for (int32_t r = 0; r < 4; ++r, rows += {row}) {{\n"
            f"    const int32_t iy = y + r - {top};\n"
            f"    if (iy < 0 || iy >= {s.height}) {{\n      memset(rows, {zero}, {row});\n      continue;\n    }}\n"
            f"    memcpy(rows + {left * s.channels}, in + iy * {s.width * s.channels}, {used * s.channels});\n"
        )
        if left:
            text += f"    memset(rows, {zero}, {left * s.channels});\n"
        if right:
            text += f"    memset(rows + {(left + used) * s.channels}, {zero}, {right * s.channels});\n"
        return CFunction(name, text + "  }\n}\n")
