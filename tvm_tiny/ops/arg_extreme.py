# SPDX-License-Identifier: Apache-2.0
"""`tiny.arg_extreme`: where along `axis` (as the tensor lies in memory) the largest (or, with `least`, smallest) element is.

x int8; y int32 without that axis; the first of equals.
Meaning: TensorFlow Lite's ARG_MAX and ARG_MIN, int8 (reference_ops::ArgMinMax).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import i32

NAME = "tiny.arg_extreme"


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    (x,), axis = infos, attrs["axis"]
    check(x.dtype == "int8", NAME, f"x must be int8, got {x.dtype}")
    check(len(x.shape) >= 2 and 0 <= axis < len(x.shape), NAME, f"axis {axis} of {x.shape}; two axes at least")
    return TensorInfo(x.shape[:axis] + x.shape[axis + 1 :], "int32")


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    function = np.argmin if attrs["least"] else np.argmax
    return np.asarray(function(arrays[0], axis=attrs["axis"]), np.int32)


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    (x,), axis = tensors, attrs["axis"]
    extent = int(x.shape[axis])
    shape = [int(d) for i, d in enumerate(x.shape) if i != axis]
    k, j = te.reduce_axis((0, extent), "k"), te.reduce_axis((0, extent), "k")

    def at(index: tuple[Any, ...], position: Any) -> Any:
        place = (*index[:axis], position, *index[axis:])
        return i32(x[place])

    best = te.min if attrs["least"] else te.max
    value = te.compute(shape, lambda *i: best(at(i, k), axis=k), name="best")
    # The first place that holds it: the least of all such places.
    return te.compute(shape, lambda *i: te.min(tirx.Select(at(i, j) == i32(value[i]), i32(j.var), i32(extent)), axis=j), name="y")


OP = register(TinyOp(NAME, ("x",), _infer, _numpy, _te, attrs={"axis": REQUIRED, "least": False}))
