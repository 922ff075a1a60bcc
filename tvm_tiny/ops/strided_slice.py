# SPDX-License-Identifier: Apache-2.0
"""`tiny.strided_slice`: y[i] = x[begin + i * strides], `size` elements along each axis; strides may be negative. Any dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register

NAME = "tiny.strided_slice"


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    (x,), begin, strides, size = infos, attrs["begin"], attrs["strides"], attrs["size"]
    check(len(begin) == len(strides) == len(size) == len(x.shape), NAME, f"begin, strides and size need {len(x.shape)} entries each")
    for axis, (extent, b, s, n) in enumerate(zip(x.shape, begin, strides, size, strict=True)):
        inside = n >= 1 and s != 0 and 0 <= b < extent and 0 <= b + (n - 1) * s < extent
        check(inside, NAME, f"axis {axis} of {extent}: begin {b}, stride {s}, size {n} reaches outside")
    return TensorInfo(tuple(size), x.dtype)


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    picks = [b + s * np.arange(n) for b, s, n in zip(attrs["begin"], attrs["strides"], attrs["size"], strict=True)]
    return arrays[0][np.ix_(*picks)] if picks else arrays[0]


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    def body(*index: Any) -> Any:
        return tensors[0][tuple(b + i * s for i, b, s in zip(index, attrs["begin"], attrs["strides"], strict=True))]

    return te.compute(attrs["size"], body, name="y")


OP = register(TinyOp(NAME, ("x",), _infer, _numpy, _te, attrs={"begin": REQUIRED, "strides": REQUIRED, "size": REQUIRED}))
