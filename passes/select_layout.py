# SPDX-License-Identifier: Apache-2.0
"""select-layout: every tensor lies in NHWC or NCHW, whichever costs the kernels that write and read it fewer cycles.

Where it may stand: on the tiny dialect after the last pass that works on rows (`stream-rows`), before `in-place` and `lower-ops`.

What it matches: 4-D tensors of one image that are no results, whose producer and readers all have a form for planes
  1. producer: `tiny.conv2d` can store NCHW; a `tiny.transpose` from NHWC to NCHW order vanishes where its result lies in NCHW;
  2. reader: `tiny.depthwise_conv2d` can read NCHW; a `tiny.transpose` from NCHW to NHWC order vanishes where its argument does.
What it does: compares estimated cycles (`schedules/layout_costs.py`, measured) and takes NCHW where it costs less, the kernels exist, and
the memory is there: kernels of planes neither overlap their input nor run in place, so both tensors must fit beside all others. Every
operator has at most one side to choose, so the sum over the network is least when every tensor's own is: the choice is exact.
What it leaves: everything else in NHWC; transposes that stay are listed with the reason.

Why it is exact: the same elements are computed by the same arithmetic; only where they lie changes.

rewrite:
    a = tiny.conv2d(x, w, …)                           a = tiny.conv2d(x, w, …, y_layout="NCHW")
    y = tiny.depthwise_conv2d(a, v, …)        →        y = tiny.depthwise_conv2d(a, v, …, x_layout="NCHW")
    t = tiny.transpose(x, axes=[0, 2, 3, 1])
    y = tiny.depthwise_conv2d(t, v, …)        →        y = tiny.depthwise_conv2d(x, v, …, x_layout="NCHW")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import tvm
from tvm import relax

from tvm_tiny.explain import Explainer
from tvm_tiny.ops import registry
from tvm_tiny.ops.graph import Node, TinyGraph, substitute
from tvm_tiny.ops.residual import residual_of
from tvm_tiny.passes.in_place import Uses, layer_of
from tvm_tiny.schedules import conv2d, depthwise
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.layout_costs import cycles_of, move_cycles, read_cycles, store_cycles
from tvm_tiny.schedules.planar import planar_kernel
from tvm_tiny.schedules.stream_costs import scratch_bytes
from tvm_tiny.target import TinyTarget, parse_target

WHY = Explainer("select-layout")
_TO_PLANES, _FROM_PLANES = [0, 3, 1, 2], [0, 2, 3, 1]


@tvm.transform.module_pass(opt_level=0, name="select-layout")
class SelectLayout:
    """See the module's docstring.

    Parameters
    ----------
    target : str or TinyTarget
        Whose cycles count.
    goal : str
        "speed": planes may take as much memory as the largest layer does when nothing shares bytes. Else: no more than any plan needs
        whose results overlap their inputs wholly.
    """

    def __init__(self, target: str | TinyTarget = "c", goal: str = "balanced") -> None:
        self.target = parse_target(target)
        self.goal = goal

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite `main`."""
        graph = TinyGraph(mod["main"])
        choice = _Choice(graph, self.target, shared=self.goal != "speed")
        planar = [v for v in (*graph.params, *(n.var for n in graph.nodes)) if choice.is_planar(v)]
        choice.list_transposes(planar)
        if not planar:
            return mod
        chosen = set(planar)

        def rewrite(node: Node, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
            x = node.args[0] if node.args else None
            reads, writes = x in chosen if isinstance(x, relax.Var) else False, node.var in chosen
            if not (reads or writes):
                return None
            if node.op == "transpose":
                return substitute(node.args[0], new)
            layouts = {**({"x_layout": "NCHW"} if reads else {}), **({"y_layout": "NCHW"} if writes else {})}
            return registry.call(f"tiny.{node.op}", *(substitute(a, new) for a in node.args), **{**node.attrs, **layouts})

        out = mod.clone()
        out.update_func(mod.get_global_var("main"), graph.rebuild(rewrite))
        return out


class _Choice:
    """The layout of each tensor of a network."""

    def __init__(self, graph: TinyGraph, target: TinyTarget, *, shared: bool) -> None:
        self.graph, self.target = graph, target
        self.costs = cycles_of(target)
        self.uses = Uses(graph)
        self.live = _live_bytes(graph, self.uses)
        scratch = {n.var: scratch_bytes(n, False) for n in graph.nodes if n.var in self.live}
        needs = (scratch[v] + passing + (max(a, b) if shared else a + b) for v, (a, b, passing) in self.live.items())
        self.limit = max(needs, default=0)

    def is_planar(self, tensor: relax.Var) -> bool:
        """Decide one tensor and tell why."""
        readers = [n for n, _ in self.graph.consumers.get(tensor, [])]
        producer = self.graph.producer.get(tensor)
        touched = [*readers, *([producer] if producer else [])]
        if not any((n.op == "depthwise_conv2d" and n.args[0].same_as(tensor)) or n.op == "transpose" for n in touched):
            return False
        if not isinstance(tensor.ty, relax.TensorType) or len(self.graph.shape(tensor)) != 4:
            return False
        why = self._problem(tensor, producer, readers)
        if why is None:
            nhwc, nchw = (self._cycles(producer, readers, planar=p) for p in (False, True))
            figures = f"{nhwc:,.0f} estimated cycles in NHWC, {nchw:,.0f} in NCHW"
            if nchw < nhwc:
                why = self._needs(producer, readers)
                if why is None:
                    WHY.accepted(tensor.name, "NCHW", figures, cycles=round(nchw - nhwc))
                    return True
                why = f"{figures}, but {why}"
            else:
                why = figures
            WHY.rejected(tensor.name, "NCHW", why, cycles=round(nchw - nhwc))
        else:
            WHY.rejected(tensor.name, "NCHW", why)
        return False

    def list_transposes(self, planar: list[relax.Var]) -> None:
        """Tell which transposes vanish and which stay."""
        for node in self.graph.nodes:
            if node.op != "transpose":
                continue
            vanishes = any(v.same_as(node.var) or v.same_as(node.args[0]) for v in planar)
            tell, reason = (WHY.accepted, "its tensor lies in planes") if vanishes else (WHY.rejected, "both its tensors lie in NHWC")
            tell(node.name, "no transpose", reason)

    def _problem(self, tensor: relax.Var, producer: Node | None, readers: list[Node]) -> str | None:
        """Why the tensor can't lie in planes whatever the cost."""
        if any(self.uses.root[tensor].same_as(r) for r in self.uses.results):
            return "it is a result of the network"
        if producer is None:
            return "it is an input of the network, which the application lays out"
        if producer.op != "conv2d" and not _moves(producer, _FROM_PLANES):
            return f"{producer.op or 'its producer'} has no form that stores planes"
        if residual_of(producer.attrs) is not None:
            return "a convolution that adds a residual has no form that stores planes"
        other = next((r for r in readers if not _reads_planes(r, tensor)), None)
        if other is not None:
            return f"{other.op or 'a reader'} {other.name} has no form that reads planes"
        return None if self.graph.shape(tensor)[0] == 1 else "the kernels of planes take one image"

    def _cycles(self, producer: Node | None, readers: list[Node], *, planar: bool) -> float:
        """Cycles of everything that touches the tensor, as far as the layout decides them."""
        total = 0.0
        for node in (*readers, producer):
            if node is None:
                continue
            if node.op == "transpose":
                total += 0.0 if planar else move_cycles(int(np.prod(self.graph.shape(node.var))), self.costs)
            elif node.op == "depthwise_conv2d":
                total += read_cycles(depthwise.shape_of(layer_of(self.graph, node)), self.costs, planar=planar)
            elif (shape := conv2d.shape_of(layer_of(self.graph, node))) is not None:
                total += store_cycles(shape, self.costs, planar=planar)
        return total

    def _needs(self, producer: Node | None, readers: list[Node]) -> str | None:
        """What lacks: a kernel, or memory."""
        for node, key in (*((r, "x_layout") for r in readers), (producer, "y_layout")):
            if node is None or node.op == "transpose":
                continue
            kernel = planar_kernel(self._planar_layer(node, key), self.target)
            if kernel is None:
                return f"the requantisation or size of {node.name} leaves no kernel of planes"
            before, after, passing = self.live[node.var]
            scratch = kernel.scratch_bytes if node.op == "depthwise_conv2d" else scratch_bytes(node, False)  # a convolution's stays
            need = before + after + passing + scratch
            if need > self.limit:
                return f"{node.name} would need {need:,} bytes, since nothing may overlap, and the others leave {self.limit:,}"
        return None

    def _planar_layer(self, node: Node, key: str) -> Layer:
        layer, at = layer_of(self.graph, node), 0 if key == "x_layout" else -1
        shapes = list(layer.shapes)
        n, h, w, c = shapes[at]
        shapes[at] = (n, c, h, w)
        return replace(layer, attrs={**layer.attrs, key: "NCHW"}, shapes=tuple(shapes))


def _moves(node: Node, axes: list[int]) -> bool:
    return node.op == "transpose" and list(node.attrs["axes"]) == axes


def _reads_planes(node: Node, tensor: relax.Var) -> bool:
    reads = node.op == "depthwise_conv2d" and node.args[0].same_as(tensor) and node.attrs["y_layout"] == "NHWC"
    return reads or _moves(node, _TO_PLANES)


def _live_bytes(graph: TinyGraph, uses: Uses) -> dict[relax.Var, tuple[int, int, int]]:
    """For every operator: bytes of its arguments, of its result, and of all other tensors alive with it."""
    sizes = {v: _nbytes(v) for v in (*graph.params, *(n.var for n in graph.nodes))}
    last = {root: readers[-1].var for root, readers in uses.readers.items()}
    alive: dict[relax.Var, int] = {p: sizes[p] for p in graph.params}
    found = {}
    for node in graph.nodes:
        if not uses.root[node.var].same_as(node.var):
            continue
        reads = {uses.root[a] for a in node.args if isinstance(a, relax.Var)}
        before = sum(sizes[r] for r in reads)
        found[node.var] = (before, sizes[node.var], sum(size for v, size in alive.items() if v not in reads))
        alive[node.var] = sizes[node.var]
        alive = {v: s for v, s in alive.items() if v in uses.results or (v in last and not last[v].same_as(node.var))}
    return found


def _nbytes(var: relax.Var) -> int:
    if not isinstance(var.ty, relax.TensorType):
        return 0
    shape = [int(d) for d in var.ty.shape.values]
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(str(var.ty.dtype)).itemsize
