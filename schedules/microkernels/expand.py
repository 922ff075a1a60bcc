# SPDX-License-Identifier: Apache-2.0
"""Expansion of int8 activations into the pairs a GEMM block multiplies: a word of four bytes becomes two words of two halfwords."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .assembly import Body
from .c_source import CFunction, function_name, naked_function
from .scheduler import schedule

R8_OFFSET, R8_FLIP = 0xFF81FF81, 0x007F007F


@dataclass(frozen=True)
class Expand:
    """Description: `words` words of each of `pixels` pixels, `source_stride` bytes apart.

    Word i of pixel p goes to `dst + i * step + 8 * p`.
    """

    words: int
    pixels: int
    source_stride: int
    step: int
    operand: str
    dual_issue: bool = True


def expanded_pair(value: int, operand: str) -> tuple[int, int]:
    """Return the two expanded words of four equal activations (padding)."""
    byte = value & 0xFF
    if operand == "r8":
        low = (value - 127) & 0xFFFF
        high = ((byte << 8 | byte) ^ 0x7F) & 0xFFFF
        return low << 16 | low, high << 16 | high
    half = value & 0xFFFF
    return half << 16 | half, half << 16 | half


def fill_function(prefix: str, group: int, pair: tuple[int, int]) -> CFunction:
    """Emit `static void f(uint8_t *dst, uint32_t words)`: padding for one pixel of a group."""
    name = function_name(prefix, "fill", (group, pair))
    return CFunction(
        name,
        f"TINY_UNUSED static void {name}(uint8_t *dst, uint32_t words) {{\n"
        f"  for (; words != 0; --words, dst += {8 * group}) {{\n"
        f"    tiny_store(dst, 0x{pair[0]:08x}u);\n    tiny_store(dst + 4, 0x{pair[1]:08x}u);\n  }}\n}}\n",
    )


def expand_function(prefix: str, expand: Expand) -> CFunction:
    """Emit `static void f(const int8_t *src, void *dst)`."""
    name = function_name(prefix, "expand", expand)
    return naked_function(name, ("const int8_t *src", "void *dst"), _assembly(expand), _portable(expand))


def _iterations(expand: Expand) -> tuple[int, int, int]:
    """Return (words an iteration, iterations, words left over); offsets stay below 4096."""
    most = max(1, min(16 // expand.pixels, 4095 // max(expand.step, 1)))
    if expand.words <= most:
        return expand.words, 1, 0
    unroll = max(u for u in range(1, most + 1) if expand.words % u == 0)
    if unroll * 2 <= most:
        unroll = most
    return unroll, expand.words // unroll, expand.words % unroll


@lru_cache(maxsize=256)
def _assembly(expand: Expand) -> tuple[str, ...]:
    unroll, iterations, rest = _iterations(expand)
    lines = ["push {r4-r8, lr}"]
    if expand.operand == "r8":
        lines += [f"movw r3, #{R8_OFFSET & 0xFFFF}", f"movt r3, #{R8_OFFSET >> 16}"]
        lines += [f"movw r12, #{R8_FLIP & 0xFFFF}", f"movt r12, #{R8_FLIP >> 16}"]
    if iterations > 1:
        lines += [f"movw r2, #{iterations}", "1:"]
    lines += _straight(expand, unroll)
    if iterations > 1 or rest:
        lines += [f"add r0, r0, #{4 * unroll}", f"add r1, r1, #{expand.step * unroll}"]
    if iterations > 1:
        lines += ["subs r2, r2, #1", "bne 1b"]
    lines += _straight(expand, rest)
    return (*lines, "pop {r4-r8, pc}")


def _straight(expand: Expand, count: int) -> tuple[str, ...]:
    if count == 0:
        return ()
    body = Body()
    for i in range(count):
        for p in range(expand.pixels):
            raw = body.ldr("r0", 4 * i + p * expand.source_stride)
            if expand.operand == "r8":
                first = body.field_op("sxtab16", raw, head="r3", early=True)
                second = body.alu("eor", raw, tail="r12")
            else:
                first, second = body.sxtb16(raw), body.sxtb16(raw, 8)
            body.store(first, "r1", expand.step * i + 8 * p)
            body.store(second, "r1", expand.step * i + 8 * p + 4)
    return schedule(body, ("r4", "r5", "r6", "r7", "r8", "lr"), dual_issue=expand.dual_issue).lines


def portable_pair(operand: str) -> tuple[str, str]:
    """C expressions of the two expanded words of the word `raw`."""
    if operand == "r8":
        return "tiny_pack(tiny_byte(raw) - 127, tiny_byte(raw >> 16) - 127)", f"raw ^ 0x{R8_FLIP:08x}u"
    return "tiny_sxtb16(raw)", "tiny_sxtb16(raw >> 8)"


def _portable(expand: Expand) -> str:
    first, second = portable_pair(expand.operand)
    return (
        f"  uint8_t *to = dst;\n"
        f"  for (uint32_t i = 0; i < {expand.words}u; ++i) {{\n"
        f"    for (uint32_t p = 0; p < {expand.pixels}u; ++p) {{\n"
        f"      const uint32_t raw = tiny_load(src + 4 * i + p * {expand.source_stride}u);\n"
        f"      tiny_store(to + i * {expand.step}u + 8 * p, {first});\n"
        f"      tiny_store(to + i * {expand.step}u + 8 * p + 4, {second});\n"
        f"    }}\n"
        f"  }}\n"
    )


def shared_expand_function(prefix: str, operand: str) -> CFunction:
    """Emit the same with everything but the operand form an argument: one copy for all layers, a few cycles a word slower.

    `static void f(const int8_t *src, uint8_t *dst, uint32_t words, uint32_t stride, uint32_t pixels, uint32_t step)`
    """
    name = f"{prefix}_widen_{operand}"
    parameters = ("const int8_t *src", "uint8_t *dst", "uint32_t words", "uint32_t stride", "uint32_t pixels", "uint32_t step")
    lines = ["push {r4-r11, lr}", "ldr r4, [sp, #36]", "ldr r5, [sp, #40]"]
    first, second = "sxtb16 {1}, {0}", "sxtb16 {0}, {0}, ror #8"
    if operand == "r8":
        lines += [f"movw r11, #{R8_OFFSET & 0xFFFF}", f"movt r11, #{R8_OFFSET >> 16}"]
        lines += [f"movw r12, #{R8_FLIP & 0xFFFF}", f"movt r12, #{R8_FLIP >> 16}"]
        first, second = "sxtab16 {1}, r11, {0}", "eor {0}, {0}, r12"

    def widened(raw: str, other: str) -> list[str]:
        return [first.format(raw, other), second.format(raw, other), f"str {other}, [r1]", f"str {raw}, [r1, #4]", "add r1, r1, r5"]

    # a pixel is walked two words at a time; r6 and r7 keep where it began
    lines += ["1:", "mov r6, r0", "mov r7, r1", "mov lr, r2", "lsls r8, lr, #31", "beq 2f"]
    lines += ["ldr r8, [r0], #4", *widened("r8", "r9"), "subs lr, lr, #1", "beq 3f"]
    lines += ["2:", "ldr r8, [r0]", "ldr r10, [r0, #4]", "add r0, r0, #8", *widened("r8", "r9"), *widened("r10", "r9")]
    lines += ["subs lr, lr, #2", "bne 2b", "3:", "add r0, r6, r3", "add r1, r7, #8", "subs r4, r4, #1", "bne 1b", "pop {r4-r11, pc}"]
    portable = (
        "  for (uint32_t p = 0; p < pixels; ++p) {\n"
        "    for (uint32_t i = 0; i < words; ++i) {\n"
        "      const uint32_t raw = tiny_load(src + p * stride + 4 * i);\n"
        f"      tiny_store(dst + i * step + 8 * p, {portable_pair(operand)[0]});\n"
        f"      tiny_store(dst + i * step + 8 * p + 4, {portable_pair(operand)[1]});\n"
        "    }\n  }\n"
    )
    return naked_function(name, parameters, lines, portable)
