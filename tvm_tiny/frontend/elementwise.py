# SPDX-License-Identifier: Apache-2.0
"""Float functions of one quantised value, found in the QDQ form and evaluated over all its 256 integers."""

from __future__ import annotations

from collections.abc import Callable
from math import erf

import numpy as np
from tvm import relax

from tvm_tiny.frontend.qdq_view import Dequantized, QdqView, constant, is_constant, op_name

_UNARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relax.nn.relu": lambda x: np.maximum(x, 0.0),
    "relax.sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "relax.tanh": np.tanh,
    "relax.exp": np.exp,
    "relax.log": np.log,
    "relax.rsqrt": lambda x: 1.0 / np.sqrt(x),
    "relax.sin": np.sin,
    "relax.cos": np.cos,
    "relax.negative": np.negative,
    "relax.abs": np.abs,
    "relax.sqrt": np.sqrt,
    "relax.square": np.square,
    "relax.floor": np.floor,
    "relax.ceil": np.ceil,
    "relax.erf": np.vectorize(erf, otypes=[np.float64]),
    "relax.nn.silu": lambda x: x / (1.0 + np.exp(-x)),
    "relax.nn.gelu": lambda x: 0.5 * x * (1.0 + np.vectorize(erf, otypes=[np.float64])(x / np.sqrt(2.0))),
}
_BINARY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.power": np.power,
}


class Elementwise:
    """One float expression as a function of a single dequantised value.

    Attributes
    ----------
    source : Dequantized or None
        The value it depends on; None when it is no such function (several sources, constants that are no scalars, other operators).
    """

    def __init__(self, view: QdqView, expr: relax.Expr) -> None:
        self.view = view
        self.expr = view.definition(expr)
        self.source: Dequantized | None = None
        self._supported = self._visit(self.expr)
        if not self._supported or self.source is None:
            self.source = None

    def _visit(self, expr: relax.Expr) -> bool:
        if is_constant(expr):
            return constant(expr).size == 1
        found = self.view.dequantized(expr)
        if found is not None:
            return self._note_source(found)
        call = self.view.definition(expr)
        kind = op_name(call)
        if kind in _UNARY or kind == "relax.nn.leakyrelu":
            return self._visit(call.args[0])
        if kind == "relax.clip":
            return self._visit(call.args[0])
        return kind in _BINARY and all(self._visit(a) for a in call.args)

    def _note_source(self, found: Dequantized) -> bool:
        if is_constant(found.value):
            return constant(found.value).size == 1
        if not found.quant.per_tensor or str(found.value.ty.dtype) != "int8":
            return False
        if self.source is not None and not (self.source.value.same_as(found.value) and self.source.quant.equals(found.quant)):
            return False
        self.source = found
        return True

    def kind(self) -> tuple[str, float]:
        """The function by name, with its parameter: logistic, tanh, hard_swish, leaky_relu (alpha), or "other"."""
        direct = self.view.dequantized(self.expr.args[0]) is not None if isinstance(self.expr, relax.Call) and self.expr.args else False
        name = op_name(self.expr)
        if direct and name in ("relax.sigmoid", "relax.tanh"):
            return ("logistic" if name == "relax.sigmoid" else "tanh"), 0.0
        if direct and name == "relax.nn.leakyrelu":
            return "leaky_relu", float(self.expr.attrs.alpha)
        return ("hard_swish", 0.0) if self._is_hard_swish() else ("other", 0.0)

    def _is_hard_swish(self) -> bool:
        """x * (clip(x + 3, 0, 6) / 6), decided by structure."""
        call = self.expr
        if op_name(call) != "relax.multiply" or self.view.dequantized(call.args[0]) is None:
            return False
        gate = self.view.definition(call.args[1])
        if op_name(gate) != "relax.divide" or not self._is_scalar(gate.args[1], 6.0):
            return False
        clip = self.view.definition(gate.args[0])
        if op_name(clip) != "relax.clip" or (_scalar(clip.args[1]), _scalar(clip.args[2])) != (0.0, 6.0):
            return False
        shifted = self.view.definition(clip.args[0])
        return (
            op_name(shifted) == "relax.add" and self.view.dequantized(shifted.args[0]) is not None and self._is_scalar(shifted.args[1], 3.0)
        )

    def _is_scalar(self, expr: relax.Expr, value: float) -> bool:
        return is_constant(expr) and constant(expr).size == 1 and float(constant(expr).reshape(-1)[0]) == value

    def values(self, *, single: bool = False) -> np.ndarray:
        """The function of all 256 integers -128 … 127, in float64; `single` rounds every step to float32, as a chain of kernels does."""
        assert self.source is not None
        step = _to_single if single else _as_it_is
        q = np.arange(-128, 128, dtype=np.float64)
        real = step((q - self.source.quant.zp) * self.source.quant.real_scale)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.broadcast_to(self._evaluate(self.expr, real, step), (256,)).astype(np.float64)

    def _evaluate(self, expr: relax.Expr, real: np.ndarray, step: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        if is_constant(expr):
            return constant(expr).astype(np.float64).reshape(())
        found = self.view.dequantized(expr)
        if found is not None:
            return step(_constant_value(found)) if is_constant(found.value) else real
        call = self.view.definition(expr)
        kind = op_name(call)
        first = self._evaluate(call.args[0], real, step)
        if kind == "relax.clip":
            return np.clip(first, _scalar(call.args[1]), _scalar(call.args[2]))
        if kind == "relax.nn.leakyrelu":
            return step(np.where(first < 0, first * float(call.attrs.alpha), first))
        if kind == "relax.sigmoid":
            return step(1.0 / step(1.0 + step(np.exp(-first))))
        if kind in _UNARY:
            return step(_UNARY[kind](first))
        return step(_BINARY[kind](first, self._evaluate(call.args[1], real, step)))


def _to_single(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).astype(np.float32).astype(np.float64)


def _as_it_is(values: np.ndarray) -> np.ndarray:
    return values


def _constant_value(found: Dequantized) -> np.ndarray:
    return (constant(found.value).astype(np.float64).reshape(()) - found.quant.zp) * found.quant.real_scale


def _scalar(expr: relax.Expr) -> float:
    if is_constant(expr):
        return float(constant(expr).reshape(-1)[0])
    return float(expr.value)
