# SPDX-License-Identifier: Apache-2.0
"""`tiny.conv2d`: 2-D convolution with requantisation and clamp, and, where there is a `residual`, an addition of that to the result.

x int8 (N, H, W, C); weight int8 (O, KH, KW, C / groups), symmetric; bias, multiplier, shift int32 (O,); y int8 (N, OH, OW, O);
residual int8, shaped like y and in its layout, with the attribute `residual` (`tvm_tiny.ops.residual`).
Meaning: TensorFlow Lite's CONV_2D, int8, per channel (reference_integer_ops::ConvPerChannel), and then its ADD.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops import layout as lay
from tvm_tiny.ops import residual as res
from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import i32, requantize, requantize_tir, wrap_int32
from tvm_tiny.ops.scales import per_channel

NAME = "tiny.conv2d"
REQUANTIZE_ATTRS = {"x_zp": REQUIRED, "y_zp": REQUIRED, "clamp_min": -128, "clamp_max": 127, "rounding": "gemmlowp"}


def quantize_params(x_scale: float, w_scales: Sequence[float] | np.ndarray | float, y_scale: float, channels: int) -> dict[str, np.ndarray]:
    """Return the `multiplier` and `shift` arguments (int32, one per output channel) for float scales."""
    multiplier, shift = per_channel(x_scale, w_scales, y_scale, channels)
    return {"multiplier": multiplier, "shift": shift}


def check_int8_with_params(op: str, infos: Sequence[TensorInfo], channels: int) -> None:
    """Check dtypes of (x, weight, bias, multiplier, shift, …) and the lengths of the three after the weight."""
    for name, info in zip(("x", "weight"), infos[:2], strict=True):
        check(info.dtype == "int8", op, f"{name} must be int8, got {info.dtype}")
    for name, info in zip(("bias", "multiplier", "shift"), infos[2:5], strict=True):
        check(info == ((channels,), "int32"), op, f"{name} must be int32 ({channels},), got {info.dtype} {info.shape}")


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    x, weight = infos[0], infos[1]
    check(len(x.shape) == 4 and len(weight.shape) == 4, NAME, f"x and weight must be 4-D, got {x.shape} and {weight.shape}")
    lay.check_layouts(NAME, attrs, 4)
    check_int8_with_params(NAME, infos, weight.shape[0])
    nhwc, groups = lay.to_nhwc(x.shape, attrs["x_layout"]), attrs["groups"]
    check(groups >= 1 and weight.shape[0] % groups == 0, NAME, f"{weight.shape[0]} output channels do not split into {groups} groups")
    check(
        nhwc[3] == weight.shape[3] * groups,
        NAME,
        f"x has {nhwc[3]} channels, weight {weight.shape} with {groups} groups takes {weight.shape[3] * groups}",
    )
    height, width = lay.out_shape(NAME, nhwc, weight.shape[1:3], attrs)
    out = TensorInfo(lay.from_nhwc((nhwc[0], height, width, weight.shape[0]), attrs["y_layout"]), "int8")
    res.check_residual(NAME, infos[5:], out, attrs)
    return out


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    x, weight, bias, multiplier, shift = arrays[:5]
    x = lay.array_to_nhwc(x, attrs["x_layout"])
    out_hw = lay.out_shape(NAME, x.shape, weight.shape[1:3], attrs)
    padded = lay.pad_array(x, attrs["padding"], attrs["x_zp"]).astype(np.int64) - attrs["x_zp"]
    groups = attrs["groups"]
    w = weight.reshape(groups, -1, *weight.shape[1:]).astype(np.int64)
    acc = np.zeros((x.shape[0], *out_hw, groups, w.shape[1]), np.int64)
    for kh, kw, view in lay.window_views(padded, weight.shape[1:3], out_hw, attrs["strides"], attrs["dilation"]):
        taps = view.reshape(*view.shape[:3], groups, -1)
        acc += np.einsum("nhwgc,goc->nhwgo", taps, w[:, :, kh, kw, :])
    acc = wrap_int32(acc.reshape(x.shape[0], *out_hw, -1) + bias)
    y = requantize(acc, multiplier, shift, attrs["y_zp"], (attrs["clamp_min"], attrs["clamp_max"]), attrs["rounding"])
    return res.sum_numpy(lay.array_from_nhwc(y, attrs["y_layout"]), arrays[5:], attrs)


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    x, weight, bias, multiplier, shift = tensors[:5]
    channels, kh_size, kw_size, depth = (int(d) for d in weight.shape)
    nhwc = lay.to_nhwc([int(d) for d in x.shape], attrs["x_layout"])
    out_hw = lay.out_shape(NAME, nhwc, (kh_size, kw_size), attrs)
    (sh, sw), (dh, dw) = attrs["strides"], attrs["dilation"]
    span = lay.window_span(out_hw, (kh_size, kw_size), (sh, sw), (dh, dw))
    read = lay.padded_reader(x, attrs["x_layout"], attrs["padding"], attrs["x_zp"], span)
    kh, kw, k = te.reduce_axis((0, kh_size), "kh"), te.reduce_axis((0, kw_size), "kw"), te.reduce_axis((0, depth), "k")
    per_group = channels // attrs["groups"]

    def mac(n: Any, h: Any, w: Any, o: Any) -> Any:
        c = k if attrs["groups"] == 1 else te.indexdiv(o, per_group) * depth + k
        value = i32(read(n, h * sh + kh * dh, w * sw + kw * dw, c)) - i32(attrs["x_zp"])
        return te.sum(value * i32(weight[o, kh, kw, k]), axis=[kh, kw, k])

    return requantize_stage(mac, (nhwc[0], *out_hw, channels), [bias, multiplier, shift], attrs, tensors[5:])


def requantize_stage(
    mac: lay.Accessor, nhwc: Sequence[int], params: Sequence[te.Tensor], attrs: Attrs, residual: Sequence[te.Tensor] = ()
) -> te.Tensor:
    """Return stage `y` = requantised stage `acc` (the reduction `mac`), plus `residual`; all stored in `y_layout`."""
    bias, multiplier, shift = params
    acc = lay.te_nhwc(nhwc, attrs["y_layout"], mac, "acc")
    read = lay.reader(acc, attrs["y_layout"])
    clamp = (attrs["clamp_min"], attrs["clamp_max"])

    others = [lay.reader(r, attrs["y_layout"]) for r in residual]

    def scaled(n: Any, h: Any, w: Any, o: Any) -> Any:
        value = requantize_tir(read(n, h, w, o) + bias[o], multiplier[o], shift[o], attrs["y_zp"], clamp, attrs["rounding"])
        return res.sum_tir(value, [other(n, h, w, o) for other in others], attrs)

    return lay.te_nhwc(nhwc, attrs["y_layout"], scaled, "y")


def _macs(shapes: list[tuple[int, ...]], attrs: Attrs) -> int:
    weight = shapes[1]
    height, width = lay.out_shape(NAME, lay.to_nhwc(shapes[0], attrs["x_layout"]), weight[1:3], attrs)
    return shapes[0][0] * height * width * int(np.prod(weight))


OP = register(
    TinyOp(
        NAME,
        ("x", "weight", "bias", "multiplier", "shift", "?residual"),
        _infer,
        _numpy,
        _te,
        _macs,
        {**lay.WINDOW_ATTRS, "dilation": [1, 1], "groups": 1, **REQUANTIZE_ATTRS, res.ATTR: ""},
    )
)
