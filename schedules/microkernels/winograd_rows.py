# SPDX-License-Identifier: Apache-2.0
"""3x3 stride-1 convolutions by exact integer Winograd F(2x2, 3x3), two output rows at a time from row pointers, for streamed stages.

    void name(const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end, const void *packed, void *scratch)

makes output rows 2 * begin and 2 * begin + 1, which follow each other at `out`; rows[i] is input row 2 * begin - top + i, i < 4; rows in
the padding are never read. Scratch holds one group of tiles: its piece of the four input rows, padded, and its transform.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..requantize_forms import Form, find_form
from .c_source import CFunction
from .conv2d_shape import Conv2DShape
from .layer import Core, LayerParameters
from .requantize import RequantShape
from .winograd import pack, winograd_applies
from .winograd_block import ProductBlock, TileGroup, product_function, transform_function

BLOCK = 2  # output channels together
MOST_SCRATCH = 4600
"""Bytes a group of tiles may take: wider groups read weights less often, but scratch is memory that streaming has just saved."""


@dataclass(frozen=True)
class WinogradRows:
    """The generated kernel: functions, callees first, the last one as above; constants; bytes of scratch."""

    functions: tuple[CFunction, ...]
    packed: bytes
    scratch_bytes: int


def row_tiles(shape: Conv2DShape) -> int:
    """2x2 tiles of a group."""
    row = shape.out_width // 2
    fitting = [t for t in (1, 2, 3, 4) if t <= row and _group_scratch(shape, t) <= MOST_SCRATCH]
    return min(fitting, key=lambda t: (-(-row // t), t), default=1)  # the fewest groups, of equal tiles as far as may be


def _piece_bytes(shape: Conv2DShape, tiles: int) -> int:
    """Bytes of one row of a group's piece of the input."""
    return (2 * tiles + 2) * shape.channels


def _group_scratch(shape: Conv2DShape, tiles: int) -> int:
    return 4 * _piece_bytes(shape, tiles) + TileGroup(shape.channels, BLOCK, tiles, _piece_bytes(shape, tiles)).bytes


def rows_scratch(shape: Conv2DShape) -> int:
    """Bytes of scratch of the kernel, 0 where there is none for the shape."""
    return _group_scratch(shape, row_tiles(shape)) if winograd_applies(shape) else 0


def whole_scratch(shape: Conv2DShape) -> int:
    """Bytes of scratch of the whole layer's form (`winograd`) with one group of up to four tiles."""
    row_bytes = (shape.out_width + 2) * shape.channels
    return 4 * row_bytes + TileGroup(shape.channels, BLOCK, min(4, shape.out_width // 2), row_bytes).bytes


def rows_apply(shape: Conv2DShape, layer: LayerParameters) -> bool:
    """Whether there is a kernel for the layer."""
    if not winograd_applies(shape):
        return False
    found = find_form(layer.requantization(layer.weights.reshape(shape.outputs, shape.k)), 2)
    return RequantShape.of(found).form is not Form.ACCUMULATOR


def winograd_rows(name: str, shape: Conv2DShape, layer: LayerParameters, core: Core) -> WinogradRows:
    """Generate the kernel; the caller has asked `rows_apply`."""
    found = find_form(layer.requantization(layer.weights.reshape(shape.outputs, shape.k)), 2)
    requant = RequantShape.of(found)
    callees: dict[str, CFunction] = {}
    tiles = row_tiles(shape)
    full, rest = divmod(shape.out_width // 2, tiles)
    groups = f"  for (int32_t n = 0; n < {full}; ++n) {{\n{_group(name, shape, layer, core, requant, tiles, f'n * {tiles}', callees)}  }}\n"
    if rest:
        groups += f"  {{\n{_group(name, shape, layer, core, requant, rest, str(full * tiles), callees)}  }}\n"
    signature = "const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end, const void *packed, void *scratch"
    body = f"static void {name}({signature}) {{\n  (void)end;\n  const int32_t y = 2 * begin;\n{groups}}}\n"
    return WinogradRows((*callees.values(), CFunction(name, body)), pack(shape, layer, found, requant), _group_scratch(shape, tiles))


def _group(
    name: str,
    shape: Conv2DShape,
    layer: LayerParameters,
    core: Core,
    requant: RequantShape,
    tiles: int,
    first: str,
    callees: dict[str, CFunction],
) -> str:
    """Statements for `tiles` tiles from tile number `first` on."""
    piece = _piece_bytes(shape, tiles)
    group = TileGroup(shape.channels, BLOCK, tiles, piece, core.dual_issue)
    block = ProductBlock(group, requant, shape.outputs, shape.out_width * shape.outputs)
    used = []
    for function in (_load(name, shape, layer, tiles), transform_function(name, group), product_function(name, block)):
        callees[function.name] = function
        used.append(function.name)
    load, transform, products = used
    at = f"out + ({first}) * {2 * shape.outputs} + {BLOCK} * b"
    return (
        f"    uint8_t *group = (uint8_t *)scratch + {4 * piece};\n"
        f"    {load}(rows, y, 2 * ({first}), scratch);\n"
        f"    {transform}(scratch, group);\n"
        f"    for (int32_t b = 0; b < {shape.outputs // BLOCK}; ++b)\n"
        f"      {products}(group, (const uint8_t *)packed + b * {block.stream_bytes}, {at});\n"
    )


def _load(name: str, shape: Conv2DShape, layer: LayerParameters, tiles: int) -> CFunction:
    """Copy the piece of the four input rows that a group of tiles reads, padding filled in."""
    top, left = shape.padding[0], shape.padding[1]
    columns, piece, c, zero = 2 * tiles + 2, _piece_bytes(shape, tiles), shape.channels, layer.x_zero_point
    full = f"{name}_load{tiles}"
    return CFunction(
        full,
        f"static void {full}(const int8_t *const *rows, int32_t y, int32_t x, int8_t *to) {{\n"
        f"  const int32_t first = x - {left} < 0 ? 0 : x - {left};\n"
        f"  const int32_t last = x - {left} + {columns} > {shape.width} ? {shape.width} : x - {left} + {columns};\n"
        f"  const uint32_t before = (uint32_t)(first - (x - {left})) * {c}u, inside = (uint32_t)(last - first) * {c}u;\n"
        f"  for (int32_t r = 0; r < 4; ++r, to += {piece}) {{\n"
        f"    if (y + r < {top} || y + r - {top} >= {shape.height}) {{\n      memset(to, {zero}, {piece}u);\n      continue;\n    }}\n"
        f"    if (before != 0) memset(to, {zero}, before);\n"
        f"    memcpy(to + before, rows[r] + first * {c}, inside);\n"
        f"    if (before + inside != {piece}u) memset(to + before + inside, {zero}, {piece}u - before - inside);\n  }}\n}}\n",
    )
