# SPDX-License-Identifier: Apache-2.0
"""What the operator tests draw: scales over many magnitudes, extreme zero points, odd shapes."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.support.tflite_builder import same_padding

zero_points = st.one_of(st.sampled_from([-128, 127, 0]), st.integers(-128, 127))
activations = st.sampled_from(["none", "relu", "relu6", "relu_n1_to_1"])
seeds = st.integers(0, 2**32 - 1)


def scales(low: float = 1e-3, high: float = 1.0) -> st.SearchStrategy[float]:
    """Float32 scales, spread over their magnitudes, powers of two included."""
    exponents = st.floats(np.log2(low), np.log2(high))
    powers = st.integers(int(np.ceil(np.log2(low))), int(np.floor(np.log2(high)))).map(float)
    return st.one_of(exponents, powers).map(lambda e: float(np.float32(2.0**e)))


def int8s(rng: np.random.Generator, shape: tuple[int, ...], low: int = -128) -> np.ndarray:
    """Random int8 values, extremes over-represented."""
    values = rng.integers(low, 128, shape)
    return np.where(rng.random(shape) < 0.1, rng.choice([low, 127], shape), values).astype(np.int8)


def window_padding(
    mode: str, hw: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int], dilation: tuple[int, int]
) -> list[int]:
    """Return [top, left, bottom, right] of SAME or VALID padding."""
    if mode == "VALID":
        return [0, 0, 0, 0]
    (top, bottom), (left, right) = (same_padding(hw[i], kernel[i], strides[i], dilation[i]) for i in (0, 1))
    return [top, left, bottom, right]
