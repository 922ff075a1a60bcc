# SPDX-License-Identifier: Apache-2.0
"""The blocks of Winograd F(2×2, 3×3) (`microkernels/winograd_block`) as intrinsics: input transform; products and output transform."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from tvm_tiny.schedules.blocks.base import Block, Meaning, address, block
from tvm_tiny.schedules.blocks.tir import halfword, load, loop, nest, operand, requantised, store, sums_of, wide
from tvm_tiny.schedules.microkernels.winograd_block import ProductBlock, TileGroup, product_function, transform_function

_ROWS = ((0, -1, 2), (1, 1, 2), (2, -1, 1), (1, -1, 3))
"""Row i of B^T d: first of four values, sign of the second, second."""
_OUTPUTS = ((1, 1, 1, 0), (0, 1, -1, -1))
"""Row n of A^T."""


def transform(prefix: str, shape: TileGroup) -> Block:
    """Operands: `x` int8 (4 rows, columns, channels), `group` int16 (16 positions, channel pairs, tiles, 2)."""
    meaning = transform_meaning(shape)
    return block(transform_function(prefix, shape), meaning, lambda x, group: [address(x), address(group)])


def transform_meaning(shape: TileGroup) -> Meaning:
    """B^T d B of every tile; channels (c, c + 2) and (c + 1, c + 3) of four are pairs."""
    x = operand("x", (4, 2 * shape.tiles + 2, shape.channels), "int8", (shape.row_bytes, shape.channels, 1))
    group = group_operand(shape)

    def body(quad: Any, odd: Any, half: Any, tile: Any) -> list[tirx.Stmt]:
        def at(row: int, column: int) -> Any:
            return load(x, row, tile * 2 + column, quad * 4 + odd + half * 2).astype("int32")

        def across(row: int, column: int) -> Any:
            first, sign, second = _ROWS[row]
            return at(first, column) + at(second, column) if sign > 0 else at(first, column) - at(second, column)

        statements = []
        for i in range(4):
            for j, (first, sign, second) in enumerate(_ROWS):
                value = across(i, first) + across(i, second) if sign > 0 else across(i, first) - across(i, second)
                statements.append(store(group, value, 4 * i + j, quad * 2 + odd, tile, half))
        return statements

    axes = {"quad": shape.channels // 4, "odd": 2, "half": 2, "tile": shape.tiles}
    return Meaning((x, group), nest("transform", axes, (x, group), body))


def group_operand(shape: TileGroup) -> tirx.Var:
    """The transformed input of a group of tiles; sums lie behind each position's."""
    return operand("group", (16, shape.channels // 2, shape.tiles, 2), "int16", (shape.position_bytes // 2, 2 * shape.tiles, 2, 1))


def products(prefix: str, shape: ProductBlock) -> Block:
    """Operands: `group` as `transform` makes it, `stream` int32 (words), `y` int8 (2 rows, columns, channels).

    The function keeps its sums in the bytes behind each position of the group.
    """
    meaning = products_meaning(shape)
    function = product_function(prefix, shape)
    return block(function, meaning, lambda group, stream, y, _sums: [address(group), address(stream), address(y)])


def products_meaning(shape: ProductBlock, blocks: int = 1) -> Meaning:
    """A^T [sum over channels of U V] A, bias and requantisation, of `blocks` blocks of channels."""
    group, tiles, channels = shape.group, shape.group.tiles, shape.group.block
    v = group_operand(group)
    stream = operand("stream", (blocks, shape.stream_bytes // 4), "int32")
    y = operand("y", (2, 2 * tiles, blocks * channels), "int8", (shape.line_stride, shape.pixel_stride, 1))
    axes = {"m": blocks, "c": channels, "tile": tiles}
    sums, pairs = sums_of(axes, 4), group.channels // 2

    def body(m: Any, c: Any, tile: Any) -> list[tirx.Stmt]:
        def pair(k: Any) -> list[tirx.Stmt]:
            found = []
            for n in range(4):
                total = load(sums, m, c, tile, n)
                for position in range(16):
                    sign = _OUTPUTS[n // 2][position // 4] * _OUTPUTS[n % 2][position % 4]
                    if not sign:
                        continue
                    word = load(stream, m, k * channels + c + channels * pairs * position)
                    product = sum(wide(halfword(word, half)) * wide(load(v, position, k, tile, half)) for half in (0, 1))
                    total = total + product if sign > 0 else total - product
                found.append(store(sums, total, m, c, tile, n))
            return found

        last = channels * pairs * 16
        bias = wide(load(stream, m, c + last))
        constants = [load(stream, m, c + last + channels * (1 + n)) for n in range(shape.requant.words)]
        results = []
        for n in range(4):
            acc = load(sums, m, c, tile, n).astype("int32")
            results.append(store(y, requantised(shape.requant, acc, constants), n // 2, tile * 2 + n % 2, m * channels + c))
        return [*(store(sums, bias, m, c, tile, n) for n in range(4)), loop("k", pairs, pair), *results]

    return Meaning((v, stream, y, sums), nest("products", axes, (v, stream, y, sums), body))
