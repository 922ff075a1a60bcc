# SPDX-License-Identifier: Apache-2.0
"""plan-memory: every buffer of the lowered network gets its place in the arena.

Where it may stand: last.

What it matches: the straight list of kernel calls that `tvm_tiny.memory.program` reads from `main`.
What it does: computes exact lifetimes, collects the overlap rights of the kernels (`tiny.overlap`), lets the planner find offsets, checks
the plan, and writes it to the module attribute `tiny.plan` (JSON of `tvm_tiny.memory.plan.MemoryPlan`).
What it leaves: the code.

rewrite:
    @I.ir_module                 →    @I.ir_module
    class Module: …                   class Module:
                                          I.module_attrs({"tiny.plan": "{…}"})
                                          …
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import tvm

from tvm_tiny.memory.plan import Buffer, MemoryPlan, Right, Step
from tvm_tiny.memory.planner import plan_memory
from tvm_tiny.memory.program import KernelCall, Program, extract

PLAN_ATTR = "tiny.plan"
_ALIGN = 4  # kernels load words from scratch and from int32 or float tensors; int8 tensors are loaded as words too


@tvm.transform.module_pass(opt_level=0, name="plan-memory")
class PlanMemory:
    """See the module's docstring."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Attach the plan; the code stays as it is."""
        return mod.with_attr(PLAN_ATTR, plan_program(extract(mod, "model")).to_json())


def plan_of(mod: tvm.IRModule) -> MemoryPlan:
    """Return the plan that `plan-memory` left on the module."""
    return MemoryPlan.from_json(str(mod.attrs[PLAN_ATTR]))


def plan_program(program: Program) -> MemoryPlan:
    """Plan the buffers of a program."""
    steps = [_step(program, call, i) for i, call in enumerate(program.calls)]
    buffers = [Buffer(b.name, b.nbytes, b.kind, align=_ALIGN) for b in program.buffers.values() if b.kind != "external"]
    return plan_memory(buffers, steps)


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
    """The kernel's `tiny.overlap` (see `schedules/base.py`) for the buffers of this call."""
    text = program.kernels[call.kernel].attrs.get("tiny.overlap")
    rights = []
    for key, alternatives in json.loads(str(text)).items() if text is not None else ():
        out, arg = (int(part) for part in key.split(":"))
        kind, name = call.args[arg]
        if kind == "buffer" and call.reads.count(name) == 1 and len(_inside(program, (name, (call.writes + call.scratch)[out]))) == 2:
            rights += [Right((call.writes + call.scratch)[out], name, order, distance) for order, distance in alternatives]
    return tuple(rights)
