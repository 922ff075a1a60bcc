# SPDX-License-Identifier: Apache-2.0
"""recompute: a large tensor that waits to be scaled by a value made of itself (squeeze-and-excite) is computed twice instead of being kept.

Where it may stand: after the last pass that changes operators or their channels, before `stream-rows`, without which it saves nothing.

What it matches: a product of a tensor with one factor a channel, whose tensor is made by
  1. up to four convolutions or depthwise convolutions in a row, followed back to the smallest tensor on the way.
What it does: copies those operators for the product alone, so that both readers of the tensor can stream its rows; copies are taken in the
order of the memory each is to blame for, as long as they recompute no more than `max_overhead` of the network's multiply-accumulates and
each lowers the least peak; all of them or fewer, whichever the goal prefers, compared as `stream-rows` would run the network
(`tvm_tiny.memory.recompute`, `tvm_tiny.memory.stream_choice`).
What it leaves: networks that streaming alone serves as well (reasons told).

Why it is exact: equal operators on equal inputs.

The choice is written to the module attribute `tiny.recompute` (JSON) for the report.

rewrite:
    d = tiny.depthwise_conv2d(b, w, …)            d = tiny.depthwise_conv2d(b, w, …)
    m = tiny.mean(d, axes=[1, 2], …)         →    m = tiny.mean(d, axes=[1, 2], …)
    y = tiny.mul(d, m, …)                         e = tiny.depthwise_conv2d(b, w, …)
                                                  y = tiny.mul(e, m, …)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import tvm
from tvm import relax

from tvm_tiny.errors import OptionError
from tvm_tiny.explain import Explainer
from tvm_tiny.memory.recompute import MARK, Copy, candidates, recompute_curve
from tvm_tiny.memory.rows import RowOp
from tvm_tiny.memory.stream_choice import Candidate, StreamOptions, cutter_of, pick, stream_candidates, with_rights
from tvm_tiny.memory.tiny_rows import TinyRows, tiny_rows
from tvm_tiny.ops.graph import Node, TinyGraph, substitute
from tvm_tiny.schedules.stream_costs import COSTS

RECOMPUTE_ATTR = "tiny.recompute"
WHY = Explainer("recompute")


@dataclass(frozen=True)
class _Way:
    """The network with some copies, and one partition of it; `overhead` is relative to the network without copies."""

    func: relax.Function
    names: tuple[str, ...]
    extra_macs: float
    candidate: Candidate
    overhead: float

    @property
    def arena_bytes(self) -> int:
        return self.candidate.arena_bytes


@tvm.transform.module_pass(opt_level=0, name="recompute")
class Recompute:
    """See the module's docstring.

    Parameters
    ----------
    goal : str
        "sram", "balanced" or "speed" (see `tvm_tiny.memory.stream_choice`).
    budget : int, optional
        Bytes of SRAM.
    max_overhead : float
        Multiply-accumulates that may be computed again, as a fraction of the network's.
    rows : bool
        `stream-rows` follows.
    readers : sequence of str, optional
        Copy exactly what these products read (names of their variables) instead of searching.
    """

    def __init__(
        self,
        goal: str = "balanced",
        budget: int | None = None,
        max_overhead: float = 0.1,
        rows: bool = True,
        readers: Sequence[str] | None = None,
    ) -> None:
        self.options = StreamOptions(goal, budget, max_overhead)
        self.rows = rows
        self.readers = readers

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with the chosen operators copied."""
        tiny = TinyGraph(mod["main"])
        rows = tiny_rows(tiny)
        if self.options.goal == "speed" or not self.rows or rows is None:
            WHY.rejected("", "copies", "the goal is speed" if self.options.goal == "speed" else "no rows are streamed")
            return mod
        if self.readers is not None:
            return _forced(mod, tiny, rows, self.readers)
        found = variants(tiny, rows, self.options)
        copies = len(found) > 0
        curve = _ways(found, self.options)
        if not curve:
            WHY.rejected("", "copies", "no tensor waits to be scaled by a value made of itself" if not copies else "none lowers the peak")
            return mod
        best, reason = pick(sorted(curve, key=lambda w: (w.arena_bytes, w.overhead)), self.options)
        for way in (w for w in curve if w.names):
            tell, why = (WHY.accepted, reason) if way is best else (WHY.rejected, f"not {reason}: that is {best.arena_bytes:,} bytes")
            figures = f"{way.arena_bytes:,} bytes, {way.overhead:+.1%} work, {way.extra_macs:+.1%} MACs"
            tell("", f"compute {', '.join(way.names)} twice", f"{figures}: {why}", bytes=way.arena_bytes - curve[0].arena_bytes)
        out = mod.clone()
        out.update_func(mod.get_global_var("main"), best.func)
        return out.with_attr(RECOMPUTE_ATTR, json.dumps(_decision(self.options, best, reason, curve)))


