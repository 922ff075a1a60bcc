# SPDX-License-Identifier: Apache-2.0
"""The depthwise block (`microkernels/depthwise_block`) as an intrinsic: rows of a few channels from padded planes of int16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorRegion

from tvm_tiny.schedules.blocks.base import Block, Meaning, address, block
from tvm_tiny.schedules.blocks.tir import Body, halfword, load, loop, nest, operand, region, requantised, store, sums_of, wide
from tvm_tiny.schedules.microkernels.depthwise_block import DepthwiseBlock, depthwise_function, rows_and_planes


def depthwise(prefix: str, shape: DepthwiseBlock, rows: int, channels: int | None = None) -> Block:
    """`rows` output rows of `channels` channels, by default as many as the function takes (`shape.planes`).

    Operands: `planes` int16 (channels, rows, columns), `stream` int32 (channels, words), `y` int8 (rows, width, channels).
    """
    channels = channels or shape.planes
    meaning = depthwise_meaning(shape, rows, channels)
    count = tirx.const(rows_and_planes(shape, rows, channels), "uint32")
    return block(
        depthwise_function(prefix, shape),
        meaning,
        lambda planes, stream, y, _sums: [address(planes), address(stream), address(y), count],
    )


def depthwise_meaning(shape: DepthwiseBlock, rows: int, channels: int) -> Meaning:
    """Sums over the window, tap by tap from the halves of packed words, and their requantisation."""
    height, row = (rows - 1) * shape.stride[0] + (shape.kernel[0] - 1) * shape.dilation[0] + 1, shape.row_bytes // 2
    planes = operand("planes", (channels, height, row), "int16", (shape.plane_bytes // 2 or height * row, row, 1))
    stream = operand("stream", (channels, shape.stream_bytes // 4), "int32")
    y = operand("y", (rows, shape.width, channels), "int8", (shape.width * shape.pixel_stride, shape.pixel_stride, 1))
    axes = {"plane": channels, "r": rows, "i": shape.width}
    sums = sums_of(axes)
    body = depthwise_body(
        shape,
        lambda plane, word: load(stream, plane, word),
        lambda plane, r, column: load(planes, plane, r, column),
        lambda plane, r, i, value: store(y, value, r, i, plane),
        sums,
    )

    def window(plane: Any, r: Any, _i: Any) -> list[TensorRegion]:
        return [region(planes, (plane, 1), *rows_read(shape, r))]

    return Meaning((planes, stream, y, sums), nest("depthwise", axes, (planes, stream, y, sums), body, window))


def rows_read(shape: DepthwiseBlock, r: Any) -> tuple[tuple[Any, int], tuple[int, int]]:
    """Of a plane the rows behind output row `r`, whole: the function loads words."""
    return (r * shape.stride[0], (shape.kernel[0] - 1) * shape.dilation[0] + 1), (0, shape.row_bytes // 2)


def depthwise_body(
    shape: DepthwiseBlock, parameter: Callable[..., Any], element: Callable[..., Any], output: Callable[..., tirx.Stmt], sums: tirx.Var
) -> Body:
    """Statements of one output (…, channel, row, column) from `parameter(…, word)` and `element(…, row, column)` to `output(…, value)`."""
    (kh, kw), (sh, sw), (dh, dw), pairs = shape.kernel, shape.stride, shape.dilation, shape.pairs
    places = [next((n, pair.index(tap)) for n, pair in enumerate(pairs) if tap in pair) for tap in range(kw)]

    def body(*at: Any) -> list[tirx.Stmt]:
        *plane, r, i = at
        here = (*at, 0)

        def kernel_row(ky: Any) -> list[tirx.Stmt]:
            terms = [
                wide(halfword(parameter(*plane, ky * len(pairs) + (1 + word)), half))
                * wide(element(*plane, r * sh + ky * dh, i * sw + kx * dw))
                for kx, (word, half) in enumerate(places)
            ]
            return [store(sums, load(sums, *here) + sum(terms[1:], terms[0]), *here)]

        acc = load(sums, *here).astype("int32")
        constants = [parameter(*plane, 1 + kh * len(pairs) + n) for n in range(shape.requant.words)]
        return [
            store(sums, wide(parameter(*plane, 0)), *here),
            loop("ky", kh, kernel_row),
            output(*at, requantised(shape.requant, acc, constants)),
        ]

    return body
