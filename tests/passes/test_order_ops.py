# SPDX-License-Identifier: Apache-2.0
"""order-ops: the order of least peak memory, proved; the same results; nothing moved where nothing is won."""

from __future__ import annotations

import json

import numpy as np
import tvm
from tvm import relax

import tvm_tiny
from tests.support.tiny_builder import TinyBuilder, assert_same_meaning, op_names
from tvm_tiny.explain import collecting
from tvm_tiny.ops import mul
from tvm_tiny.passes.order_ops import OrderOps


def branches(order: str = "aabb") -> tvm.IRModule:
    """Two branches, each a large tensor pooled at once; emitted large first ("abab") or branch by branch ("aabb")."""
    b = TinyBuilder((1, 16, 16, 4))
    large: dict[str, relax.Var] = {}
    small: dict[str, relax.Var] = {}
    for branch in order:
        if branch not in large:
            large[branch] = b.conv(b.x, 16, 3)
        else:
            small[branch] = b.call("max_pool2d", large[branch], kernel=[4, 4], strides=[4, 4])
    flat = b.call("reshape", small["b"], shape=[1, 4, 4, 16])
    same = {f"{who}_{k}": v for who in ("a", "b", "y") for k, v in {"multiplier": 1 << 30, "shift": 0, "zp": 0}.items()}
    return b.finish(b.call("add", small["a"], flat, **same))


def test_before_and_expected() -> None:
    out = OrderOps()(branches("abab"))
    assert op_names(out) == ["conv2d", "max_pool2d", "conv2d", "max_pool2d", "reshape", "add"]
    # Which branch runs first is equal; whichever it is, the module is that of a network written in this order.
    assert op_names(out) == op_names(branches("aabb"))


def test_the_meaning_stays(rng: np.random.Generator) -> None:
    mod = branches("abab")
    assert_same_meaning(mod, OrderOps()(mod), rng)


def test_a_good_order_stays() -> None:
    mod = branches("aabb")
    with collecting() as told:
        tvm.ir.assert_structural_equal(OrderOps()(mod), mod)
    (decision,) = told
    assert not decision.accepted
    assert "proved" in decision.reason


def test_the_decision_has_its_figures() -> None:
    with collecting() as told:
        OrderOps()(branches("abab"))
    (decision,) = told
    assert decision.accepted
    assert decision.bytes is not None
    assert decision.bytes <= -16 * 16 * 16 + 1024


def test_a_search_cut_off_says_so() -> None:
    with collecting() as told:
        OrderOps(max_states=1)(branches("abab"))
    assert "the best found in 1 states" in next(iter(told)).reason


def test_the_arena_falls_and_it_can_be_turned_off() -> None:
    """The gate's branch has the larger tensors inside and the smaller result: first is better, though it is the second operand."""
    b = TinyBuilder((1, 16, 16, 4))
    kept = b.conv(b.x, 8, 3)
    gate = b.call("avg_pool2d", b.conv(b.conv(b.x, 32, 3), 8, 3), kernel=[16, 16])
    mod = b.finish(b.call("mul", kept, gate, a_zp=3, b_zp=-7, y_zp=1, **mul.quantize_params(0.1, 0.1, 0.9)))

    def arena(*disable: str) -> int:
        return tvm_tiny.build(mod, "c", optimize="speed", disable=disable).plan.arena_bytes

    assert arena() <= arena("order-ops") - 1024


def test_it_is_a_stock_pass_that_keeps_module_attributes() -> None:
    mod = branches("abab").with_attr("tiny.model", json.dumps({"name": "m"}))
    out = tvm.ir.transform.Sequential([OrderOps()])(mod)
    assert str(out.attrs["tiny.model"]) == json.dumps({"name": "m"})
    assert OrderOps().info.name == "order-ops"
