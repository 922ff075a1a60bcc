# SPDX-License-Identifier: Apache-2.0
"""`tiny.mean`: mean over some axes, requantised.

x int8; `axes` are axes of the NHWC tensor when x is 4-D, whatever its layout; y int8 with those axes 1 (`keepdims`) or gone.
Meaning: TensorFlow Lite's MEAN, int8 (reference_ops::QuantizedMeanOrSum): the sum minus count * x_zp, times a multiplier that has
1/count in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops import layout as lay
from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import i32, quantize_multiplier, requantize, requantize_tir, wrap_int32
from tvm_tiny.ops.scales import f64

NAME = "tiny.mean"


def quantize_params(x_scale: float, y_scale: float, count: int) -> dict[str, int]:
    """Return the attributes `multiplier` and `shift` for float scales and the number of elements in a mean."""
    multiplier, shift = quantize_multiplier(f64(x_scale) / f64(y_scale))
    extra = min(count.bit_length() - 1, 32, 31 + shift)
    return {"multiplier": (multiplier << extra) // count, "shift": shift - extra}


def _nhwc_shape(shape: Sequence[int], attrs: Attrs) -> tuple[int, ...]:
    return lay.to_nhwc(shape, attrs["x_layout"]) if len(shape) == 4 else tuple(shape)


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    (x,), axes = infos, attrs["axes"]
    check(x.dtype == "int8", NAME, f"x must be int8, got {x.dtype}")
    lay.check_layouts(NAME, attrs, len(x.shape))
    good = sorted(set(axes)) == sorted(axes) and all(0 <= a < len(x.shape) for a in axes)
    check(good and len(axes) > 0, NAME, f"axes must be distinct, in 0..{len(x.shape) - 1}; got {axes}")
    check(attrs["y_layout"] == "NHWC" or attrs["keepdims"], NAME, "y_layout NCHW needs keepdims")
    shape = _nhwc_shape(x.shape, attrs)
    if attrs["keepdims"]:
        kept = tuple(1 if i in axes else d for i, d in enumerate(shape))
        return TensorInfo(lay.from_nhwc(kept, attrs["y_layout"]) if len(kept) == 4 else kept, "int8")
    return TensorInfo(tuple(d for i, d in enumerate(shape) if i not in axes), "int8")


def _count(shape: Sequence[int], attrs: Attrs) -> int:
    return int(np.prod([_nhwc_shape(shape, attrs)[a] for a in attrs["axes"]]))


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    x = (lay.array_to_nhwc(arrays[0], attrs["x_layout"]) if arrays[0].ndim == 4 else arrays[0]).astype(np.int64)
    total = wrap_int32(x.sum(axis=tuple(attrs["axes"]), keepdims=attrs["keepdims"]) - attrs["x_zp"] * _count(arrays[0].shape, attrs))
    y = requantize(total, attrs["multiplier"], attrs["shift"], attrs["y_zp"], (-128, 127), attrs["rounding"])
    return lay.array_from_nhwc(y, attrs["y_layout"])


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    (x,) = tensors
    physical = tuple(int(d) for d in x.shape)
    shape, axes = _nhwc_shape(physical, attrs), attrs["axes"]
    out = _infer([TensorInfo(physical, "int8")], attrs).shape
    reduce = {a: te.reduce_axis((0, shape[a]), f"r{a}") for a in axes}

    def source(index: Sequence[Any]) -> tuple[Any, ...]:
        kept = list(lay.to_nhwc(index, attrs["y_layout"])) if attrs["keepdims"] and len(shape) == 4 else list(index)
        rest = iter(kept)
        logical = [reduce.get(a, kept[a]) if attrs["keepdims"] else (reduce[a] if a in reduce else next(rest)) for a in range(len(shape))]
        return lay.from_nhwc(logical, attrs["x_layout"]) if len(shape) == 4 else tuple(logical)

    acc = te.compute(out, lambda *i: te.sum(i32(x[source(i)]), axis=list(reduce.values())), name="acc")
    offset = i32(attrs["x_zp"] * _count(physical, attrs))

    def scaled(*index: Any) -> Any:
        return requantize_tir(acc[index] - offset, attrs["multiplier"], attrs["shift"], attrs["y_zp"], (-128, 127), attrs["rounding"])

    return te.compute(out, scaled, name="y")


OP = register(
    TinyOp(
        NAME,
        ("x",),
        _infer,
        _numpy,
        _te,
        attrs={
            "axes": REQUIRED,
            "keepdims": False,
            "x_zp": REQUIRED,
            "y_zp": REQUIRED,
            "multiplier": REQUIRED,
            "shift": REQUIRED,
            "rounding": "gemmlowp",
            **lay.LAYOUT_ATTRS,
        },
    )
)
