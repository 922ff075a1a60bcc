# SPDX-License-Identifier: Apache-2.0
"""The walk that brings an imported ONNX model into the QDQ form (`qdq`), one rule an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from tvm_tiny.errors import Problem, UnsupportedModelError
from tvm_tiny.frontend.qdq import Emitter, Origin, Value, array, identity

Rule = Callable[..., Any]
"""(rewriter, call, origin) -> what the call becomes: a value, or a list of them."""


@dataclass
class Rewriter:
    """Walks the bindings of an imported function; `values` holds what each of its variables became."""

    out: Emitter
    origins: dict[relax.Var, Origin]
    ports: frozenset[str]
    rules: Mapping[str, Rule]
    values: dict[relax.Var, Value | list[Value]] = field(default_factory=dict)

    def bind(self, var: relax.Var, expr: relax.Expr) -> None:
        """Rewrite one binding."""
        origin = self.origins.get(var)
        if isinstance(expr, relax.Call):
            if expr.op.name not in self.rules:
                raise unsupported(origin, f"it comes in as {expr.op.name}, which has no QDQ form")
            self.values[var] = self.rules[expr.op.name](self, expr, origin)
        elif isinstance(expr, relax.TupleGetItem):
            parts = self.values[expr.tuple_value]
            self.values[var] = parts[expr.index] if isinstance(parts, list) else parts
        elif isinstance(expr, relax.Tuple):
            self.values[var] = [self.value(f) for f in expr.fields]
        else:
            self.values[var] = self.value(expr)

    def value(self, expr: relax.Expr) -> Value:
        """What an argument became."""
        if isinstance(expr, tvm.ir.GenericConst):
            data = array(expr)
            return Value(data.shape, identity(data.ndim), data=data)
        value = self.values[expr]
        assert isinstance(value, Value)
        return value

    def stored(self, expr: relax.Expr) -> Value:
        """An argument as a stored, clamped or moved value, never a bare constant."""
        value = self.value(expr)
        if value.data is None:
            return value
        return Value(value.shape, value.perm, var=self.out.real(value, value.perm))

    def made(self, expr: relax.Expr, like: Value, origin: Origin | None, shape: tuple[int, ...] | None = None) -> Value:
        """A real value computed by an operator."""
        return Value(like.shape if shape is None else shape, like.perm, origin, var=self.out.emit(expr))


def unsupported(origin: Origin | None, reason: str) -> UnsupportedModelError:
    """The error about one node."""
    origin = origin or Origin("", "an operator", -1)
    return UnsupportedModelError([Problem(f"node {origin.node} {origin.op}", (origin.tensor,), reason, "export the operator differently")])
