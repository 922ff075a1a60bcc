# SPDX-License-Identifier: Apache-2.0
"""A residual addition at the end of an operator: its own int8 result is operand a of `tiny.add`, the argument `residual` operand b.

The attribute `residual` is JSON of that addition's attributes (zero points, multipliers, shifts, left shift, clamp, rounding), "" where
there is none. Two roundings stay two: the operator's result is int8, clamped, before it is added.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tvm_tiny.ops import add
from tvm_tiny.ops.layout import LAYOUT_ATTRS
from tvm_tiny.ops.registry import Attrs, TensorInfo, check

ATTR = "residual"
ARGUMENT = 5
"""The number of the argument, after those of a convolution without one."""
_OTHER = {"a": "b", "b": "a"}
_KEYS = tuple(k for k in add.ADD_ATTRS if k not in LAYOUT_ATTRS)


def to_attribute(add_attrs: Attrs, *, swapped: bool = False) -> str:
    """The attribute for an addition's attributes; `swapped`: the operator's own result is its operand b."""
    return json.dumps({k: add_attrs[_turned(k) if swapped else k] for k in _KEYS})


def _turned(key: str) -> str:
    """What operand b calls the parameter that operand a calls `key`, and the other way round."""
    operand, _, what = key.partition("_")
    return f"{_OTHER.get(operand, operand)}_{what}" if what else key


def residual_of(attrs: Attrs) -> dict[str, Any] | None:
    """Attributes of the addition, those of `tiny.add` without layouts; None where there is none."""
    text = attrs.get(ATTR, "")
    return json.loads(text) if text else None


def check_residual(op: str, infos: Sequence[TensorInfo], out: TensorInfo, attrs: Attrs) -> None:
    """Check that argument and attribute come together, that the argument is shaped like the result, and that no parameter lacks."""
    params = residual_of(attrs)
    check(bool(infos) == (params is not None), op, "argument and attribute `residual` go together: one of them is missing")
    if params is not None:
        wrong = ", ".join(sorted(set(params) ^ set(_KEYS)))
        check(not wrong, op, f"attribute `residual` must hold exactly {', '.join(_KEYS)}; too many or missing: {wrong}")
        check(infos[0] == out, op, f"residual must be {out.dtype} {out.shape} as the result, got {infos[0].dtype} {infos[0].shape}")


def sum_numpy(y: np.ndarray, residual: Sequence[np.ndarray], attrs: Attrs) -> np.ndarray:
    """`y`, plus the residual where there is one."""
    params = residual_of(attrs)
    return y if params is None else add.OP.numpy(y, *residual, **params)


def sum_tir(value: Any, residual: Sequence[Any], attrs: Attrs) -> Any:
    """TIR form of `sum_numpy` for one element."""
    params = residual_of(attrs)
    return value if params is None else add.sum_tir(value, residual[0], params)
