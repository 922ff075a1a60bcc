# SPDX-License-Identifier: Apache-2.0
"""Fixed-point rescaling: acc * scale rounded to an integer, with scale = multiplier * 2^(shift - 31).

Two roundings exist. "gemmlowp" rounds twice, as TensorFlow Lite Micro and CMSIS-NN do: a saturating rounding doubling high multiply, then a
rounding divide by a power of two (gemmlowp, fixedpoint/fixedpoint.h). "single" rounds the 64-bit product once, half up. Each is given for
numpy arrays (int64 carriers of int32 values) and as TIR expressions that print as C99 clean under -Wall -Wextra -Wconversion.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from tvm_tiny.ops.registry import check

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
ROUNDINGS = ("gemmlowp", "single")


def quantize_multiplier(scale: float) -> tuple[int, int]:
    """Return (multiplier, shift) with `scale ~ multiplier * 2^(shift - 31)`, multiplier in [2^30, 2^31).

    Rounds as TensorFlow Lite's QuantizeMultiplier: half away from zero, and a scale below 2^-32 becomes zero. A positive shift is
    a left one.
    """
    check(math.isfinite(scale) and scale >= 0, "requantize", f"a scale must be finite and not negative, got {scale}")
    if scale == 0.0:
        return 0, 0
    fraction, shift = math.frexp(float(scale))
    multiplier = math.floor(fraction * 2.0**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = multiplier // 2, shift + 1
    return (multiplier, shift) if shift >= -31 else (0, 0)


def wrap_int32(x: np.ndarray) -> np.ndarray:
    """Reduce int64 values to int32 as two's complement does, still carried in int64."""
    return np.asarray(x, np.int64).astype(np.int32).astype(np.int64)


def srdhm(a: np.ndarray | int, b: np.ndarray | int) -> np.ndarray:
    """Saturating rounding doubling high multiply of int32 values: `floor((a*b + 2^30) / 2^31)`, saturated for a = b = -2^31."""
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    return np.minimum((product + (1 << 30)) >> 31, INT32_MAX)


def rounding_divide_by_pot(x: np.ndarray, exponent: np.ndarray | int) -> np.ndarray:
    """Return `x / 2^exponent` rounded half away from zero; exponent in 0..31."""
    x, exponent = np.asarray(x, np.int64), np.asarray(exponent, np.int64)
    mask = (np.int64(1) << exponent) - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


