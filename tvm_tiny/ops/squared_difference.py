# SPDX-License-Identifier: Apache-2.0
"""`tiny.squared_difference`: the square of the difference of two int8 tensors of different scales, with broadcasting.

Both inputs, shifted left by `left_shift` bits, are rescaled to a common scale; the square of their difference is rescaled to the output.
Meaning: TensorFlow Lite Micro's SQUARED_DIFFERENCE, int8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops import elementwise
from tvm_tiny.ops.add import ADD_ATTRS, infer_int8
from tvm_tiny.ops.registry import Attrs, TinyOp, check, register
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

NAME = "tiny.squared_difference"
LEFT_SHIFT = 7  # the square of the largest difference stays below 2^31


def quantize_params(a_scale: float, b_scale: float, y_scale: float) -> dict[str, int]:
    """Return the integer attributes for float scales, computed in float64 as SQUARED_DIFFERENCE's Prepare does."""
    twice_max = 2.0 * max(f64(a_scale), f64(b_scale))
    reals = {"a": f64(a_scale) / twice_max, "b": f64(b_scale) / twice_max, "y": twice_max**2 / ((1 << 2 * LEFT_SHIFT) * f64(y_scale))}
    check(min(reals.values()) > 0.0, NAME, f"scales too far apart: real multipliers {tuple(reals.values())}")
    params = {"left_shift": LEFT_SHIFT}
    for key, value in reals.items():
        params[f"{key}_multiplier"], params[f"{key}_shift"] = quantize_multiplier(value)
    return params


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    a, b = (
        multiply_by_quantized_multiplier(
            (x.astype(np.int64) - attrs[f"{key}_zp"]) << attrs["left_shift"],
            attrs[f"{key}_multiplier"],
            attrs[f"{key}_shift"],
            attrs["rounding"],
        )
        for key, x in zip("ab", arrays, strict=True)
    )
    clamp = (attrs["clamp_min"], attrs["clamp_max"])
    y = requantize(wrap_int32((a - b) ** 2), attrs["y_multiplier"], attrs["y_shift"], attrs["y_zp"], clamp, attrs["rounding"])
    return elementwise.relayout_array(y, attrs)


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    def scaled(key: str, x: Any) -> Any:
        wide = (i32(x) - i32(attrs[f"{key}_zp"])) * i32(1 << attrs["left_shift"])
        return multiply_by_quantized_multiplier_tir(wide, attrs[f"{key}_multiplier"], attrs[f"{key}_shift"], attrs["rounding"])

    # In stages: the difference stands twice in its square.
    difference = elementwise.stage(tensors, attrs, lambda a, b: scaled("a", a) - scaled("b", b), name="difference")
    clamp = (attrs["clamp_min"], attrs["clamp_max"])

    def squared(*index: Any) -> Any:
        d = i32(difference[index])
        return requantize_tir(d * d, attrs["y_multiplier"], attrs["y_shift"], attrs["y_zp"], clamp, attrs["rounding"])

    return te.compute([int(d) for d in difference.shape], squared, name="y")


OP = register(TinyOp(NAME, ("a", "b"), lambda infos, attrs: infer_int8(NAME, infos, attrs), _numpy, _te, attrs=ADD_ATTRS))
