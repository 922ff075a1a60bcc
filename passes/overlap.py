# SPDX-License-Identifier: Apache-2.0
"""overlap: results and scratch may share bytes with an input at a distance that is safe for the kernel at hand.

Where it may stand: after `apply-schedules`, before `plan-memory`.

What it matches: `R.call_tir` of a kernel that promises a distance (`tiny.overlap`, found by walking the kernel's own order of reads and
stores: `schedules/overlap.py`), for every input that
  1. dies with the call: no later call reads its bytes, the application does not either,
  2. is read through one argument only,
  3. lies in the arena,
  4. saves something: at that distance both take fewer bytes than side by side.
What it does: grants the right on the call (`tvm_tiny.memory.rights`); the planner uses exactly what is granted.
What it leaves: promises of writing exactly in place, which the pass `in-place` grants.

Why it is exact: every byte is stored only below those that are still to be read.

rewrite:
    y = R.call_tir(cls.conv2d, (x, packed), …)    →    y = R.call_tir(cls.conv2d, (x, packed), …)   with rights {"0:0": [["ascending", 96]]}
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_tiny.explain import Explainer
from tvm_tiny.memory.program import Program, extract
from tvm_tiny.memory.rights import Rights, grant, promised
from tvm_tiny.schedules.overlap import ALL_READ_FIRST

WHY = Explainer("overlap")


@tvm.transform.module_pass(opt_level=0, name="overlap")
class Overlap:
    """See the module's docstring."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Grant the rights to the calls of `main`."""
        program = extract(mod, "model")
        rewriter = _Granter(mod, [grants(program, i) for i in range(len(program.calls))])
        rewriter.builder_.update_func(mod.get_global_var("main"), rewriter.visit_expr(mod["main"]))
        out = rewriter.builder_.get()
        return out.with_attrs(dict(mod.attrs.items())) if mod.attrs is not None else out


@relax.expr_functor.mutator
class _Granter(relax.PyExprMutator):
    """Gives the i-th `R.call_tir` of the function the i-th rights."""

    def __init__(self, mod: tvm.IRModule, rights: list[Rights]) -> None:
        super().__init__(mod)
        self.rights = iter(rights)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        new = super().visit_call_(call)
        is_kernel = isinstance(call.op, tvm.ir.Op) and call.op.name == "relax.call_tir"
        return grant(new, next(self.rights)) if is_kernel else new


def grants(program: Program, index: int) -> Rights:
    """What is granted to a call of the program."""
    call = program.calls[index]
    found: Rights = {}
    for (out, arg), alternatives in promised(program.kernels[call.kernel]).items():
        kind, source = call.args[arg]
        target = (call.writes + call.scratch)[out]
        apart = [(order, distance) for order, distance in alternatives if order != "in-place"]
        if kind != "buffer" or not apart:
            continue
        taken = [a for a in apart if _decide(program, index, target, source, *a)]
        if taken:
            found[out, arg] = taken
    return found


def _decide(program: Program, index: int, target: str, source: str, order: str, distance: int) -> bool:
    call = program.calls[index]
    out, into = program.buffers[target].nbytes, program.buffers[source].nbytes
    together = max(out, into + max(0, distance)) if order == "ascending" else max(out, into, into + distance)
    what = "scratch" if target in call.scratch else "result"
    candidate = f"{what} {_place(distance)} {source}{', backwards' if order == 'descending' else ''}"
    why = _problem(program, index, target, source)
    if why is None and together >= out + into:
        why = f"at that distance both take {together:,} bytes, side by side {out + into:,}"
    if why is not None:
        WHY.rejected(call.layer, candidate, why)
        return False
    WHY.accepted(call.layer, candidate, "the kernel has read what it overwrites", bytes=together - out - into)
    return True


def _place(distance: int) -> str:
    """Where an output may begin beside its input, in words."""
    if distance <= ALL_READ_FIRST:
        return "anywhere over"
    if distance == 0:
        return "from the first byte of"
    return f"from {abs(distance):,} bytes {'above' if distance < 0 else 'below'}"


def _problem(program: Program, index: int, target: str, source: str) -> str | None:
    """Why the two buffers may not share bytes whatever the distance."""
    call = program.calls[index]
    later = next((c.layer for c in program.calls[index + 1 :] if source in c.reads), None)
    if later is not None:
        return f"{later} reads the input later"
    if program.buffers[source].kind == "output":
        return "the input is a result of the network"
    if call.reads.count(source) > 1:
        return "two arguments read the input"
    outside = next((n for n in (source, target) if program.buffers[n].kind == "external"), None)
    return None if outside is None else f"{outside} stays in the caller's memory"
