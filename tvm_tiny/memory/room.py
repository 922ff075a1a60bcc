# SPDX-License-Identifier: Apache-2.0
"""Room for scratch beside what is live in every step of a network, before anything is planned."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_tiny.memory.program import ALIASING_OPS


def scratch_room(main: relax.Function) -> dict[str, int]:
    """By the name of each call's result: bytes of scratch that cost no memory, those between what is live in that step and the peak."""
    return {name: max(0, room) for name, room in step_room(main).items()}


def step_room(main: relax.Function, arena: int | None = None) -> dict[str, int]:
    """By the name of each call's result: the peak less what is live in that step, tensors whole, none sharing.

    A tensor under another name or shape is the same bytes. The peak is `arena` when that is known; a step may then be short of bytes, which
    its kernel has to find by sharing.
    """
    bindings, root, last_use = _last_uses(main)
    live = {var: _nbytes(var) for var in main.params}
    totals: dict[str, int] = {}
    for step, binding in enumerate(bindings):
        live[root[binding.var]] = _nbytes(root[binding.var])
        totals[str(binding.var.name)] = sum(live.values())
        live = {var: size for var, size in live.items() if last_use.get(var, -1) > step}
    peak = max(totals.values(), default=0) if arena is None else arena
    return {name: peak - total for name, total in totals.items()}


def last_readers(main: relax.Function) -> set[str]:
    """Names of the results of calls that are the last to read every tensor they read: such a result may lie over them if the kernel can."""
    bindings, root, last_use = _last_uses(main)
    reads = [(step, b.var, [root.get(v, v) for v in _tensors_of(b.value)]) for step, b in enumerate(bindings)]
    return {str(var.name) for step, var, tensors in reads if tensors and all(last_use[v] == step for v in tensors)}


def _last_uses(main: relax.Function) -> tuple[list[relax.VarBinding], dict[relax.Var, relax.Var], dict[relax.Var, int]]:
    """Bindings, the tensor behind every name, and the number of the last binding that reads it (of an output: one past the last)."""
    bindings = [b for block in main.body.blocks for b in block.bindings]
    root: dict[relax.Var, relax.Var] = {}
    for binding in bindings:
        same = _renamed(binding.value)
        root[binding.var] = binding.var if same is None else root.get(same, same)
    last_use: dict[relax.Var, int] = {}
    for step, binding in enumerate(bindings):
        for var in _tensors_of(binding.value):
            last_use[root.get(var, var)] = step
    for var in _tensors_of(main.body.body):
        last_use[root.get(var, var)] = len(bindings)
    return bindings, root, last_use


def _renamed(value: relax.Expr) -> relax.Var | None:
    """The tensor that `value` is another name or shape of."""
    if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) and value.op.name in ALIASING_OPS:
        value = value.args[0]
    return value if isinstance(value, relax.Var) else None


def _tensors_of(expr: relax.Expr) -> list[relax.Var]:
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Call):
        return [v for a in expr.args for v in _tensors_of(a)]
    if isinstance(expr, relax.Tuple):
        return [v for f in expr.fields for v in _tensors_of(f)]
    return _tensors_of(expr.tuple_value) if isinstance(expr, relax.TupleGetItem) else []


def _nbytes(var: relax.Var) -> int:
    if not isinstance(var.ty, relax.TensorType):
        return 0
    return int(np.prod([int(d) for d in var.ty.shape.values], dtype=np.int64)) * np.dtype(str(var.ty.dtype)).itemsize
