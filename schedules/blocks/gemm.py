# SPDX-License-Identifier: Apache-2.0
"""The block of products (`microkernels/gemm_block`, `gemm_shared`) as an intrinsic: channels × pixels from expanded columns."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from tvm_tiny.schedules.blocks.base import Block, Meaning, address, block
from tvm_tiny.schedules.blocks.tir import Body, byte, halfword, load, loop, nest, operand, requantised, store, sums_of, wide
from tvm_tiny.schedules.microkernels.c_source import CFunction, function_name
from tvm_tiny.schedules.microkernels.gemm_block import GemmBlock, gemm_function
from tvm_tiny.schedules.microkernels.gemm_shared import shared_gemm_function, whole_bytes
from tvm_tiny.schedules.requantize_forms import Form


def gemm(prefix: str, shape: GemmBlock, times: int, *, stride: int | None = None, shared: str = "") -> Block:
    """All blocks of one call.

    Operands: `columns` int16 (groups of pixels, groups of k, pixels, word, half), `stream` int32 (channel blocks, words), `y` int8 (pixels,
    channels), transposed for planes; or `tiles` int32 (channel blocks, pixels, channels) where the requantisation has no form.

    Parameters
    ----------
    times : int
        Channel blocks (order "channels") or groups of pixels (order "pixels") of the call.
    stride : int, optional
        Bytes from pixel to pixel of `y`, where the block does not fix them.
    shared : str
        "any" calls the function for sums of any length, "length" the one for those of this length; "" the block's own.
    """
    stride = shape.pixel_stride or stride or shape.channels * times
    blocks, groups = (times, 1) if shape.order == "channels" else (1, times)
    meaning = gemm_meaning(shape, blocks, groups, stride)
    if shared:
        function = _walk(prefix, shape, times, stride, fixed=shared == "length")
        return block(function, meaning, lambda columns, stream, y, *_sums: [address(columns), address(stream), address(y)])
    function = gemm_function(prefix, shape)

    def arguments(columns: tirx.Var, stream: tirx.Var, y: tirx.Var, *_sums: tirx.Var) -> list[Any]:
        end = address(stream, times, 0) if shape.order == "channels" else address(columns, times, 0, 0, 0, 0)
        return [address(columns), address(stream), address(y), end, tirx.const(stride, "uint32")]

    return block(function, meaning, arguments)


def _walk(prefix: str, shape: GemmBlock, times: int, stride: int, *, fixed: bool) -> CFunction:
    """A shared block and a function that walks it over one call's operands."""
    made, by_channels = shared_gemm_function(prefix, shape, fixed=fixed), shape.order == "channels"
    nbytes, constants = shape.scratch_bytes, 4 * shape.channels * shape.requant.words
    steps = (-nbytes, constants, shape.channels) if by_channels else (0, constants - shape.stream_bytes, shape.pixels * stride)
    fields = (times, whole_bytes(shape.pixels, shape.groups), nbytes, *steps, stride)
    name = function_name(prefix, "walk", (made.name, fields))
    return CFunction(
        name,
        f"{made.source}static void {name}(const void *x, const void *w, int8_t *y) {{\n"
        f"  static const tiny_walk walk = {{{', '.join(map(str, fields))}}};\n  {made.name}(x, w, y, &walk);\n}}\n",
    )


def gemm_meaning(shape: GemmBlock, blocks: int, groups: int, stride: int) -> Meaning:
    """Sums of products and their requantisation: `blocks` of channels × `groups` of pixels, whose outputs lie `stride` bytes apart."""
    c, p, planar = shape.channels, shape.pixels, shape.channel_stride > 1
    columns = operand("columns", (groups, shape.groups, p, 2, 2), "int16")
    stream = operand("stream", (blocks, shape.stream_bytes // 4), "int32")
    axes = {"n": groups, "m": blocks, "p": p, "c": c}
    if shape.requant.form is Form.ACCUMULATOR:
        y = operand("tiles", (blocks, p, c), "int32")
    elif planar:
        y = operand("y", (blocks * c, groups * p), "int8", (shape.channel_stride, stride))
    else:
        y = operand("y", (groups * p, blocks * c), "int8", (stride, 1))
    operands = (columns, stream, y, sums_of(axes))
    return Meaning(operands, nest("gemm", axes, operands, gemm_body(shape, *operands)))


def gemm_body(shape: GemmBlock, columns: tirx.Var, stream: tirx.Var, y: tirx.Var, sums: tirx.Var, pixel: int = 0, channel: int = 0) -> Body:
    """Statements of one output (n, m, p, c); the first of all is `pixel` and `channel` of `y`."""
    planar = shape.channel_stride > 1

    def body(n: Any, m: Any, p: Any, c: Any) -> list[tirx.Stmt]:
        here = (n, m, p, c, 0)

        def product(g: Any) -> list[tirx.Stmt]:
            terms = [
                wide(_weight(shape, stream, m, g, c, word, half)) * wide(load(columns, n, g, p, word, half))
                for word in range(2)
                for half in range(2)
            ]
            return [store(sums, load(sums, *here) + sum(terms[1:], terms[0]), *here)]

        acc = load(sums, *here).astype("int32")
        statements = [store(sums, wide(load(stream, m, c)), *here), loop("g", shape.groups, product)]
        if shape.requant.form is Form.ACCUMULATOR:
            return [*statements, store(y, acc, m, p, c)]
        last = shape.channels * (1 + shape.groups * shape.weight_words)
        constants = [load(stream, m, last + shape.channels * i + c) for i in range(shape.requant.words)]
        at = (n * shape.pixels + p + pixel, m * shape.channels + c + channel)
        return [*statements, store(y, requantised(shape.requant, acc, constants), *(reversed(at) if planar else at))]

    return body


def _weight(shape: GemmBlock, stream: tirx.Var, m: Any, g: Any, channel: Any, word: int, half: int) -> Any:
    """The weight that meets `half` of `word` of group `g`: r8 has two in a halfword, whose low one alone meets the second word."""
    first = shape.channels + shape.weight_words * (g * shape.channels + channel)
    if shape.operand == "w16":
        return halfword(load(stream, m, first + word), half)
    packed = load(stream, m, first)
    if shape.operand == "w8":
        return byte(packed, 2 * half + word)
    return byte(packed, 2 * half) if word else halfword(packed, half)
