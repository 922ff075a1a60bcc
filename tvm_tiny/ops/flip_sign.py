# SPDX-License-Identifier: Apache-2.0
"""`tiny.flip_sign`: the top bit of every byte turned over, uint8 ↔ int8: the same real values with a zero point 128 lower (higher).

Meaning: the change of type in QUANTIZE of TensorFlow Lite between uint8 and int8 of one scale (reference_ops::Requantize with factor 1).
With another scale a `tiny.requantize` stands on its int8 side: both count from their zero points, so 128 more in both changes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from tvm_tiny.ops.registry import Attrs, TensorInfo, TinyOp, check, register

NAME = "tiny.flip_sign"
_OTHER = {"uint8": "int8", "int8": "uint8"}


def _infer(infos: list[TensorInfo], _attrs: Attrs) -> TensorInfo:
    check(infos[0].dtype in _OTHER, NAME, f"x must be int8 or uint8, got {infos[0].dtype}")
    return TensorInfo(infos[0].shape, _OTHER[infos[0].dtype])


def _numpy(arrays: list[np.ndarray], _attrs: Attrs) -> np.ndarray:
    return (arrays[0].view(np.uint8) ^ np.uint8(128)).view(_OTHER[str(arrays[0].dtype)])


def _te(tensors: list[te.Tensor], _attrs: Attrs) -> te.Tensor:
    (x,) = tensors
    result, step = _OTHER[str(x.dtype)], 128 if str(x.dtype) == "int8" else -128

    def body(*index: Any) -> Any:
        return tirx.Cast(result, tirx.Cast("int32", x[index]) + tirx.const(step, "int32"))

    return te.compute(x.shape, body, name="y")


OP = register(TinyOp(NAME, ("x",), _infer, _numpy, _te))
