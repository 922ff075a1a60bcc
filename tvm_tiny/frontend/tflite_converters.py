# SPDX-License-Identifier: Apache-2.0
"""TFLite operators that become several of Relax: the QDQ form of each is said in `tflite`.

Every function takes the converter and the operator, and returns the value (or values) to bind under the operator's outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from tvm import relax
from tvm.relax import op as R

from tvm_tiny.frontend.graph import Operator
from tvm_tiny.frontend.tflite_rules import reduction_axes, transposed_padding

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
    laid = depth_to_space(cv, cv.bb.emit(rounded), strides)
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


def depth_to_space(cv: QdqConverter, value: relax.Expr, block: tuple[int, int]) -> relax.Expr:
    """(N, H, W, h*w*C) → (N, H*h, W*w, C)."""
    n, height, width, depth = (int(e) for e in value.ty.shape)
    channels = depth // (block[0] * block[1])
    split = cv.bb.emit(R.reshape(value, (n, height, width, *block, channels)))
    turned = cv.bb.emit(R.permute_dims(split, [0, 1, 3, 2, 4, 5]))
    return cv.bb.emit(R.reshape(turned, (n, height * block[0], width * block[1], channels)))


def window_of(cv: QdqConverter, value: relax.Expr, begin: Sequence[int], size: Sequence[int]) -> relax.Expr:
    """`size` elements along every axis from `begin` on; the value itself where that is all."""
    if [int(e) for e in value.ty.shape] == list(size):
        return value
    ends = [b + s for b, s in zip(begin, size, strict=True)]
    return R.strided_slice(value, list(range(len(size))), list(begin), ends, [1] * len(size))


def convert_depth_to_space(cv: QdqConverter, op: Operator) -> relax.Expr:
    """DEPTH_TO_SPACE."""
    block = op.options["block_size"]
    return depth_to_space(cv, cv.raw(cv.graph.need(op, 0)), (block, block))


def convert_space_to_depth(cv: QdqConverter, op: Operator) -> relax.Expr:
    """SPACE_TO_DEPTH."""
    x, y, block = cv.graph.need(op, 0), cv.graph.out(op), op.options["block_size"]
    n, height, width, channels = x.shape
    split = cv.bb.emit(R.reshape(cv.raw(x), (n, height // block, block, width // block, block, channels)))
    return R.reshape(cv.bb.emit(R.permute_dims(split, [0, 1, 3, 2, 4, 5])), y.shape)


def convert_pack(cv: QdqConverter, op: Operator) -> relax.Expr:
    """PACK."""
    axis = op.options["axis"] % len(cv.graph.out(op).shape)
    shape = [*cv.graph.need(op, 0).shape]
    shape.insert(axis, 1)
    return R.concat([cv.bb.emit(R.reshape(cv.raw(cv.graph.tensors[i]), shape)) for i in op.inputs], axis)


def convert_unpack(cv: QdqConverter, op: Operator) -> list[relax.Expr]:
    """UNPACK."""
    x = cv.graph.need(op, 0)
    parts = cv.bb.emit(R.split(cv.raw(x), len(op.outputs), op.options["axis"] % len(x.shape)))
    return [R.reshape(cv.bb.emit(parts[i]), cv.graph.out(op, i).shape) for i in range(len(op.outputs))]


def convert_split_v(cv: QdqConverter, op: Operator) -> list[relax.Expr]:
    """SPLIT_V."""
    x = cv.graph.need(op, 0)
    axis = int(cv.graph.need(op, 2).values.item()) % len(x.shape)
    ends = np.cumsum([cv.graph.out(op, i).shape[axis] for i in range(len(op.outputs))])
    if len(ends) == 1:
        return [R.reshape(cv.raw(x), x.shape)]
    parts = cv.bb.emit(R.split(cv.raw(x), [int(e) for e in ends[:-1]], axis))
    return [parts[i] for i in range(len(op.outputs))]


def convert_slice(cv: QdqConverter, op: Operator) -> relax.Expr:
    """SLICE."""
    begin = [int(n) for n in cv.graph.need(op, 1).values.ravel()]
    return window_of(cv, cv.raw(cv.graph.need(op, 0)), begin, cv.graph.out(op).shape)


def convert_extreme(cv: QdqConverter, op: Operator) -> relax.Expr:
    """MAXIMUM, MINIMUM."""
    function = R.maximum if op.kind == "MAXIMUM" else R.minimum
    return function(cv.raw(cv.graph.need(op, 0)), cv.raw(cv.graph.need(op, 1)))


def convert_reduce_max(cv: QdqConverter, op: Operator) -> relax.Expr:
    """REDUCE_MAX: a pool over the reduced axes as rows of one column."""
    x, y, axes = cv.graph.need(op, 0), cv.graph.out(op), reduction_axes(cv.graph, op)
    outer, inner = (int(np.prod(extents)) for extents in (x.shape[: axes[0]], x.shape[axes[-1] + 1 :]))
    rows = int(np.prod([x.shape[a] for a in axes]))
    image = cv.bb.emit(R.reshape(cv.raw(x), (outer, rows, 1, inner)))
    pooled = cv.rounded(R.nn.max_pool2d(cv.real(x, image), pool_size=[rows, 1], layout="NHWC"), y)
    return R.reshape(cv.bb.emit(pooled), y.shape)
