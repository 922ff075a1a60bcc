# SPDX-License-Identifier: Apache-2.0
"""From the float scales of a quantised model to the integers of the operators, in the reference's order of arithmetic.

TensorFlow Lite Micro keeps scales as float32 and takes products and quotients of them in float64, but for a few steps in float32 (bounds of
activations, tables of real functions); another order gives multipliers that differ in the last bit, and with them outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tvm_tiny.ops.registry import check
from tvm_tiny.ops.requantize_math import quantize_multiplier

ACTIVATIONS = ("none", "relu", "relu6", "relu_n1_to_1")
INT8_RANGE = (-128, 127)


def f32(value: float) -> np.float32:
    """Round to float32, as a scale is stored in a model file."""
    return np.float32(value)


def f64(value: float) -> float:
    """Return the float32 nearest to `value` as a float64."""
    return float(np.float32(value))


def round_half_away(value: float) -> int:
    """Round to the nearest integer, halves away from zero (C's `round`)."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), float(value)))


def activation_range(activation: str, y_scale: float, y_zp: int) -> tuple[int, int]:
    """Return (clamp_min, clamp_max) of an int8 output with a fused activation (one of `ACTIVATIONS`)."""
    check(activation in ACTIVATIONS, "activation", f"must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    bounds = {"none": (None, None), "relu": (0.0, None), "relu6": (0.0, 6.0), "relu_n1_to_1": (-1.0, 1.0)}[activation]
    quantized = [None if b is None else y_zp + round_half_away(float(f32(b) / f32(y_scale))) for b in bounds]
    low = INT8_RANGE[0] if quantized[0] is None else max(INT8_RANGE[0], quantized[0])
    return low, INT8_RANGE[1] if quantized[1] is None else min(INT8_RANGE[1], quantized[1])


def per_channel(
    x_scale: float, w_scales: Sequence[float] | np.ndarray | float, y_scale: float, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return int32 (multiplier, shift) per output channel: `x_scale * w_scale / y_scale` in float64; one scale serves all channels."""
    scales = np.atleast_1d(np.asarray(w_scales, np.float32))
    check(scales.size in (1, channels), "per_channel", f"{scales.size} weight scales for {channels} channels")
    pairs = [quantize_multiplier(f64(x_scale) * float(s) / f64(y_scale)) for s in np.broadcast_to(scales, (channels,))]
    multiplier, shift = zip(*pairs, strict=True)
    return np.array(multiplier, np.int32), np.array(shift, np.int32)
