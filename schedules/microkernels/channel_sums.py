# SPDX-License-Identifier: Apache-2.0
"""Sums of int8 pixels, channel by channel: eight channels at once in the halves of four words."""

from __future__ import annotations

from .c_source import CFunction, naked_function

TOGETHER = 8
"""Channels of a call."""

MOST_PIXELS = 256
"""Of a call, so that sums of bytes fit into half a word."""


def channel_sums(prefix: str) -> CFunction:
    """Emit `static void f(const int8_t *x, int32_t *sums, uint32_t pixels, uint32_t stride)`.

    Adds eight channels of up to `MOST_PIXELS` > 0 pixels that lie `stride` bytes apart to eight sums.
    """
    lines = ["push {r4-r9, lr}", *(f"mov r{i}, #0" for i in range(4, 8))]
    lines += ["1:", "ldr r8, [r0]", "ldr r9, [r0, #4]", "add r0, r0, r3"]
    lines += ["sxtab16 r4, r4, r8", "sxtab16 r5, r5, r8, ror #8", "sxtab16 r6, r6, r9", "sxtab16 r7, r7, r9, ror #8"]
    lines += ["subs r2, r2, #1", "bne 1b"]
    for i, (even, odd) in enumerate((("r4", "r5"), ("r6", "r7"))):
        lines += [f"ldr {r}, [r1, #{16 * i + 4 * k}]" for k, r in enumerate(("r2", "r3", "r8", "r9"))]
        lines += [f"sxtah r2, r2, {even}", f"sxtah r3, r3, {odd}", f"sxtah r8, r8, {even}, ror #16", f"sxtah r9, r9, {odd}, ror #16"]
        lines += [f"str {r}, [r1, #{16 * i + 4 * k}]" for k, r in enumerate(("r2", "r3", "r8", "r9"))]
    portable = f"  for (; pixels != 0; --pixels, x += stride)\n    for (int32_t c = 0; c < {TOGETHER}; ++c) sums[c] += x[c];\n"
    parameters = ("const int8_t *x", "int32_t *sums", "uint32_t pixels", "uint32_t stride")
    return naked_function(f"{prefix}_channel_sums", parameters, (*lines, "pop {r4-r9, pc}"), portable)
