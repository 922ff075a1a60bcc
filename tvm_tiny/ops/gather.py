# SPDX-License-Identifier: Apache-2.0
"""`tiny.gather`: the slices of a tensor along `axis` (as it lies in memory) that `indices` names, in their order, repeats allowed.

x of any dtype; indices int32 (n,), each within the axis; y as x with n slices.
Meaning: TensorFlow Lite's GATHER with constant indices, and what follows from it: MIRROR_PAD, BROADCAST_TO.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import i32

NAME = "tiny.gather"


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    (x, indices), axis = infos, attrs["axis"]
    check(0 <= axis < len(x.shape), NAME, f"axis must be in 0..{len(x.shape) - 1}, got {axis}")
    check(indices.dtype == "int32" and len(indices.shape) == 1, NAME, f"indices must be 1-D int32, got {indices.dtype} {indices.shape}")
    return TensorInfo((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    return arrays[0].take(arrays[1], attrs["axis"])


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    (x, indices), axis = tensors, attrs["axis"]
    shape = [*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]]

    def body(*index: Any) -> Any:
        place = (*index[:axis], i32(indices[index[axis]]), *index[axis + 1 :])
        return x[place]

    return te.compute(shape, body, name="y")


OP = register(TinyOp(NAME, ("x", "indices"), _infer, _numpy, _te, attrs={"axis": REQUIRED}))
