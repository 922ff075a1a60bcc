# SPDX-License-Identifier: Apache-2.0
"""What operators on single elements share: broadcasting and a layout change between input and output.

Shapes follow numpy's broadcasting rules in the order in which the inputs lie in memory (`x_layout`); a 4-D result may be written in
`y_layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops import layout as lay
from tvm_tiny.ops.registry import Attrs, TensorInfo, check


def infer(op: str, infos: Sequence[TensorInfo], attrs: Attrs, y_dtype: str = "int8") -> TensorInfo:
    """Return shape and dtype of an elementwise result; raises `DialectError` when shapes do not broadcast."""
    try:
        shape = np.broadcast_shapes(*(i.shape for i in infos))
    except ValueError:
        shape = None
    check(shape is not None, op, f"shapes do not broadcast: {', '.join(str(i.shape) for i in infos)}")
    assert shape is not None
    lay.check_layouts(op, attrs, len(shape))
    return TensorInfo(_relayout(shape, attrs["x_layout"], attrs["y_layout"]), y_dtype)


def relayout_array(y: np.ndarray, attrs: Attrs) -> np.ndarray:
    """Return an array of `x_layout` in `y_layout`."""
    if attrs["x_layout"] == attrs["y_layout"]:
        return y
    return lay.array_from_nhwc(lay.array_to_nhwc(y, attrs["x_layout"]), attrs["y_layout"])


def stage(tensors: Sequence[te.Tensor], attrs: Attrs, body: Callable[..., Any], name: str = "y") -> te.Tensor:
    """Return stage `name`; `body` takes one element of each tensor."""
    shape = np.broadcast_shapes(*(tuple(int(d) for d in t.shape) for t in tensors))

    def element(*index: Any) -> Any:
        inner = _relayout(index, attrs["y_layout"], attrs["x_layout"])
        return body(*(t[_own_index(t, inner)] for t in tensors))

    return te.compute(_relayout(shape, attrs["x_layout"], attrs["y_layout"]), element, name=name)


def _relayout(entries: Sequence[Any], source: str, target: str) -> tuple[Any, ...]:
    return tuple(entries) if source == target else lay.from_nhwc(lay.to_nhwc(entries, source), target)


def _own_index(tensor: te.Tensor, index: Sequence[Any]) -> tuple[Any, ...]:
    own = index[len(index) - len(tensor.shape) :]
    return tuple(0 if int(extent) == 1 else i for extent, i in zip(tensor.shape, own, strict=True))
