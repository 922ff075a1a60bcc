# SPDX-License-Identifier: Apache-2.0
"""`tiny.depthwise_conv2d`: depthwise 2-D convolution with requantisation and clamp.

x int8 (N, H, W, C); weight int8 (KH, KW, C * m), symmetric, any channel multiplier m; bias, multiplier, shift int32 (C * m,);
y int8 (N, OH, OW, C * m); output channel o reads input channel o // m.
Meaning: TensorFlow Lite's DEPTHWISE_CONV_2D, int8 (reference_integer_ops::DepthwiseConvPerChannel).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops import layout as lay
from tvm_tiny.ops.conv2d import REQUANTIZE_ATTRS, check_int8_with_params, quantize_params, requantize_stage
from tvm_tiny.ops.registry import Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import i32, requantize, wrap_int32

__all__ = ["OP", "quantize_params"]

NAME = "tiny.depthwise_conv2d"


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    x, weight = infos[0], infos[1]
    check(len(x.shape) == 4 and len(weight.shape) == 3, NAME, f"x must be 4-D and weight 3-D, got {x.shape} and {weight.shape}")
    lay.check_layouts(NAME, attrs, 4)
    check_int8_with_params(NAME, infos, weight.shape[2])
    nhwc = lay.to_nhwc(x.shape, attrs["x_layout"])
    check(weight.shape[2] % nhwc[3] == 0, NAME, f"{weight.shape[2]} output channels are no multiple of x's {nhwc[3]}")
    height, width = lay.out_shape(NAME, nhwc, weight.shape[:2], attrs)
    return TensorInfo(lay.from_nhwc((nhwc[0], height, width, weight.shape[2]), attrs["y_layout"]), "int8")


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    x, weight, bias, multiplier, shift = arrays
    x = lay.array_to_nhwc(x, attrs["x_layout"])
    out_hw = lay.out_shape(NAME, x.shape, weight.shape[:2], attrs)
    padded = lay.pad_array(x, attrs["padding"], attrs["x_zp"]).astype(np.int64) - attrs["x_zp"]
    padded = np.repeat(padded, weight.shape[2] // x.shape[3], axis=3)
    acc = np.broadcast_to(bias.astype(np.int64), (x.shape[0], *out_hw, weight.shape[2])).copy()
    for kh, kw, view in lay.window_views(padded, weight.shape[:2], out_hw, attrs["strides"], attrs["dilation"]):
        acc += view * weight[kh, kw].astype(np.int64)
    clamp = (attrs["clamp_min"], attrs["clamp_max"])
    y = requantize(wrap_int32(acc), multiplier, shift, attrs["y_zp"], clamp, attrs["rounding"])
    return lay.array_from_nhwc(y, attrs["y_layout"])


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    x, weight = tensors[0], tensors[1]
    kh_size, kw_size, channels = (int(d) for d in weight.shape)
    nhwc = lay.to_nhwc([int(d) for d in x.shape], attrs["x_layout"])
    out_hw = lay.out_shape(NAME, nhwc, (kh_size, kw_size), attrs)
    (sh, sw), (dh, dw) = attrs["strides"], attrs["dilation"]
    span = lay.window_span(out_hw, (kh_size, kw_size), (sh, sw), (dh, dw))
    read = lay.padded_reader(x, attrs["x_layout"], attrs["padding"], attrs["x_zp"], span)
    kh, kw = te.reduce_axis((0, kh_size), "kh"), te.reduce_axis((0, kw_size), "kw")
    multiple = channels // nhwc[3]

    def mac(n: Any, h: Any, w: Any, o: Any) -> Any:
        c = o if multiple == 1 else te.indexdiv(o, multiple)
        value = i32(read(n, h * sh + kh * dh, w * sw + kw * dw, c)) - i32(attrs["x_zp"])
        return te.sum(value * i32(weight[kh, kw, o]), axis=[kh, kw])

    return requantize_stage(mac, (nhwc[0], *out_hw, channels), tensors[2:], attrs)


def _macs(shapes: list[tuple[int, ...]], attrs: Attrs) -> int:
    height, width = lay.out_shape(NAME, lay.to_nhwc(shapes[0], attrs["x_layout"]), shapes[1][:2], attrs)
    return shapes[0][0] * height * width * int(np.prod(shapes[1]))


OP = register(
    TinyOp(
        NAME,
        ("x", "weight", "bias", "multiplier", "shift"),
        _infer,
        _numpy,
        _te,
        _macs,
        {**lay.WINDOW_ATTRS, "dilation": [1, 1], **REQUANTIZE_ATTRS},
    )
)
