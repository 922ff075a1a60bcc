# SPDX-License-Identifier: Apache-2.0
"""`tiny.quantize`: float32 to int8, round(x / scale) + zp, saturated.

`rounding` is "half_away" (TensorFlow Lite) or "half_even" (ONNX). A NaN becomes the smallest int8.
Meaning: TensorFlow Lite's QUANTIZE from float32 (reference_ops::AffineQuantize), in float32 arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from tvm_tiny.ops import elementwise
from tvm_tiny.ops.layout import LAYOUT_ATTRS
from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import clamp_tir, expr, i32

NAME = "tiny.quantize"
ROUNDINGS = ("half_away", "half_even")
LIMIT = 512.0  # beyond it every result saturates, whatever the zero point; keeps the conversion to int32 defined


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    check(infos[0].dtype == "float32", NAME, f"x must be float32, got {infos[0].dtype}")
    check(attrs["scale"] > 0, NAME, f"scale must be positive, got {attrs['scale']}")
    check(attrs["rounding"] in ROUNDINGS, NAME, f"rounding must be one of {', '.join(ROUNDINGS)}, got {attrs['rounding']!r}")
    return elementwise.infer(NAME, infos, attrs)


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = arrays[0] / np.float32(attrs["scale"])
    ratio = np.clip(np.where(np.isnan(ratio), -LIMIT, ratio), -LIMIT, LIMIT).astype(np.float64)
    rounded = np.rint(ratio) if attrs["rounding"] == "half_even" else np.sign(ratio) * np.floor(np.abs(ratio) + 0.5)
    return elementwise.relayout_array(np.clip(rounded + attrs["zp"], -128, 127).astype(np.int8), attrs)


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    return elementwise.stage(tensors, attrs, lambda x: _quantized(expr(x), attrs))


def _quantized(x: Any, attrs: Attrs) -> Any:
    # max before min: a NaN loses the first comparison.
    ratio = tirx.min(tirx.max(x / _f32(attrs["scale"]), _f32(-LIMIT)), _f32(LIMIT))
    whole = tirx.Cast("int32", ratio)  # towards zero
    rest = ratio - tirx.Cast("float32", whole)
    if attrs["rounding"] == "half_even":
        odd = (whole & i32(1)) != i32(0)
        up = tirx.any(rest > _f32(0.5), tirx.all(rest == _f32(0.5), odd))
        down = tirx.any(rest < _f32(-0.5), tirx.all(rest == _f32(-0.5), odd))
    else:
        up, down = rest >= _f32(0.5), rest <= _f32(-0.5)
    rounded = whole + tirx.Cast("int32", up) - tirx.Cast("int32", down)
    return tirx.Cast("int8", clamp_tir(rounded + i32(attrs["zp"]), -128, 127))


def _f32(value: float) -> Any:
    return tirx.const(float(np.float32(value)), "float32")


OP = register(TinyOp(NAME, ("x",), _infer, _numpy, _te, attrs={"scale": REQUIRED, "zp": REQUIRED, "rounding": "half_away", **LAYOUT_ATTRS}))
