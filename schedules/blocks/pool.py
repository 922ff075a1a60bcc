# SPDX-License-Identifier: Apache-2.0
"""The pooling block (`microkernels/pool_block`) as an intrinsic: maxima or requantised sums of one window, channel by channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorRegion

from tvm_tiny.schedules.blocks.base import Block, Meaning, address, block
from tvm_tiny.schedules.blocks.tir import Body, load, loop, nest, operand, region, requantised, store, sums_of, wide
from tvm_tiny.schedules.layer_form import whole
from tvm_tiny.schedules.microkernels.pool_block import ADDEND, COLUMNS, CONSTANT, MULTIPLIER, ROWS, PoolBlock, channels_function


def pool(prefix: str, blocks: Sequence[PoolBlock], extents: tuple[int, int], row_bytes: int, pixel_bytes: int, channels: int) -> Block:
    """One window of at most `extents` rows and columns, by the blocks of all its channels (`channel_blocks`).

    Operands: `x` int8 (rows, columns, channels), `window` uint32: rows, columns, bytes from the end of a row of the window to the next and
    from pixel to pixel, then for sums multiplier, constant and addend; `y` int8 (channels). The distances are `x`'s strides as well.
    """
    first, (*before, function) = blocks[0], channels_function(prefix, blocks)
    x = operand("x", (*extents, channels), "int8", (row_bytes, pixel_bytes, 1))
    window, y = operand("window", (first.window_words,), "uint32"), operand("y", (channels,), "int8")
    axes = {"c": channels}
    sums = sums_of(axes)
    body = pool_body(
        first,
        lambda _c, word: load(window, word).astype("int32"),
        lambda c, r, i: load(x, r, i, c),
        lambda c, value: store(y, value, c),
        sums,
    )

    def read(c: Any) -> list[TensorRegion]:
        return [region(x, *((0, extent) for extent in extents), (c, 1)), whole(window)]

    meaning = Meaning((x, window, y, sums), nest("pool", axes, (x, window, y, sums), body, read))
    chunks = tirx.const(max(1, channels // (4 * first.words)), "uint32")
    made = block(function, meaning, lambda x, window, y, _sums: [address(x), address(y), address(window), chunks])
    return replace(made, before=tuple(before))


def pool_body(
    shape: PoolBlock, parameter: Callable[..., Any], element: Callable[..., Any], output: Callable[..., tirx.Stmt], sums: tirx.Var
) -> Body:
    """Statements of one output from `parameter(…, word)` of its window (int32) and `element(…, row, column)` to `output(…, value)`.

    A window ends with the rows and columns that its words say.
    """

    def body(*at: Any) -> list[tirx.Stmt]:
        here = (*at, 0)

        def row(r: Any) -> list[tirx.Stmt]:
            def column(i: Any) -> list[tirx.Stmt]:
                value, so_far = wide(element(*at, r, i)), load(sums, *here)
                return [store(sums, tirx.max(so_far, value) if shape.requant is None else so_far + value, *here)]

            return [loop("i", parameter(*at, COLUMNS), column)]

        start = -128 if shape.requant is None else 0
        return [store(sums, start, *here), loop("r", parameter(*at, ROWS), row), output(*at, result(*at))]

    def result(*at: Any) -> Any:
        total = load(sums, *at, 0)
        if shape.requant is None:
            low, high = (tirx.const(v, "int64") for v in shape.clamp)
            return tirx.max(tirx.min(total, high), low)
        acc = total * tirx.const(1 << shape.requant.scale_log2, "int64") + wide(parameter(*at, ADDEND))
        return requantised(shape.requant, acc.astype("int32"), [parameter(*at, MULTIPLIER), parameter(*at, CONSTANT)])

    return body
