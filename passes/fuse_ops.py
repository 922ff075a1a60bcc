# SPDX-License-Identifier: Apache-2.0
"""fuse-ops: operators that only feed one other operator become part of it. Bit-exact.

Where it may stand: after `quantize-to-integer`, before layouts and schedules are chosen. Runs until nothing changes.

What it matches
  1. `tiny.pad` of height and width with the zero point of its only consumer, a convolution or depthwise convolution, or with the least
     int8 value in front of max pooling: its `padding` grows. (Average pooling is left: TFLite counts no padding there.)
  2. `tiny.lookup` whose table only clamps, `tiny.requantize` that only clamps, behind an operator with a clamp and no other user:
     its clamp narrows.
  3. int8 → int8 functions in a row (`tiny.lookup`, `tiny.requantize`): one table.
  4. `tiny.transpose` of `tiny.transpose`, `tiny.reshape` of `tiny.reshape`; those that change nothing vanish, and a transpose that only
     moves axes of one element is a reshape.
  5. `tiny.max_pool2d` of a function of one element that never falls: the function comes after, over fewer elements.
  6. `tiny.add` of two tensors of one shape, one of which only it reads and an ungrouped `tiny.conv2d` of one image makes: the convolution
     adds the other one, its `residual`, to its own result, requantised and clamped first, as before. Of two convolutions the one that ends
     the longer chain of operators takes the sum, which then runs where the addition stood. When nothing else changes any more.
What it leaves: values with several users, and everything else. A requantisation behind an operator that has one of its own stays: two
roundings are not one. (Batch normalisation is folded into convolutions in the float form, by the frontend.)

rewrite:
    a = tiny.pad(x, [0,1,1,0], [0,1,1,0], value=zp); y = tiny.conv2d(a, …, padding=[0,0,0,0])   →   y = tiny.conv2d(x, …, padding=[1,1,1,1])
    a = tiny.conv2d(x, w, b, m, s, …); y = tiny.add(a, r, …)                  →   y = tiny.conv2d(x, w, b, m, s, r, …, residual="{…}")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard

import numpy as np
import tvm
from tvm import relax

from tvm_tiny.explain import Explainer
from tvm_tiny.ops import registry, residual
from tvm_tiny.ops.graph import Node, TinyGraph, substitute

WHY = Explainer("fuse-ops")

_WINDOWED = frozenset({"conv2d", "depthwise_conv2d", "max_pool2d", "avg_pool2d"})
_CLAMPED = frozenset({"conv2d", "depthwise_conv2d", "dense", "add", "sub", "mul", "avg_pool2d", "max_pool2d", "requantize"})
_ALL = np.arange(-128, 128, dtype=np.int8)


@tvm.transform.module_pass(opt_level=0, name="fuse-ops")
class FuseOps:
    """See the module's docstring."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite `main` until nothing changes."""
        func = mod["main"]
        for rules in _ROUNDS:
            while (fused := _fuse_once(func, rules)) is not None:
                func = fused
        out = tvm.IRModule({"main": func})
        return out.with_attrs(dict(mod.attrs.items())) if mod.attrs is not None else out


