# SPDX-License-Identifier: Apache-2.0
"""stream-rows: runs of operators are computed row by row through ring buffers, so that the tensors between them never exist whole.

Where it may stand: after the last pass that changes operators or their channels, before `lower-ops`.

What it matches: consecutive operators of the network that can be computed row by row (`tvm_tiny.memory.tiny_rows`)
  1. convolution, depthwise convolution, average and max pooling of any window, stride, padding and dilation: rings of the rows
     a window needs;
  2. addition and multiplication of two tensors of one shape, multiplication by a factor a channel, tables, requantisation: row by row; an
     addition works in the row its longer operand was just stored in;
  3. channels of several tensors one after the other (DenseNet, fire modules, skips), or with constants around them: copied pixel by
     pixel;
  4. resizes by any factor, nearest and bilinear (UNet, segmentation): rings of the rows that a row lies between; through rings only;
  5. global average pooling and mean over height and width: int32 sums.
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
from collections.abc import Sequence
from dataclasses import replace

import tvm
from tvm import relax

from tvm_tiny.explain import Explainer
from tvm_tiny.memory.segments import Range
from tvm_tiny.memory.stream_choice import Choice, StreamOptions, choose
from tvm_tiny.memory.stream_strips import forced
from tvm_tiny.memory.strips import StripSegment
from tvm_tiny.memory.tiny_rows import TinyRows, tiny_rows
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.ops.grouping import Group, activations, group_nodes
from tvm_tiny.schedules.cycles import cycle_costs
from tvm_tiny.schedules.microkernels import Core
from tvm_tiny.schedules.stream_costs import COSTS, costs_of
from tvm_tiny.target import TinyTarget

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
        Stream exactly these ranges of operators instead of searching.
    target : TinyTarget, optional
        Kernels that make two rows at once for less work are not used on cores without SMLAD; scratch is that of the core's kernels.
    pairs : bool, optional
        Whether they are used, whatever the core.
    strips : str or int
        With `segments`: whether they run in strips of several rows, and of how many (`tvm_tiny.memory.stream_strips`).
    arena : int, optional
        With `segments`, what the arena may take: no kernel outside spends what streaming saves.
    """

    def __init__(
        self,
        goal: str = "balanced",
        budget: int | None = None,
        max_overhead: float = 0.1,
        segments: Sequence[tuple[int, int]] | None = None,
        target: TinyTarget | None = None,
        *,
        pairs: bool | None = None,
        strips: str | int = "none",
        arena: int | None = None,
    ) -> None:
        self.options = StreamOptions(goal, budget, max_overhead)
        self.segments, self.strips, self.arena = segments, strips, arena
        dual_issue = target is None or Core.of(target.mcpu).dual_issue
        costs = COSTS if dual_issue else costs_of(dual_issue=False)
        able = target is None or target.has_dsp or target.is_host
        paired = able if pairs is None else pairs
        self.costs = costs if paired else replace(costs, paired=lambda node: 0)
        self.cycles = cycle_costs(dual_issue=dual_issue, pairs=paired)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with streamed segments as `tiny.stage` calls."""
        tiny = TinyGraph(mod["main"])
        rows = tiny_rows(tiny)
        if rows is None:
            WHY.rejected("", "streaming", "main has variables that are no tensors")
            return mod
        if self.segments is None:
            choice = choose(rows, self.options, self.costs)
        else:
            choice = forced(rows, self.segments, self.cycles, self.arena, self.strips, self.options.max_overhead)
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
    """The function with every streamed range as one call."""
    groups = [Group(rows.nodes[part.first : part.last], _schedule(rows, part)) for part in choice.ranges if part.streamed]
    return group_nodes(tiny, groups, rows.tensor)


def _schedule(rows: TinyRows, part: Range) -> dict:
    segment, nodes = part.segment, rows.nodes[part.first : part.last]
    assert segment is not None
    if isinstance(segment, StripSegment):
        return {"strips": segment.rows, "late": segment.late, "over": list(segment.over)}
    made = {rows.tensor[n.var]: j for j, n in enumerate(nodes)}
    order = {rows.tensor[v]: i for i, v in enumerate(activations(nodes, rows.tensor))}
    (output,) = rows.graph.leaving(part.first, part.last)

    ops = rows.graph.ops[part.first : part.last]
    groups = {op.name: op.group for stage in segment.stages for op in stage.ops}
    return {
        "stages": [[made[op.output] for op in stage.ops] for stage in segment.stages],
        "groups": [groups[op.name] for op in ops],
        "rings": {made[name]: count for name, count in segment.rings.items()},
        "program": [[repeat.count, list(repeat.body)] for repeat in segment.program],
        "distances": {order[name]: d for (out, name), d in segment.distances.items() if out == output},
    }
