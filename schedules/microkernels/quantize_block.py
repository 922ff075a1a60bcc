# SPDX-License-Identifier: Apache-2.0
"""float32 to int8 six at a time, with the floating-point unit of a Cortex-M4F or M7 (single precision).

Each value is multiplied to 16 bits of fraction and cut to an integer, which saturates where the value is out of range. A group in which any
fraction lies within `MARGIN` of one half, or any value is no number, is left to the caller: nothing of it has been stored.
"""

from __future__ import annotations

from .c_source import ASSEMBLY_CONDITION, CFunction, naked_function

GROUP = 6
MARGIN = 64  # units of 2^-16
_CONDITION = f"{ASSEMBLY_CONDITION} && defined(__ARM_FP) && (__ARM_FP & 4)"
_FACTOR, _ADDEND = "s15", "r2"


def quantize_function(name: str) -> CFunction:
    """Emit `static uint32_t f(const float *x, int8_t *y, const uint32_t *constants, uint32_t groups)`.

    Constants: the factor's bits, and the zero point times 2^16 plus one half. Returns the groups left, from the first it could not do.
    """
    lines = ["push {r4-r11, lr}", f"vldr {_FACTOR}, [r2, #0]", "ldr r2, [r2, #4]"]
    lines += [f"mov r10, #{2 * MARGIN}", "orr r10, r10, r10, lsl #16"]  # a fraction below it, counted from one half less MARGIN, is near
    lines += [f"movw r11, #{0x8000 + MARGIN}", "orr r11, r11, r11, lsl #16", "1:", *_group(), "2:", "mov r0, r3", "pop {r4-r11, pc}"]
    parameters = ("const float *x", "int8_t *y", "const uint32_t *constants", "uint32_t groups")
    portable = "  (void)x;\n  (void)y;\n  (void)constants;\n  return groups;\n"
    return naked_function(name, parameters, lines, portable, "uint32_t ", _CONDITION)


def _group() -> list[str]:
    """Six values: products and sums in one unit beside the integers of the values before; stores when all are known to be right."""
    scaled = [f"s{8 + i}" for i in range(GROUP)]
    whole = [f"r{4 + i}" for i in range(GROUP)]
    load = [f"vldr s{i}, [r0, #{4 * i}]" for i in range(GROUP)]
    multiply = [f"vmul.f32 {s}, s{i}, {_FACTOR}" for i, s in enumerate(scaled)]
    cut = [f"vcvt.s32.f32 {s}, {s}" for s in scaled]
    move = [f"vmov {r}, {s}" for r, s in zip(whole, scaled, strict=True)]
    shift = [f"qadd {r}, {r}, {_ADDEND}" for r in whole]
    clamp = [f"ssat {r}, #8, {r}, asr #16" for r in whole]
    store = [f"strb {r}, [r1, #{i}]" for i, r in enumerate(whole)]
    first, second, third = (_near(whole[i], whole[i + 1], "lr" if i == 0 else "r12") for i in (0, 2, 4))
    return [
        *load[:3], multiply[0], load[3], multiply[1], load[4], multiply[2], load[5], cut[0], multiply[3], cut[1], multiply[4], cut[2],
        multiply[5], cut[3], move[0], cut[4], move[1], cut[5], first[0], move[2], first[1], move[3], first[2], "vadd.f32 s6, s0, s1",
        shift[0], "vadd.f32 s7, s2, s3", shift[1], move[4], second[0], move[5], second[1], "vadd.f32 s6, s6, s4", second[2],
        "vadd.f32 s7, s7, s5", "orr lr, lr, r12", clamp[0], third[0], "vadd.f32 s6, s6, s7", clamp[1], third[1], shift[2], third[2],
        shift[3], "orr lr, lr, r12", "vcmp.f32 s6, s6", shift[4], shift[5], clamp[2], "vmrs APSR_nzcv, fpscr", "bvs 2f", "cmp lr, #0",
        "bne 2f", clamp[3], store[0], clamp[4], store[1], clamp[5], store[2], f"add r0, r0, #{4 * GROUP}", store[3], "subs r3, r3, #1",
        store[4], store[5], f"add r1, r1, #{GROUP}", "bne 1b",
    ]  # fmt: skip


def _near(low: str, high: str, result: str) -> list[str]:
    """Not zero where a fraction of two values is near one half: in halfwords, 2 MARGIN - (fraction - (1/2 - MARGIN)), saturated."""
    return [f"pkhbt r12, {low}, {high}, lsl #16", "uadd16 r12, r12, r11", f"uqsub16 {result}, r10, r12"]
