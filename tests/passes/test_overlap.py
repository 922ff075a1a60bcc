# SPDX-License-Identifier: Apache-2.0
"""overlap: distances the kernels promise are granted where the input dies, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.explain import collecting
from tvm_tiny.memory.plan import Right
from tvm_tiny.memory.rights import Rights, grant, granted, promised
from tvm_tiny.ops import add
from tvm_tiny.passes.apply_schedules import ApplySchedules
from tvm_tiny.passes.in_place import InPlace
from tvm_tiny.passes.lower_ops import LowerOps
from tvm_tiny.passes.overlap import Overlap
from tvm_tiny.passes.plan_memory import PlanMemory, plan_of

ADD = {"a_zp": 3, "b_zp": -7, "y_zp": 1, **add.quantize_params(0.11, 0.37, 0.2)}


def lowered(mod: tvm.IRModule) -> tvm.IRModule:
    target = "c -mcpu=cortex-m7"
    return tvm.ir.transform.Sequential([InPlace(target), LowerOps(), ApplySchedules(target)])(mod)


def calls(mod: tvm.IRModule) -> list[relax.Call]:
    values = [b.value for block in mod["main"].body.blocks for b in block.bindings]
    return [v for v in values if isinstance(v, relax.Call)]


def chain() -> tvm.IRModule:
    b = TinyBuilder((1, 8, 8, 4))
    return b.finish(b.conv(b.conv(b.x, 8, 3), 4, x_zp=5))


def test_before_and_expected() -> None:
    before = lowered(chain())
    after = Overlap()(before)
    for old, new in zip(calls(before), calls(after), strict=True):
        promise = promised(before[old.args[0]])
        assert granted(old) == {}
        assert granted(new) == promise
        tvm.ir.assert_structural_equal(before[old.args[0]], after[new.args[0]])


def test_the_distance_is_the_kernels_own() -> None:
    """A pointwise kernel of three pixels a group: the group's outputs end 12 bytes a group behind its inputs' begin."""
    b = TinyBuilder((1, 8, 8, 4))
    (call,) = calls(Overlap()(lowered(b.finish(b.conv(b.x, 8)))))
    (((out, arg), [(order, distance)]),) = granted(call).items()
    assert (out, arg, order) == (0, 0, "ascending")
    assert 0 < distance <= 8 * 64 - 4 * 63 + 8 * 3


def test_an_input_that_lives_on_is_rejected() -> None:
    b = TinyBuilder((1, 8, 8, 8))
    mod = lowered(b.finish(b.call("add", b.conv(b.x, 8, 3), b.x, **ADD)))
    with collecting() as told:
        out = Overlap()(mod)
    assert granted(calls(out)[0]) == {}
    assert any(not d.accepted and "reads the input later" in d.reason for d in told)


def test_a_result_of_the_network_is_rejected() -> None:
    b = TinyBuilder((1, 8, 8, 8))
    y = b.conv(b.x, 8, 3)
    mod = lowered(b.finish(b.conv(y, 8), y))
    with collecting() as told:
        out = Overlap()(mod)
    assert granted(calls(out)[1]) == {}
    assert "the input is a result of the network" in {d.reason for d in told}


def test_two_arguments_of_one_tensor_are_rejected() -> None:
    b = TinyBuilder((1, 8, 8, 8))
    y = b.conv(b.x, 8, 3)
    with collecting() as told:
        Overlap()(lowered(b.finish(b.call("add", y, y, **ADD))))
    assert "two arguments read the input" in {d.reason for d in told}


def test_a_distance_that_saves_nothing_is_rejected() -> None:
    b = TinyBuilder((1, 2, 1, 4))
    with collecting() as told:
        Overlap()(lowered(b.finish(b.conv(b.x, 64))))
    assert all(d.accepted or "side by side" in d.reason for d in told)


def test_the_planner_uses_what_is_granted_and_nothing_else() -> None:
    mod = lowered(chain())
    plain, shared = (plan_of(PlanMemory()(m)) for m in (mod, Overlap()(mod)))
    assert not any(s.rights for s in plain.steps)
    assert all(isinstance(r, Right) for s in shared.steps for r in s.rights)
    assert shared.arena_bytes < plain.arena_bytes


@pytest.mark.host_cc
@pytest.mark.parametrize(("op", "clamp"), [("max_pool2d", {}), ("max_pool2d", {"clamp_min": -100}), ("avg_pool2d", {})], ids=str)
@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("padding", [[0, 0, 0, 0], [1, 0, 1, 1], [0, 1, 1, 0]], ids=str)
def test_poolings_over_their_input_are_exact(
    op: str, clamp: dict[str, int], channels: int, padding: list[int], rng: np.random.Generator
) -> None:
    """Loops that gather in the result's place store it before they read their window."""
    b = TinyBuilder((1, 6, 7, channels))
    mod = b.finish(b.call(op, b.x, kernel=[2, 3], padding=padding, **clamp))
    library = GuardedModel(tvm_tiny.build(mod, "c", name="net"))
    for _ in range(3):
        x = rng.integers(-128, 128, (1, 6, 7, channels)).astype(np.int8)
        np.testing.assert_array_equal(library(x)[0], evaluate(mod, x)[0])
        assert not library.faults


def test_it_can_be_turned_off() -> None:
    on, off = (tvm_tiny.build(chain(), "c", optimize="speed", disable=d).plan for d in ((), ("overlap", "in-place")))
    assert on.arena_bytes < off.arena_bytes
    assert not any(s.rights for s in off.steps)


def test_grants_add_up() -> None:
    call = calls(lowered(chain()))[0]
    first: Rights = {(0, 0): [("in-place", 0)]}
    both = grant(grant(call, first), {(0, 0): [("in-place", 0), ("ascending", 8)], (1, 0): [("ascending", -4)]})
    assert granted(both) == {(0, 0): [("in-place", 0), ("ascending", 8)], (1, 0): [("ascending", -4)]}
    assert grant(call, {}).same_as(call)


def test_it_is_a_stock_pass_that_keeps_module_attributes(rng: np.random.Generator) -> None:
    mod = lowered(chain()).with_attr("tiny.model", "{}")
    out = tvm.ir.transform.Sequential([Overlap()])(mod)
    assert str(out.attrs["tiny.model"]) == "{}"
    assert Overlap().info.name == "overlap"
