# SPDX-License-Identifier: Apache-2.0
"""Reading the QDQ form: which integers a float value comes from, and with which scale (the form: `tvm_tiny.frontend.tflite`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax


@dataclass(frozen=True)
class Quant:
    """real = scale * (q - zero_point). `scale` float32 and `zero_point` int32 arrays: scalar per tensor, or one value a channel."""

    scale: np.ndarray
    zero_point: np.ndarray

    @property
    def real_scale(self) -> float:
        """The scale of a per-tensor quantisation, as the double TFLite computes with."""
        return float(self.scale.reshape(-1)[0])

    @property
    def zp(self) -> int:
        """The zero point of a per-tensor quantisation."""
        return int(self.zero_point.reshape(-1)[0])

    @property
    def per_tensor(self) -> bool:
        """One scale for the whole tensor."""
        return self.scale.size == 1

    def equals(self, other: Quant) -> bool:
        """Same integers mean the same reals."""
        return self.per_tensor and other.per_tensor and self.real_scale == other.real_scale and self.zp == other.zp


@dataclass(frozen=True)
class Dequantized:
    """A float value that is `dequantize(value)`."""

    value: relax.Expr
    quant: Quant


class QdqView:
    """Looks through the variables of one Relax function at what they are bound to."""

    def __init__(self, func: relax.Function) -> None:
        self.bound: dict[relax.Var, relax.Expr] = {}
        self.uses: dict[relax.Var, int] = {}
        for block in func.body.blocks:
            for binding in block.bindings:
                self.bound[binding.var] = binding.value
                for var in _vars(binding.value):
                    self.uses[var] = self.uses.get(var, 0) + 1

    def definition(self, expr: relax.Expr) -> relax.Expr:
        """What `expr` is bound to, through any number of names; a parameter is itself."""
        while isinstance(expr, relax.Var) and expr in self.bound:
            expr = self.bound[expr]
        return expr

    def is_op(self, expr: relax.Expr, name: str) -> bool:
        """Whether `expr` is a call of the operator `relax.<name>`."""
        return op_name(self.definition(expr)) == f"relax.{name}"

    def dequantized(self, expr: relax.Expr) -> Dequantized | None:
        """`expr` as a dequantisation of integers; None when it is anything else."""
        call = self.definition(expr)
        if op_name(call) != "relax.dequantize":
            return None
        return Dequantized(call.args[0], Quant(constant(call.args[1]), constant(call.args[2])))

    def quantized(self, expr: relax.Expr) -> tuple[relax.Expr, Quant] | None:
        """`expr` as `quantize(value)`: the float value and its quantisation."""
        call = self.definition(expr)
        if op_name(call) != "relax.quantize":
            return None
        return call.args[0], Quant(constant(call.args[1]), constant(call.args[2]))


def op_name(expr: relax.Expr) -> str:
    """The name of the operator that `expr` calls; "" when it calls none."""
    return expr.op.name if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) else ""


def is_constant(expr: relax.Expr) -> bool:
    """Whether `expr` is a tensor constant."""
    return isinstance(expr, tvm.ir.GenericConst)


def constant(expr: relax.Expr) -> np.ndarray:
    """The array of a tensor constant."""
    return expr.value.numpy()


def ints(values: object) -> list[int]:
    """An attribute that is a list of integers, or one integer, as a list."""
    if isinstance(values, int) or not hasattr(values, "__len__"):
        return [int(values)]  # type: ignore[call-overload]
    return [int(v) for v in values]  # type: ignore[attr-defined]


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """The static shape of an expression."""
    return tuple(int(d) for d in expr.ty.shape.values)


def dtype_of(expr: relax.Expr) -> str:
    """The dtype of an expression."""
    return str(expr.ty.dtype)


def _vars(expr: relax.Expr) -> list[relax.Var]:
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Call):
        return [v for a in expr.args for v in _vars(a)]
    if isinstance(expr, relax.Tuple):
        return [v for f in expr.fields for v in _vars(f)]
    if isinstance(expr, relax.TupleGetItem):
        return _vars(expr.tuple_value)
    return []
