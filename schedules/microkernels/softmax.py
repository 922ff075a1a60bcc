# SPDX-License-Identifier: Apache-2.0
"""Softmax of int8 rows in the reference's fixed-point arithmetic, from a table of the exponentials of all 256 differences.

A row takes three passes: its maximum; the sum of exp(x - maximum), in Q12; and 256 times the exponentials over the sum. The division is one
reciprocal a row, by three steps of Newton and Raphson, and one rounding product an element (`tvm_tiny.ops.softmax` has the meaning).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .c_source import CFunction, function_name
from .layer import MicroKernel, words

_C48_OVER_17, _NEG_32_OVER_17, _ONE = 1515870810, -1010580540, 1 << 29  # Q2


def softmax(name: str, shape: tuple[int, ...], table: np.ndarray, meaning: Callable[[np.ndarray], np.ndarray]) -> MicroKernel:
    """Generate `void name(const int8_t *x, int8_t *out, const void *packed, void *scratch)` over the last axis of `shape`.

    Parameters
    ----------
    table : numpy.ndarray of int32, shape (256,)
        exp of minus the number of the entry, in input units, Q0. `out` may be `x`.
    meaning : callable
        The numpy semantics.
    """
    row, (rows, depth) = _row_function(name), (math.prod(shape[:-1]), shape[-1])
    signature = f"void {name}(const int8_t *x, int8_t *out, const void *packed, void *scratch)"
    text = f"{signature};\n{signature} {{\n  (void)scratch;\n"
    text += f"  for (uint32_t row = 0; row < {rows}u; ++row, x += {depth}, out += {depth}) {row.name}(x, out, packed, {depth});\n}}\n"
    return MicroKernel(
        name=name,
        functions=(row, CFunction(name, text)),
        packed=words(table),
        scratch_bytes=0,
        input_shape=shape,
        output_shape=shape,
        macs=0,
        reference=meaning,
        choices={"operand": "table"},
    )


def _row_function(prefix: str) -> CFunction:
    """Emit `static void f(const int8_t *x, int8_t *y, const uint8_t *table, uint32_t depth)`.

    The sum lies in [2**19, 2**31): the largest element alone gives 2**19, and no more than 4095 elements are summed. Everything is positive
    but the error of a step, so that halves away from zero are halves up.
    """
    name = function_name(prefix, "softmax", "row")
    multiply = f"{name}_multiply"
    source = (
        f"static inline int32_t {multiply}(int32_t a, int32_t b) {{ return (int32_t)(((int64_t)a * b + 0x40000000) >> 31); }}\n"
        f"static void {name}(const int8_t *x, int8_t *y, const uint8_t *table, uint32_t depth) {{\n"
        f"  int32_t largest = x[0];\n"
        f"  for (uint32_t i = 1; i < depth; ++i) largest = x[i] > largest ? x[i] : largest;\n"
        f"  uint32_t sum = 0;\n"
        f"  for (uint32_t i = 0; i < depth; ++i) sum += (tiny_load(table + 4 * (largest - x[i])) + 2048u) >> 12;\n"
        f"#if defined(__GNUC__)\n"
        f"  const int32_t free_bits = __builtin_clz(sum);\n"
        f"#else\n"
        f"  int32_t free_bits = 1;\n"
        f"  while (sum >> (31 - free_bits) == 0) ++free_bits;\n"
        f"#endif\n"
        f"  const int32_t half = (int32_t)(sum << (free_bits - 1));\n"
        f"  int32_t scale = {_C48_OVER_17} + {multiply}(half, {_NEG_32_OVER_17});\n"
        f"  for (int32_t step = 0; step < 3; ++step) scale += {multiply}(scale, {_ONE} - {multiply}(half, scale)) * 4;\n"
        f"  scale = scale >= 0x40000000 ? 0x7fffffff : scale * 2;\n"
        f"  const int32_t shift = 35 - free_bits;\n"  # 2**8 of the output over 2**(31 - 12) of the sum
        f"  const uint32_t one = shift < 33 ? 1u << (shift - 1) : 0;\n"
        f"  for (uint32_t i = 0; i < depth; ++i) {{\n"
        f"    const uint32_t product = (uint32_t){multiply}(scale, (int32_t)tiny_load(table + 4 * (largest - x[i])));\n"
        f"    const int32_t share = shift < 32 ? (int32_t)((product + one) >> shift) : 0;\n"
        f"    y[i] = (int8_t)(share < 255 ? share - 128 : 127);\n"
        f"  }}\n}}\n"
    )
    return CFunction(name, source)
