# SPDX-License-Identifier: Apache-2.0
"""`tiny.mul`: product of two int8 tensors, with broadcasting.

Meaning: TensorFlow Lite's MUL, int8 (reference_integer_ops::Mul).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops import elementwise
from tvm_tiny.ops.add import infer_int8
from tvm_tiny.ops.layout import LAYOUT_ATTRS
from tvm_tiny.ops.registry import REQUIRED, Attrs, TinyOp, register
from tvm_tiny.ops.requantize_math import i32, quantize_multiplier, requantize, requantize_tir
from tvm_tiny.ops.scales import f64

NAME = "tiny.mul"


def quantize_params(a_scale: float, b_scale: float, y_scale: float) -> dict[str, int]:
    """Return the attributes `multiplier` and `shift` for float scales."""
    multiplier, shift = quantize_multiplier(f64(a_scale) * f64(b_scale) / f64(y_scale))
    return {"multiplier": multiplier, "shift": shift}


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    a, b = arrays[0].astype(np.int64) - attrs["a_zp"], arrays[1].astype(np.int64) - attrs["b_zp"]
    clamp = (attrs["clamp_min"], attrs["clamp_max"])
    y = requantize(a * b, attrs["multiplier"], attrs["shift"], attrs["y_zp"], clamp, attrs["rounding"])
    return elementwise.relayout_array(y, attrs)


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    def body(a: Any, b: Any) -> Any:
        product = (i32(a) - i32(attrs["a_zp"])) * (i32(b) - i32(attrs["b_zp"]))
        clamp = (attrs["clamp_min"], attrs["clamp_max"])
        return requantize_tir(product, attrs["multiplier"], attrs["shift"], attrs["y_zp"], clamp, attrs["rounding"])

    return elementwise.stage(tensors, attrs, body)


OP = register(
    TinyOp(
        NAME,
        ("a", "b"),
        lambda infos, attrs: infer_int8(NAME, infos, attrs),
        _numpy,
        _te,
        attrs={
            "a_zp": REQUIRED,
            "b_zp": REQUIRED,
            "y_zp": REQUIRED,
            "multiplier": REQUIRED,
            "shift": REQUIRED,
            "clamp_min": -128,
            "clamp_max": 127,
            "rounding": "gemmlowp",
            **LAYOUT_ATTRS,
        },
    )
)
