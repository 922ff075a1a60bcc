# SPDX-License-Identifier: Apache-2.0
"""What `tiny.maximum` and `tiny.minimum` share: one of two int8, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops import elementwise
from tvm_tiny.ops.layout import LAYOUT_ATTRS
from tvm_tiny.ops.registry import Attrs, TensorInfo, TinyOp, check, register


def extreme(name: str, function: np.ufunc, tir: Callable[[Any, Any], Any]) -> TinyOp:
    """The operator called `name` whose meaning is `function`, and `tir` in expressions."""

    def infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
        for info in infos:
            check(info.dtype == "int8", name, f"arguments must be int8, got {info.dtype}")
        return elementwise.infer(name, infos, attrs)

    def numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
        return elementwise.relayout_array(function(*arrays), attrs)

    def tensors(arguments: list[te.Tensor], attrs: Attrs) -> te.Tensor:
        return elementwise.stage(arguments, attrs, tir)

    return register(TinyOp(name, ("a", "b"), infer, numpy, tensors, attrs=LAYOUT_ATTRS))
