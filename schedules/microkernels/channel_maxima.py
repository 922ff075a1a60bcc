# SPDX-License-Identifier: Apache-2.0
"""The larger of two rows of int8, channel by channel, four a word: what pools of rows that lie anywhere are made of."""

from __future__ import annotations

from .c_source import CFunction, naked_function

FEWEST = 4
"""Channels worth it."""


def larger_channels(prefix: str) -> CFunction:
    """Emit `static void f(int8_t *best, const int8_t *x, uint32_t words)`: best = max(best, x), over `words` > 0 words of four channels."""
    compare = ["ldr r12, [r1], #4", "ldr r3, [r0]", "ssub8 lr, r3, r12", "sel r3, r3, r12", "subs r2, r2, #1", "str r3, [r0], #4"]
    lines = ["push {r4, lr}", "1:", *compare, "bne 1b", "pop {r4, pc}"]
    portable = "  for (uint32_t c = 0; c < 4u * words; ++c) best[c] = x[c] > best[c] ? x[c] : best[c];\n"
    return naked_function(f"{prefix}_larger", ("int8_t *best", "const int8_t *x", "uint32_t words"), lines, portable)
