# SPDX-License-Identifier: Apache-2.0
"""Tables for `tiny.lookup`: every int8 -> int8 function of one input, exact against the reference's kernels.

Each builder returns int8[256]; entry i is the output for input i - 128. Scales are float32 values of the model.
"""

from __future__ import annotations

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
    """Table of RELU; unlike QUANTIZE the reference divides the scales in float32."""
    multiplier, shift = quantize_multiplier(float(f32(x_scale) / f32(y_scale)))
    low, high = activation_range("relu", y_scale, y_zp)
    return _int8(multiply_by_quantized_multiplier(INPUTS - x_zp, multiplier, shift) + y_zp, low, high)


def relu6(x_scale: float, x_zp: int) -> np.ndarray:
    """Table of RELU6. The reference clamps in the input's quantisation and never rescales."""
    six = x_zp + round_half_away(float(f32(6.0) / f32(x_scale)))
    check(six <= 127, NAME, f"RELU6: 6.0 is {six} in the input's quantisation; the reference wants it within int8")
    return _int8(np.clip(INPUTS, x_zp, six))


def leaky_relu(x_scale: float, x_zp: int, y_scale: float, y_zp: int, alpha: float) -> np.ndarray:
    """Table of LEAKY_RELU with slope `alpha` (any sign) below zero."""
    slope = float(f32(f32(x_scale) * f32(alpha)) / f32(y_scale))
    multiplier, shift = quantize_multiplier(float(f32(x_scale) / f32(y_scale)))
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
    hires_scale = f32(f32(1.0 / 128.0) * f32(x_scale))
    y_multiplier, y_exponent = _multiplier_int16(float(hires_scale / f32(y_scale)))
    check(y_exponent <= 0, NAME, f"HARD_SWISH: the output scale {y_scale} is too small for the input scale {x_scale}")
    gate_multiplier, gate_exponent = _multiplier_int16(float(hires_scale / (f32(3.0) / f32(32768.0))))
    x = (INPUTS - x_zp) << 7
    preshift = _srdhm16(x, y_multiplier)
    gate = _srdhm16(_saturate16(x << max(gate_exponent - 1, 0)), gate_multiplier)
    gate = _saturate16(gate << 1) if gate_exponent > 0 else rounding_divide_by_pot(gate, -gate_exponent)
    gate = (gate + (1 << 15)) >> 1
    product = gate * preshift
    truncated = np.where(product >= 0, product >> 15, -(-product >> 15))
    return _int8(rounding_divide_by_pot(truncated, -y_exponent) + y_zp)


def _multiplier_int16(scale: float) -> tuple[int, int]:
    multiplier, exponent = quantize_multiplier(scale)
    return min((multiplier + (1 << 15)) >> 16, 32767), exponent


def _saturate16(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -32768, 32767)


def _srdhm16(a: np.ndarray, b: int) -> np.ndarray:
    """Saturating rounding doubling high multiply of 16-bit values, b >= 0; halves go up."""
    return (a * b + (1 << 14)) >> 15
