# SPDX-License-Identifier: Apache-2.0
"""`tiny.add`: sum of two int8 tensors of different scales, with broadcasting.

Both inputs, shifted left by `left_shift` bits, are rescaled to a common scale, added, and rescaled to the output.
Meaning: TensorFlow Lite's ADD, int8 (reference_integer_ops::Add).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops import elementwise
from tvm_tiny.ops.layout import LAYOUT_ATTRS
from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import (
    i32,
    multiply_by_quantized_multiplier,
    multiply_by_quantized_multiplier_tir,
    quantize_multiplier,
    requantize,
    requantize_tir,
    wrap_int32,
)
from tvm_tiny.ops.scales import f64

NAME = "tiny.add"
LEFT_SHIFT = 20
ADD_ATTRS = {
    "a_zp": REQUIRED,
    "b_zp": REQUIRED,
    "y_zp": REQUIRED,
    "left_shift": LEFT_SHIFT,
    "a_multiplier": REQUIRED,
    "a_shift": REQUIRED,
    "b_multiplier": REQUIRED,
    "b_shift": REQUIRED,
    "y_multiplier": REQUIRED,
    "y_shift": REQUIRED,
    "clamp_min": -128,
    "clamp_max": 127,
    "rounding": "gemmlowp",
    **LAYOUT_ATTRS,
}


def quantize_params(a_scale: float, b_scale: float, y_scale: float) -> dict[str, int]:
    """Return the integer attributes for float scales, computed in float64 as ADD's Prepare does."""
    twice_max = 2.0 * max(f64(a_scale), f64(b_scale))
    return multipliers(NAME, f64(a_scale) / twice_max, f64(b_scale) / twice_max, twice_max / ((1 << LEFT_SHIFT) * f64(y_scale)))


def multipliers(op: str, a: float, b: float, y: float) -> dict[str, int]:
    """Return the attributes for three real multipliers, each of which must be below one."""
    check(0.0 < min(a, b) and max(a, b, y) < 1.0 and y > 0.0, op, f"scales too far apart: real multipliers {a}, {b}, {y}")
    params: dict[str, int] = {"left_shift": LEFT_SHIFT}
    for key, value in (("a", a), ("b", b), ("y", y)):
        params[f"{key}_multiplier"], params[f"{key}_shift"] = quantize_multiplier(value)
    return params


def infer_int8(op: str, infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    """Check that both inputs are int8 and broadcast."""
    for name, info in zip("ab", infos, strict=True):
        check(info.dtype == "int8", op, f"{name} must be int8, got {info.dtype}")
    return elementwise.infer(op, infos, attrs)


def sum_numpy(arrays: list[np.ndarray], attrs: Attrs, sign: int) -> np.ndarray:
    """Return a + sign * b."""
    scaled = [
        multiply_by_quantized_multiplier(
            wrap_int32((x.astype(np.int64) - attrs[f"{key}_zp"]) << attrs["left_shift"]),
            attrs[f"{key}_multiplier"],
            attrs[f"{key}_shift"],
            attrs["rounding"],
        )
        for key, x in zip("ab", arrays, strict=True)
    ]
    total = wrap_int32(scaled[0] + sign * scaled[1])
    clamp = (attrs["clamp_min"], attrs["clamp_max"])
    y = requantize(total, attrs["y_multiplier"], attrs["y_shift"], attrs["y_zp"], clamp, attrs["rounding"])
    return elementwise.relayout_array(y, attrs)


def sum_te(tensors: list[te.Tensor], attrs: Attrs, sign: int) -> te.Tensor:
    """TE form of `sum_numpy`."""
    return elementwise.stage(tensors, attrs, lambda a, b: sum_tir(a, b, attrs, sign))


def sum_tir(a: Any, b: Any, attrs: Attrs, sign: int = 1) -> Any:
    """TIR form of `sum_numpy` for one element."""

    def scaled(key: str, x: Any) -> Any:
        wide = (i32(x) - i32(attrs[f"{key}_zp"])) * i32(1 << attrs["left_shift"])
        return multiply_by_quantized_multiplier_tir(wide, attrs[f"{key}_multiplier"], attrs[f"{key}_shift"], attrs["rounding"])

    total = scaled("a", a) + scaled("b", b) if sign > 0 else scaled("a", a) - scaled("b", b)
    clamp = (attrs["clamp_min"], attrs["clamp_max"])
    return requantize_tir(total, attrs["y_multiplier"], attrs["y_shift"], attrs["y_zp"], clamp, attrs["rounding"])


OP = register(
    TinyOp(
        NAME,
        ("a", "b"),
        lambda infos, attrs: infer_int8(NAME, infos, attrs),
        lambda arrays, attrs: sum_numpy(arrays, attrs, 1),
        lambda tensors, attrs: sum_te(tensors, attrs, 1),
        attrs=ADD_ATTRS,
    )
)
