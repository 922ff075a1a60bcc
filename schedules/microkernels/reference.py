# SPDX-License-Identifier: Apache-2.0
"""numpy meaning of the layers, the yardstick of every kernel: exact int64 sums, then the reference requantisation."""

from __future__ import annotations

import numpy as np

from .layer import LayerParameters


def conv2d(
    x: np.ndarray, layer: LayerParameters, stride: tuple[int, int], padding: tuple[int, int, int, int], dilation: tuple[int, int]
) -> np.ndarray:
    """Convolve int8 NHWC `x` (h, w, ci) with OHWI weights; padding is (top, left, bottom, right); result (oh, ow, co) int8."""
    outputs, kh, kw, _ = layer.weights.shape
    windows = _windows(x, (kh, kw), stride, padding, dilation, layer.x_zero_point)
    acc = np.einsum("yxijc,oijc->oyx", windows, layer.weights.astype(np.int64), optimize=True)
    return _finish(acc, layer, layer.weights.reshape(outputs, -1)).transpose(1, 2, 0)


def depthwise(
    x: np.ndarray, layer: LayerParameters, stride: tuple[int, int], padding: tuple[int, int, int, int], dilation: tuple[int, int]
) -> np.ndarray:
    """Convolve every channel of int8 NHWC `x` (h, w, c) with its own kernel; weights (kh, kw, c)."""
    kh, kw, channels = layer.weights.shape
    multiplier = channels // x.shape[2]
    windows = _windows(np.repeat(x, multiplier, axis=2), (kh, kw), stride, padding, dilation, layer.x_zero_point)
    acc = np.einsum("yxijc,ijc->cyx", windows, layer.weights.astype(np.int64), optimize=True)
    return _finish(acc, layer, layer.weights.reshape(-1, channels).T).transpose(1, 2, 0)


def _windows(
    x: np.ndarray,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    zero_point: int,
) -> np.ndarray:
    """Input windows minus the zero point, int64 (oh, ow, kh, kw, c)."""
    top, left, bottom, right = padding
    padded = np.pad(x.astype(np.int64) - zero_point, ((top, bottom), (left, right), (0, 0)))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(0, 1))
    view = view[:: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    return view.transpose(0, 1, 3, 4, 2)


def _finish(acc: np.ndarray, layer: LayerParameters, rows: np.ndarray) -> np.ndarray:
    biased = acc + layer.bias.astype(np.int64)[:, None, None]
    return layer.requantization(rows)(biased).astype(np.int8)
