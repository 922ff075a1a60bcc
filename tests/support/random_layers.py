# SPDX-License-Identifier: Apache-2.0
"""Random linear layers for exactness tests: extreme zero points, weights, multipliers, shifts and clamps."""

from __future__ import annotations

import numpy as np

from tvm_tiny.schedules.microkernels import LayerParameters


def random_parameters(weights: np.ndarray, channels_last: bool, rng: np.random.Generator) -> LayerParameters:
    """Draw the constants of a layer; `channels_last` weights are depthwise (kh, kw, c), others have the outputs first."""
    rows = weights.reshape(-1, weights.shape[-1]).T if channels_last else weights.reshape(weights.shape[0], -1)
    outputs = len(rows)
    spread = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1) + 1) * 74
    scale = rng.choice([2.0, 20.0, 60.0, 400.0]) / spread * rng.uniform(0.4, 1.8, outputs) ** rng.integers(0, 4)
    bias = rng.integers(-(2 ** int(rng.integers(1, 16))), 2 ** int(rng.integers(1, 16)), outputs)
    if rng.random() < 0.25:  # channels that hardly depend on their input: a bias far beyond the sums, scaled into the output's range
        far = rng.random(outputs) < 0.4
        bias = np.where(far, (rng.choice([-1, 1], outputs) * 2.0 ** rng.uniform(18, 29, outputs)).astype(np.int64), bias)
        scale = np.where(far, rng.uniform(20, 300, outputs) / np.maximum(np.abs(bias), 1), scale)
    shift = np.floor(np.log2(scale)).astype(np.int64) + 1
    multiplier = np.minimum(np.round(scale / 2.0**shift * 2**31), 2**31 - 1).astype(np.int64)
    x_zero_point, y_zero_point = (int(rng.choice([-128, 127, 0, -5, 31])) for _ in range(2))
    clamp = [(-128, 127), (-128, 127), (y_zero_point, 127), (y_zero_point, min(127, y_zero_point + 77)), (-100, 90)][int(rng.integers(5))]
    rounding = "single" if rng.random() < 0.2 else "gemmlowp"
    return LayerParameters(weights, bias, multiplier, shift, x_zero_point, y_zero_point, clamp, rounding)


def random_weights(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw int8 weights; one in four draws contains -128, one in eight is all extremes."""
    weights = rng.integers(-127, 128, shape).astype(np.int8)
    kind = rng.integers(8)
    if kind == 0:
        weights = rng.choice(np.array([-127, 127], np.int8), shape)
    elif kind < 3:
        weights.flat[rng.integers(weights.size)] = -128
    return weights


def random_input(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw an int8 input, sometimes of extremes only."""
    if rng.random() < 0.3:
        return rng.choice(np.array([-128, 127], np.int8), shape)
    return rng.integers(-128, 128, shape).astype(np.int8)
