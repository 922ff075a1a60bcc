# SPDX-License-Identifier: Apache-2.0
"""Columns of a convolution over few channels whose input rows are found by pointers, gathered and expanded in one go: as `gather.py`, where
rows need not lie together.

A few rows are walked by pointers that stay in registers; of more, each pixel loads them again. No byte outside the window is read.
"""

from __future__ import annotations

from functools import lru_cache

from .assembly import Body, Kind
from .c_source import CFunction, add_immediate, function_name, naked_function
from .gather import Gather, operand_constants, portable_columns, store_windows
from .scheduler import schedule

_HELD = 4  # rows whose pointers stay in registers
_SAVED = ("r5", "r6", "r7", "r8", "r9", "r10", "r11", "lr")


def gather_rows_function(prefix: str, gather: Gather) -> CFunction:
    """Emit `static void f(const int8_t *const *rows, uint8_t *dst, uint32_t at, uint32_t count)`: `count` of the windows, 1 or more, whose
    first begins at byte `at` of each of `rows`; `gather.row_bytes` does not count."""
    name = function_name(prefix, "gather_rows", gather)
    parameters = ("const int8_t *const *rows", "uint8_t *dst", "uint32_t at", "uint32_t count")
    where = f"const int8_t *row = rows[k / {gather.segment}] + at"
    portable = portable_columns(gather, where, f"row[p * {gather.pixel_bytes}u + k % {gather.segment}]", "count")
    return naked_function(name, parameters, _assembly(gather), portable)


@lru_cache(maxsize=64)
def _assembly(gather: Gather) -> tuple[str, ...]:
    lines = ["push {r4-r11, lr}", *operand_constants(gather, "r4")]
    held = _SAVED[: gather.rows] if gather.rows <= _HELD else ()
    lines += [f"ldr {pointer}, [r0, #{4 * row}]" for row, pointer in enumerate(held)]
    lines += [f"add {pointer}, {pointer}, r2" for pointer in held]
    free = ("r0", "r2", *_SAVED[len(held) :]) if held else _SAVED
    straight = schedule(_window(gather, held), free, dual_issue=gather.dual_issue).lines
    if gather.pixels == 1:
        return (*lines, *straight, "pop {r4-r11, pc}")
    step = [line for pointer in held or ("r2",) for line in add_immediate(pointer, gather.pixel_bytes, free[-1])]
    return (*lines, "1:", *straight, *step, "add r1, r1, #8", "subs r3, r3, #1", "bne 1b", "pop {r4-r11, pc}")


def _window(gather: Gather, held: tuple[str, ...]) -> Body:
    """A pixel's window: its words put together, expanded and stored."""
    body = Body()
    pointers: dict[int, int] = {}

    def load(width: str, row: int, offset: int) -> int:
        if held:
            return body.ldr(held[row], offset, width)
        if row not in pointers:
            pointers[row] = body.alu("add", body.ldr("r0", 4 * row), tail="r2")
        return body.emit(f"ldr{width} {{d}}, [{{0}}, #{offset}]", Kind.LOAD, pointers[row], early=(0,))

    store_windows(gather, body, load, "r4")
    return body
