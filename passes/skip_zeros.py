# SPDX-License-Identifier: Apache-2.0
"""skip-zeros: fully connected layers may leave out the inputs that are at their zero point.

Where it may stand: on the tiny dialect after the last pass that changes operators or their clamps, before `lower-ops`.

What it matches: `tiny.dense` of one row on a Cortex-M4, under the goals "speed" and "balanced"
  1. whose input has nothing below its zero point: what computes it (reshapes aside) clamps at this layer's input zero point, as a ReLU
     does. About half of such values are at the zero point; they add nothing to any sum.
  2. which has a kernel that leaves them out (`schedules/microkernels/dense_columns.py`).
  3. where that kernel takes at most 85 % of the cycles when half of the inputs are at the zero point, and at most half more when none is.
What it does: the attribute `skip_zeros` of the call says how many bytes of scratch the list of inputs may cost: 1024 for "balanced", none
where the memory has a budget, what it takes for "speed". The kernel is chosen for it (`schedules/dense.py`).
What it leaves: everything else, with the reason. Without the pass no kernel's loops depend on the values of the input.

Why it is exact: a term of a sum that is zero is left out.

rewrite:
    y = tiny.dense(a, w, b, m, s, …)    →    y = tiny.dense(a, w, b, m, s, …, skip_zeros=1024)
"""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import relax

from tvm_tiny.explain import Explainer
from tvm_tiny.ops import registry
from tvm_tiny.ops.graph import Node, TinyGraph, substitute
from tvm_tiny.passes.in_place import Uses, layer_of
from tvm_tiny.profiler.board_terms import BOARD_TERMS
from tvm_tiny.schedules import dense
from tvm_tiny.target import TinyTarget, parse_target

WHY = Explainer("skip-zeros")
CANDIDATE = "leave out inputs at their zero point"
CORES = ("cortex-m4",)
"""Where a column costs little more than its share of a dense layer; on the Cortex-M7 leaving out half of them gains nothing."""
_LEAST_GAIN, _MOST_LOSS = 0.85, 1.5  # of the cycles of the layer with all inputs
_SCRATCH = {"balanced": 1024, "speed": 1 << 16}  # bytes that the list may cost, where no budget is given
_MEMORY = BOARD_TERMS["stm32l4r5@120"]  # what reading weights costs


@tvm.transform.module_pass(opt_level=0, name="skip-zeros")
class SkipZeros:
    """See the module's docstring.

    Parameters
    ----------
    target : str or TinyTarget
        Whose kernels are compared.
    optimize : str
        The goal: "speed", "balanced" or "sram".
    sram : int, optional
        Budget of the arena in bytes.
    """

    def __init__(self, target: str | TinyTarget = "c", optimize: str = "balanced", sram: int | None = None) -> None:
        self.target = parse_target(target)
        self.optimize = optimize
        self.scratch = _SCRATCH.get(optimize, -1) if sram is None else 0

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite `main`."""
        if self.target.mcpu not in CORES or not self.target.has_dsp:
            WHY.rejected("", CANDIDATE, f"it gains nothing on {self.target.mcpu}")
            return mod
        if self.optimize not in _SCRATCH:
            WHY.rejected("", CANDIDATE, f"the list of inputs costs memory (optimize={self.optimize})")
            return mod
        graph = TinyGraph(mod["main"])
        made, same = {node.var: node for node in graph.nodes}, Uses(graph).root
        makers = {var: made[root] for var, root in same.items() if root in made}  # behind reshapes and further names

        def rewrite(node: Node, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
            if node.op != "dense" or not self._pays(graph, makers, node):
                return None
            attrs = {**node.attrs, "skip_zeros": self.scratch}
            return registry.call("tiny.dense", *(substitute(a, new) for a in node.args), **attrs)

        out = mod.clone()
        out.update_func(mod.get_global_var("main"), graph.rebuild(rewrite))
        return out

    def _pays(self, graph: TinyGraph, makers: Mapping[relax.Var, Node], node: Node) -> bool:
        if (problem := _problem(makers, node)) is not None:  # 1
            WHY.rejected(node.name, CANDIDATE, problem)
            return False
        columns = dense.columns_kernel(layer_of(graph, node))
        if columns is None:  # 2
            WHY.rejected(node.name, CANDIDATE, "no kernel for several rows, so many inputs, or these weights")
            return False
        inputs, outputs = (int(shape[-1]) for shape in (columns.kernel.input_shape, columns.kernel.output_shape))
        core = dense.columns_cycles(columns, self.target.mcpu)
        every = dense.pair_cycles(inputs, outputs) + _flash(inputs * outputs)
        half, most = core[0] + _flash(inputs // 2 * outputs), core[1] + _flash(inputs * outputs)
        figures = f"{half:,.0f} cycles with half of them, {most:,.0f} with none, {every:,.0f} with a kernel for all inputs"
        if half > _LEAST_GAIN * every or most > _MOST_LOSS * every:  # 3
            WHY.rejected(node.name, CANDIDATE, figures, cycles=round(half - every))
            return False
        WHY.accepted(node.name, CANDIDATE, f"{figures}; the time depends on the input", cycles=round(half - every))
        return True


def _problem(makers: Mapping[relax.Var, Node], node: Node) -> str | None:
    """Why half of the inputs may not be expected at the zero point; None when they are."""
    source = makers.get(node.args[0])
    if source is None:
        return "its input is the network's"
    lowest = source.attrs.get("clamp_min")
    if lowest is None or not lowest == source.attrs.get("y_zp") == node.attrs["x_zp"]:
        return "its input has values below the zero point"
    return None


def _flash(nbytes: int) -> float:
    """Cycles of reading bytes once."""
    assert _MEMORY.cache is not None
    return _MEMORY.flash_cycles * nbytes / _MEMORY.cache[2]
