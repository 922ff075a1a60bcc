# SPDX-License-Identifier: Apache-2.0
"""in-place: the right is given exactly where the operand dies and the kernel keeps its word, and the result is the same bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tvm
from tvm import relax

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.explain import collecting
from tvm_tiny.ops import add
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.in_place import InPlace

ALL = np.arange(-128, 128).astype(np.int8)
ADD = {"a_zp": 3, "b_zp": -7, "y_zp": 1, **add.quantize_params(0.11, 0.37, 0.2)}


def granted(mod: tvm.IRModule, target: str = "c -mcpu=cortex-m7") -> dict[str, list[int]]:
    """The rights of every operator that got some."""
    nodes = TinyGraph(InPlace(target)(mod)["main"]).nodes
    return {n.op: n.attrs["in_place"] for n in nodes if n.attrs.get("in_place")}


def reasons(mod: tvm.IRModule, **options: bool) -> list[str]:
    with collecting() as told:
        InPlace("c -mcpu=cortex-m7", **options)(mod)
    return [d.reason for d in told if not d.accepted]


def test_before_and_expected() -> None:
    def network(over: list[int]) -> tvm.IRModule:
        b = TinyBuilder((1, 6, 6, 4))
        return b.finish(b.call("lookup", b.conv(b.x, 8), ALL[::-1].copy(), in_place=over))

    tvm.ir.assert_structural_equal(InPlace()(network([])), network([0]))


def test_both_operands_of_a_sum_that_die() -> None:
    b = TinyBuilder((1, 6, 6, 8))
    first, second = b.conv(b.x, 8, 3), b.conv(b.x, 8)
    assert granted(b.finish(b.call("add", first, second, **ADD))) == {"add": [0, 1]}


def test_an_operand_read_later_stays() -> None:
    b = TinyBuilder((1, 6, 6, 8))
    y = b.conv(b.x, 8, 3)
    total = b.call("add", y, b.x, **ADD)
    mod = b.finish(b.call("add", total, b.call("reshape", y, shape=[1, 6, 6, 8]), **ADD))
    assert [n.attrs.get("in_place") for n in TinyGraph(InPlace()(mod)["main"]).nodes if n.op == "add"] == [[1], [0, 1]]
    assert any("reads it later" in r for r in reasons(mod))


def test_a_result_of_the_network_stays() -> None:
    b = TinyBuilder((1, 6, 6, 8))
    y = b.conv(b.x, 8, 3)
    mod = b.finish(b.call("lookup", y, ALL), y)
    assert granted(mod) == {}
    assert reasons(mod) == ["it is a result of the network"]


def test_an_operand_read_twice_stays() -> None:
    b = TinyBuilder((1, 6, 6, 8))
    y = b.conv(b.x, 8, 3)
    mod = b.finish(b.call("add", y, y, **ADD))
    assert granted(mod) == {}
    assert reasons(mod) == ["the call reads it twice"] * 2 or reasons(mod) == ["the call reads it twice"]


def test_a_broadcast_operand_stays() -> None:
    b = TinyBuilder((1, 6, 6, 8), (1, 1, 1, 8))
    mod = b.finish(b.call("add", b.x, b.params[1], **ADD))
    assert granted(mod) == {"add": [0]}
    assert reasons(mod) == ["the result has another shape or type"]


def depthwise(shape: tuple[int, ...] = (1, 24, 24, 32), outputs: int | None = None, kernel: int = 3, **attrs: object) -> tvm.IRModule:
    b = TinyBuilder(shape)
    weight = b.rng.integers(-127, 128, (kernel, kernel, outputs or shape[3])).astype(np.int8)
    scaling = b._scaling(outputs or shape[3], kernel * kernel, None)
    common = b._common(attrs, padding=kernel // 2)
    return b.finish(b.call("depthwise_conv2d", b.x, weight, *scaling, **common))


@pytest.mark.parametrize("strides", [[1, 1], [2, 2], [1, 2]])
def test_depthwise_where_planes_pay(strides: list[int]) -> None:
    mod = depthwise((1, 12, 12, 64), strides=strides)
    assert granted(mod) == {"depthwise_conv2d": [0]}


def test_depthwise_where_strips_cost_less() -> None:
    mod = depthwise((1, 48, 48, 4), kernel=7)
    assert granted(mod) == {}
    (reason,) = reasons(mod)
    assert "strips cost less" in reason


def test_depthwise_against_strips_that_may_not_overlap() -> None:
    """Without the pass overlap strips need a tensor of their own, so planes pay sooner."""
    mod = depthwise((1, 30, 30, 8))
    assert reasons(mod)
    assert not reasons(mod, overlap=False)


def test_depthwise_with_a_channel_multiplier_stays() -> None:
    (reason,) = reasons(depthwise((1, 8, 8, 4), outputs=8))
    assert "2 output channels an input channel" in reason


def test_depthwise_that_grows_stays() -> None:
    (reason,) = reasons(depthwise((1, 4, 4, 16), padding=[2, 2, 2, 2]))
    assert "more pixels" in reason


def test_depthwise_without_a_kernel_in_planes_stays() -> None:
    """Shifts too far apart for the one-multiply requantisation leave plain C."""
    b = TinyBuilder((1, 12, 12, 8))
    scaling = [np.zeros(8, np.int32), np.full(8, 1 << 30, np.int32), np.array([0, -30] * 4, np.int32)]
    weight = b.rng.integers(-127, 128, (3, 3, 8)).astype(np.int8)
    mod = b.finish(b.call("depthwise_conv2d", b.x, weight, *scaling, x_zp=0, y_zp=0, padding=[1] * 4))
    problems = reasons(mod)
    if problems:  # the search may find a form even here
        assert "pixel by pixel" in problems[0]
    assert bool(problems) != bool(granted(mod))


_PADDED = [
    *itertools.product([(1, 9, 7, 8), (1, 5, 5, 11), (1, 6, 8, 3)], [[1, 1, 1, 1], [0, 0, 1, 1], [2, 1, 0, 1]]),
    *itertools.product([(1, 1, 1, 4)], [[1, 1, 1, 1], [2, 1, 0, 1]]),  # the window has three rows and columns to lie on
]


@pytest.mark.host_cc
@pytest.mark.parametrize("strides", [[1, 1], [2, 2], [2, 1]])
@pytest.mark.parametrize(("shape", "padding"), _PADDED, ids=str)
def test_depthwise_over_its_input_is_exact(
    shape: tuple[int, ...], strides: list[int], padding: list[int], rng: np.random.Generator
) -> None:
    """Right by the guard: canaries, dead bytes poisoned, and the result's bytes really lie where the input's did."""
    mod = depthwise(shape, strides=strides, padding=padding, x_zp=int(rng.choice([-128, 127, -3])))
    library = GuardedModel(tvm_tiny.build(mod, "c", name="net", optimize="speed", disable=["overlap"]))
    plan = library.model.plan
    if any(r.order == "in-place" for s in plan.steps for r in s.rights):
        assert plan.offset(plan.steps[0].writes[0]) == plan.offset(plan.steps[0].reads[0])
    for x in (rng.integers(-128, 128, shape), np.full(shape, -128), np.full(shape, 127)):
        np.testing.assert_array_equal(library(x.astype(np.int8))[0], evaluate(mod, x.astype(np.int8))[0])
        assert not library.faults


def test_the_arena_falls_and_it_can_be_turned_off() -> None:
    b = TinyBuilder((1, 16, 16, 16))
    mod = b.finish(b.call("lookup", b.depthwise(b.conv(b.x, 16), x_zp=5), ALL[::-1].copy()))
    on, off = (tvm_tiny.build(mod, "c", optimize="speed", disable=("overlap", "fuse-ops", *more)).plan for more in ((), ("in-place",)))
    assert on.arena_bytes < off.arena_bytes
    assert not any(s.rights for s in off.steps)


def test_a_float_island_is_left_alone() -> None:
    x = relax.Var("x", relax.TensorType((1, 4), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(relax.op.nn.relu(x))
        builder.emit_func_output(y)
    mod = builder.get()
    tvm.ir.assert_structural_equal(InPlace()(mod), mod)
