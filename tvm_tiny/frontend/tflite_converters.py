# SPDX-License-Identifier: Apache-2.0
"""Convolutions of TFLite that become several operators of Relax: the QDQ form of each is said in `tflite`.

Every function takes the converter and the operator, and returns the value to bind under the operator's output.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from tvm import relax
from tvm.relax import op as R

from tvm_tiny.frontend.graph import Operator
from tvm_tiny.frontend.tflite_movement import spread, window_of
from tvm_tiny.frontend.tflite_rules import transposed_padding

if TYPE_CHECKING:
    from tvm_tiny.frontend.tflite import QdqConverter


def grouped_conv2d(cv: QdqConverter, op: Operator) -> relax.Expr:
    """CONV_2D in groups: a convolution each, of its share of the channels, side by side."""
    x, weight = cv.graph.need(op, 0), cv.graph.need(op, 1)
    groups = x.shape[3] // weight.shape[3]
    parts = cv.bb.emit(R.split(cv.raw(x), groups, 3))
    share = weight.shape[0] // groups
    results = []
    for group in range(groups):
        channels = slice(group * share, (group + 1) * share)
        kernel = cv.weights(weight, weight.values[channels], 0, channels)
        results.append(
            cv.bb.emit(cv.convolve(op, kernel, groups=1, kernel_layout="OHWI", part=cv.bb.emit(parts[group]), channels=channels))
        )
    return R.concat(results, 3)


def transposed_conv(cv: QdqConverter, op: Operator) -> relax.Expr:
    """TRANSPOSE_CONV: output pixels that lie alike between two input pixels see the same weights.

    So a convolution of stride 1 computes them all, stride² outputs a pixel with ceil(kernel / stride)² taps each, which are then laid out
    as blocks (Shi et al., "Is the deconvolution layer the same as a convolutional layer?", 2016); the first rows and columns are cut off.
    """
    x, weight, y, options = cv.graph.need(op, 2), cv.graph.need(op, 1), cv.graph.out(op), op.options
    strides = (options["stride_h"], options["stride_w"])
    cut, _ = transposed_padding(cv.graph, op)
    taps = [-(-k // s) for k, s in zip(weight.shape[1:3], strides, strict=True)]
    first = [c // s for c, s in zip(cut, strides, strict=True)]
    last = [(c + e - 1) // s for c, e, s in zip(cut, y.shape[1:3], strides, strict=True)]
    before = [t - 1 - f for t, f in zip(taps, first, strict=True)]
    after = [max(e - (n - 1), 0) for e, n in zip(last, x.shape[1:3], strict=True)]
    channels = np.tile(np.arange(weight.shape[0]), strides[0] * strides[1])
    kernel = cv.weights(weight, by_phase(weight.values, strides), 0, channels)
    value = R.nn.conv2d(cv.real(x), kernel, padding=[*before, *after], data_layout="NHWC", kernel_layout="OHWI")
    rounded = cv.rounded(cv.biased(op, cv.bb.emit(value), channels), y, options["activation"])
    laid = spread(cv, cv.bb.emit(rounded), strides)
    begin = [c - f * s for c, f, s in zip(cut, first, strides, strict=True)]
    return window_of(cv, laid, [0, *begin, 0], y.shape)


def by_phase(weights: np.ndarray, strides: tuple[int, int]) -> np.ndarray:
    """OHWI weights of a transposed convolution as those of a convolution with an output channel for every phase: (phases * O, h, w, I)."""
    outputs, height, width, inputs = weights.shape
    taps = [-(-k // s) for k, s in zip((height, width), strides, strict=True)]
    full = np.zeros((outputs, taps[0] * strides[0], taps[1] * strides[1], inputs), weights.dtype)
    full[:, :height, :width] = weights
    phases = [full[:, a :: strides[0], b :: strides[1]][:, ::-1, ::-1] for a, b in itertools.product(range(strides[0]), range(strides[1]))]
    return np.concatenate(phases)
