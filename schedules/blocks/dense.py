# SPDX-License-Identifier: Apache-2.0
"""The blocks of a fully connected layer (`microkernels/dense_block`) as intrinsics: pairs of channels, and the inputs' share."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from tvm_tiny.schedules.blocks.base import Block, Meaning, address, block
from tvm_tiny.schedules.blocks.tir import byte, halfword, load, loop, nest, operand, requantised, store, sums_of, wide
from tvm_tiny.schedules.microkernels.dense_block import DenseBlock, common_function, dense_function


def dense(prefix: str, shape: DenseBlock, groups: int, times: int) -> Block:
    """`times` blocks of channels over `groups` groups of four inputs.

    Operands: `x` int16 (groups, word, half) or int8 (groups, 4), `stream` int32 (blocks, words), `common` int32 (1), `y` int8 (channels).
    """
    meaning = _dense_meaning(shape, groups, times)
    whole = groups - shape.rest

    def arguments(x: tirx.Var, stream: tirx.Var, common: tirx.Var, y: tirx.Var, _sums: tirx.Var) -> list[Any]:
        last = address(x, whole, *[0] * (len(x.ty.shape) - 1))
        return [address(x), address(stream), address(y), address(stream, times, 0), last, load(common, 0)]

    return block(dense_function(prefix, shape), meaning, arguments)


def _dense_meaning(shape: DenseBlock, groups: int, times: int) -> Meaning:
    """T and V of a channel's pair, of which the first channel is (T - V) / 256 and the second V (see `dense_block`)."""
    x = operand("x", (groups, 2, 2), "int16") if shape.expanded else operand("x", (groups, 4), "int8")
    stream = operand("stream", (times, shape.stream_bytes(groups) // 4), "int32")
    common, y = operand("common", (1,), "int32"), operand("y", (times * shape.channels,), "int8")
    axes = {"m": times, "c": shape.channels}
    sums = sums_of(axes, 2)

    def inputs(g: Any) -> list[Any]:
        at = [(g, 0, 0), (g, 1, 0), (g, 0, 1), (g, 1, 1)] if shape.expanded else [(g, n) for n in range(4)]
        return [wide(load(x, *place)) for place in at]

    def body(m: Any, c: Any) -> list[tirx.Stmt]:
        pair = c // 2
        t, v = ((m, c, n) for n in (0, 1))

        def group(g: Any) -> list[tirx.Stmt]:
            x0, x1, x2, x3 = inputs(g)
            at = g * (2 * shape.pairs) + pair * 2 + 2 * shape.pairs
            a, b = load(stream, m, at), load(stream, m, at + 1)
            halves = [wide(halfword(word, half)) for word in (a, b) for half in (0, 1)]
            low = [wide(byte(word, index)) for word in (a, b) for index in (0, 2)]
            more_t = halves[0] * x0 + halves[1] * x2 + halves[2] * x1 + halves[3] * x3
            more_v = (low[0] + x1) * (low[2] + x0) + (low[1] + x3) * (low[3] + x2)
            return [store(sums, load(sums, *t) + more_t, *t), store(sums, load(sums, *v) + more_v, *v)]

        first = ((load(sums, *t) - load(sums, *v)).astype("int32")) >> 8
        acc = tirx.Select((c % 2).equal(0), first, load(sums, *v).astype("int32"))
        last = 2 * shape.pairs * (1 + groups)
        apart, own = (1, 0) if shape.uniform else (shape.channels, c)
        constants = [load(stream, m, own + (last + apart * n)) for n in range(shape.requant.words)]
        return [
            store(sums, wide(load(stream, m, pair * 2)), *t),
            store(sums, wide(load(stream, m, pair * 2 + 1)) - wide(load(common, 0)), *v),
            loop("g", groups, group),
            store(y, requantised(shape.requant, acc, constants), m * shape.channels + c),
        ]

    operands = (x, stream, common, y, sums)
    return Meaning(operands, nest("dense", axes, operands, body))


def common(prefix: str, groups: int, unroll: int, *, dual_issue: bool) -> Block:
    """x0 · x1 + x2 · x3 of all groups. Operands: `x` int8 (groups, 4), `sum` int32 (1)."""
    x, total = operand("x", (groups, 4), "int8"), operand("sum", (1,), "int32")

    def body() -> list[tirx.Stmt]:
        def group(g: Any) -> list[tirx.Stmt]:
            x0, x1, x2, x3 = (load(x, g, n).astype("int32") for n in range(4))
            return [store(total, load(total, 0) + (x0 * x1 + x2 * x3), 0)]

        return [store(total, 0, 0), loop("g", groups, group)]

    meaning = Meaning((x, total), nest("common", {}, (x, total), body))
    function = common_function(prefix, unroll, dual_issue=dual_issue)
    return block(function, meaning, lambda x, total: [address(x), address(x, groups, 0), address(total)])
