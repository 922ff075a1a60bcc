# SPDX-License-Identifier: Apache-2.0
"""Float32 functions of an island TVM has legalised: sums of neighbouring outputs side by side in registers.

An output's sum is one chain of additions whose order is its meaning; four outputs are four chains, which hide each other's latency and
share the operand they have in common. Sums never go through memory. What has no sum is scheduled as by the fallback.
"""

from __future__ import annotations

import contextlib

from tvm import s_tir, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvm_tiny.schedules.base import Applied, Layer, annotate
from tvm_tiny.schedules.fallback import blocks_of, inline_maps, is_reduction, separate_init, sink
from tvm_tiny.target import TinyTarget

_TOGETHER = (4, 3, 2)  # outputs side by side; more would not leave the 16 registers the constants and addresses need


def apply(func: tirx.PrimFunc, _target: TinyTarget, _tunable: bool) -> Applied:
    """Take functions that compute float32 and are no operator of the dialect."""
    if Layer.of(func) is not None or str(func.params[-1].ty.dtype) != "float32":
        return None
    sch = Schedule(func)
    inline_maps(sch)
    for block in blocks_of(sch):
        if is_reduction(sch, block) and not sch.get_consumers(block):
            sch.cache_write(block, 0, "global")
    together = 1
    for block in reversed(blocks_of(sch)[:-1]):
        count = _side_by_side(sch, block) if is_reduction(sch, block) else 1
        together = max(together, count)
        if count == 1:
            sink(sch, block)
    for block in blocks_of(sch):
        if is_reduction(sch, block) and sch.get(block).init is not None:
            separate_init(sch, block)
    return annotate(sch, {"rule": "float32", "kernel": "loops", "together": together})


def _side_by_side(sch: Schedule, block: SBlockRV) -> int:
    """Compute a few sums in the loop of their consumer, reduction outside; returns how many, 1 where that can't be done."""
    consumers = sch.get_consumers(block)
    loops = sch.get_loops(consumers[0]) if len(consumers) == 1 else []
    if not loops or is_reduction(sch, consumers[0]):
        return 1
    last = loops[-1]
    extent = int(sch.get(last).extent)
    count = next((n for n in _TOGETHER if extent % n == 0), 1)
    if count == 1:
        return 1
    outer, inner = sch.split(last, [None, count])
    with contextlib.suppress(s_tir.ScheduleError):
        sch.compute_at(block, outer, preserve_unit_loops=True)
        spatial, reduced = _loops_of(sch, block)
        if [int(sch.get(loop).extent) for loop in spatial if int(sch.get(loop).extent) > 1] == [count]:
            sch.reorder(*reduced, *(loop for loop in spatial if int(sch.get(loop).extent) > 1))
            sch.unroll(sch.get_loops(block)[-1])
            sch.unroll(inner)
            sch.decompose_reduction(block, reduced[0])
            return count
    return 1


def _loops_of(sch: Schedule, block: SBlockRV) -> tuple[list[LoopRV], list[LoopRV]]:
    """The block's own loops by kind: those of outputs, those of the sum."""
    variables = sch.get(block).iter_vars
    own = sch.get_loops(block)[-len(variables) :]
    kinds = [iv.iter_type == tirx.IterVar.CommReduce for iv in variables]
    return [lp for lp, r in zip(own, kinds, strict=True) if not r], [lp for lp, r in zip(own, kinds, strict=True) if r]