def _fuse_once(func: relax.Function, rules: Sequence[_Rule]) -> relax.Function | None:
    """Apply the first rule to every node it takes; None when no rule takes any."""
    graph = TinyGraph(func)
    taken: set[relax.Var] = set()

    def rewrite(node: Node, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
        producers = [graph.producer.get(a) for a in node.args if isinstance(a, relax.Var)]
        if any(p is not None and p.var in taken for p in producers):
            return None  # it has just changed: next round
        producer = graph.producer.get(node.args[0]) if node.args and isinstance(node.args[0], relax.Var) else None
        for rule in rules:
            result = rule(graph, node, producer, new)
            if result is not None:
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
    """1: explicit padding becomes the window's own."""
    if node.op not in _WINDOWED or producer is None or producer.op != "pad":
        return None
    before, after, value = (producer.attrs[k] for k in ("before", "after", "value"))
    wanted = {"max_pool2d": -128, "avg_pool2d": None}.get(node.op, node.attrs.get("x_zp"))
    grown = (before[1], before[2], after[1], after[2])
    padding = [a + b for a, b in zip(node.attrs["padding"], grown, strict=True)]
    problems = {
        "other operators read the padded tensor, or it is a result": not _only_user(producer, graph),
        "the tensor does not lie in NHWC": node.attrs.get("x_layout", "NHWC") != "NHWC",
        "channels or images are padded too": any(before[i] or after[i] for i in (0, 3)),
        "average pooling divides by the elements inside the image only": wanted is None,
        f"the padding is {value}, the operator's own would count as {wanted}": wanted is not None and value != wanted,
        "a window of maxima would lie in the padding wholly": node.op == "max_pool2d" and _beyond(padding, node.attrs["kernel"]),
    }
    candidate = f"padding of {producer.name} in the {node.op}"
    if (why := next((text for text, holds in problems.items() if holds), None)) is not None:
        WHY.rejected(node.name, candidate, why)
        return None
    WHY.accepted(node.name, candidate, "the same values at the same places", bytes=-_nbytes(graph, producer.var))
    others = [substitute(a, new) for a in node.args[1:]]
    return registry.call(f"tiny.{node.op}", new[producer.args[0]], *others, **{**node.attrs, "padding": padding})


def _beyond(padding: Sequence[int], kernel: Sequence[int]) -> bool:
    return any(p >= k for p, k in zip(padding, (*kernel, *kernel), strict=True))


def _nbytes(graph: TinyGraph, var: relax.Var) -> int:
    return int(np.prod(graph.shape(var), dtype=np.int64))


def _clamp(graph: TinyGraph, node: Node, producer: Node | None, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
    """2: a clamp narrows that of the operator before it."""
    bounds = _clamp_bounds(node)
    if bounds is None or producer is None or producer.op not in _CLAMPED:
        return None
    candidate = f"clamp to [{bounds[0]}, {bounds[1]}] in the {producer.op} {producer.name}"
    if not _only_user(producer, graph):
        WHY.rejected(node.name, candidate, "other operators read the value before it, or it is a result")
        return None
    WHY.accepted(node.name, candidate, "clamping twice is clamping to the narrower interval")
    added = residual.residual_of(producer.attrs)  # the last of its clamps counts
    last = producer.attrs if added is None else added
    narrowed = {key: min(max(last[key], bounds[0]), bounds[1]) for key in ("clamp_min", "clamp_max")}
    own = narrowed if added is None else {residual.ATTR: residual.to_attribute({**added, **narrowed})}
    attrs = {**producer.attrs, **own, "source": node.attrs["source"] or producer.attrs["source"]}
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
    """3: two functions of one element are one table."""
    inner = _table(producer) if producer is not None else None
    outer = _table(node)
    if producer is None or inner is None or outer is None:
        return None
    if not _only_user(producer, graph):
        WHY.rejected(node.name, f"one table with {producer.name}", "other operators read the value between, or it is a result")
        return None
    WHY.accepted(node.name, f"one table with {producer.name}", "both are functions of one int8 element: 256 cases")
    table = outer[inner.astype(np.int64) + 128]
    scales = {"x_scale": producer.attrs["x_scale"], "y_scale": node.attrs["y_scale"], "source": node.attrs["source"]}
    return registry.call("tiny.lookup", new[producer.args[0]], relax.const(table), **scales)


def _after_maximum(graph: TinyGraph, node: Node, producer: Node | None, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
    """5: a rising function is applied to the maxima instead of to every element."""
    table = _table(producer) if producer is not None else None
    if node.op != "max_pool2d" or producer is None or table is None:
        return None
    attrs = node.attrs
    problems = {
        "other operators read the value between, or it is a result": not _only_user(producer, graph),
        "the function falls somewhere: the maximum may come from another element": bool((np.diff(table.astype(np.int64)) < 0).any()),
    }
    candidate = f"{producer.op} {producer.name} after the maxima instead of before"
    if (why := next((text for text, holds in problems.items() if holds), None)) is not None:
        WHY.rejected(node.name, candidate, why)
        return None
    fewer = _nbytes(graph, producer.var) - _nbytes(graph, node.var)
    WHY.accepted(node.name, candidate, f"it never falls, so the maximum stays the maximum; {fewer:,} elements less to compute")
    pooled = registry.call("tiny.max_pool2d", new[producer.args[0]], **{**attrs, "clamp_min": -128, "clamp_max": 127, "source": ""})
    after = np.clip(table, attrs["clamp_min"], attrs["clamp_max"]).astype(np.int8)
    scales = {"x_scale": producer.attrs["x_scale"], "y_scale": producer.attrs["y_scale"], "source": node.attrs["source"]}
    return registry.call("tiny.lookup", pooled, relax.const(after), **scales)


def _move(graph: TinyGraph, node: Node, producer: Node | None, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
    """4: transposes and reshapes: none, or one instead of two."""
    if node.op not in ("reshape", "transpose"):
        return None
    if node.op == "transpose" and _keeps_order(graph.shape(node.args[0]), node.attrs["axes"]):
        WHY.accepted(node.name, "a reshape instead of the transpose", "only axes of one element change places", bytes=0)
        return registry.call("tiny.reshape", new[node.args[0]], shape=list(graph.shape(node.var)), source=node.attrs["source"])
    if node.op == "reshape" and graph.shape(node.args[0]) == graph.shape(node.var) and not _is_output(graph, node):
        WHY.accepted(node.name, "no reshape", "the shape stays")
        return new[node.args[0]]
    if producer is None or producer.op != node.op:
        return None
    WHY.accepted(node.name, f"one {node.op} with {producer.name}", "the first one's result is only moved again")
    if node.op == "reshape":
        return registry.call("tiny.reshape", new[producer.args[0]], **node.attrs)
    axes = [producer.attrs["axes"][a] for a in node.attrs["axes"]]
    return registry.call("tiny.transpose", new[producer.args[0]], **{**node.attrs, "axes": axes})


def _keeps_order(shape: Sequence[int], axes: Sequence[int]) -> bool:
    """The elements lie in memory as before: the axes longer than one stay in order."""
    long = [a for a in axes if shape[a] > 1]
    return long == sorted(long)


def _is_output(graph: TinyGraph, node: Node) -> bool:
    return any(node.var.same_as(v) for v in graph.outputs)


def _residual(graph: TinyGraph, node: Node, _producer: Node | None, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
    """6: a convolution adds the other operand to its own result."""
    if node.op != "add":
        return None
    makers = [graph.producer.get(a) if isinstance(a, relax.Var) else None for a in node.args]
    fitting = []
    for index, maker in enumerate(makers):
        where = f"the {maker.op} {maker.name}" if maker is not None and maker.op else f"what makes operand {index}"
        candidate = f"the sum in {where}"
        why = _unfit(graph, node, maker, node.args[1 - index])
        if why is not None:
            WHY.rejected(node.name, candidate, why)
        elif maker is not None:
            fitting.append((_depth(graph, maker), index, maker, candidate))
    if not fitting:
        return None
    *others, (_, index, conv, candidate) = sorted(fitting, key=lambda f: f[:2])
    for _, _, _, other in others:
        WHY.rejected(node.name, other, f"{conv.name} ends the longer chain of operators")
    reason = "its own rounding, then the sum's, as before; no tensor between"
    WHY.accepted(node.name, candidate, reason, bytes=-_nbytes(graph, conv.var))
    sum_of = {residual.ATTR: residual.to_attribute(node.attrs, swapped=index == 1)}
    told = {key: node.attrs[key] or conv.attrs[key] for key in ("source", "y_scale")}
    args = [substitute(a, new) for a in (*conv.args, node.args[1 - index])]
    return registry.call("tiny.conv2d", *args, **{**conv.attrs, **sum_of, **told})


def _unfit(graph: TinyGraph, node: Node, maker: Node | None, other: relax.Expr) -> str | None:
    """Why an operand's maker can't do the addition; None when it can."""
    if maker is None or not maker.op:
        return "no operator makes it"
    if maker.op != "conv2d":
        return f"{maker.op} has no kernel that adds"
    problems = {
        "the other operand is a constant": not isinstance(other, relax.Var),
        "other operators read the convolution's own result, or it is a result": not _only_user(maker, graph),
        "the operands' shapes differ": graph.shape(maker.var) != graph.shape(other) or graph.shape(other) != graph.shape(node.var),
        "it adds something already": residual.residual_of(maker.attrs) is not None,
        "it reads the other operand as its input": any(a.same_as(other) for a in maker.args),
        "its kernels take one image, ungrouped": maker.attrs["groups"] != 1 or graph.shape(maker.var)[0] != 1,
        "a tensor does not lie in NHWC": any(n.attrs[k] != "NHWC" for n in (maker, node) for k in ("x_layout", "y_layout")),
    }
    return next((text for text, holds in problems.items() if holds), None)


def _depth(graph: TinyGraph, node: Node) -> int:
    """Operators on the longest path to and with `node`."""
    depth: dict[relax.Var, int] = {}
    for n in graph.nodes:
        depth[n.var] = 1 + max((depth.get(a, 0) for a in n.args if isinstance(a, relax.Var)), default=0)
        if n.var.same_as(node.var):
            break
    return depth[node.var]


_Rule = Callable[[TinyGraph, Node, Node | None, Mapping[relax.Var, relax.Expr]], relax.Expr | None]
_ROUNDS: tuple[tuple[_Rule, ...], ...] = ((_pad, _clamp, _compose, _move, _after_maximum), (_residual,))
