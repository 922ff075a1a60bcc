# SPDX-License-Identifier: Apache-2.0
"""The tiny form as a list of nodes, for passes that analyse the whole network before they rewrite it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_tiny.ops import registry


@dataclass
class Node:
    """One binding. `op` is the operator's short name ("conv2d"), or "" for anything that is no tiny call."""

    var: relax.Var
    value: relax.Expr
    op: str
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the variable it binds."""
        return str(self.var.name)

    @property
    def args(self) -> list[relax.Expr]:
        """Arguments of its call; empty when it is none."""
        return list(self.value.args) if isinstance(self.value, relax.Call) else []

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of its call's arguments that are tensors (operators in float have others too); read from TVM's objects once."""
        return [tuple(int(d) for d in a.ty.shape.values) for a in self.args if isinstance(a.ty, relax.TensorType)]

    def constant(self, index: int) -> np.ndarray:
        """The array of a constant argument."""
        return self.args[index].value.numpy()

    def is_constant(self, index: int) -> bool:
        """Whether an argument is a tensor constant."""
        return isinstance(self.args[index], tvm.ir.GenericConst)


class TinyGraph:
    """`main` of a module in tiny form: parameters, nodes in order, result."""

    def __init__(self, func: relax.Function) -> None:
        self.func = func
        self.params = list(func.params)
        self.nodes = [_node(b.var, b.value) for block in func.body.blocks for b in block.bindings]
        self.result = func.body.body
        self.producer = {n.var: n for n in self.nodes}
        self.consumers: dict[relax.Var, list[tuple[Node, int]]] = {}
        for node in self.nodes:
            for index, arg in enumerate(_operands(node.value)):
                if isinstance(arg, relax.Var):
                    self.consumers.setdefault(arg, []).append((node, index))

    @property
    def outputs(self) -> list[relax.Var]:
        """The variables the function returns."""
        return list(self.result.fields) if isinstance(self.result, relax.Tuple) else [self.result]

    def shape(self, expr: relax.Expr) -> tuple[int, ...]:
        """Static shape of an expression."""
        return tuple(int(d) for d in expr.ty.shape.values)

    def rebuild(self, rewrite: Callable[[Node, Mapping[relax.Var, relax.Expr]], relax.Expr | None]) -> relax.Function:
        """Return the function with every node replaced by what `rewrite(node, new values so far)` returns; None keeps the node as it is."""
        builder = relax.BlockBuilder()
        params = [relax.Var(p.name, p.ty) for p in self.params]
        new: dict[relax.Var, relax.Expr] = dict(zip(self.params, params, strict=True))
        outputs = {v for v in self.outputs if v in self.producer}
        with builder.function("main", params):
            with builder.dataflow():
                for node in self.nodes:
                    value = rewrite(node, new)
                    value = substitute(node.value, new) if value is None else value
                    emit = builder.emit_output if node.var in outputs else builder.emit
                    new[node.var] = emit(value, name_hint=node.name)
            fields = [new[v] for v in self.outputs]
            builder.emit_func_output(relax.Tuple(fields) if isinstance(self.result, relax.Tuple) else fields[0])
        out = builder.get()["main"]
        return out.with_attrs(dict(self.func.attrs.items())) if self.func.attrs is not None else out


def substitute(expr: relax.Expr, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr:
    """`expr` over the new values of its variables."""
    if isinstance(expr, relax.Var):
        return new[expr]
    if isinstance(expr, relax.Call):
        return relax.Call(expr.op, [substitute(a, new) for a in expr.args], expr.attrs, expr.ty_args)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([substitute(f, new) for f in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(substitute(expr.tuple_value, new), expr.index)
    return expr


def _node(var: relax.Var, value: relax.Expr) -> Node:
    if registry.is_tiny(value):
        return Node(var, value, value.op.name.removeprefix("tiny."), registry.attrs_of(value))
    return Node(var, value, "")


def _operands(value: relax.Expr) -> list[relax.Expr]:
    if isinstance(value, relax.Call):
        return list(value.args)
    if isinstance(value, relax.Tuple):
        return list(value.fields)
    if isinstance(value, relax.TupleGetItem):
        return [value.tuple_value]
    return [value]
