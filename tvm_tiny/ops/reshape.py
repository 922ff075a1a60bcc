# SPDX-License-Identifier: Apache-2.0
"""`tiny.reshape`: the same elements in the same order under another `shape`. Any dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register

NAME = "tiny.reshape"


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    (x,), shape = infos, tuple(attrs["shape"])
    same = all(d >= 0 for d in shape) and math.prod(shape) == math.prod(x.shape)
    check(same, NAME, f"shape {shape} does not hold the {math.prod(x.shape)} elements of {x.shape}")
    return TensorInfo(shape, x.dtype)


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    return arrays[0].reshape(attrs["shape"])


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    (x,), shape = tensors, attrs["shape"]
    sizes = [int(d) for d in x.shape]

    def body(*index: Any) -> Any:
        flat: Any = 0
        for i, extent in zip(index, shape, strict=True):
            flat = flat * extent + i
        return x[_unflatten(flat, sizes)]

    return te.compute(shape, body, name="y")


def _unflatten(flat: Any, sizes: Sequence[int]) -> tuple[Any, ...]:
    index: list[Any] = []
    for axis in reversed(range(len(sizes))):
        index.insert(0, te.indexmod(flat, sizes[axis]) if axis else flat)
        flat = te.indexdiv(flat, sizes[axis])
    return tuple(index)


OP = register(TinyOp(NAME, ("x",), _infer, _numpy, _te, attrs={"shape": REQUIRED}))
