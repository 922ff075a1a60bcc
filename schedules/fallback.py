# SPDX-License-Identifier: Apache-2.0
"""Fallback: any function at all, as plain loops.

Producers without a reduction are inlined, reductions are computed where their result is used, one element at a time, so that no
intermediate tensor is left and the accumulator sits in a register.
"""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import Schedule
from tvm_ffi import structural_walk

from tvm_tiny.schedules.base import Applied, Layer, annotate
from tvm_tiny.schedules.overlap import loop_rights, to_attribute
from tvm_tiny.target import TinyTarget


def apply(func: tirx.PrimFunc, _target: TinyTarget, _tunable: bool) -> Applied:
    """Schedule any function; never None."""
    layer = Layer.of(func)
    rights = loop_rights(layer) if layer is not None else {}
    sch = Schedule(func)
    inline_maps(sch)
    for block in reversed(blocks_of(sch)[:-1]):
        sink(sch, block)
    for block in blocks_of(sch):
        if is_reduction(sch, block):
            separate_init(sch, block)
    return annotate(sch, {"rule": "fallback", "kernel": "loops"}, **to_attribute(rights))


def inline_maps(sch: Schedule) -> None:
    """Inline every stage that is no reduction and whose value stands once in the code that reads it."""
    for block in blocks_of(sch)[:-1]:
        if not is_reduction(sch, block) and _read_once(sch, block):
            _try_inline(sch, block)


def blocks_of(sch: Schedule) -> list[s_tir.schedule.SBlockRV]:
    """The stages, in order."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def is_reduction(sch: Schedule, block: s_tir.schedule.SBlockRV) -> bool:
    """Whether a stage sums up (or takes a maximum)."""
    return any(iv.iter_type == tirx.IterVar.CommReduce for iv in sch.get(block).iter_vars)


def _read_once(sch: Schedule, block: s_tir.schedule.SBlockRV) -> bool:
    """Its value stands once in the code of its consumers: inlining copies no work and no text."""
    produced = sch.get(block).writes[0].source
    loads = 0

    def on_load(load: tvm.ir.expr.TensorLoad) -> None:
        nonlocal loads
        loads += load.source.same_as(produced)

    for consumer in sch.get_consumers(block):
        structural_walk(sch.get(consumer).body, [(tvm.ir.expr.TensorLoad, on_load)])
    return loads == 1


def _try_inline(sch: Schedule, block: s_tir.schedule.SBlockRV) -> None:
    try:
        sch.compute_inline(block)
    except s_tir.ScheduleError:
        return  # an output, or read by nobody in a form that can be inlined


def sink(sch: Schedule, block: s_tir.schedule.SBlockRV) -> None:
    """Compute `block` in the innermost loop of its consumer that still covers a whole use."""
    consumers = sch.get_consumers(block)
    if len(consumers) != 1:
        return
    loops = sch.get_loops(consumers[0])
    spatial = [lp for lp, iv in zip(loops, sch.get(consumers[0]).iter_vars, strict=False) if iv.iter_type == tirx.IterVar.DataPar]
    for loop in reversed(spatial):
        try:
            sch.compute_at(block, loop)
            return
        except s_tir.ScheduleError:
            continue


def separate_init(sch: Schedule, block: s_tir.schedule.SBlockRV) -> None:
    """Clear a sum before the first loop of its reduction."""
    loops = sch.get_loops(block)
    ivs = sch.get(block).iter_vars
    spatial = len(loops) - sum(iv.iter_type == tirx.IterVar.CommReduce for iv in ivs)
    if spatial < len(loops):
        sch.decompose_reduction(block, loops[spatial])
