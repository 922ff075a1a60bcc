# SPDX-License-Identifier: Apache-2.0
"""`tiny.avg_pool2d`: mean of each window over the elements that are not padding, rounded half away from zero, clamped.

x and y int8 with the same scale and zero point. Meaning: TensorFlow Lite's AVERAGE_POOL_2D, int8 (reference_integer_ops::AveragePool).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from tvm_tiny.ops import layout as lay
from tvm_tiny.ops import pooling
from tvm_tiny.ops.registry import Attrs, TinyOp, register
from tvm_tiny.ops.requantize_math import clamp_tir, i32

NAME = "tiny.avg_pool2d"


def _counts(size: int, out: int, kernel: int, stride: int, before: int) -> np.ndarray:
    """How many elements along one axis each window covers."""
    starts = np.arange(out) * stride - before
    return np.minimum(starts + kernel, size) - np.maximum(starts, 0)


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    x = lay.array_to_nhwc(arrays[0], attrs["x_layout"])
    out_hw = lay.out_shape(NAME, x.shape, attrs["kernel"], attrs)
    padded = lay.pad_array(x.astype(np.int64), attrs["padding"], 0)
    total = sum(view for _, _, view in lay.window_views(padded, attrs["kernel"], out_hw, attrs["strides"]))
    rows, cols = (_counts(x.shape[1 + i], out_hw[i], attrs["kernel"][i], attrs["strides"][i], attrs["padding"][i]) for i in (0, 1))
    count = (rows[:, None] * cols[None, :])[None, :, :, None]
    mean = np.sign(total) * ((np.abs(total) + count // 2) // count)
    return lay.array_from_nhwc(np.clip(mean, attrs["clamp_min"], attrs["clamp_max"]).astype(np.int8), attrs["y_layout"])


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    nhwc = lay.to_nhwc([int(d) for d in tensors[0].shape], attrs["x_layout"])
    out_hw = lay.out_shape(NAME, nhwc, attrs["kernel"], attrs)
    (sh, sw), shape = attrs["strides"], (nhwc[0], *out_hw, nhwc[3])
    span = lay.window_span(out_hw, attrs["kernel"], attrs["strides"])
    read = lay.padded_reader(tensors[0], attrs["x_layout"], attrs["padding"], 0, span)
    kh, kw = te.reduce_axis((0, attrs["kernel"][0]), "kh"), te.reduce_axis((0, attrs["kernel"][1]), "kw")

    def total(n: Any, h: Any, w: Any, c: Any) -> Any:
        return te.sum(i32(read(n, h * sh + kh, w * sw + kw, c)), axis=[kh, kw])

    acc = lay.reader(lay.te_nhwc(shape, attrs["y_layout"], total, "acc"), attrs["y_layout"])

    def mean(n: Any, h: Any, w: Any, c: Any) -> Any:
        count = _count_tir(0, h, nhwc, out_hw, attrs) * _count_tir(1, w, nhwc, out_hw, attrs)
        half = tirx.truncdiv(count, i32(2))
        value = i32(acc(n, h, w, c))
        rounded = tirx.truncdiv(value + tirx.Select(value > i32(0), half, i32(0) - half), count)
        return tirx.Cast("int8", clamp_tir(rounded, attrs["clamp_min"], attrs["clamp_max"]))

    return lay.te_nhwc(shape, attrs["y_layout"], mean, "y")


def _count_tir(axis: int, index: Any, nhwc: Sequence[int], out_hw: Sequence[int], attrs: Attrs) -> Any:
    size, kernel, stride, before = nhwc[1 + axis], attrs["kernel"][axis], attrs["strides"][axis], attrs["padding"][axis]
    counts = _counts(size, out_hw[axis], kernel, stride, before)
    if counts.min() == counts.max():
        return i32(int(counts[0]))
    start = index * i32(stride) - i32(before)
    return tirx.min(start + i32(kernel), i32(size)) - tirx.max(start, i32(0))


OP = register(TinyOp(NAME, ("x",), lambda infos, attrs: pooling.infer(NAME, infos, attrs), _numpy, _te, attrs=pooling.POOL_ATTRS))
