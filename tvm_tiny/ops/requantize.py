# SPDX-License-Identifier: Apache-2.0
"""`tiny.requantize`: the same values at another scale and zero point; x int8 or int32, y int8.

Meaning: TensorFlow Lite's QUANTIZE from int8 or int32 to int8 (reference_ops::Requantize).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops import elementwise
from tvm_tiny.ops.layout import LAYOUT_ATTRS
from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import i32, quantize_multiplier, requantize, requantize_tir, wrap_int32
from tvm_tiny.ops.scales import f64

NAME = "tiny.requantize"


def quantize_params(x_scale: float, y_scale: float) -> dict[str, int]:
    """Return the attributes `multiplier` and `shift` for float scales."""
    multiplier, shift = quantize_multiplier(f64(x_scale) / f64(y_scale))
    return {"multiplier": multiplier, "shift": shift}


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    check(infos[0].dtype in ("int8", "int32"), NAME, f"x must be int8 or int32, got {infos[0].dtype}")
    return elementwise.infer(NAME, infos, attrs)


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    x = wrap_int32(arrays[0].astype(np.int64) - attrs["x_zp"])
    clamp = (attrs["clamp_min"], attrs["clamp_max"])
    return elementwise.relayout_array(requantize(x, attrs["multiplier"], attrs["shift"], attrs["y_zp"], clamp, attrs["rounding"]), attrs)


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    def body(x: Any) -> Any:
        clamp = (attrs["clamp_min"], attrs["clamp_max"])
        return requantize_tir(i32(x) - i32(attrs["x_zp"]), attrs["multiplier"], attrs["shift"], attrs["y_zp"], clamp, attrs["rounding"])

    return elementwise.stage(tensors, attrs, body)


OP = register(
    TinyOp(
        NAME,
        ("x",),
        _infer,
        _numpy,
        _te,
        attrs={
            "x_zp": REQUIRED,
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
