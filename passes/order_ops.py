# SPDX-License-Identifier: Apache-2.0
"""order-ops: branching networks run in the order of least peak memory. Solved, not guessed.

Where it may stand: on the tiny dialect, after the last pass that changes operators, before those that group consecutive ones
(`stream-rows`).

What it matches
  1. `main` with more than one topological order: the order whose largest sum of live bytes is least is searched exactly
     (`tvm_tiny.memory.order`), kernels' scratch included, results over operands they may overwrite counted once.
What it leaves: an order that is least already, and networks whose variables are not all tensors. Reshapes follow what they rename.

Why it is exact: operators have no effects, and every one still runs after those whose results it reads.

rewrite:
    a = tiny.conv2d(x, …)        # large                   b = tiny.conv2d(x, …)
    b = tiny.conv2d(x, …)        # large                   d = tiny.max_pool2d(b)
    c = tiny.max_pool2d(a)       # small          →        a = tiny.conv2d(x, …)
    d = tiny.max_pool2d(b)       # small                   c = tiny.max_pool2d(a)
    y = tiny.add(c, d)                                     y = tiny.add(c, d)
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax

from tvm_tiny.explain import Explainer
from tvm_tiny.memory.order import Node as Step
from tvm_tiny.memory.order import least_peak_order
from tvm_tiny.memory.tiny_rows import TinyRows, tiny_rows
from tvm_tiny.ops.graph import Node, TinyGraph
from tvm_tiny.schedules.stream_costs import runs_in_place, scratch_bytes

WHY = Explainer("order-ops")


@tvm.transform.module_pass(opt_level=0, name="order-ops")
class OrderOps:
    """See the module's docstring.

    Parameters
    ----------
    in_place : bool
        Results may overwrite operands (the pass `in-place` will run).
    max_states : int
        Bound of the search (100,000 are about four seconds); beyond it the order is the best found.
    """

    def __init__(self, in_place: bool = True, max_states: int = 100_000) -> None:
        self.in_place = in_place
        self.max_states = max_states

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Reorder the bindings of `main`."""
        graph = TinyGraph(mod["main"])
        rows = tiny_rows(graph)
        if rows is None:
            WHY.rejected("", "another order", "main has variables that are no tensors")
            return mod
        steps = [self._step(rows, i) for i in range(len(rows.nodes))]
        sizes = {name: tensor.nbytes for name, tensor in rows.graph.tensors.items()}
        found = least_peak_order(steps, sizes, rows.graph.outputs, self.max_states)
        proof = f"proved over {found.states:,} states"
        if not found.optimal:
            proof = f"the best found in {found.states:,} states, none is below {found.bound:,}"
        if found.peak >= found.given_peak:
            WHY.rejected("", "another order", f"none has a lower peak than the given one's {found.given_peak:,} bytes: {proof}")
            return mod
        moved = [rows.nodes[i].name for at, i in enumerate(found.nodes) if at != i]
        reason = f"the peak of live bytes falls from {found.given_peak:,} to {found.peak:,}: {proof}"
        WHY.accepted("", f"the order {', '.join(moved)} of what is moved", reason, bytes=found.peak - found.given_peak)
        out = mod.clone()
        graph.nodes = _ordered(graph, [rows.nodes[i] for i in found.nodes])
        out.update_func(mod.get_global_var("main"), graph.rebuild(lambda _node, _new: None))
        return out

    def _step(self, rows: TinyRows, index: int) -> Step:
        op, node = rows.graph.ops[index], rows.nodes[index]
        over = [op.inputs[k] for k in op.in_place] if self.in_place else []
        over += [op.inputs[0]] if self.in_place and runs_in_place(node) else []
        return Step(op.name, op.inputs, (op.output,), scratch_bytes(node, False), tuple(over))


def _ordered(graph: TinyGraph, order: Sequence[Node]) -> list[Node]:
    """All nodes: those of `order` in it, each followed by the bindings that only rename what exists by then."""
    done: set[relax.Var] = set(graph.params)
    remaining = {n.var for n in graph.nodes} - {n.var for n in order}
    result: list[Node] = []

    def rename() -> None:
        for node in graph.nodes:
            if node.var in remaining and all(v in done for v in _reads(node)):
                remaining.discard(node.var)
                done.add(node.var)
                result.append(node)

    rename()
    for node in order:
        result.append(node)
        done.add(node.var)
        rename()
    return result


def _reads(node: Node) -> list[relax.Var]:
    values = [node.value] if isinstance(node.value, relax.Var) else node.args
    return [v for v in values if isinstance(v, relax.Var)]
