# SPDX-License-Identifier: Apache-2.0
"""Rows of int8 to padded rows of int16 (`microkernels/planes`, `plane_lines`) as intrinsics: what depthwise blocks read."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from tvm_tiny.schedules.blocks.base import Block, Meaning, address, block
from tvm_tiny.schedules.blocks.tir import load, nest, operand, store
from tvm_tiny.schedules.microkernels.plane_lines import PlaneLines, plane_lines_function
from tvm_tiny.schedules.microkernels.planes import PlaneRow, plane_row_function


def plane_rows(prefix: str, shape: PlaneRow, rows: int, zero_point: int) -> Block:
    """Four channels of `rows` rows of NHWC. Operands: `x` int8 (rows, width, 4), `planes` int16 (4, rows, columns)."""
    inside = min(shape.width, 2 * shape.words - shape.left)
    x = operand("x", (rows, inside, 4), "int8", (shape.source_row, shape.pixel_stride, 1))
    planes = operand("planes", (4, rows, 2 * shape.words), "int16", (shape.plane_bytes // 2, shape.row_bytes // 2, 1))
    meaning = _padded(x, planes, shape.left, inside, zero_point, lambda plane, r, column: (r, column, plane))
    padding = tirx.const(0x01010101 * (zero_point & 0xFF), "uint32")
    arguments = [padding, tirx.const(rows, "uint32")]
    return block(plane_row_function(prefix, shape), meaning, lambda x, planes: [address(x), address(planes), *arguments])


def plane_lines(prefix: str, shape: PlaneLines, rows: int, zero_point: int) -> Block:
    """Rows that lie together. Operands: `x` int8 (1, rows, width), `planes` int16 (1, rows, columns)."""
    inside = min(shape.width, 2 * shape.words - shape.left)
    x = operand("x", (1, rows, inside), "int8", (rows * shape.width, shape.width, 1))
    planes = operand("planes", (1, rows, 2 * shape.words), "int16")
    meaning = _padded(x, planes, shape.left, inside, zero_point, lambda plane, r, column: (plane, r, column))
    half = zero_point & 0xFFFF
    arguments = [tirx.const(half << 16 | half, "uint32"), tirx.const(rows, "uint32")]
    return block(plane_lines_function(prefix, shape), meaning, lambda x, planes: [address(x), address(planes), *arguments])


def _padded(x: tirx.Var, planes: tirx.Var, left: int, inside: int, zero_point: int, source: Any) -> Meaning:
    """`planes` are `x` from column `left` on, the zero point elsewhere; three nests, so that none has a condition."""
    count, rows, columns = (int(d) for d in planes.ty.shape)

    def part(name: str, first: int, extent: int, value: Any) -> list[tirx.Stmt]:
        def body(plane: Any, r: Any, column: Any) -> list[tirx.Stmt]:
            return [store(planes, value(plane, r, column), plane, r, column + first)]

        return [nest(name, {"plane": count, "r": rows, "column": extent}, (x, planes), body)] if extent > 0 else []

    def copied(plane: Any, r: Any, column: Any) -> Any:
        return load(x, *source(plane, r, column)).astype("int32")

    parts = part("left", 0, left, lambda *_: zero_point) + part("inside", left, inside, copied)
    parts += part("right", left + inside, columns - left - inside, lambda *_: zero_point)
    return Meaning((x, planes), parts[0] if len(parts) == 1 else tirx.SeqStmt(parts))
