# SPDX-License-Identifier: Apache-2.0
"""stream-rows: runs of operators are computed row by row through ring buffers, so that the tensors between them never exist whole.

Where it may stand: after the last pass that changes operators or their channels, before `lower-ops`.

What it matches: consecutive operators of the network that can be computed row by row (`tvm_tiny.memory.tiny_rows`)
  1. convolution, depthwise convolution, average and max pooling of any window, stride, padding and dilation: rings of the rows
     a window needs;
  2. addition and multiplication of two tensors of one shape, multiplication by a factor a channel, tables, requantisation: row by row; an
     addition works in the row its longer operand was just stored in;
  3. global average pooling and mean over height and width: int32 sums.
What it does: searches the cuts of the network into streamed segments and single layers (`tvm_tiny.memory.segments`), kernel scratch
included, for the least arena, or for the least streamed work within `max_overhead` estimated extra work; replaces every streamed segment
by one `tiny.stage` call whose attribute `schedule` holds rings, firing program and overlap distances. Nothing is recomputed; every output
bit stays.
What it leaves: a network that streaming does not make smaller (reason logged), layers outside the chosen segments, segments of several
results.

The candidates and the choice are written to the module attribute `tiny.stream` (JSON) for the report, and told to `tvm_tiny.explain`.

rewrite:
    a = tiny.conv2d(x, w, b, m, s, …)
    y = tiny.depthwise_conv2d(a, v, …)     →   y = tiny.stage(x, w, b, m, s, v, …, program=[…], schedule={"rings": {"0": 3}, …})
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import tvm
from tvm import relax

from tvm_tiny.explain import Explainer
from tvm_tiny.memory.segments import Range, leaving
from tvm_tiny.memory.stream_choice import Choice, Costs, StreamOptions, choose, forced
from tvm_tiny.memory.stream_scratch import first_uses
from tvm_tiny.memory.tiny_rows import TinyRows, tiny_rows
from tvm_tiny.ops.graph import Node, TinyGraph, substitute
from tvm_tiny.ops.stage import Inner, stage_call
from tvm_tiny.schedules.stream_costs import runs_in_place, scratch_bytes, streaming_work

STREAM_ATTR = "tiny.stream"
WHY = Explainer("stream-rows")


@tvm.transform.module_pass(opt_level=0, name="stream-rows")
class StreamRows:
    """See the module's docstring.

    Parameters
    ----------
    goal : str
        "sram", "balanced" or "speed" (see `tvm_tiny.memory.stream_choice`).
    budget : int, optional
        Bytes of SRAM; the least streamed work that fits is enough.
    max_overhead : float
        Extra work allowed, as a fraction of the whole network's.
    segments : sequence of (first, last), optional
        Stream exactly these ranges of operators instead of searching: for experiments and tests.
    """

    def __init__(
        self,
        goal: str = "balanced",
        budget: int | None = None,
        max_overhead: float = 0.1,
        segments: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.options = StreamOptions(goal, budget, max_overhead)
        self.segments = segments

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with streamed segments as `tiny.stage` calls."""
        tiny = TinyGraph(mod["main"])
        rows = tiny_rows(tiny)
        if rows is None:
            WHY.rejected("", "streaming", "main has variables that are no tensors")
            return mod
        costs = Costs(scratch_bytes, streaming_work, runs_in_place)
        choice = choose(rows, self.options, costs) if self.segments is None else forced(rows, self.segments, costs)
        for candidate in choice.log:
            tell = WHY.accepted if candidate.chosen else WHY.rejected
            tell("", f"stream {_titles(rows, candidate.segments)}", candidate.reason, bytes=candidate.bytes)
        out = mod.clone()
        if any(part.streamed for part in choice.ranges):
            out.update_func(mod.get_global_var("main"), _rewrite(tiny, rows, choice))
        return out.with_attr(STREAM_ATTR, json.dumps(choice.to_dict()))


def _titles(rows: TinyRows, segments: Sequence[tuple[int, int]]) -> str:
    """The streamed ranges by the names of their first and last operators."""
    return ", ".join(f"{rows.nodes[first].name} to {rows.nodes[last - 1].name}" for first, last in segments) or "nothing"


def _rewrite(tiny: TinyGraph, rows: TinyRows, choice: Choice) -> relax.Function:
    """The function with every streamed range as one call, emitted where its last operator stood."""
    inside: dict[relax.Var, Range] = {}
    for part in choice.ranges:
        if part.streamed:
            inside |= {n.var: part for n in rows.nodes[part.first : part.last]}
    builder = relax.BlockBuilder()
    params = [relax.Var(p.name, p.ty) for p in tiny.params]
    new: dict[relax.Var, relax.Expr] = dict(zip(tiny.params, params, strict=True))
    outputs = {v for v in tiny.outputs if v in tiny.producer}
    with builder.function("main", params):
        with builder.dataflow():
            for node in tiny.nodes:
                streamed = inside.get(node.var)
                if streamed is None:
                    if not all(v in new for v in _variables(node)):
                        continue  # another name of a tensor that no longer exists
                    value = substitute(node.value, new)
                elif node is rows.nodes[streamed.last - 1]:
                    value = _stage(rows, streamed, new)
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


def _stage(rows: TinyRows, part: Range, new: dict[relax.Var, relax.Expr]) -> relax.Call:
    """The call of a streamed range: activations first, then constants."""
    nodes = rows.nodes[part.first : part.last]
    made = {rows.tensor[n.var]: j for j, n in enumerate(nodes)}
    activations: dict[str, relax.Expr] = {}
    constants: list[relax.Expr] = []
    for node in nodes:
        for arg in node.args:
            if isinstance(arg, relax.Var) and rows.tensor[arg] not in made:
                activations.setdefault(rows.tensor[arg], new[arg])
            elif not isinstance(arg, relax.Var):
                constants.append(arg)
    order = {name: i for i, name in enumerate(activations)}
    remaining = iter(range(len(activations), len(activations) + len(constants)))

    def reference(arg: relax.Expr) -> tuple[str, int]:
        if not isinstance(arg, relax.Var):
            return "arg", next(remaining)
        name = rows.tensor[arg]
        return ("node", made[name]) if name in made else ("arg", order[name])

    inner = [Inner(f"tiny.{n.op}", n.attrs, tuple(reference(a) for a in n.args)) for n in nodes]
    return stage_call(inner, [*activations.values(), *constants], _schedule(rows, part, made, order))


def _schedule(rows: TinyRows, part: Range, made: dict[str, int], order: dict[str, int]) -> dict:
    segment = part.segment
    assert segment is not None
    (output,) = leaving(rows.graph, part.first, part.last)
    uses = first_uses(rows.graph, segment)

    def freed(suffix: str, names: Iterable[str]) -> dict[int, dict[int, int]]:
        return {made[n]: {order[t]: b for t, b in uses[f"{n}{suffix}"].items()} for n in names}

    ops = rows.graph.ops[part.first : part.last]
    return {
        "stages": [[made[op.output] for op in stage.ops] for stage in segment.stages],
        "rings": {made[name]: count for name, count in segment.rings.items()},
        "program": [[repeat.count, list(repeat.body)] for repeat in segment.program],
        "distances": {order[name]: d for (out, name), d in segment.distances.items() if out == output},
        "freed": {
            "rings": freed(".ring", segment.rings),
            "sums": freed(".sums", [op.output for op in ops if op.kind == "reduce"]),
            "kernels": {made[op.output]: {order[t]: b for t, b in uses[op.name].items()} for op in ops},
        },
    }
