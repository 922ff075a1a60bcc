# SPDX-License-Identifier: Apache-2.0
"""fuse-ops: operators that only feed one other operator become part of it. Bit-exact.

Where it may stand: after `quantize-to-integer`, before layouts and schedules are chosen. Runs until nothing changes.

What it matches
  1. `tiny.pad` of height and width with the zero point of its only consumer, a convolution or depthwise convolution: its `padding` grows.
     (Average pooling is left: TFLite counts no padding there.)
  2. `tiny.lookup` whose table only clamps, `tiny.requantize` that only clamps, behind an operator with a clamp and no other user:
     its clamp narrows.
  3. int8 → int8 functions in a row (`tiny.lookup`, `tiny.requantize`): one table.
  4. `tiny.transpose` of `tiny.transpose`, `tiny.reshape` of `tiny.reshape`; those that change nothing vanish.
What it leaves: values with several users, and everything else.

rewrite:
    a = tiny.pad(x, [0,1,1,0], [0,1,1,0], value=zp); y = tiny.conv2d(a, …, padding=[0,0,0,0])   →   y = tiny.conv2d(x, …, padding=[1,1,1,1])
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TypeGuard

import numpy as np
import tvm
from tvm import relax

from tvm_tiny.ops import registry
from tvm_tiny.ops.graph import Node, TinyGraph

log = logging.getLogger("tvm_tiny.passes.fuse-ops")

_PADDED = frozenset({"conv2d", "depthwise_conv2d"})
_CLAMPED = frozenset({"conv2d", "depthwise_conv2d", "dense", "add", "sub", "mul", "avg_pool2d", "max_pool2d", "requantize"})
_ALL = np.arange(-128, 128, dtype=np.int8)


@tvm.transform.module_pass(opt_level=0, name="fuse-ops")
class FuseOps:
    """See the module's docstring."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite `main` until nothing changes."""
        func = mod["main"]
        while (fused := _fuse_once(func)) is not None:
            func = fused
        out = tvm.IRModule({"main": func})
        return out.with_attrs(dict(mod.attrs.items())) if mod.attrs is not None else out


def _fuse_once(func: relax.Function) -> relax.Function | None:
    """Apply the first rule to every node it takes; None when no rule takes any."""
    graph = TinyGraph(func)
    taken: set[relax.Var] = set()

    def rewrite(node: Node, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
        producer = graph.producer.get(node.args[0]) if node.args and isinstance(node.args[0], relax.Var) else None
        if producer is not None and producer.var in taken:
            return None  # it has just changed: next round
        for rule in _RULES:
            result = rule(graph, node, producer, new)
            if result is not None:
                log.info("%s takes %s", node.name, producer.name if producer else "itself")
                taken.add(node.var)
                return result
        return None

    rebuilt = graph.rebuild(rewrite)
    if not taken:
        return None
    return relax.transform.DeadCodeElimination()(tvm.IRModule({"main": rebuilt}))["main"]


def _only_user(producer: Node | None, graph: TinyGraph) -> TypeGuard[Node]:
    if producer is None or not producer.op:
        return False
    return len(graph.consumers.get(producer.var, [])) == 1 and not any(producer.var.same_as(v) for v in graph.outputs)


def _pad(graph: TinyGraph, node: Node, producer: Node | None, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
    if node.op not in _PADDED or not _only_user(producer, graph) or producer.op != "pad" or node.attrs.get("x_layout", "NHWC") != "NHWC":
        return None
    before, after = producer.attrs["before"], producer.attrs["after"]
    if any(before[i] or after[i] for i in (0, 3)) or producer.attrs["value"] != node.attrs["x_zp"]:
        return None
    grown = (before[1], before[2], after[1], after[2])
    padding = [a + b for a, b in zip(node.attrs["padding"], grown, strict=True)]
    return registry.call(f"tiny.{node.op}", new[producer.args[0]], *node.args[1:], **{**node.attrs, "padding": padding})


def _clamp(graph: TinyGraph, node: Node, producer: Node | None, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
    bounds = _clamp_bounds(node)
    if bounds is None or not _only_user(producer, graph) or producer.op not in _CLAMPED:
        return None
    low = min(max(producer.attrs["clamp_min"], bounds[0]), bounds[1])
    high = min(max(producer.attrs["clamp_max"], bounds[0]), bounds[1])
    attrs = {**producer.attrs, "clamp_min": low, "clamp_max": high, "source": node.attrs["source"] or producer.attrs["source"]}
    args = [new[a] if isinstance(a, relax.Var) else a for a in producer.args]
    return registry.call(f"tiny.{producer.op}", *args, **attrs)


def _clamp_bounds(node: Node) -> tuple[int, int] | None:
    """(low, high) when the node is `clip(x, low, high)`."""
    table = _table(node)
    if table is None:
        return None
    low, high = int(table[0]), int(table[-1])
    return (low, high) if low <= high and np.array_equal(table, np.clip(_ALL, low, high)) else None


def _table(node: Node) -> np.ndarray | None:
    """The 256 results of an int8 → int8 function; None when the node is none."""
    if node.op == "lookup" and node.is_constant(1):
        return node.constant(1)
    if node.op == "requantize":
        return registry.get("requantize").numpy(_ALL, **node.attrs)
    return None


def _compose(graph: TinyGraph, node: Node, producer: Node | None, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
    if not _only_user(producer, graph):
        return None
    inner, outer = _table(producer), _table(node)
    if inner is None or outer is None:
        return None
    table = outer[inner.astype(np.int64) + 128]
    scales = {"x_scale": producer.attrs["x_scale"], "y_scale": node.attrs["y_scale"], "source": node.attrs["source"]}
    return registry.call("tiny.lookup", new[producer.args[0]], relax.const(table), **scales)


def _move(graph: TinyGraph, node: Node, producer: Node | None, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
    """Transposes and reshapes: none, or one instead of two."""
    if node.op == "reshape" and graph.shape(node.args[0]) == graph.shape(node.var):
        return new[node.args[0]] if not _is_output(graph, node) else None
    if node.op == "transpose" and node.attrs["axes"] == sorted(node.attrs["axes"]):
        return new[node.args[0]] if not _is_output(graph, node) else None
    if producer is None or producer.op != node.op:
        return None
    if node.op == "reshape":
        return registry.call("tiny.reshape", new[producer.args[0]], **node.attrs)
    if node.op == "transpose":
        axes = [producer.attrs["axes"][a] for a in node.attrs["axes"]]
        return registry.call("tiny.transpose", new[producer.args[0]], **{**node.attrs, "axes": axes})
    return None


def _is_output(graph: TinyGraph, node: Node) -> bool:
    return any(node.var.same_as(v) for v in graph.outputs)


_RULES = (_pad, _clamp, _compose, _move)
