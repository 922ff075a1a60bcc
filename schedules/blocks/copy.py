# SPDX-License-Identifier: Apache-2.0
"""Copies of whole words (`microkernels/c_source.copy_function`) as an intrinsic: weights read more than once go through scratch."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from tvm_tiny.schedules.blocks.base import Block, Meaning, address, block, cast
from tvm_tiny.schedules.blocks.tir import load, nest, operand, store
from tvm_tiny.schedules.microkernels.c_source import copy_function


def copy(prefix: str, blocks: int, words: int) -> Block:
    """Operands: `source` int32 (blocks, words), `target` alike."""
    source, target = (operand(name, (blocks, words), "int32") for name in ("source", "target"))

    def body(m: Any, word: Any) -> list[tirx.Stmt]:
        return [store(target, load(source, m, word), m, word)]

    meaning = Meaning((source, target), nest("copy", {"m": blocks, "word": words}, (source, target), body))
    count = tirx.const(blocks * words, "uint32")
    return block(
        copy_function(prefix),
        meaning,
        lambda source, target: [cast("uint8_t *", address(target)), cast("const uint8_t *", address(source)), count],
    )
