# SPDX-License-Identifier: Apache-2.0
"""Rows of int8 to padded rows of int16 (`microkernels/planes`, `plane_lines`) as intrinsics: what depthwise blocks read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorRegion

from tvm_tiny.schedules.blocks.base import Block, Meaning, address, block, cast
from tvm_tiny.schedules.blocks.tir import load, nest, operand, region, store
from tvm_tiny.schedules.microkernels.plane_lines import PlaneLines, plane_lines_function
from tvm_tiny.schedules.microkernels.planes import PlaneRow, blank_function, plane_row_function


@dataclass(frozen=True)
class Rows:
    """Rows of a plane: `height` of them, of which [first, last) lie inside the image."""

    height: int
    first: int
    last: int


def plane_rows(prefix: str, shape: PlaneRow, rows: Rows, zero_point: int) -> Block:
    """Four channels of NHWC, padded on all sides; the rows outside the image by calls before the one of those inside.

    Operands: `x` int8 (rows inside, columns inside, 4), `planes` int16 (4, rows, columns).
    """
    inside = columns_inside(shape)
    x = operand("x", (rows.last - rows.first, inside, 4), "int8", (shape.source_row, shape.pixel_stride, 1))
    planes = operand("planes", (4, rows.height, 2 * shape.words), "int16", (shape.plane_bytes // 2, shape.row_bytes // 2, 1))
    axes = {"plane": 4, "r": rows.height, "column": 2 * shape.words}

    def body(plane: Any, r: Any, column: Any) -> list[tirx.Stmt]:
        value = load(x, r - rows.first, column - shape.left, plane)
        return [store(planes, padded(shape, rows, value, zero_point, r, column), plane, r, column)]

    def reads(plane: Any, r: Any, column: Any) -> list[TensorRegion]:
        row, at = nearest(shape, rows, r, column)
        return [region(x, (row, 1), (at, 1), (plane, 1))]

    nested = nest("planes", axes, (x, planes), body, reads)
    every, half = tirx.const(0x01010101 * (zero_point & 0xFF), "uint32"), zero_point & 0xFFFF
    blank, both = blank_function(prefix, shape, 4), tirx.const(half << 16 | half, "uint32")

    def outside(first: int, last: int) -> Any:
        return lambda _x, planes: [cast("uint8_t *", address(planes)), both, tirx.const(first, "int32"), tirx.const(last, "int32")]

    ends = [(first, last) for first, last in ((0, rows.first), (rows.last, rows.height)) if first < last]
    arguments = [every, tirx.const(rows.last - rows.first, "uint32")]
    return block(
        plane_row_function(prefix, shape),
        Meaning((x, planes), nested),
        lambda x, planes: [address(x), address(planes, 0, rows.first, 0), *arguments],
        [(blank, outside(*end)) for end in ends],
    )


def columns_inside(shape: PlaneRow) -> int:
    """Columns of a plane that lie inside the image."""
    return min(shape.width, 2 * shape.words - shape.left)


def nearest(shape: PlaneRow, rows: Rows, r: Any, column: Any) -> tuple[Any, Any]:
    """The place inside the image, from its first row and column there on, that is nearest to (r, column) of a plane."""

    def within(at: Any, size: int, first: int, last: int) -> Any:
        at = tirx.max(at - first, 0) if first > 0 else at
        return tirx.min(at, last - first - 1) if last < size else at

    return within(r, rows.height, rows.first, rows.last), within(column, 2 * shape.words, shape.left, shape.left + columns_inside(shape))


def padded(shape: PlaneRow, rows: Rows, value: Any, zero_point: int, r: Any, column: Any) -> Any:
    """The int32 element (r, column) of a plane: `value` (int8) inside the image, the zero point outside."""
    right = shape.left + columns_inside(shape)
    bounds = [r >= rows.first] * (rows.first > 0) + [r < rows.last] * (rows.last < rows.height)
    bounds += [column >= shape.left] * (shape.left > 0) + [column < right] * (right < 2 * shape.words)
    value = value.astype("int32")
    return tirx.if_then_else(tirx.all(*bounds), value, tirx.const(zero_point, "int32")) if bounds else value


def plane_lines(prefix: str, shape: PlaneLines, rows: int, zero_point: int) -> Block:
    """Rows that lie together. Operands: `x` int8 (1, rows, width), `planes` int16 (1, rows, columns)."""
    inside = min(shape.width, 2 * shape.words - shape.left)
    x = operand("x", (1, rows, inside), "int8", (rows * shape.width, shape.width, 1))
    planes = operand("planes", (1, rows, 2 * shape.words), "int16")
    meaning = _padded(x, planes, shape.left, inside, zero_point)
    half = zero_point & 0xFFFF
    arguments = [tirx.const(half << 16 | half, "uint32"), tirx.const(rows, "uint32")]
    return block(plane_lines_function(prefix, shape), meaning, lambda x, planes: [address(x), address(planes), *arguments])


def _padded(x: tirx.Var, planes: tirx.Var, left: int, inside: int, zero_point: int) -> Meaning:
    """`planes` are `x` from column `left` on, the zero point elsewhere; three nests, so that none has a condition."""
    count, rows, columns = (int(d) for d in planes.ty.shape)

    def part(name: str, first: int, extent: int, value: Any) -> list[tirx.Stmt]:
        def body(plane: Any, r: Any, column: Any) -> list[tirx.Stmt]:
            return [store(planes, value(plane, r, column), plane, r, column + first)]

        return [nest(name, {"plane": count, "r": rows, "column": extent}, (x, planes), body)] if extent > 0 else []

    def copied(plane: Any, r: Any, column: Any) -> Any:
        return load(x, plane, r, column).astype("int32")

    parts = part("left", 0, left, lambda *_: zero_point) + part("inside", left, inside, copied)
    parts += part("right", left + inside, columns - left - inside, lambda *_: zero_point)
    return Meaning((x, planes), parts[0] if len(parts) == 1 else tirx.SeqStmt(parts))