def multiply_by_quantized_multiplier(
    x: np.ndarray, multiplier: np.ndarray | int, shift: np.ndarray | int, rounding: str = "gemmlowp"
) -> np.ndarray:
    """Rescale int32 values by multiplier and shift (broadcast against `x`); int64 carrying int32."""
    x, multiplier, shift = np.asarray(x, np.int64), np.asarray(multiplier, np.int64), np.asarray(shift, np.int64)
    if rounding == "single":
        right = 31 - shift
        return wrap_int32((x * multiplier + (np.int64(1) << (right - 1))) >> right)
    check(rounding == "gemmlowp", "requantize", f"rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    return rounding_divide_by_pot(srdhm(wrap_int32(x << left), multiplier), right)


def requantize(
    acc: np.ndarray,
    multiplier: np.ndarray | int,
    shift: np.ndarray | int,
    zero_point: int,
    clamp: tuple[int, int],
    rounding: str = "gemmlowp",
) -> np.ndarray:
    """Rescale, add the zero point and clamp to int8."""
    y = wrap_int32(multiply_by_quantized_multiplier(acc, multiplier, shift, rounding) + zero_point)
    return np.clip(y, clamp[0], clamp[1]).astype(np.int8)


def expr(value: Any) -> Expr:
    """Return a TIR expression of a TE tensor element (which is not one by itself) or of an expression."""
    return value.asobject() if isinstance(value, te.TensorSlice) else value


def i32(value: Any) -> Expr:
    """Return an int32 TIR expression of a Python int, a tensor element or an expression of another integer type."""
    if isinstance(value, int):
        return tirx.const(value, "int32")
    value = expr(value)
    return value if str(value.ty.dtype) == "int32" else tirx.Cast("int32", value)


def clamp_tir(x: Any, low: int, high: int) -> Expr:
    """Return `x` clamped to low..high."""
    return tirx.min(tirx.max(expr(x), i32(low)), i32(high))


def srdhm_tir(a: Any, b: Any) -> Expr:
    """TIR form of `srdhm` for b >= 0 (then nothing can saturate)."""
    product = tirx.Cast("int64", expr(a)) * (_i64(b) if isinstance(b, int) else tirx.Cast("int64", expr(b)))
    return tirx.Cast("int32", (product + _i64(1 << 30)) >> _i64(31))


def rounding_divide_by_pot_tir(x: Any, exponent: Any) -> Expr:
    """TIR form of `rounding_divide_by_pot`, in which `x` occurs once; an exponent known to be 0 costs nothing.

    Half away from zero is `floor(x / 2^n + 1/2)`, but for exact halves below zero. Adding x / 2^31, which is in [-1, 0) for a negative
    x and in [0, 1) for any other, before the division moves just those down: `(x * (2^31 + 1) + 2^(n + 30)) >> (n + 31)`, within 63 bits.
    The usual form needs x three times; nested as in an addition, TVM (which does not share subexpressions with shifts) then takes ten
    seconds and prints pages.
    """
    wide = tirx.Cast("int64", expr(x))
    if isinstance(exponent, int):
        if exponent == 0:
            return expr(x)
        return tirx.Cast("int32", (wide * _i64((1 << 31) + 1) + _i64(1 << (exponent + 30))) >> _i64(exponent + 31))
    n = tirx.Cast("int64", i32(exponent))
    nudged = wide * (_i64(1 << 31) + tirx.Cast("int64", n > _i64(0))) + (((_i64(1) << n) >> _i64(1)) << _i64(31))
    return tirx.Cast("int32", nudged >> (n + _i64(31)))


def _i64(value: int) -> Expr:
    return tirx.const(value, "int64")


def multiply_by_quantized_multiplier_tir(x: Any, multiplier: Any, shift: Any, rounding: str = "gemmlowp") -> Expr:
    """TIR form of `multiply_by_quantized_multiplier`; `x` is int32, constants are specialised."""
    if rounding == "single":
        return _single_rounding_tir(x, multiplier, shift)
    check(rounding == "gemmlowp", "requantize", f"rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")
    if isinstance(shift, int):
        left, right = max(shift, 0), max(-shift, 0)
        return rounding_divide_by_pot_tir(srdhm_tir(_shift_left(x, left), multiplier), right)
    shift = i32(shift)
    left, right = tirx.max(shift, i32(0)), tirx.max(-shift, i32(0))
    return rounding_divide_by_pot_tir(srdhm_tir(_shift_left(x, left), multiplier), right)


def requantize_tir(acc: Any, multiplier: Any, shift: Any, zero_point: int, clamp: tuple[int, int], rounding: str = "gemmlowp") -> Expr:
    """TIR form of `requantize`; the result is int8."""
    y = multiply_by_quantized_multiplier_tir(acc, multiplier, shift, rounding) + i32(zero_point)
    return tirx.Cast("int8", clamp_tir(y, *clamp))


def _single_rounding_tir(x: Any, multiplier: Any, shift: Any) -> Expr:
    right = _i64(31 - shift) if isinstance(shift, int) else _i64(31) - tirx.Cast("int64", expr(shift))
    factor = _i64(multiplier) if isinstance(multiplier, int) else tirx.Cast("int64", expr(multiplier))
    one = _i64(1)
    if not isinstance(shift, int):
        # TVM 0.27 bounds `v >> n` to -1..0 when n may be negative, and drops clamps after it: say that it is not.
        right = tirx.max(right, one)
    return tirx.Cast("int32", (tirx.Cast("int64", expr(x)) * factor + (one << (right - one))) >> right)


def _shift_left(x: Any, left: Any) -> Expr:
    """Multiply by a power of two: C leaves a left shift of a negative int undefined.

    Not in uint32: TVM's bound analysis takes the cast of a negative value to be positive and drops tests that matter.
    """
    if isinstance(left, int):
        return expr(x) * i32(1 << left) if left else expr(x)
    return expr(x) * (i32(1) << left)
