# SPDX-License-Identifier: Apache-2.0
"""Small networks in tiny form for tests of passes, and their meaning by numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_tiny.ops import registry
from tvm_tiny.ops.graph import TinyGraph


class TinyBuilder:
    """Builds `main` operator by operator: `b = TinyBuilder((1, 8, 8, 4)); y = b.conv(b.x, …); mod = b.finish(y)`."""

    def __init__(self, *shapes: tuple[int, ...], seed: int = 0, dtype: str = "int8") -> None:
        self.rng = np.random.default_rng(seed)
        self.dead = 0.0  # share of channels that a bias no input outweighs makes constant
        self.params = [relax.Var(f"x{i}" if i else "x", relax.TensorType(s, dtype)) for i, s in enumerate(shapes)]
        self.builder = relax.BlockBuilder()
        self.steps: list[tuple[str, list[Any], dict[str, Any]]] = []
        self._scope = [self.builder.function("main", self.params), self.builder.dataflow()]
        for scope in self._scope:
            scope.__enter__()

    @property
    def x(self) -> relax.Var:
        """The first input."""
        return self.params[0]

    def call(self, op: str, *args: Any, name: str = "", **attrs: Any) -> relax.Var:
        """Any operator; arrays become constants."""
        exprs = [relax.const(a) if isinstance(a, np.ndarray) else a for a in args]
        return self.builder.emit(registry.call(f"tiny.{op}", *exprs, **attrs), name_hint=name)

    def conv(
        self,
        x: relax.Expr,
        channels: int,
        kernel: int = 1,
        *,
        weight: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        **attrs: Any,
    ) -> relax.Var:
        """A convolution with random weights and a rescaling that uses most of int8."""
        depth = int(x.ty.shape.values[3])
        if weight is None:
            weight = self.rng.integers(-127, 128, (channels, kernel, kernel, depth)).astype(np.int8)
        return self.call(
            "conv2d", x, weight, *self._scaling(channels, kernel * kernel * depth, bias), **self._common(attrs, padding=kernel // 2)
        )

    def depthwise(self, x: relax.Expr, kernel: int = 3, *, weight: np.ndarray | None = None, **attrs: Any) -> relax.Var:
        """A depthwise convolution, multiplier one."""
        channels = int(x.ty.shape.values[3])
        if weight is None:
            weight = self.rng.integers(-127, 128, (kernel, kernel, channels)).astype(np.int8)
        return self.call(
            "depthwise_conv2d", x, weight, *self._scaling(channels, kernel * kernel, None), **self._common(attrs, padding=kernel // 2)
        )

    def dense(self, x: relax.Expr, channels: int, **attrs: Any) -> relax.Var:
        """A fully connected layer."""
        depth = int(x.ty.shape.values[-1])
        weight = self.rng.integers(-127, 128, (channels, depth)).astype(np.int8)
        common = self._common(attrs, padding=0)
        del common["padding"]
        return self.call("dense", x, weight, *self._scaling(channels, depth, None), **common)

    def finish(self, *outputs: relax.Expr) -> tvm.IRModule:
        """The module."""
        values = [self.builder.emit_output(o) for o in outputs]
        self._scope[1].__exit__(None, None, None)
        self.builder.emit_func_output(values[0] if len(values) == 1 else relax.Tuple(values))
        self._scope[0].__exit__(None, None, None)
        return self.builder.get()

    def _scaling(self, channels: int, terms: int, bias: np.ndarray | None) -> list[np.ndarray]:
        """Bias, multiplier and shift such that most results lie inside int8."""
        if bias is None:
            bias = self.rng.integers(-2000, 2000, channels)
            if self.dead:
                bias = np.where(self.rng.random(channels) < self.dead, self.rng.choice([-(2**24), 2**24], channels), bias)
        multiplier = self.rng.integers(2**30, 2**31 - 1, channels)
        shift = np.full(channels, -int(np.ceil(np.log2(max(terms, 1)) / 2 + 5)))
        return [a.astype(np.int32) for a in (bias, multiplier, shift)]

    def _common(self, attrs: dict[str, Any], padding: int) -> dict[str, Any]:
        return {"x_zp": -3, "y_zp": 5, "padding": [padding] * 4, **attrs}


def evaluate(mod: tvm.IRModule, *inputs: np.ndarray) -> list[np.ndarray]:
    """The outputs of a module in tiny form, by the operators' numpy semantics."""
    graph = TinyGraph(mod["main"])
    values: dict[relax.Var, np.ndarray] = dict(zip(graph.params, inputs, strict=True))

    def value_of(expr: relax.Expr) -> np.ndarray:
        return values[expr] if isinstance(expr, relax.Var) else expr.value.numpy()

    for node in graph.nodes:
        if node.op:
            values[node.var] = registry.get(node.op).numpy(*(value_of(a) for a in node.args), **node.attrs)
        else:
            values[node.var] = value_of(node.value)
    return [values[v] for v in graph.outputs]


def assert_same_meaning(before: tvm.IRModule, after: tvm.IRModule, rng: np.random.Generator, count: int = 5) -> None:
    """Both modules give the same bits on random inputs and on the extreme ones."""
    params = before["main"].params
    shapes = [tuple(int(d) for d in p.ty.shape.values) for p in params]
    draw: list[Callable[[tuple[int, ...]], np.ndarray]] = [lambda s: rng.integers(-128, 128, s).astype(np.int8)] * count
    draw += [lambda s: np.full(s, -128, np.int8), lambda s: np.full(s, 127, np.int8)]
    for make in draw:
        inputs = [make(s) for s in shapes]
        for a, b in zip(evaluate(before, *inputs), evaluate(after, *inputs), strict=True):
            np.testing.assert_array_equal(a, b)


def op_names(mod: tvm.IRModule) -> list[str]:
    """Short names of the tiny operators of `main`, in order."""
    return [n.op for n in TinyGraph(mod["main"]).nodes if n.op]
