# SPDX-License-Identifier: Apache-2.0
"""in-place: results that may lie exactly where an operand lay get the right to.

Where it may stand: on the tiny dialect after the last pass that changes or reorders operators, before `lower-ops`.

What it matches, for an operand that dies with the call (no later reader under any name, no model result)
  1. `tiny.add`, `tiny.sub`, `tiny.mul`, `tiny.lookup`, `tiny.requantize` of one shape and type: element i is read before it is stored.
  2. `tiny.depthwise_conv2d` with one output channel per input channel and no more pixels than its input, at any stride: all rows of four
     channels are copied to planes in scratch before the first of their bytes is stored. Granted where the planes of all rows cost less
     memory than strips of rows and their distance from the input, and where the layer has a kernel that works in planes.
What it does: the attribute `in_place` of the call lists the numbers of the operands; kernels are chosen for it (`schedules/`), and
`plan-memory` may put the result there. A reshape is always another name of the same bytes.
What it leaves: everything else, with the reason.

rewrite:
    y = tiny.depthwise_conv2d(a, w, b, m, s, …)    →    y = tiny.depthwise_conv2d(a, w, b, m, s, …, in_place=[0])
    z = tiny.add(y, r, …)                          →    z = tiny.add(y, r, …, in_place=[0, 1])
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tvm
from tvm import relax
from tvm_ffi import structural_equal

from tvm_tiny.explain import Explainer
from tvm_tiny.ops import registry
from tvm_tiny.ops.graph import Node, TinyGraph, substitute
from tvm_tiny.schedules import depthwise
from tvm_tiny.schedules.base import Layer
from tvm_tiny.target import TinyTarget, parse_target

WHY = Explainer("in-place")
_ELEMENTWISE = frozenset({"add", "sub", "mul", "lookup", "requantize", "flip_sign"})


@tvm.transform.module_pass(opt_level=0, name="in-place")
class InPlace:
    """See the module's docstring.

    Parameters
    ----------
    target : str or TinyTarget
        Whose kernels are asked.
    overlap : bool
        Results may also lie at a distance from their input (the pass `overlap` will run): what planes are compared with.
    """

    def __init__(self, target: str | TinyTarget = "c", overlap: bool = True) -> None:
        self.target = parse_target(target)
        self.overlap = overlap

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite `main`."""
        graph = TinyGraph(mod["main"])
        uses = Uses(graph)

        def rewrite(node: Node, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
            granted = [i for i in range(len(node.args)) if node.op and self._grants(graph, uses, node, i)]
            if not granted:
                return None
            return registry.call(f"tiny.{node.op}", *(substitute(a, new) for a in node.args), **{**node.attrs, "in_place": granted})

        out = mod.clone()
        out.update_func(mod.get_global_var("main"), graph.rebuild(rewrite))
        return out

    def _grants(self, graph: TinyGraph, uses: Uses, node: Node, index: int) -> bool:
        operand = node.args[index]
        if node.op not in _ELEMENTWISE | {"depthwise_conv2d"} or not isinstance(operand, relax.Var):
            return False
        candidate = f"result over {operand.name}"
        why = uses.needed_after(node, operand)
        if why is None:
            why = _unlike(operand, node.var) if node.op in _ELEMENTWISE else _window_problem(graph, node)
        if why is not None:
            WHY.rejected(node.name, candidate, why)
            return False
        if node.op in _ELEMENTWISE:
            WHY.accepted(node.name, candidate, "every element is read before its result is stored", bytes=-_nbytes(graph, node.var))
            return True
        return self._planes_pay(graph, node, candidate)

    def _planes_pay(self, graph: TinyGraph, node: Node, candidate: str) -> bool:
        layer = layer_of(graph, node)
        shape = depthwise.shape_of(layer)
        planes, strips = depthwise.bytes_in_place(shape), depthwise.bytes_in_strips(shape, overlap=self.overlap)
        figures = f"input, result and scratch take {planes:,} bytes with planes of all rows, {strips:,} in strips"
        if planes >= strips:
            WHY.rejected(node.name, candidate, f"{figures}: strips cost less", bytes=planes - strips)
            return False
        if not depthwise.has_planes(layer, self.target):
            WHY.rejected(node.name, candidate, "the layer's requantisation or size leaves only a kernel that works pixel by pixel")
            return False
        WHY.accepted(node.name, candidate, f"a channel is copied before it is overwritten; {figures}", bytes=planes - strips)
        return True


class Uses:
    """Who reads the bytes of each tensor; a reshape, or a binding of a variable, is another name of the same bytes."""

    def __init__(self, graph: TinyGraph) -> None:
        self.root: dict[relax.Var, relax.Var] = {p: p for p in graph.params}
        self.readers: dict[relax.Var, list[Node]] = {}
        for node in graph.nodes:
            source = node.value if isinstance(node.value, relax.Var) else node.args[0] if node.op == "reshape" else None
            self.root[node.var] = self.root[source] if isinstance(source, relax.Var) else node.var
            if source is None:
                for var in _variables(node.value):
                    self.readers.setdefault(self.root[var], []).append(node)
        self.results = {self.root[v] for v in graph.outputs}

    def needed_after(self, node: Node, operand: relax.Var) -> str | None:
        """Why the operand's bytes are needed when `node` has run, or twice by it; None when they are not."""
        tensor = self.root[operand]
        readers = self.readers[tensor]
        if tensor in self.results:
            return "it is a result of the network"
        if not readers[-1].var.same_as(node.var):
            return f"{readers[-1].name} reads it later"
        return "the call reads it twice" if sum(r.var.same_as(node.var) for r in readers) > 1 else None


def layer_of(graph: TinyGraph, node: Node) -> Layer:
    """The call as schedule rules see it."""
    constants = {i: node.constant(i) for i in range(len(node.args)) if node.is_constant(i)}
    tensors = [*node.args, node.var]
    return Layer(f"tiny.{node.op}", node.attrs, constants, tuple(graph.shape(t) for t in tensors), tuple(str(t.ty.dtype) for t in tensors))


def _window_problem(graph: TinyGraph, node: Node) -> str | None:
    x, y = graph.shape(node.args[0]), graph.shape(node.var)
    if node.attrs["x_layout"] != "NHWC" or node.attrs["y_layout"] != "NHWC" or x[0] != 1:
        return "no kernel that works in planes takes this layout or several images"
    if x[3] != y[3]:
        return f"{y[3] // x[3]} output channels an input channel: the first would overwrite what the second reads"
    return "the result has more pixels than the input" if y[1] * y[2] > x[1] * x[2] else None


def _unlike(a: relax.Var, b: relax.Var) -> str | None:
    same = structural_equal(a.ty.shape, b.ty.shape) and np.dtype(str(a.ty.dtype)).itemsize == np.dtype(str(b.ty.dtype)).itemsize
    return None if same else "the result has another shape or type"


def _nbytes(graph: TinyGraph, var: relax.Var) -> int:
    size = 1
    for extent in graph.shape(var):
        size *= extent
    return size


def _variables(value: relax.Expr) -> list[relax.Var]:
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.Call):
        return [v for a in value.args for v in _variables(a)]
    if isinstance(value, relax.Tuple):
        return [v for f in value.fields for v in _variables(f)]
    return _variables(value.tuple_value) if isinstance(value, relax.TupleGetItem) else []
