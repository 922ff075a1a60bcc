# SPDX-License-Identifier: Apache-2.0
"""`tiny.dequantize`: int8 to float32, scale * (x - zp).

The product is exact before its one rounding to float32 (24 by 9 bits), so float32 arithmetic equals the reference's float64.
Meaning: TensorFlow Lite's DEQUANTIZE from int8 (reference_ops::Dequantize).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from tvm_tiny.ops import elementwise
from tvm_tiny.ops.layout import LAYOUT_ATTRS
from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import i32

NAME = "tiny.dequantize"


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    check(infos[0].dtype == "int8", NAME, f"x must be int8, got {infos[0].dtype}")
    return elementwise.infer(NAME, infos, attrs, "float32")


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    return elementwise.relayout_array((arrays[0].astype(np.float32) - np.float32(attrs["zp"])) * np.float32(attrs["scale"]), attrs)


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    scale = tirx.const(float(np.float32(attrs["scale"])), "float32")

    def body(x: Any) -> Any:
        return tirx.Cast("float32", i32(x) - i32(attrs["zp"])) * scale

    return elementwise.stage(tensors, attrs, body)


OP = register(TinyOp(NAME, ("x",), _infer, _numpy, _te, attrs={"scale": REQUIRED, "zp": REQUIRED, **LAYOUT_ATTRS}))
