# SPDX-License-Identifier: Apache-2.0
"""patch-inference: the first stages of the network are computed patch by patch (MCUNetV2), so that their large tensors never exist whole.

Where it may stand: after the last pass that changes operators or their channels, before `stream-rows` (which takes what is left) and
`lower-ops`.

What it matches: the first run of operators, up to any depth, that
  1. are convolutions, depthwise convolutions, average or max pooling of any window, stride, padding and dilation, or elementwise over
     tensors of one shape (residual sums, products, tables, requantisation), and
  2. leave one tensor.
What it does: searches grid and depth (`tvm_tiny.memory.patch_choice`), kernel scratch included, for the least arena, or for the least work
within a budget of bytes, recomputing at most `max_overhead` of the network's multiply-accumulates (less what the pass `recompute` has);
replaces the run by one `tiny.stage` call whose attribute `schedule` holds the grid and an estimate of its scratch. Regions and halos follow
from the grid exactly (`tvm_tiny.memory.patches`): rows and columns apart, clipped at the true borders, where alone there is padding; so
every output pixel is the same integer.
What it leaves: a network that patches do not make smaller, or that `stream-rows` makes as small for less work (reasons told).

The trade-off curve and the choice are written to the module attribute `tiny.patches` (JSON) for the report.

rewrite:
    a = tiny.conv2d(x, w, b, m, s, …)
    y = tiny.depthwise_conv2d(a, v, …)     →   y = tiny.stage(x, w, b, m, s, v, …, program=[…], schedule={"grid": [4, 4], …})
"""

from __future__ import annotations

import json
from dataclasses import replace

import tvm
from tvm import relax

from tvm_tiny.explain import Explainer
from tvm_tiny.memory.patch_choice import PatchChoice, choose_patches, forced_patches
from tvm_tiny.memory.patches import PatchStage
from tvm_tiny.memory.stream_choice import StreamOptions
from tvm_tiny.memory.tiny_rows import TinyRows, tiny_rows
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.ops.grouping import Group, group_nodes
from tvm_tiny.schedules.cycles import PATCH_COSTS

PATCH_ATTR = "tiny.patches"
WHY = Explainer("patch-inference")


@tvm.transform.module_pass(opt_level=0, name="patch-inference")
class PatchInference:
    """See the module's docstring.

    Parameters
    ----------
    goal : str
        "sram", "balanced" or "speed" (see `tvm_tiny.memory.stream_choice`).
    budget : int, optional
        Bytes of SRAM; the least work that fits is enough.
    max_overhead : float
        Multiply-accumulates that may be computed again, as a fraction of the network's; under "balanced" also the estimated extra work.
    rows : bool
        `stream-rows` follows: patches are taken only where they win against it.
    stage : (first, last, (down, across)), optional
        Exactly these operators on this grid instead of searching.
    arena : int, optional
        With `stage`, what the arena may take: no kernel outside spends what patches save.
    """

    def __init__(
        self,
        goal: str = "balanced",
        budget: int | None = None,
        max_overhead: float = 0.1,
        rows: bool = True,
        stage: tuple[int, int, tuple[int, int]] | None = None,
        arena: int | None = None,
    ) -> None:
        self.options = StreamOptions(goal, budget, max_overhead)
        self.rows = rows
        self.stage, self.arena = stage, arena

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with the chosen operators as one `tiny.stage` call."""
        tiny = TinyGraph(mod["main"])
        rows = tiny_rows(tiny)
        if rows is None:
            WHY.rejected("", "patches", "main has variables that are no tensors")
            return mod
        if self.stage is None:
            left = max(0.0, self.options.max_overhead - _done_twice(mod))
            choice = choose_patches(rows, replace(self.options, max_overhead=left), PATCH_COSTS, against_rows=self.rows)
        else:
            choice = forced_patches(rows, self.stage, PATCH_COSTS, self.arena)
        _tell(rows, choice)
        out = mod.clone()
        if choice.stage is not None:
            out.update_func(mod.get_global_var("main"), in_patches(tiny, rows, choice.stage, choice.scratch))
        return out.with_attr(PATCH_ATTR, json.dumps(choice.to_dict()))


def in_patches(tiny: TinyGraph, rows: TinyRows, stage: PatchStage, scratch: int) -> relax.Function:
    """The function with the operators of `stage` as one call that needs `scratch` bytes."""
    group = Group(rows.nodes[stage.first : stage.last], {"grid": list(stage.grid), "scratch": scratch})
    return group_nodes(tiny, [group], rows.tensor)


def _done_twice(mod: tvm.IRModule) -> float:
    """What of the network the pass `recompute` has copied: multiply-accumulates, as a fraction."""
    text = mod.attrs.get("tiny.recompute") if mod.attrs is not None else None
    return float(json.loads(str(text))["chosen"]["extra_macs"]) if text is not None else 0.0


def _tell(rows: TinyRows, choice: PatchChoice) -> None:
    for verdict in choice.log:
        (down, across), nodes = verdict.stage.grid, rows.nodes[verdict.stage.first : verdict.stage.last]
        tell = WHY.accepted if verdict.chosen else WHY.rejected
        tell("", f"{nodes[0].name} to {nodes[-1].name} in {down}×{across} patches", verdict.reason, bytes=verdict.bytes)
    if not choice.log:
        (WHY.accepted if choice.stage is not None else WHY.rejected)("", "patches", choice.reason)
