# SPDX-License-Identifier: Apache-2.0
"""Expansion of pixels whose number of channels is data: one function for every pointwise layer of an operand form."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

from .assembly import Body
from .c_source import CFunction, naked_function
from .expand import R8_FLIP, R8_OFFSET, portable_pair
from .scheduler import schedule

_POOL = ("r3", "r6", "r7", "r8", "r9", "lr")
_POINTERS = ("r0", "r4", "r5")


def widen_function(prefix: str, operand: str, pixels: int, dual_issue: bool) -> CFunction:
    """Emit `static void f(const int8_t *src, uint8_t *dst, uint32_t words, uint32_t stride, uint32_t shift)`.

    `words` whole words of each of `pixels` pixels that lie `stride` bytes apart; word i of pixel p goes to `dst + 8 * (pixels * i + p)`.
    Where `shift` is not zero, 32 - shift further bits of each pixel follow, taken from the word that ends with them: nothing outside the
    pixel is read.
    """
    parameters = ("const int8_t *src", "uint8_t *dst", "uint32_t words", "uint32_t stride", "uint32_t shift")
    name = f"{prefix}_widen{pixels}_{operand}"
    return naked_function(name, parameters, _assembly(operand, pixels, dual_issue), _portable(operand, pixels))


@lru_cache(maxsize=16)
def _assembly(operand: str, pixels: int, dual_issue: bool) -> tuple[str, ...]:
    pointers = _POINTERS[:pixels]
    lines = ["push {r4-r12, lr}", "ldr r10, [sp, #40]"]
    if operand == "r8":
        lines += [f"movw r11, #{R8_OFFSET & 0xFFFF}", f"movt r11, #{R8_OFFSET >> 16}"]
        lines += [f"movw r12, #{R8_FLIP & 0xFFFF}", f"movt r12, #{R8_FLIP >> 16}"]
    lines += [f"add {after}, {before}, r3" for before, after in pairwise(pointers)]

    def straight(words: int) -> list[str]:
        found = list(_straight(operand, pointers, words, dual_issue, tail=False))
        return [*found, *(f"add {p}, {p}, #{4 * words}" for p in pointers), f"add r1, r1, #{8 * pixels * words}"]

    lines += ["lsls r6, r2, #31", "beq 1f", *straight(1)]
    lines += ["1:", "lsrs r2, r2, #1", "beq 3f", "2:", *straight(2), "subs r2, r2, #1", "bne 2b"]
    lines += ["3:", "cmp r10, #0", "beq 4f", *(f"sub {p}, {p}, r10, lsr #3" for p in pointers)]
    lines += _straight(operand, pointers, 1, dual_issue, tail=True)
    return (*lines, "4:", "pop {r4-r12, pc}")


def _straight(operand: str, pointers: tuple[str, ...], words: int, dual_issue: bool, *, tail: bool) -> tuple[str, ...]:
    body = Body()
    for i in range(words):
        for p, pointer in enumerate(pointers):
            raw = body.ldr(pointer, 4 * i)
            if tail:
                raw = body.alu("lsr", raw, tail="r10")
            if operand == "r8":
                first, second = body.field_op("sxtab16", raw, head="r11", early=True), body.alu("eor", raw, tail="r12")
            else:
                first, second = body.sxtb16(raw), body.sxtb16(raw, 8)
            at = 8 * (len(pointers) * i + p)
            body.store(first, "r1", at)
            body.store(second, "r1", at + 4)
    return schedule(body, _POOL, dual_issue=dual_issue).lines


def _portable(operand: str, pixels: int) -> str:
    first, second = portable_pair(operand)
    return (
        f"  for (uint32_t p = 0; p < {pixels}u; ++p, src += stride) {{\n"
        f"    for (uint32_t i = 0; i < words + (shift != 0); ++i) {{\n"
        f"      const uint32_t raw = i < words ? tiny_load(src + 4 * i) : tiny_load(src + 4 * i - shift / 8) >> shift;\n"
        f"      tiny_store(dst + 8 * ({pixels}u * i + p), {first});\n"
        f"      tiny_store(dst + 8 * ({pixels}u * i + p) + 4, {second});\n"
        f"    }}\n  }}\n"
    )
