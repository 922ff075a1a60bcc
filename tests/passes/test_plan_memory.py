# SPDX-License-Identifier: Apache-2.0
"""plan-memory: the arena of a lowered network holds what is alive, rights are used, and the code is left alone."""

from __future__ import annotations

import itertools

import tvm

from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.memory.check import check_plan
from tvm_tiny.memory.plan import MemoryPlan
from tvm_tiny.passes.apply_schedules import ApplySchedules
from tvm_tiny.passes.in_place import InPlace
from tvm_tiny.passes.lower_ops import LowerOps
from tvm_tiny.passes.overlap import Overlap
from tvm_tiny.passes.plan_memory import PLAN_ATTR, PlanMemory, plan_of


def lowered(mod: tvm.IRModule, target: str = "c -mcpu=cortex-m7") -> tvm.IRModule:
    return tvm.ir.transform.Sequential([InPlace(target), LowerOps(), ApplySchedules(target), Overlap()])(mod)


def chain() -> tvm.IRModule:
    b = TinyBuilder((1, 16, 16, 4))
    y = b.depthwise(b.conv(b.x, 8, 3), x_zp=5)
    return lowered(b.finish(b.conv(y, 16, 1, x_zp=5)))


def residual() -> tvm.IRModule:
    b = TinyBuilder((1, 8, 8, 8))
    same = {"multiplier": 1 << 30, "shift": 0}
    attrs = {f"{who}_{k}": v for who in ("a", "b", "y") for k, v in same.items()} | {"a_zp": 0, "b_zp": 0, "y_zp": 0, "left_shift": 20}
    y = b.conv(b.x, 8, 3)
    return lowered(b.finish(b.call("add", b.x, y, **attrs)))


def overlapping(plan: MemoryPlan) -> list[tuple[str, str]]:
    """Pairs of buffers alive together whose bytes meet."""
    pairs = [(a, b) for a, b in itertools.combinations(plan.buffers, 2) if a.lives_with(b)]
    return [
        (a.name, b.name)
        for a, b in pairs
        if plan.offset(a.name) < plan.offset(b.name) + b.nbytes and plan.offset(b.name) < plan.offset(a.name) + a.nbytes
    ]


def test_the_plan_is_legal_and_the_code_unchanged() -> None:
    mod = chain()
    out = PlanMemory()(mod)
    check_plan(plan_of(out))
    tvm.ir.assert_structural_equal(out.without_attr(PLAN_ATTR), mod)


def test_every_buffer_is_placed_and_aligned() -> None:
    plan = plan_of(PlanMemory()(chain()))
    assert [b.kind for b in plan.buffers].count("input") == [b.kind for b in plan.buffers].count("output") == 1
    assert all(plan.offset(b.name) % 4 == 0 for b in plan.buffers)
    assert max(plan.offset(b.name) + b.nbytes for b in plan.buffers) == plan.arena_bytes


def test_buffers_meet_only_where_a_kernel_allows_it() -> None:
    """Without rights the arena could not be below input + output of the largest layer."""
    plan = plan_of(PlanMemory()(chain()))
    rights = {frozenset((r.output, r.input)) for step in plan.steps for r in step.rights}
    met = overlapping(plan)
    assert {frozenset(pair) for pair in met} <= rights
    assert met, "a depthwise layer may overwrite its input"


def test_what_nobody_granted_is_not_used() -> None:
    b = TinyBuilder((1, 16, 16, 4))
    y = b.depthwise(b.conv(b.x, 8, 3), x_zp=5)
    mod = tvm.ir.transform.Sequential([LowerOps(), ApplySchedules("c -mcpu=cortex-m7"), PlanMemory()])(b.finish(y))
    assert not overlapping(plan_of(mod))


def test_a_residual_keeps_its_input_alive() -> None:
    plan = plan_of(PlanMemory()(residual()))
    assert plan.buffer("x").last_use == 1
    assert plan.arena_bytes >= 2 * 8 * 8 * 8
    check_plan(plan)


def test_the_plan_survives_the_attribute() -> None:
    plan = plan_of(PlanMemory()(chain()))
    assert MemoryPlan.from_json(plan.to_json()) == plan
