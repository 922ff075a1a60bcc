# SPDX-License-Identifier: Apache-2.0
"""Columns of products (`microkernels/expand`, `gather`) as intrinsics: activations widened to the words that meet packed weights.

`columns` is int16 (words, pixels, word, half): of four activations b0 … b3 the words (b0, b2) and (b1, b3); for operand form r8
(b0 - 127, b2 - 127) and (256 b1 + 127 - b0, 256 b3 + 127 - b2).
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from tvm_tiny.schedules.blocks.base import Block, Meaning, address, block, cast
from tvm_tiny.schedules.blocks.tir import load, nest, operand, store
from tvm_tiny.schedules.microkernels.expand import Expand, expand_function, expanded_pair, fill_function, shared_expand_function
from tvm_tiny.schedules.microkernels.gather import Gather, gather_function
from tvm_tiny.schedules.microkernels.widen import widen_function


def widened(operand_form: str, word: Any, even: Any, odd: Any) -> Any:
    """The halfword of `word` that two neighbouring activations (int32) become; `word` is a number or an axis."""
    first, second = (even - 127, odd * 256 + 127 - even) if operand_form == "r8" else (even, odd)
    return (second if word else first) if isinstance(word, int) else tirx.Select(word.equal(0), first, second)


def expand(prefix: str, shape: Expand, *, shared: str = "") -> Block:
    """Operands: `x` int8 (pixels, 4 × words), `columns` int16 (words, pixels, 2, 2).

    `shared` "any" calls the function that takes everything but the operand form as arguments, "pixels" that for a number of pixels alone.
    """
    x = operand("x", (shape.pixels, 4 * shape.words), "int8", (shape.source_stride or 4 * shape.words, 1))
    columns = operand("columns", (shape.words, shape.pixels, 2, 2), "int16", (shape.step // 2, 4, 2, 1))

    meaning = Meaning((x, columns), expansion(x, columns, shape.operand, {"i": shape.words, "p": shape.pixels}))
    if not shared:
        return block(expand_function(prefix, shape), meaning, lambda x, columns: [address(x), address(columns)])
    numbers = (shape.words, shape.source_stride, *((shape.pixels, shape.step) if shared == "any" else (0,)))
    sizes = [tirx.const(n, "uint32") for n in numbers]
    function = shared_expand_function(prefix, "r8" if shape.operand == "r8" else "w8")
    if shared == "pixels":
        function = widen_function(prefix, shape.operand, shape.pixels, shape.dual_issue)
    return block(function, meaning, lambda x, columns: [address(x), cast("uint8_t *", address(columns)), *sizes])


def expansion(
    x: tirx.Var, columns: tirx.Var, operand_form: str, axes: dict[str, int], *, name: str = "expand", pixel: int = 0
) -> tirx.Stmt:
    """Columns (…, words, pixels, word, half) of `x` (pixels, bytes) from `pixel` on; `axes` are n (groups of pixels, if any), i and p."""
    pixels = axes["p"]

    def body(*at: Any) -> list[tirx.Stmt]:
        *group, i, p, word, half = at
        even, odd = (load(x, (group[0] * pixels + p if group else p) + pixel, i * 4 + half * 2 + n).astype("int32") for n in (0, 1))
        return [store(columns, widened(operand_form, word, even, odd), *at)]

    return nest(name, {**axes, "word": 2, "half": 2}, (x, columns), body)


def fill(prefix: str, words: int, group: int, zero_point: int, operand_form: str) -> Block:
    """Padding for one pixel of a group. Operand: `columns` int16 (words, 2, 2), words of a group of `group` pixels apart."""
    columns = operand("columns", (words, 2, 2), "int16", (4 * group, 2, 1))
    zero = tirx.const(zero_point, "int32")

    def body(i: Any, word: Any, half: Any) -> list[tirx.Stmt]:
        return [store(columns, widened(operand_form, word, zero, zero), i, word, half)]

    meaning = Meaning((columns,), nest("fill", {"i": words, "word": 2, "half": 2}, (columns,), body))
    function = fill_function(prefix, group, expanded_pair(zero_point, operand_form))
    return block(function, meaning, lambda columns: [cast("uint8_t *", address(columns)), tirx.const(words, "uint32")])


def gather(prefix: str, shape: Gather) -> Block:
    """Windows wholly inside the image, bytes past the window zero.

    Operands: `x` int8 (rows, bytes of all windows of a row), `columns` int16 (words, pixels, 2, 2).
    """
    x = operand("x", (shape.rows, (shape.pixels - 1) * shape.pixel_bytes + shape.segment), "int8", (shape.row_bytes, 1))
    columns = operand("columns", (shape.words, shape.pixels, 2, 2), "int16")
    size = shape.rows * shape.segment

    def activation(k: int, p: Any) -> Any:
        if k >= size:
            return tirx.const(0, "int32")
        return load(x, k // shape.segment, p * shape.pixel_bytes + k % shape.segment).astype("int32")

    def body(p: Any) -> list[tirx.Stmt]:
        places = [(i, word, half) for i in range(shape.words) for word in (0, 1) for half in (0, 1)]
        return [
            store(
                columns,
                widened(shape.operand, word, activation(4 * i + 2 * half, p), activation(4 * i + 2 * half + 1, p)),
                i,
                p,
                word,
                half,
            )
            for i, word, half in places
        ]

    meaning = Meaning((x, columns), nest("gather", {"p": shape.pixels}, (x, columns), body))
    return block(gather_function(prefix, shape), meaning, lambda x, columns: [address(x), address(columns)])
