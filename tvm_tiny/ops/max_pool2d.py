# SPDX-License-Identifier: Apache-2.0
"""`tiny.max_pool2d`: largest element of each window, clamped; x and y int8 with the same scale and zero point.

Meaning: TensorFlow Lite's MAX_POOL_2D, int8 (reference_integer_ops::MaxPool). Padding never wins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from tvm_tiny.ops import layout as lay
from tvm_tiny.ops import pooling
from tvm_tiny.ops.registry import Attrs, TinyOp, register
from tvm_tiny.ops.requantize_math import clamp_tir, i32

NAME = "tiny.max_pool2d"


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    x = lay.array_to_nhwc(arrays[0], attrs["x_layout"])
    out_hw = lay.out_shape(NAME, x.shape, attrs["kernel"], attrs)
    padded = lay.pad_array(x, attrs["padding"], -128)
    views = [view for _, _, view in lay.window_views(padded, attrs["kernel"], out_hw, attrs["strides"])]
    y = np.clip(np.max(np.stack(views), axis=0), attrs["clamp_min"], attrs["clamp_max"]).astype(np.int8)
    return lay.array_from_nhwc(y, attrs["y_layout"])


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    nhwc = lay.to_nhwc([int(d) for d in tensors[0].shape], attrs["x_layout"])
    out_hw = lay.out_shape(NAME, nhwc, attrs["kernel"], attrs)
    (sh, sw), shape = attrs["strides"], (nhwc[0], *out_hw, nhwc[3])
    span = lay.window_span(out_hw, attrs["kernel"], attrs["strides"])
    read = lay.padded_reader(tensors[0], attrs["x_layout"], attrs["padding"], -128, span)
    kh, kw = te.reduce_axis((0, attrs["kernel"][0]), "kh"), te.reduce_axis((0, attrs["kernel"][1]), "kw")

    def largest(n: Any, h: Any, w: Any, c: Any) -> Any:
        return te.max(read(n, h * sh + kh, w * sw + kw, c), axis=[kh, kw])

    unclamped = (attrs["clamp_min"], attrs["clamp_max"]) == (-128, 127)
    acc = lay.te_nhwc(shape, attrs["y_layout"], largest, "y" if unclamped else "acc")
    if unclamped:
        return acc
    best = lay.reader(acc, attrs["y_layout"])

    def clamped(*index: Any) -> Any:
        return tirx.Cast("int8", clamp_tir(i32(best(*index)), attrs["clamp_min"], attrs["clamp_max"]))

    return lay.te_nhwc(shape, attrs["y_layout"], clamped, "y")


OP = register(TinyOp(NAME, ("x",), lambda infos, attrs: pooling.infer(NAME, infos, attrs), _numpy, _te, attrs=pooling.POOL_ATTRS))
