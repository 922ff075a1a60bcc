# SPDX-License-Identifier: Apache-2.0
"""Plans are legal by an independent simulator, optimal by exhaustion on tiny cases, deterministic, and honest about time-outs."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings

from tests.support.memory_simulator import Simulator
from tests.support.random_graphs import Problem, problems
from tvm_tiny.memory import greedy, planner
from tvm_tiny.memory.check import check_plan
from tvm_tiny.memory.lifetimes import with_lifetimes
from tvm_tiny.memory.pairs import conflicts, lower_bound
from tvm_tiny.memory.plan import Buffer, MemoryPlan, Region, Right, Step
from tvm_tiny.memory.planner import plan_memory

RANDOM = settings(max_examples=80, deadline=None)


def chain(*sizes: int) -> tuple[list[Buffer], list[Step]]:
    """input → … → output with one step between two tensors."""
    kinds = ["input", *["intermediate"] * (len(sizes) - 2), "output"]
    buffers = [Buffer(f"t{i}", n, kind) for i, (n, kind) in enumerate(zip(sizes, kinds, strict=True))]
    return buffers, [Step(f"op{i}", (f"t{i}",), (f"t{i + 1}",)) for i in range(len(sizes) - 1)]


@RANDOM
@given(problems())
def test_no_live_byte_is_ever_overwritten(problem: Problem) -> None:
    for effort in (0, 2):
        plan = plan_memory(problem.buffers, problem.steps, effort=effort)
        Simulator(plan, problem.patterns).run()
        assert plan.lower_bound <= plan.arena_bytes


@RANDOM
@given(problems())
def test_several_regions_are_legal_too(problem: Problem) -> None:
    total = sum(b.nbytes + b.align for b in problem.buffers)
    regions = (Region("tcm", max(1, total // 3), cost=1), Region("sram", total, cost=3))
    plan = plan_memory(problem.buffers, problem.steps, regions, effort=1)
    Simulator(plan, problem.patterns).run()
    assert plan.used["tcm"] <= regions[0].nbytes


@settings(max_examples=60, deadline=None)
@given(problems(max_steps=3, max_bytes=4))
def test_optimal_is_optimal(problem: Problem) -> None:
    buffers = with_lifetimes(problem.buffers, problem.steps)
    plan = plan_memory(problem.buffers, problem.steps)
    assert plan.optimal
    assert plan.lower_bound == plan.arena_bytes
    assert not any_plan_within(plan.arena_bytes - 1, buffers, problem.steps)


def any_plan_within(nbytes: int, buffers: tuple[Buffer, ...], steps: tuple[Step, ...]) -> bool:
    """Depth-first over every aligned offset of every buffer; row orders of the steps are enumerated outside."""
    choices = [sorted({r.order for r in s.rights} - {"in-place"}) or ["none"] for s in steps]
    return any(_fits(nbytes, buffers, steps, orders, {}) for orders in itertools.product(*choices))


def _fits(nbytes: int, buffers: tuple[Buffer, ...], steps: tuple[Step, ...], orders: tuple[str, ...], at: dict[str, int]) -> bool:
    if len(at) == len(buffers):
        return True
    b = buffers[len(at)]
    for offset in range(0, nbytes - b.nbytes + 1, b.align):
        if all(_apart(b, offset, o, at[o.name], steps, orders) for o in buffers[: len(at)]):
            if _fits(nbytes, buffers, steps, orders, {**at, b.name: offset}):
                return True
    return False


def _apart(a: Buffer, x: int, b: Buffer, y: int, steps: tuple[Step, ...], orders: tuple[str, ...]) -> bool:
    common = [s for s in range(len(steps)) if a.first_use <= s <= a.last_use and b.first_use <= s <= b.last_use]
    if not common or x + a.nbytes <= y or y + b.nbytes <= x:
        return True
    if len(common) > 1:
        return False
    near = {a.name: (a, x), b.name: (b, y)}
    return any(_granted(r, common[0], near, orders[common[0]]) for r in steps[common[0]].rights)


def _granted(r: Right, step: int, near: dict[str, tuple[Buffer, int]], order: str) -> bool:
    if r.input not in near or r.output not in near:
        return False
    (out, at), (inp, base) = near[r.output], near[r.input]
    if out.first_use != step or inp.last_use != step:
        return False
    if r.order == "in-place":
        return at == base
    gap = base - at if r.order == "ascending" else out.nbytes - inp.nbytes - (base - at)
    return r.order == order and gap >= r.distance


@RANDOM
@given(problems())
def test_lower_bound_never_exceeds_the_greedy_plan(problem: Problem) -> None:
    buffers = with_lifetimes(problem.buffers, problem.steps)
    pairs = conflicts(buffers, problem.steps)
    plan = plan_memory(problem.buffers, problem.steps, effort=0)
    assert lower_bound(buffers, problem.steps, pairs) <= plan.arena_bytes


def test_chain_needs_its_widest_step() -> None:
    plan = plan_memory(*chain(100, 300, 50, 200))
    assert (plan.arena_bytes, plan.optimal, plan.peak_step()) == (400, True, 0)


@pytest.mark.parametrize(
    ("order", "distance", "arena"), [("ascending", 10, 60), ("descending", 10, 60), ("in-place", 0, 50), ("ascending", -20, 50)]
)
def test_rights_are_used(order: str, distance: int, arena: int) -> None:
    buffers, steps = chain(50, 50)
    steps = [Step(s.name, s.reads, s.writes, rights=(Right("t1", "t0", order, distance),)) for s in steps]
    plan = plan_memory(buffers, steps)
    assert (plan.arena_bytes, plan.optimal) == (arena, True)
    assert plan.orders == {"op0": order}


def test_right_lapses_while_the_input_lives_on() -> None:
    buffers, steps = chain(50, 50, 50)
    steps = [Step("op0", ("t0",), ("t1",), rights=(Right("t1", "t0", "in-place"),)), Step("op1", ("t0", "t1"), ("t2",))]
    assert plan_memory(buffers, steps).arena_bytes == 150


def test_both_operands_cannot_be_overwritten_in_opposite_orders() -> None:
    buffers = [Buffer("a", 10, "input"), Buffer("b", 10, "input"), Buffer("y", 20, "output")]
    step = Step("concat", ("a", "b"), ("y",), rights=(Right("y", "a", "ascending", 0), Right("y", "b", "descending", 0)))
    plan = plan_memory(buffers, [step])
    assert plan.arena_bytes == 30


def test_pins_alignment_and_scratch() -> None:
    buffers = [
        Buffer("x", 7, "input", offset=64, keep=True),
        Buffer("y", 9, "output", align=16),
        Buffer("col", 5, "scratch", align=4),
    ]
    plan = plan_memory(buffers, [Step("conv", ("x",), ("y",), ("col",))])
    assert plan.offset("x") == 64
    assert plan.offset("y") % 16 == 0
    assert plan.offset("col") % 4 == 0
    assert plan.arena_bytes == 71


def test_busiest_buffers_take_the_fast_region() -> None:
    buffers = [Buffer("x", 50, "input"), Buffer("hot", 40), Buffer("y", 50, "output")]
    steps = [Step("a", ("x",), ("hot",)), Step("b", ("hot",), ("y",))]
    plan = plan_memory(buffers, steps, (Region("sram", 1000, cost=4), Region("tcm", 40, cost=1)))
    assert plan.placements["hot"].region == "tcm"
    assert plan.used["tcm"] == 40
    assert plan.optimal


def test_time_out_keeps_a_legal_greedy_plan_and_says_so() -> None:
    # Sizes for which no first-fit order meets the lower bound, so a proof would need the solver.
    buffers = [Buffer(f"b{i}", n, "scratch") for i, n in enumerate((5, 4, 3, 6, 2, 7, 3, 5))]
    steps = [Step(f"s{i}", (), (), tuple(f"b{j}" for j in range(i, min(8, i + 3)))) for i in range(6)]
    spread = [Step(s.name, (), (), s.scratch) for s in steps]
    plan = plan_memory(buffers, spread, effort=0)
    assert plan.solver.name == "greedy"
    assert plan.optimal == (plan.arena_bytes == plan.lower_bound)
    check_plan(plan)


def test_solver_without_time_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers, steps = chain(4, 3, 5, 2, 6)
    wasteful = {b.name: planner.Placement("arena", 100 * i) for i, b in enumerate(buffers)}
    monkeypatch.setattr(greedy, "place", lambda *_: wasteful)
    plan = plan_memory(buffers, steps, effort=1e-9)
    assert plan.solver.name == "greedy"
    assert not plan.optimal
    assert "greedy plan kept" in plan.solver.note
    assert plan.lower_bound == 8
    check_plan(plan)


def test_solver_beats_a_bad_start(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers, steps = chain(4, 3, 5, 2, 6)
    wasteful = {b.name: planner.Placement("arena", 100 * i) for i, b in enumerate(buffers)}
    monkeypatch.setattr(greedy, "place", lambda *_: wasteful)
    plan = plan_memory(buffers, steps)
    assert (plan.solver.name, plan.arena_bytes, plan.optimal) == ("cp-sat", 8, True)


@settings(max_examples=20, deadline=None)
@given(problems())
def test_equal_problems_give_equal_plans_and_json_round_trips(problem: Problem) -> None:
    plan = plan_memory(problem.buffers, problem.steps, effort=1)
    again = plan_memory(problem.buffers, problem.steps, effort=1)
    assert plan == again
    assert MemoryPlan.from_json(plan.to_json()) == plan
    assert MemoryPlan.from_json(plan.to_json()).to_json() == again.to_json()


def test_step_names_are_distinct() -> None:
    buffers, steps = chain(4, 3, 5)
    with pytest.raises(ValueError, match="step names must be distinct"):
        plan_memory(buffers, [Step("op", s.reads, s.writes) for s in steps])


def test_bytes_lost_to_alignment_are_no_bound_where_there_are_several_memories() -> None:
    """Two single bytes at even offsets: three bytes in one memory, two in two."""
    buffers = [Buffer("x", 1, "input", align=2, keep=True), Buffer("y", 1, "output", align=2)]
    steps = [Step("s", ("x",), ("y",))]
    assert plan_memory(buffers, steps).lower_bound == 3
    plan = plan_memory(buffers, steps, (Region("tcm", 1, cost=1), Region("sram", 8, cost=3)))
    assert (plan.arena_bytes, plan.lower_bound, plan.optimal) == (2, 2, True)
