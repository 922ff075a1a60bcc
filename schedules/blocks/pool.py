# SPDX-License-Identifier: Apache-2.0
"""The pooling block (`microkernels/pool_block`) as an intrinsic: maxima or requantised sums of one window, channel by channel."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from tvm_tiny.schedules.blocks.base import Block, Meaning, address, block
from tvm_tiny.schedules.blocks.tir import load, loop, nest, operand, requantised, store, sums_of, wide
from tvm_tiny.schedules.microkernels.pool_block import ADDEND, CONSTANT, MULTIPLIER, WORDS, PoolBlock, pool_function


def pool(prefix: str, shape: PoolBlock, window: tuple[int, int], row_bytes: int, pixel_bytes: int, chunks: int) -> Block:
    """One window of `window` rows and columns.

    Operands: `x` int8 (rows, columns, channels), `window` uint32 (7): rows, columns, bytes from the end of a row of the window to the next
    and from pixel to pixel, then for sums multiplier, constant and addend; `y` int8 (channels). The description has four built in.
    """
    rows, columns = window
    channels = 4 * shape.words * chunks
    x = operand("x", (rows, columns, channels), "int8", (row_bytes, pixel_bytes, 1))
    words, y = operand("window", (WORDS,), "uint32"), operand("y", (channels,), "int8")
    axes = {"c": channels}
    total = sums_of(axes)

    def body(c: Any) -> list[tirx.Stmt]:
        def element(r: Any) -> list[tirx.Stmt]:
            def step(i: Any) -> list[tirx.Stmt]:
                value, so_far = wide(load(x, r, i, c)), load(total, c, 0)
                return [store(total, tirx.max(so_far, value) if shape.requant is None else so_far + value, c, 0)]

            return [loop("i", columns, step)]

        return [store(total, -128 if shape.requant is None else 0, c, 0), loop("r", rows, element), store(y, result(c), c)]

    def signed(word: int) -> Any:
        return load(words, word).astype("int32")

    def result(c: Any) -> Any:
        if shape.requant is None:
            low, high = (tirx.const(v, "int64") for v in shape.clamp)
            return tirx.max(tirx.min(load(total, c, 0), high), low)
        acc = load(total, c, 0) * tirx.const(1 << shape.requant.scale_log2, "int64") + wide(signed(ADDEND))
        return requantised(shape.requant, acc.astype("int32"), [signed(MULTIPLIER), signed(CONSTANT)])

    meaning = Meaning((x, words, y, total), nest("pool", axes, (x, words, y, total), body))
    count = tirx.const(chunks, "uint32")
    return block(pool_function(prefix, shape), meaning, lambda x, words, y, _sums: [address(x), address(y), address(words), count])