def _forced(mod: tvm.IRModule, tiny: TinyGraph, rows: TinyRows, readers: Sequence[str]) -> tvm.IRModule:
    copies = tuple(c for c in candidates(rows.graph) if _is_plain(rows, c) and rows.nodes[c.reader].name in readers)
    if len(copies) != len(readers):
        raise OptionError(f"{', '.join(readers)}: not all are products of a tensor with factors made of itself")
    if not copies:
        return mod
    out = mod.clone()
    out.update_func(mod.get_global_var("main"), _copied(tiny, rows, copies))
    total = sum(op.macs for op in rows.graph.ops) or 1
    extra = sum(rows.graph.ops[k].macs for c in copies for k in c.ops) / total
    names = [rows.nodes[k].name for c in copies for k in c.ops]
    chosen = {"extra_macs": round(extra, 4), "operators": names}
    return out.with_attr(RECOMPUTE_ATTR, json.dumps({"goal": "forced", "reason": "asked for", "chosen": chosen, "curve": [chosen]}))


def _decision(options: StreamOptions, best: _Way, reason: str, curve: Sequence[_Way]) -> dict:
    points = [
        {
            "arena_bytes": w.arena_bytes,
            "extra_work": round(w.overhead, 4),
            "extra_macs": round(w.extra_macs, 4),
            "operators": list(w.names),
        }
        for w in curve
    ]
    return {"goal": options.goal, "reason": reason, "chosen": points[curve.index(best)], "curve": points}


def _is_plain(rows: TinyRows, copy: Copy) -> bool:
    """Every operator reads the variable the one before it binds, under no other name."""
    chain = [*(rows.nodes[k] for k in copy.ops), rows.nodes[copy.reader]]
    return all(isinstance(b.args[0], relax.Var) and b.args[0].same_as(a.var) for a, b in pairwise(chain))


@dataclass(frozen=True)
class Variant:
    """The network with some copies: by name the readers they are made for and the operators they copy."""

    func: relax.Function
    readers: tuple[str, ...]
    names: tuple[str, ...]
    extra_macs: float


def variants(tiny: TinyGraph, rows: TinyRows, options: StreamOptions) -> list[Variant]:
    """The network without copies and with more and more of them; only the first where copies lower no peak, empty where there are none."""
    rows = with_rights(rows, COSTS)
    copies = [c for c in candidates(rows.graph) if _is_plain(rows, c)]
    if not copies:
        return []
    nodes = {op.name: node for op, node in zip(rows.graph.ops, rows.nodes, strict=True)}

    def scratch(op: RowOp, streamed: bool) -> int:
        return COSTS.scratch(nodes[op.name.rstrip(MARK)], streamed)

    found = recompute_curve(rows.graph, replace(cutter_of(rows, COSTS).options, scratch=scratch), options.max_overhead, copies)
    return [
        Variant(
            _copied(tiny, rows, point.copies) if point.copies else tiny.func,
            tuple(rows.nodes[c.reader].name for c in point.copies),
            tuple(rows.nodes[k].name for c in point.copies for k in c.ops),
            point.overhead,
        )
        for point in found
    ]


def _ways(found: Sequence[Variant], options: StreamOptions) -> list[_Way]:
    """Every partition of every variant; empty when copies lower no peak."""
    ways = []
    for variant in found if len(found) > 1 else ():
        rows = tiny_rows(TinyGraph(variant.func))
        assert rows is not None
        for c in stream_candidates(with_rights(rows, COSTS), options, COSTS):
            overhead = variant.extra_macs + c.overhead * (1 + variant.extra_macs)
            ways.append(_Way(variant.func, variant.names, variant.extra_macs, c, overhead))
    return ways


def _copied(tiny: TinyGraph, rows: TinyRows, copies: Sequence[Copy]) -> relax.Function:
    """`main` with the chain of every copy computed again for its reader."""
    readers = {rows.nodes[c.reader].var: c for c in copies}

    def rewrite(node: Node, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
        copy = readers.get(node.var)
        if copy is None:
            return None
        made = dict(new)
        for k in copy.ops:
            made = {**new, rows.nodes[k].var: substitute(rows.nodes[k].value, made)}
        return substitute(node.value, made)

    return tiny.rebuild(rewrite)
