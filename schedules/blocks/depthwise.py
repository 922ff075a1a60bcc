# SPDX-License-Identifier: Apache-2.0
"""The depthwise block (`microkernels/depthwise_block`) as an intrinsic: rows of a few channels from padded planes of int16."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from tvm_tiny.schedules.blocks.base import Block, Meaning, address, block
from tvm_tiny.schedules.blocks.tir import halfword, load, loop, nest, operand, requantised, store, sums_of, wide
from tvm_tiny.schedules.microkernels.depthwise_block import DepthwiseBlock, depthwise_function, rows_and_planes


def depthwise(prefix: str, shape: DepthwiseBlock, rows: int) -> Block:
    """`rows` output rows of `shape.planes` channels.

    Operands: `planes` int16 (planes, rows, columns), `stream` int32 (planes, words), `y` int8 (rows, width, planes).
    """
    meaning = depthwise_meaning(shape, rows)
    count = tirx.const(rows_and_planes(shape, rows, shape.planes), "uint32")
    return block(
        depthwise_function(prefix, shape),
        meaning,
        lambda planes, stream, y, _sums: [address(planes), address(stream), address(y), count],
    )


def depthwise_meaning(shape: DepthwiseBlock, rows: int) -> Meaning:
    """Sums over the window, tap by tap from the halves of packed words, and their requantisation."""
    (kh, kw), (sh, sw), (dh, dw), pairs = shape.kernel, shape.stride, shape.dilation, shape.pairs
    height, row, span = (rows - 1) * sh + (kh - 1) * dh + 1, shape.row_bytes // 2, (shape.width - 1) * sw + (kw - 1) * dw + 1
    planes = operand("planes", (shape.planes, height, span), "int16", (shape.plane_bytes // 2 or height * row, row, 1))
    stream = operand("stream", (shape.planes, shape.stream_bytes // 4), "int32")
    y = operand("y", (rows, shape.width, shape.planes), "int8", (shape.width * shape.pixel_stride, shape.pixel_stride, 1))
    axes = {"plane": shape.planes, "r": rows, "i": shape.width}
    sums = sums_of(axes)
    places = [next((n, pair.index(tap)) for n, pair in enumerate(pairs) if tap in pair) for tap in range(kw)]

    def body(plane: Any, r: Any, i: Any) -> list[tirx.Stmt]:
        here = (plane, r, i, 0)

        def kernel_row(ky: Any) -> list[tirx.Stmt]:
            terms = [
                wide(halfword(load(stream, plane, ky * len(pairs) + (1 + word)), half))
                * wide(load(planes, plane, r * sh + ky * dh, i * sw + kx * dw))
                for kx, (word, half) in enumerate(places)
            ]
            return [store(sums, load(sums, *here) + sum(terms[1:], terms[0]), *here)]

        acc = load(sums, *here).astype("int32")
        constants = [load(stream, plane, 1 + kh * len(pairs) + n) for n in range(shape.requant.words)]
        return [
            store(sums, wide(load(stream, plane, 0)), *here),
            loop("ky", kh, kernel_row),
            store(y, requantised(shape.requant, acc, constants), r, i, plane),
        ]

    return Meaning((planes, stream, y, sums), nest("depthwise", axes, (planes, stream, y, sums), body))
