# SPDX-License-Identifier: Apache-2.0
"""Replace runs of operators by one `tiny.stage` call each, emitted where the run's last operator stood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax

from tvm_tiny.ops.graph import Node, TinyGraph, substitute
from tvm_tiny.ops.stage import Inner, stage_call


@dataclass(frozen=True)
class Group:
    """Operators that become one stage, and what the stage's attribute `schedule` says (see `tvm_tiny.ops.stage`)."""

    nodes: Sequence[Node]
    schedule: dict[str, Any]


def group_nodes(tiny: TinyGraph, groups: Sequence[Group], tensor: Mapping[relax.Var, str]) -> relax.Function:
    """The function with every group as one call.

    Parameters
    ----------
    tensor : mapping
        Name of the tensor of every variable; variables that are names of one tensor share it.
    """
    inside = {n.var: group for group in groups for n in group.nodes}
    builder = relax.BlockBuilder()
    params = [relax.Var(p.name, p.ty) for p in tiny.params]
    new: dict[relax.Var, relax.Expr] = dict(zip(tiny.params, params, strict=True))
    outputs = {v for v in tiny.outputs if v in tiny.producer}
    with builder.function("main", params):
        with builder.dataflow():
            for node in tiny.nodes:
                group = inside.get(node.var)
                if group is None:
                    if not all(v in new for v in _variables(node)):
                        continue  # another name of a tensor that no longer exists
                    value = substitute(node.value, new)
                elif node is group.nodes[-1]:
                    value = _stage(group, tensor, new)
                else:
                    continue
                emit = builder.emit_output if node.var in outputs else builder.emit
                new[node.var] = emit(value, name_hint=node.name)
        fields = [new[v] for v in tiny.outputs]
        builder.emit_func_output(relax.Tuple(fields) if isinstance(tiny.result, relax.Tuple) else fields[0])
    out = builder.get()["main"]
    return out.with_attrs(dict(tiny.func.attrs.items())) if tiny.func.attrs is not None else out


def _variables(node: Node) -> list[relax.Var]:
    values = [node.value] if isinstance(node.value, relax.Var) else node.args
    return [v for v in values if isinstance(v, relax.Var)]


def activations(nodes: Sequence[Node], tensor: Mapping[relax.Var, str]) -> list[relax.Var]:
    """Variables the nodes read from outside, one for each tensor, in the order of the stage's arguments."""
    made = {tensor[n.var] for n in nodes}
    found: dict[str, relax.Var] = {}
    for node in nodes:
        for arg in node.args:
            if isinstance(arg, relax.Var) and tensor[arg] not in made:
                found.setdefault(tensor[arg], arg)
    return list(found.values())


def _stage(group: Group, tensor: Mapping[relax.Var, str], new: Mapping[relax.Var, relax.Expr]) -> relax.Call:
    """The call of a group: activations first, then constants."""
    made = {tensor[n.var]: j for j, n in enumerate(group.nodes)}
    variables = activations(group.nodes, tensor)
    constants = [arg for n in group.nodes for arg in n.args if not isinstance(arg, relax.Var)]
    order = {tensor[v]: i for i, v in enumerate(variables)}
    remaining = iter(range(len(variables), len(variables) + len(constants)))

    def reference(arg: relax.Expr) -> tuple[str, int]:
        if not isinstance(arg, relax.Var):
            return "arg", next(remaining)
        name = tensor[arg]
        return ("node", made[name]) if name in made else ("arg", order[name])

    inner = [Inner(f"tiny.{n.op}", n.attrs, tuple(reference(a) for a in n.args)) for n in group.nodes]
    return stage_call(inner, [*(new[v] for v in variables), *constants], group.schedule)
