# SPDX-License-Identifier: Apache-2.0
"""C text shared by the microkernels: the preamble of helpers, functions with two bodies (assembly and portable), and their merging.

Each assembly body is a *naked* function: it saves r4-r11 and lr itself, so it compiles at any optimisation level, with a frame pointer,
with -fpic and under either compiler, and it may use all fourteen registers. The portable body means the same, word for word, over the same
packed data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

ASSEMBLY_CONDITION = "defined(__ARM_FEATURE_DSP) && defined(__thumb2__) && !defined(TINY_PORTABLE_KERNELS)"

PREAMBLE = f"""\
#ifndef TINY_MICROKERNELS_PREAMBLE
#define TINY_MICROKERNELS_PREAMBLE
#include <stdint.h>
#include <string.h>
#if defined(__GNUC__)
#define TINY_UNUSED __attribute__((unused))
#define TINY_NOINLINE __attribute__((noinline))
#else
#define TINY_UNUSED
#define TINY_NOINLINE
#endif
#if {ASSEMBLY_CONDITION}
#define TINY_NAKED __attribute__((naked, noinline, used))
#endif
/* Instructions of the Armv7E-M DSP extension, spelled out; the packed parameters are little-endian. */
TINY_UNUSED static inline uint32_t tiny_load(const void *p) {{ uint32_t v; memcpy(&v, p, 4); return v; }}
TINY_UNUSED static inline void tiny_store(void *p, uint32_t v) {{ memcpy(p, &v, 4); }}
TINY_UNUSED static inline int32_t tiny_low(uint32_t v) {{ return (int32_t)(v & 0xffffu) - (int32_t)((v & 0x8000u) << 1); }}
TINY_UNUSED static inline int32_t tiny_high(uint32_t v) {{ return tiny_low(v >> 16); }}
TINY_UNUSED static inline uint32_t tiny_pack(int32_t low, int32_t high) {{ return ((uint32_t)low & 0xffffu) | ((uint32_t)high << 16); }}
TINY_UNUSED static inline int32_t tiny_byte(uint32_t v) {{ return (int32_t)(v & 0xffu) - (int32_t)((v & 0x80u) << 1); }}
TINY_UNUSED static inline uint32_t tiny_sxtb16(uint32_t v) {{ return tiny_pack(tiny_byte(v), tiny_byte(v >> 16)); }}
TINY_UNUSED static inline uint32_t tiny_smlad(uint32_t a, uint32_t b, uint32_t acc) {{
  return acc + (uint32_t)(tiny_low(a) * tiny_low(b)) + (uint32_t)(tiny_high(a) * tiny_high(b));
}}
TINY_UNUSED static inline int32_t tiny_smmla(int32_t a, int32_t b, int32_t c) {{ return (int32_t)(((int64_t)a * b) >> 32) + c; }}
TINY_UNUSED static inline int32_t tiny_smmlar(int32_t a, int32_t b, int32_t c) {{
  return (int32_t)(((int64_t)a * b + 0x80000000LL) >> 32) + c;
}}
TINY_UNUSED static inline int32_t tiny_clamp(int32_t v, int32_t low, int32_t high) {{ return v < low ? low : v > high ? high : v; }}
/* gemmlowp's saturating rounding doubling high multiply and rounding divide by a power of two; any multiplier and shift. */
TINY_UNUSED static inline int32_t tiny_rescale(int32_t acc, int32_t multiplier, int32_t shift) {{
  const int32_t left = shift > 0 ? shift : 0, right = shift > 0 ? 0 : -shift;
  const int64_t wide = (int64_t)(int32_t)((uint32_t)acc << left) * multiplier;
  const int32_t high = (int32_t)((wide + 0x40000000) >> 31);
  const int64_t mask = ((int64_t)1 << right) - 1;
  const int64_t threshold = (mask >> 1) + (high < 0 ? 1 : 0);
  return (int32_t)(((int64_t)high >> right) + (((int64_t)high & mask) > threshold ? 1 : 0));
}}
TINY_UNUSED static inline int32_t tiny_rescale_single(int32_t acc, int32_t multiplier, int32_t shift) {{
  return (int32_t)(((int64_t)acc * multiplier + ((int64_t)1 << (30 - shift))) >> (31 - shift));
}}
#endif
"""


@dataclass(frozen=True)
class CFunction:
    """One static or external C function; two functions of equal name have equal source."""

    name: str
    source: str


def function_name(prefix: str, family: str, description: object) -> str:
    """Name a function after its description: equal descriptions share one function, different ones never collide."""
    digest = hashlib.sha256(repr(description).encode()).hexdigest()[:8]
    return f"{prefix}_{family}_{digest}"


def naked_function(
    name: str,
    parameters: tuple[str, ...],
    lines: Iterable[str],
    portable: str,
    result: str = "void ",
    condition: str = ASSEMBLY_CONDITION,
) -> CFunction:
    """Build a static function with an assembly body (naked) and a portable one.

    Parameters
    ----------
    parameters : tuple of str
        At most four C declarations; they arrive in r0-r3.
    lines : iterable of str
        The whole assembly, saving and restoring of registers included.
    portable : str
        C statements of the same meaning.
    result : str
        What it returns, in r0.
    condition : str
        Preprocessor condition of the assembly.
    """
    declared = ", ".join(parameters)
    unused = ", ".join(f"{p} TINY_UNUSED" for p in parameters)
    flat = [part.strip() for line in lines for part in line.split("\n")]  # inseparable bundles are one line of several
    body = "\n".join(f'      "{line}\\n"' for line in flat)
    return CFunction(
        name,
        f"#if {condition}\n"
        f"TINY_NAKED static {result}{name}({unused}) {{\n  __asm volatile(\n{body}\n  );\n}}\n"
        f"#else\n"
        f"static {result}{name}({declared}) {{\n{portable}}}\n"
        f"#endif\n",
    )


def merge(groups: Iterable[Iterable[CFunction]]) -> str:
    """One translation unit of several kernels: the preamble, then every function once, callees before callers."""
    seen: dict[str, str] = {}
    for group in groups:
        for function in group:
            seen.setdefault(function.name, function.source)
    return PREAMBLE + "\n" + "\n".join(seen.values())


def add_immediate(register: str, value: int, scratch: str = "r3") -> list[str]:
    """Lines adding a constant of any size to a core register; `scratch` is only used past 4095."""
    if value == 0:
        return []
    if abs(value) <= 4095:
        return [f"{'add' if value > 0 else 'sub'} {register}, {register}, #{abs(value)}"]
    lines = [f"movw {scratch}, #{abs(value) & 0xFFFF}"]
    if abs(value) > 0xFFFF:
        lines.append(f"movt {scratch}, #{abs(value) >> 16}")
    return [*lines, f"{'add' if value > 0 else 'sub'} {register}, {register}, {scratch}"]


def copy_function(prefix: str) -> CFunction:
    """Emit `static const uint8_t *f(uint8_t *to, const uint8_t *from, uint32_t words)`: copies whole words, returns `to`."""
    lines = ["push {r0, r4-r11, lr}", "subs r2, r2, #8", "blo 2f"]
    lines += ["1:", "ldm r1!, {r4-r11}", "subs r2, r2, #8", "stm r0!, {r4-r11}", "bhs 1b"]
    lines += ["2:", "adds r2, r2, #8", "beq 4f", "3:", "ldr r3, [r1], #4", "subs r2, r2, #1", "str r3, [r0], #4", "bne 3b"]
    lines += ["4:", "pop {r0, r4-r11, pc}"]
    parameters = ("uint8_t *to", "const uint8_t *from", "uint32_t words")
    return naked_function(f"{prefix}_copy", parameters, lines, "  memcpy(to, from, 4 * words);\n  return to;\n", "const uint8_t *")
