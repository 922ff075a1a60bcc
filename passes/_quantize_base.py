# SPDX-License-Identifier: Apache-2.0
"""What the converters of `quantize-to-integer` share: the result an operator must have, and constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tvm import relax

from tvm_tiny.frontend.qdq_view import Dequantized, Quant, constant, is_constant
from tvm_tiny.ops import registry

if TYPE_CHECKING:
    from tvm_tiny.passes.quantize_to_integer import Converter


@dataclass(frozen=True)
class Result:
    """The quantisation an operator's result must have, and its clamp."""

    quant: Quant
    low: int
    high: int
    name: str

    @property
    def clamps(self) -> bool:
        """Whether its bounds are narrower than int8."""
        return (self.low, self.high) != full_range("int8")

    def attrs(self) -> dict[str, object]:
        """Attributes of an operator that rescales and clamps."""
        return {"y_zp": self.quant.zp, "y_scale": self.quant.real_scale, "clamp_min": self.low, "clamp_max": self.high, "source": self.name}


Convert = Callable[["Converter", relax.Expr, Result], relax.Expr | None]
"""(converter, float call, wanted result) -> tiny call, or None when the call is not of this form."""


def channel_constants(bias: np.ndarray | None, params: Mapping[str, np.ndarray], channels: int) -> list[relax.Expr]:
    """Arguments (bias, multiplier, shift), one value a channel."""
    full = np.zeros(channels, np.int32) if bias is None else np.broadcast_to(bias, (channels,)).astype(np.int32)
    return [relax.const(np.ascontiguousarray(a)) for a in (full, params["multiplier"], params["shift"])]


def common(cv: Converter, x: Dequantized, result: Result) -> dict[str, object]:
    """Attributes of an operator on one activation."""
    return {"x_zp": x.quant.zp, "x_scale": x.quant.real_scale, "rounding": cv.rounding, **result.attrs()}


def clamped(cv: Converter, call: relax.Call, result: Result) -> relax.Call:
    """The result of an operator that has no clamp of its own, within the bounds."""
    if not result.clamps:
        return call
    table = np.clip(np.arange(-128, 128), result.low, result.high).astype(np.int8)
    return registry.call("tiny.lookup", cv.builder.emit(call), relax.const(table), source=result.name)


def full_range(dtype: str) -> tuple[int, int]:
    """Least and greatest value of an integer type."""
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def scalar(expr: relax.Expr) -> float:
    """The first number of a constant, or a primitive value."""
    return constant(expr).reshape(-1)[0] if is_constant(expr) else expr.value


def dequantized_constant(array: np.ndarray, quant: Quant, axis: int) -> np.ndarray:
    """The real values of constant integers, in float32."""
    shape = [1] * array.ndim
    if not quant.per_tensor:
        shape[axis] = -1
    scale, zero_point = quant.scale.reshape(shape), quant.zero_point.reshape(shape)
    return ((array.astype(np.float32) - zero_point.astype(np.float32)) * scale).astype(np.float32)
