# SPDX-License-Identifier: Apache-2.0
"""`tiny.prelu`: x where it is not negative, slope * x where it is, with broadcasting.

x int8; slope int8 (or int16, symmetric, where slopes are quantised here); y int8.
Meaning: TensorFlow Lite's PRELU, int8 (reference_ops::BroadcastPrelu4DSlow): each side has a rescaling of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from tvm_tiny.ops import elementwise
from tvm_tiny.ops.layout import LAYOUT_ATTRS
from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import (
    clamp_tir,
    i32,
    multiply_by_quantized_multiplier,
    multiply_by_quantized_multiplier_tir,
    quantize_multiplier,
    wrap_int32,
)
from tvm_tiny.ops.scales import f64

NAME = "tiny.prelu"


def quantize_params(x_scale: float, slope_scale: float, y_scale: float) -> dict[str, int]:
    """Return the attributes of both rescalings for float scales, in float64 as PRELU's Prepare does."""
    multiplier, shift = quantize_multiplier(f64(x_scale) / f64(y_scale))
    slope_multiplier, slope_shift = quantize_multiplier(f64(x_scale) * f64(slope_scale) / f64(y_scale))
    return {"multiplier": multiplier, "shift": shift, "slope_multiplier": slope_multiplier, "slope_shift": slope_shift}


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    x, slope = infos
    fits = x.dtype == "int8" and slope.dtype in ("int8", "int16")
    check(fits, NAME, f"x must be int8, slope int8 or int16; got {x.dtype} and {slope.dtype}")
    out = elementwise.infer(NAME, infos, attrs)
    check(out.shape == x.shape or attrs["x_layout"] != attrs["y_layout"], NAME, f"slope {slope.shape} is larger than x {x.shape}")
    return out


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    x = arrays[0].astype(np.int64) - attrs["x_zp"]
    slope = arrays[1].astype(np.int64) - attrs["slope_zp"]
    above = multiply_by_quantized_multiplier(x, attrs["multiplier"], attrs["shift"], attrs["rounding"])
    below = multiply_by_quantized_multiplier(x * slope, attrs["slope_multiplier"], attrs["slope_shift"], attrs["rounding"])
    y = wrap_int32(np.where(x >= 0, above, below) + attrs["y_zp"])
    return elementwise.relayout_array(np.clip(y, attrs["clamp_min"], attrs["clamp_max"]).astype(np.int8), attrs)


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    def body(x: Any, slope: Any) -> Any:
        centred = i32(x) - i32(attrs["x_zp"])
        sloped = centred * (i32(slope) - i32(attrs["slope_zp"]))
        above = multiply_by_quantized_multiplier_tir(centred, attrs["multiplier"], attrs["shift"], attrs["rounding"])
        below = multiply_by_quantized_multiplier_tir(sloped, attrs["slope_multiplier"], attrs["slope_shift"], attrs["rounding"])
        y = tirx.if_then_else(centred >= i32(0), above, below) + i32(attrs["y_zp"])
        return tirx.Cast("int8", clamp_tir(y, attrs["clamp_min"], attrs["clamp_max"]))

    return elementwise.stage(tensors, attrs, body)


OP = register(
    TinyOp(
        NAME,
        ("x", "slope"),
        _infer,
        _numpy,
        _te,
        attrs={
            "x_zp": REQUIRED,
            "slope_zp": 0,
            "y_zp": REQUIRED,
            "multiplier": REQUIRED,
            "shift": REQUIRED,
            "slope_multiplier": REQUIRED,
            "slope_shift": REQUIRED,
            "clamp_min": -128,
            "clamp_max": 127,
            "rounding": "gemmlowp",
            **LAYOUT_ATTRS,
        },
    )
)
