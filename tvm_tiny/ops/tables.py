# SPDX-License-Identifier: Apache-2.0
"""Tables for `tiny.lookup`: every int8 -> int8 function of one input, exact against the reference's kernels.

Each builder returns int8[256]; entry i is the output for input i - 128. Scales are float32 values of the model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvm_tiny.ops import fixed_point
from tvm_tiny.ops.registry import check
from tvm_tiny.ops.requantize_math import multiply_by_quantized_multiplier, quantize_multiplier, rounding_divide_by_pot
from tvm_tiny.ops.scales import activation_range, f32, f64, round_half_away

NAME = "tiny.lookup"
INPUTS = np.arange(-128, 128, dtype=np.int64)


def _int8(values: np.ndarray, low: int = -128, high: int = 127) -> np.ndarray:
    return np.clip(values, low, high).astype(np.int8)


def requantize(x_scale: float, x_zp: int, y_scale: float, y_zp: int) -> np.ndarray:
    """Table of QUANTIZE int8 -> int8: another scale and zero point."""
    multiplier, shift = quantize_multiplier(f64(x_scale) / f64(y_scale))
    return _int8(multiply_by_quantized_multiplier(INPUTS - x_zp, multiplier, shift) + y_zp)


def relu(x_scale: float, x_zp: int, y_scale: float, y_zp: int) -> np.ndarray:
    """Table of RELU."""
    multiplier, shift = quantize_multiplier(f64(x_scale) / f64(y_scale))
    low, high = activation_range("relu", y_scale, y_zp)
    return _int8(multiply_by_quantized_multiplier(INPUTS - x_zp, multiplier, shift) + y_zp, low, high)


def relu6(x_scale: float, x_zp: int) -> np.ndarray:
    """Table of RELU6. The reference clamps in the input's quantisation and never rescales."""
    six = x_zp + round_half_away(float(f32(6.0) / f32(x_scale)))
    check(six <= 127, NAME, f"RELU6: 6.0 is {six} in the input's quantisation; the reference wants it within int8")
    return _int8(np.clip(INPUTS, x_zp, six))


def leaky_relu(x_scale: float, x_zp: int, y_scale: float, y_zp: int, alpha: float) -> np.ndarray:
    """Table of LEAKY_RELU with slope `alpha` (any sign) below zero."""
    slope = f64(x_scale) * f64(alpha) / f64(y_scale)
    multiplier, shift = quantize_multiplier(f64(x_scale) / f64(y_scale))
    alpha_multiplier, alpha_shift = quantize_multiplier(abs(slope))
    x = INPUTS - x_zp
    below = multiply_by_quantized_multiplier(x, alpha_multiplier, alpha_shift)
    return _int8(np.where(x >= 0, multiply_by_quantized_multiplier(x, multiplier, shift), -below if slope < 0 else below) + y_zp)


def logistic(x_scale: float, x_zp: int) -> np.ndarray:
    """Table of LOGISTIC; its output scale is 1/256 and its zero point -128 by definition."""
    saturated_low, saturated_high, x_q4 = _to_q4(x_scale, x_zp)
    y = rounding_divide_by_pot(fixed_point.logistic(x_q4), 23) - 128
    return _int8(np.where(saturated_low, -128, np.where(saturated_high, 127, y)))


def tanh(x_scale: float, x_zp: int) -> np.ndarray:
    """Table of TANH; its output scale is 1/128 and its zero point 0 by definition."""
    saturated_low, saturated_high, x_q4 = _to_q4(x_scale, x_zp)
    y = rounding_divide_by_pot(fixed_point.tanh(x_q4), 24)
    return _int8(np.where(saturated_low, -128, np.where(saturated_high, 127, y)))


