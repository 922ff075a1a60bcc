# SPDX-License-Identifier: Apache-2.0
"""`tiny.lookup`: any int8 -> int8 function of one input: y = table[x + 128]. Tables are built by `tvm_tiny.ops.tables`.

x int8; table int8 (256,); y int8, shape of x (written in `y_layout` when 4-D).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops import elementwise
from tvm_tiny.ops.layout import LAYOUT_ATTRS
from tvm_tiny.ops.registry import Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import i32

NAME = "tiny.lookup"


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    x, table = infos
    check(x.dtype == "int8", NAME, f"x must be int8, got {x.dtype}")
    check(table == ((256,), "int8"), NAME, f"table must be int8 (256,), got {table.dtype} {table.shape}")
    return elementwise.infer(NAME, [x], attrs)


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    return elementwise.relayout_array(arrays[1][arrays[0].astype(np.int64) + 128], attrs)


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    x, table = tensors

    def body(value: Any) -> Any:
        return table[i32(value) + i32(128)]

    return elementwise.stage([x], attrs, body)


OP = register(TinyOp(NAME, ("x", "table"), _infer, _numpy, _te, attrs=LAYOUT_ATTRS))
