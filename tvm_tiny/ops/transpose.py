# SPDX-License-Identifier: Apache-2.0
"""`tiny.transpose`: axes in another order: axis i of y is axis `axes[i]` of x. Any dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register

NAME = "tiny.transpose"


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    (x,), axes = infos, attrs["axes"]
    check(sorted(axes) == list(range(len(x.shape))), NAME, f"axes must be an order of 0..{len(x.shape) - 1}, got {axes}")
    return TensorInfo(tuple(x.shape[a] for a in axes), x.dtype)


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    return arrays[0].transpose(attrs["axes"])


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    (x,), axes = tensors, attrs["axes"]

    def body(*index: Any) -> Any:
        return x[tuple(index[axes.index(a)] for a in range(len(axes)))]

    return te.compute([x.shape[a] for a in axes], body, name="y")


OP = register(TinyOp(NAME, ("x",), _infer, _numpy, _te, attrs={"axes": REQUIRED}))