def _to_q4(x_scale: float, x_zp: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs below and above the range of Q4, and the inputs in Q4 (0 outside the range)."""
    multiplier, left_shift = quantize_multiplier(f64(x_scale) * 2.0**27)
    radius = fixed_point.input_radius(4, left_shift)
    x = INPUTS - x_zp
    inside = np.where(np.abs(x) < radius, x, 0)
    return x <= -radius, x >= radius, multiply_by_quantized_multiplier(inside, multiplier, left_shift)


def hard_swish(x_scale: float, x_zp: int, y_scale: float, y_zp: int) -> np.ndarray:
    """Table of HARD_SWISH, x * relu6(x + 3) / 6, in the reference's 16-bit arithmetic."""
    hires_scale = float(f32(1.0 / 128.0) * f32(x_scale))
    y_multiplier, y_exponent = _multiplier_int16(hires_scale / f64(y_scale))
    check(y_exponent <= 0, NAME, f"HARD_SWISH: the output scale {y_scale} is too small for the input scale {x_scale}")
    gate_multiplier, gate_exponent = _multiplier_int16(hires_scale / (3.0 / 32768.0))
    x = (INPUTS - x_zp) << 7
    preshift = _srdhm16(x, y_multiplier)
    gate = _srdhm16(_saturate16(x << max(gate_exponent - 1, 0)), gate_multiplier)
    gate = _saturate16(gate << 1) if gate_exponent > 0 else rounding_divide_by_pot(gate, -gate_exponent)
    gate = (gate + (1 << 15)) >> 1
    product = gate * preshift
    truncated = np.where(product >= 0, product >> 15, -(-product >> 15))
    return _int8(rounding_divide_by_pot(truncated, -y_exponent) + y_zp)


def absolute(x_scale: float, x_zp: int, y_scale: float, y_zp: int) -> np.ndarray:
    """Table of ABS; without a change of scale nothing is rescaled."""
    value = np.abs(INPUTS - x_zp)
    if f32(x_scale) != f32(y_scale):
        value = multiply_by_quantized_multiplier(value, *quantize_multiplier(f64(x_scale) / f64(y_scale)))
    return _int8(value + y_zp)


def rsqrt(x_scale: float, x_zp: int, y_scale: float, y_zp: int) -> np.ndarray:
    """Table of RSQRT: the inverse root of the integer with 20 bits more, rescaled; the reference gives 127 for zero, and fails below."""
    multiplier, shift = quantize_multiplier(1.0 / float(np.sqrt(f32(x_scale)) * f32(y_scale)))
    values = [127 - y_zp]
    for integer in range(1, 256):
        root, root_shift = fixed_point.inverse_sqrt(integer)
        value = multiply_by_quantized_multiplier(np.int64(1), root, root_shift + _RSQRT_BITS)
        values.append(int(multiply_by_quantized_multiplier(value, multiplier, shift - _RSQRT_BITS)))
    return _int8(np.array(values)[np.maximum(INPUTS - x_zp, 0)] + y_zp)


_RSQRT_BITS = 20


def elu(x_scale: float, x_zp: int, y_scale: float, y_zp: int) -> np.ndarray:
    """Table of ELU."""
    return _populated(lambda x: np.where(x < 0, _single(np.exp(np.minimum(x, 0))) - 1.0, x), x_scale, x_zp, y_scale, y_zp)


def exp(x_scale: float, x_zp: int, y_scale: float, y_zp: int) -> np.ndarray:
    """Table of EXP."""
    return _populated(np.exp, x_scale, x_zp, y_scale, y_zp)


def log(x_scale: float, x_zp: int, y_scale: float, y_zp: int) -> np.ndarray:
    """Table of LOG; numbers that have none give the least integer."""
    return _populated(lambda x: np.log(np.maximum(x, 0.0)), x_scale, x_zp, y_scale, y_zp)


def _populated(function: Callable[[np.ndarray], np.ndarray], x_scale: float, x_zp: int, y_scale: float, y_zp: int) -> np.ndarray:
    """A table as TensorFlow Lite fills it: real numbers in float32, times the inverse of the output's scale."""
    with np.errstate(divide="ignore", over="ignore"):
        values = _single(function(_single(f64(x_scale) * (INPUTS - x_zp))))
    return rounded(values, 1.0, y_zp, factor=float(f32(1.0) / f32(y_scale)))


def rounded(values: np.ndarray, scale: float, zero_point: int, factor: float = 1.0) -> np.ndarray:
    """Real numbers times `factor` over `scale`, each a float32 step, rounded half away from zero: what QUANTIZE does."""
    scaled = _single(np.clip(_single(np.nan_to_num(values, nan=-np.inf)) * factor / f64(scale), -1e9, 1e9))
    return _int8(np.trunc(scaled + np.copysign(0.5, scaled)) + zero_point)


def _single(values: np.ndarray) -> np.ndarray:
    """Rounded to float32, carried in float64."""
    return np.asarray(values).astype(np.float32).astype(np.float64)


def _multiplier_int16(scale: float) -> tuple[int, int]:
    multiplier, exponent = quantize_multiplier(scale)
    return min((multiplier + (1 << 15)) >> 16, 32767), exponent


def _saturate16(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -32768, 32767)


def _srdhm16(a: np.ndarray, b: int) -> np.ndarray:
    """Saturating rounding doubling high multiply of 16-bit values, b >= 0; halves go up."""
    return (a * b + (1 << 14)) >> 15
