# SPDX-License-Identifier: Apache-2.0
"""Illegal plans are rejected by name, one reason a kind; memory that is too small is explained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.shared import ROOT
from tvm_tiny.errors import OptionError
from tvm_tiny.memory import patches, stream_check
from tvm_tiny.memory.check import REASONS, IllegalPlanError, check_plan, find_violations
from tvm_tiny.memory.fit import MemoryDoesNotFitError
from tvm_tiny.memory.lifetimes import with_lifetimes
from tvm_tiny.memory.plan import Buffer, MemoryPlan, Placement, Region, Right, SolverInfo, Step
from tvm_tiny.memory.planner import plan_memory

RIGHTS = (Right("t", "x", "ascending", 4), Right("t", "x", "descending", 4))
STEPS = (Step("conv", ("x",), ("t",), ("col",), RIGHTS), Step("dense", ("t",), ("y",)))
BUFFERS = (Buffer("x", 16, "input"), Buffer("t", 16, align=4), Buffer("col", 8, "scratch"), Buffer("y", 4, "output"))
LEGAL = {"x": 4, "t": 0, "col": 20, "y": 16}


def plan_at(
    offsets: dict[str, int], steps: tuple[Step, ...] = STEPS, buffers: tuple[Buffer, ...] = BUFFERS, **change: object
) -> MemoryPlan:
    """A plan made by hand."""
    placed = with_lifetimes(buffers, steps)
    used = max(offsets[b.name] + b.nbytes for b in placed if b.name in offsets)
    where = {name: Placement("arena", offset) for name, offset in offsets.items()}
    plan = MemoryPlan(steps, placed, where, (Region(),), {"arena": used}, 0, False, SolverInfo("hand", "FEASIBLE"), {"conv": "ascending"})
    return replace(plan, **change)


def reasons(plan: MemoryPlan, steps: tuple[Step, ...] | None = None) -> set[str]:
    return {v.reason for v in find_violations(plan, steps or plan.steps)}


def test_the_legal_plan_passes() -> None:
    check_plan(plan_at(LEGAL))


def two_inputs(first: str, second: str) -> MemoryPlan:
    """y shares bytes with a (right `first`) and with b (right `second`)."""
    buffers = (Buffer("a", 8, "input"), Buffer("b", 8, "input"), Buffer("y", 16, "output"))
    steps = (Step("cat", ("a", "b"), ("y",), rights=(Right("y", "a", first), Right("y", "b", second))),)
    return plan_at({"a": 8, "b": 0, "y": 0}, steps, buffers, orders={"cat": "ascending"})


TCM = (Region("tcm", 32, cost=1), Region("sram", 64, cost=2))


def plan_over(places: dict[str, tuple[str, int]], buffers: tuple[Buffer, ...] = BUFFERS, **change: object) -> MemoryPlan:
    """A plan over two memories, sizes counted."""
    where = {name: Placement(*place) for name, place in places.items()}
    sizes = {b.name: b.nbytes for b in buffers}
    used = {r.name: max((p.offset + sizes[n] for n, p in where.items() if p.region == r.name), default=0) for r in TCM}
    plan = plan_at({name: offset for name, (_, offset) in places.items()}, buffers=buffers)
    return replace(plan, **({"placements": where, "regions": TCM, "used": used, "orders": {}} | change))


SPREAD = {"x": ("tcm", 0), "t": ("sram", 0), "col": ("tcm", 16), "y": ("tcm", 4)}


ILLEGAL = {
    "ambiguous-name": plan_at(LEGAL, (*STEPS, Step("conv", ("y",), ()))),
    "missing-buffer": plan_at({k: v for k, v in LEGAL.items() if k != "col"}),
    "wrong-order": plan_at({"t": 0, "x": 16, "col": 32, "y": 40}, STEPS[::-1], orders={}),
    "written-twice": plan_at({**LEGAL, "t": 40}, (*STEPS, Step("again", ("y",), ("t",)))),
    "lifetime-too-short": plan_at(LEGAL, buffers=BUFFERS, orders={"conv": "ascending"}),
    "live-overlap": plan_at({**LEGAL, "y": 40}, (STEPS[0], replace(STEPS[1], reads=("t", "x"))), orders={}),
    "alias-without-right": plan_at(LEGAL, (replace(STEPS[0], rights=()), STEPS[1])),
    "insufficient-distance": plan_at({**LEGAL, "x": 3}),
    "order-conflict": two_inputs("ascending", "descending"),
    "shared-scratch": plan_at({**LEGAL, "col": 19}),
    "misaligned": plan_at({"t": 2, "x": 32, "col": 20, "y": 56}),
    "outside-region": plan_at(LEGAL, regions=(Region("arena", 27),)),
    "moved-pin": plan_at(LEGAL, buffers=(replace(BUFFERS[0], offset=8), *BUFFERS[1:])),
    "wrong-size": plan_at(LEGAL, used={"arena": 27}),
    "wrong-bound": plan_at(LEGAL, optimal=True, lower_bound=27),
}
ILLEGAL["lifetime-too-short"] = replace(
    ILLEGAL["lifetime-too-short"],
    buffers=tuple(replace(b, last_use=0) if b.name == "t" else b for b in ILLEGAL["lifetime-too-short"].buffers),
)


def test_every_reason_has_a_case() -> None:
    assert set(ILLEGAL) == set(REASONS)


def test_every_reason_is_documented() -> None:
    """With the checks that know it."""
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8").split("## Reasons of an illegal plan")[1]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in text.splitlines() if line.startswith("| ")][1:]
    known = {"plan": REASONS, "rows": stream_check.REASONS, "tiles": patches.REASONS}
    assert {(name, check) for name, checks in rows for check in checks.split(", ")} == {(r, c) for c, names in known.items() for r in names}


@pytest.mark.parametrize("reason", REASONS)
def test_illegal_plan_is_rejected_by_name(reason: str) -> None:
    with pytest.raises(IllegalPlanError, match=reason) as caught:
        check_plan(ILLEGAL[reason])
    assert {v.reason for v in caught.value.violations} == {reason}
    assert caught.value.code == "TINY402"


@pytest.mark.parametrize("order", ["descending", "in-place", None])
def test_kernel_run_in_an_order_the_addresses_do_not_allow(order: str | None) -> None:
    orders = {"conv": order} if order else {}
    assert reasons(plan_at(LEGAL, orders=orders)) == {"order-conflict"}


def test_descending_needs_the_mirrored_distance() -> None:
    mirrored = {**LEGAL, "x": 0, "t": 4, "y": 28}
    assert not reasons(plan_at(mirrored, orders={"conv": "descending"}))
    assert reasons(plan_at({**mirrored, "x": 4, "t": 4}, orders={"conv": "descending"})) == {"insufficient-distance"}


def test_unknown_region_and_negative_offset_are_outside() -> None:
    where = {**plan_at(LEGAL).placements, "col": Placement("moon", 0)}
    assert reasons(plan_at(LEGAL, placements=where)) == {"outside-region", "wrong-size"}
    assert "outside-region" in reasons(plan_at({**LEGAL, "t": -4}))


def test_tensors_are_not_scratch() -> None:
    """Of the step that reads or makes them, of another one, or when nothing but the application reads them."""
    for name in ("x", "t", "y"):
        for number in (0, 1):
            steps = tuple(replace(s, scratch=(*s.scratch, name)) if i == number else s for i, s in enumerate(STEPS))
            offsets = {"x": 0, "t": 16, "col": 32, "y": 40}
            assert "shared-scratch" in reasons(plan_at(offsets, steps, orders={}))


def test_names_that_are_ambiguous() -> None:
    plan = plan_at(LEGAL)
    assert reasons(replace(plan, buffers=(*plan.buffers, plan.buffers[0]))) == {"ambiguous-name"}
    assert reasons(replace(plan, regions=(*plan.regions, Region()))) == {"ambiguous-name"}


def test_a_kept_input_is_no_ones() -> None:
    """An input that is an output too: the right over it lapses."""
    kept = (replace(BUFFERS[0], keep=True), *BUFFERS[1:])
    assert reasons(plan_at(LEGAL, buffers=kept)) == {"live-overlap"}
    assert not reasons(plan_at({"x": 28, "t": 0, "col": 20, "y": 16}, buffers=kept, orders={}))


def test_bounds_that_the_plan_disproves() -> None:
    assert reasons(plan_at(LEGAL, lower_bound=29)) == {"wrong-bound"}
    assert not reasons(plan_at(LEGAL, optimal=True, lower_bound=28))


def test_the_plan_over_two_memories_passes() -> None:
    check_plan(plan_over(SPREAD))


OVER_TWO = {
    "live-overlap": plan_over(SPREAD, (replace(BUFFERS[0], keep=True), *BUFFERS[1:])),
    "alias-without-right": plan_over({**SPREAD, "y": ("sram", 8)}),
    "insufficient-distance": plan_over({**SPREAD, "x": ("sram", 3)}),
    "order-conflict": plan_over({**SPREAD, "x": ("sram", 4)}),
    "shared-scratch": plan_over({**SPREAD, "col": ("tcm", 12)}),
    "misaligned": plan_over({**SPREAD, "t": ("sram", 6)}),
    "outside-region": plan_over({**SPREAD, "col": ("tcm", 28)}),
    "moved-pin": plan_over(SPREAD, (replace(BUFFERS[0], region="sram"), *BUFFERS[1:])),
    "wrong-size": plan_over(SPREAD, used={"tcm": 24, "sram": 16, "ddr": 0}),
    "wrong-bound": plan_over(SPREAD, optimal=True, lower_bound=24),
}


@pytest.mark.parametrize("reason", OVER_TWO)
def test_illegal_over_two_memories(reason: str) -> None:
    """What would be illegal in one memory is so in each; the same offsets in different ones are no overlap."""
    assert reasons(OVER_TWO[reason]) == {reason}


def test_an_offset_alone_is_one_of_the_first_memory() -> None:
    pinned = (replace(BUFFERS[0], offset=0), *BUFFERS[1:])
    assert not reasons(plan_over(SPREAD, pinned))
    assert reasons(plan_over({**SPREAD, "x": ("sram", 0), "t": ("sram", 16)}, pinned)) == {"moved-pin"}
    turned = TCM[::-1]
    plan = plan_memory([Buffer("x", 8, "input", offset=4), Buffer("y", 4, "output")], [Step("copy", ("x",), ("y",))], turned)
    assert plan.placements["x"] == Placement("sram", 4)


def test_right_of_another_step_does_not_count() -> None:
    steps = (replace(STEPS[0], rights=()), replace(STEPS[1], rights=RIGHTS))
    assert reasons(plan_at(LEGAL, steps)) == {"alias-without-right"}


def big_plan_error(size: int) -> MemoryDoesNotFitError:
    buffers = [Buffer("image", 100, "input"), Buffer("wide", 300), Buffer("y", 10, "output"), Buffer("col", 50, "scratch")]
    steps = [Step("conv1", ("image",), ("wide",), ("col",)), Step("conv2", ("wide",), ("y",))]
    with pytest.raises(MemoryDoesNotFitError) as caught:
        plan_memory(buffers, steps, (Region("sram", size),))
    return caught.value


def test_too_small_says_how_much_and_which_step() -> None:
    error = big_plan_error(400)
    assert (error.excess, error.step, error.region) == (50, "conv1", "sram")
    assert "needs 450 bytes of sram, which has 400: 50 too many (the least possible under the present schedule)" in str(error)
    assert "step 0 (conv1) decides: wide 300, image 100, col 50" in str(error)
    assert "50 bytes more" in error.remedy


def test_region_options_are_checked() -> None:
    with pytest.raises(OptionError, match="distinct names"):
        plan_memory([], [], (Region("a"), Region("a")))
    with pytest.raises(OptionError, match="pinned to region tcm"):
        plan_memory([Buffer("x", 1, "input", region="tcm")], [])


def test_pins_that_collide_are_named() -> None:
    buffers = [Buffer("x", 8, "input", offset=0), Buffer("y", 8, "output", offset=4)]
    with pytest.raises(IllegalPlanError, match="alias-without-right"):
        plan_memory(buffers, [Step("copy", ("x",), ("y",))])
