# SPDX-License-Identifier: Apache-2.0
"""lower-ops: every operator becomes a call of a TIR function.

Where it may stand: after the last pass over the `tiny.*` form, before `apply-schedules`.

What it matches
  1. `tiny.*` calls except those that only rename bytes (`tiny.reshape`): each gets a PrimFunc of its own, annotated with what a schedule
     rule needs to know: `tiny.op`, `tiny.attrs`, `tiny.macs`, `tiny.constants` (parameter index → array) and `tiny.source`.
  2. Relax operators of float islands: TVM's own legalisation.
What it leaves: tuples, tuple items, reshapes.

rewrite:
    y = tiny.conv2d(x, w, b, m, s, strides=[2, 2], …)   →   y = R.call_tir(cls.conv2d, (x, w, b, m, s), R.Tensor(…, "int8"))
"""

from __future__ import annotations

import json

import tvm
from tvm import relax

from tvm_tiny.memory.program import ALIASING_OPS
from tvm_tiny.ops import registry


@tvm.transform.module_pass(opt_level=0, name="lower-ops")
class LowerOps:
    """See the module's docstring."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Lower every operator of every function."""
        lowerings = {op.name: _lower for op in registry.all_ops() if op.name not in ALIASING_OPS}
        return relax.transform.LegalizeOps(lowerings)(mod)


def _lower(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    op = registry.get(call.op.name)
    attrs = registry.attrs_of(call)
    infos = registry.arg_infos_of(call)
    short = op.name.removeprefix("tiny.")
    func = op.primfunc(infos, attrs).with_attr(
        {
            "tiny.op": op.name,
            "tiny.attrs": json.dumps(attrs),
            "tiny.macs": op.macs([i.shape for i in infos], attrs),
            "tiny.constants": {str(i): a.value for i, a in enumerate(call.args) if isinstance(a, tvm.ir.GenericConst)},
            "tiny.source": attrs.get("source", ""),
            "tiny.num_outputs": 1,
        }
    )
    gvar = builder.add_func(func, short)
    return relax.call_tir(gvar, list(call.args), call.ty)
