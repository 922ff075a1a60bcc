# SPDX-License-Identifier: Apache-2.0
"""plan-memory: every buffer of the lowered network gets its place in the arena.

Where it may stand: last.

What it matches: the straight list of kernel calls that `tvm_tiny.memory.program` reads from `main`.
What it does: computes exact lifetimes, collects the rights that `in-place` and `overlap` granted to the calls, lets the planner find
offsets, checks the plan, and writes it to the module attribute `tiny.plan` (JSON of `tvm_tiny.memory.plan.MemoryPlan`).
What it leaves: the code.

rewrite:
    @I.ir_module                 →    @I.ir_module
    class Module: …                   class Module:
                                          I.module_attrs({"tiny.plan": "{…}"})
                                          …
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import tvm

from tvm_tiny.errors import OptionError
from tvm_tiny.memory.plan import Buffer, MemoryPlan, Region, Right, Step
from tvm_tiny.memory.planner import plan_memory
from tvm_tiny.memory.program import KernelCall, Program, extract

PLAN_ATTR = "tiny.plan"
_SCRATCH_BYTES = 1  # read of scratch for a product: a column of 16 bits serves two channels
_ALIGN = 4  # kernels load words from scratch and from int32 or float tensors; int8 tensors are loaded as words too


@tvm.transform.module_pass(opt_level=0, name="plan-memory")
class PlanMemory:
    """See the module's docstring.

    Parameters
    ----------
    regions : sequence of Region
        Memories of the board; the busiest tensors go to the cheapest to access. One without a limit where nothing is said.
    pins : mapping
        By name of a model input or output the region it lies in.

    Raises
    ------
    OptionError
        There is no such input, output or region.
    MemoryDoesNotFitError
        The network does not fit the regions.
    """

    def __init__(self, regions: Sequence[Region] = (), pins: Mapping[str, str] | None = None) -> None:
        self.regions = tuple(regions) or (Region(),)
        self.pins = dict(pins or {})

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Attach the plan; the code stays as it is."""
        return mod.with_attr(PLAN_ATTR, plan_program(extract(mod, "model"), self.regions, self.pins).to_json())


def plan_of(mod: tvm.IRModule) -> MemoryPlan:
    """Return the plan that `plan-memory` left on the module."""
    return MemoryPlan.from_json(str(mod.attrs[PLAN_ATTR]))


def plan_program(program: Program, regions: Sequence[Region] = (Region(),), pins: Mapping[str, str] | None = None) -> MemoryPlan:
    """Plan the buffers of a program; `regions` and `pins` as of `PlanMemory`."""
    pinned = _pinned(program, pins or {})
    steps = [_step(program, call, i) for i, call in enumerate(program.calls)]
    scratch = {name: call.macs * _SCRATCH_BYTES for call in program.calls for name in call.scratch}
    handed_out = {t.buffer for t in program.outputs}  # an input may be an output too
    buffers = [
        Buffer(
            b.name, b.nbytes, b.kind, align=_ALIGN, region=pinned.get(b.name), accesses=scratch.get(b.name, 0), keep=b.name in handed_out
        )
        for b in program.buffers.values()
        if b.kind != "external"
    ]
    return plan_memory(buffers, steps, regions)


def _pinned(program: Program, pins: Mapping[str, str]) -> dict[str, str]:
    """Regions by buffer, from regions by the model's names."""
    tensors = {t.name: t for t in (*program.inputs, *program.outputs)}
    unknown = sorted(set(pins) - set(tensors))
    if unknown:
        raise OptionError(f"pins: no input or output is called {', '.join(unknown)}", remedy=f"there are: {', '.join(tensors)}")
    outside = sorted(name for name in pins if program.is_external(tensors[name]))
    if outside:
        raise OptionError(f"pins: {', '.join(outside)} stays in the caller's memory", remedy="leave it out")
    return {tensors[name].buffer: region for name, region in pins.items()}


def _step(program: Program, call: KernelCall, index: int) -> Step:
    return Step(
        f"{index}:{call.op.removeprefix('tiny.')}",
        _inside(program, dict.fromkeys(call.reads)),
        _inside(program, call.writes),
        call.scratch,
        _rights(program, call),
    )


def _inside(program: Program, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(n for n in names if program.buffers[n].kind != "external")


def _rights(program: Program, call: KernelCall) -> tuple[Right, ...]:
    """What is granted to the call, by the names of its buffers."""
    rights = []
    for (out, arg), alternatives in call.rights.items():
        pair = ((call.writes + call.scratch)[out], call.args[arg][1])
        if call.args[arg][0] == "buffer" and len(_inside(program, pair)) == 2:
            rights += [Right(*pair, order, distance) for order, distance in alternatives]
    return tuple(rights)
