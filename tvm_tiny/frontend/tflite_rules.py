# SPDX-License-Identifier: Apache-2.0
"""What TFLite's attributes mean in numbers: padding, activation clamps, slice bounds, reduction axes. Shared by checker and converter."""

from __future__ import annotations

import numpy as np

from tvm_tiny.frontend.graph import Graph, Operator, Tensor

ACTIVATIONS = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH", 5: "SIGN_BIT"}
_BOUNDS: dict[int, tuple[float, float | None]] = {1: (0.0, None), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
SAME, VALID = 0, 1


def activation_range(activation: int, tensor: Tensor) -> tuple[float, float] | None:
    """Bounds of the clamp for a fused activation in the tensor's own numbers, None when it clamps nothing.

    For int8 the bounds are TFLite's CalculateActivationRangeQuantized: zero_point + round(bound / scale) in float32, halves away from zero,
    limited to int8. For float32 they are the real bounds.
    """
    if activation not in _BOUNDS:
        return None
    low, high = _BOUNDS[activation]
    if tensor.quant is None:
        return low, float(np.finfo(np.float32).max) if high is None else high
    lower = max(-128, _quantized(low, tensor))
    upper = 127 if high is None else min(127, _quantized(high, tensor))
    return None if (lower, upper) == (-128, 127) else (lower, upper)


def _quantized(bound: float, tensor: Tensor) -> int:
    with np.errstate(over="ignore"):
        ratio = float(np.clip(np.float32(bound) / np.float32(tensor.scale), -1e9, 1e9))
    return tensor.zero_point + int(np.trunc(ratio + np.copysign(0.5, ratio)))


def window(op: Operator, kernel: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(stride, extent of the dilated kernel) along height and width."""
    options = op.options
    dilation = options.get("dilation_h", 1), options.get("dilation_w", 1)
    extent = (kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1
    return (options["stride_h"], options["stride_w"]), extent


def kernel_size(graph: Graph, op: Operator) -> tuple[int, int]:
    """Height and width of a convolution's or pooling's window."""
    if "filter_h" in op.options:
        return op.options["filter_h"], op.options["filter_w"]
    weight = graph.need(op, 1)
    return weight.shape[1], weight.shape[2]


def output_extent(extent: int, stride: int, kernel: int, padding: int) -> int:
    """Rows (columns) a window produces; TFLite's ComputeOutSize."""
    return -(-extent // stride) if padding == SAME else (extent + stride - kernel) // stride


def output_padding(graph: Graph, op: Operator) -> list[int]:
    """[top, left, bottom, right] of a convolution or pooling; the odd row of SAME padding goes to the bottom (right)."""
    x = graph.need(op, 0)
    strides, kernels = window(op, kernel_size(graph, op))
    before, after = [], []
    for extent, stride, kernel in zip(x.shape[1:3], strides, kernels, strict=True):
        out = output_extent(extent, stride, kernel, op.options["padding"])
        total = max((out - 1) * stride + kernel - extent, 0) if op.options["padding"] == SAME else 0
        before.append(total // 2)
        after.append(total - total // 2)
    return [*before, *after]


def transposed_padding(graph: Graph, op: Operator) -> tuple[tuple[int, int], tuple[int, int]]:
    """(rows, columns) of TRANSPOSE_CONV before the output's first, and the input's extents that belong to the output's.

    The reference kernel takes the padding of the convolution that leads back from the output.
    """
    weight, y, options = graph.need(op, 1), graph.out(op), op.options
    before, extents = [], []
    for extent, stride, kernel in zip(y.shape[1:3], (options["stride_h"], options["stride_w"]), weight.shape[1:3], strict=True):
        out = output_extent(extent, stride, kernel, options["padding"])
        before.append(max((out - 1) * stride + kernel - extent, 0) // 2)
        extents.append(out)
    return (before[0], before[1]), (extents[0], extents[1])


def reduction_axes(graph: Graph, op: Operator) -> list[int]:
    """The axes of a reduction, non-negative, sorted, without duplicates."""
    x, axes = graph.need(op, 0), graph.need(op, 1)
    return sorted({int(a) % len(x.shape) for a in axes.values.ravel()})


def slice_bounds(graph: Graph, op: Operator) -> tuple[list[int], list[int], list[int]]:
    """begin, end, stride along every axis of STRIDED_SLICE with masks resolved; backwards, `end` may be -1, before the first element."""
    x, options = graph.need(op, 0), op.options
    begins, ends, strides = ([int(n) for n in graph.need(op, i).values.ravel()] for i in (1, 2, 3))
    out: tuple[list[int], list[int], list[int]] = ([], [], [])
    for axis, extent in enumerate(x.shape):
        given = axis < len(begins)
        stride = strides[axis] if given else 1
        first, last = (0, extent) if stride > 0 else (extent - 1, -1)
        begin = first if not given or options["begin_mask"] >> axis & 1 else _position(begins[axis], extent, stride)
        end = last if not given or options["end_mask"] >> axis & 1 else _position(ends[axis], extent, stride)
        if options["shrink_axis_mask"] >> axis & 1:
            end, stride = begin + 1, 1
        for bounds, value in zip(out, (begin, max(begin, end) if stride > 0 else min(begin, end), stride), strict=True):
            bounds.append(value)
    return out


def _position(index: int, extent: int, stride: int) -> int:
    low, high = (0, extent) if stride > 0 else (-1, extent - 1)
    return min(max(index + extent if index < 0 else index, low), high)


def mirrored(extent: int, before: int, after: int, mode: int) -> np.ndarray:
    """The places along one axis that MIRROR_PAD reads: the edge stands once (mode 0, REFLECT) or twice (1, SYMMETRIC)."""
    skip = 1 if mode == 0 else 0
    places = np.arange(extent)
    return np.concatenate([places[skip : before + skip][::-1], places, places[extent - after - skip : extent - skip][::-1]])


def block_axes(graph: Graph, op: Operator) -> tuple[list[int], list[list[int]]]:
    """Blocks, and pairs of padding (or crops), of SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND."""
    return [int(n) for n in graph.need(op, 1).values.ravel()], graph.need(op, 2).values.tolist()
