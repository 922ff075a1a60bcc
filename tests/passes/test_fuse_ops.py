# SPDX-License-Identifier: Apache-2.0
"""fuse-ops: what feeds only one operator becomes part of it, and not a bit of the result changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.support.tiny_builder import TinyBuilder, assert_same_meaning, op_names
from tvm_tiny.explain import collecting
from tvm_tiny.ops import add as add_op
from tvm_tiny.ops import registry
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.ops.residual import to_attribute
from tvm_tiny.passes.fuse_ops import FuseOps

ALL = np.arange(-128, 128).astype(np.int8)
SQUARED = np.clip(ALL.astype(int) ** 2 // 128, -128, 127).astype(np.int8)
NEGATED = np.clip(-ALL.astype(int), -128, 127).astype(np.int8)
CLIPPED = np.clip(ALL, -20, 90)


def only_node(mod: tvm.IRModule, op: str) -> dict:
    """Attributes of the one operator called `op`."""
    (node,) = [n for n in TinyGraph(mod["main"]).nodes if n.op == op]
    return node.attrs


def padded(b: TinyBuilder, value: int, **attrs: object) -> relax.Var:
    pad = b.call("pad", b.x, before=[0, 0, 1, 0], after=[0, 2, 1, 0], value=value)
    return b.conv(pad, 4, 3, padding=[0, 1, 0, 0], **attrs)


def test_pad_becomes_the_convolutions_padding(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 6, 6, 3))
    mod = b.finish(padded(b, -3))
    out = FuseOps()(mod)
    assert op_names(out) == ["conv2d"]
    assert only_node(out, "conv2d")["padding"] == [0, 2, 2, 1]  # top, left, bottom, right
    assert_same_meaning(mod, out, rng)


def test_pad_with_another_value_than_the_zero_point_stays(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 6, 6, 3))
    mod = b.finish(padded(b, 0))
    assert op_names(FuseOps()(mod)) == ["pad", "conv2d"]


def test_pad_of_channels_stays() -> None:
    b = TinyBuilder((1, 6, 6, 3))
    pad = b.call("pad", b.x, before=[0, 0, 0, 0], after=[0, 0, 0, 1], value=-3)
    assert op_names(FuseOps()(b.finish(b.conv(pad, 4, 1)))) == ["pad", "conv2d"]


def test_pad_with_two_readers_stays() -> None:
    b = TinyBuilder((1, 6, 6, 3))
    pad = b.call("pad", b.x, before=[0, 1, 1, 0], after=[0, 1, 1, 0], value=-3)
    assert op_names(FuseOps()(b.finish(b.conv(pad, 4, 3, padding=[0] * 4), pad))) == ["pad", "conv2d"]


def test_a_clamping_table_narrows_the_clamp(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 4, 4, 3))
    mod = b.finish(b.call("lookup", b.conv(b.x, 4, clamp_max=100), CLIPPED))
    out = FuseOps()(mod)
    assert op_names(out) == ["conv2d"]
    attrs = only_node(out, "conv2d")
    assert (attrs["clamp_min"], attrs["clamp_max"]) == (-20, 90)
    assert_same_meaning(mod, out, rng)


def test_a_clamp_beyond_the_other_leaves_one_value(rng: np.random.Generator) -> None:
    """Disjoint intervals: everything becomes the outer clamp's nearest bound."""
    b = TinyBuilder((1, 4, 4, 3))
    mod = b.finish(b.call("lookup", b.conv(b.x, 4, clamp_min=95), CLIPPED))
    out = FuseOps()(mod)
    assert op_names(out) == ["conv2d"]
    assert_same_meaning(mod, out, rng)


def test_a_table_that_does_more_than_clamp_stays(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 4, 4, 3))
    mod = b.finish(b.call("lookup", b.conv(b.x, 4), SQUARED))
    assert op_names(FuseOps()(mod)) == ["conv2d", "lookup"]


def test_functions_in_a_row_are_one_table(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 4, 4, 3))
    scaled = b.call("requantize", b.call("lookup", b.x, SQUARED), x_zp=3, y_zp=-7, multiplier=1500000000, shift=0)
    mod = b.finish(b.call("lookup", scaled, NEGATED))
    out = FuseOps()(mod)
    assert op_names(out) == ["lookup"]
    assert_same_meaning(mod, out, rng)


def transposes(b: TinyBuilder) -> relax.Var:
    return b.call("transpose", b.call("transpose", b.x, axes=[0, 3, 1, 2]), axes=[0, 2, 3, 1])


def turned(b: TinyBuilder) -> relax.Var:
    return b.call("transpose", b.call("transpose", b.x, axes=[0, 3, 1, 2]), axes=[0, 3, 1, 2])


def reshapes(b: TinyBuilder) -> relax.Var:
    return b.call("reshape", b.call("reshape", b.x, shape=[1, 48]), shape=[1, 4, 4, 3])


@pytest.mark.parametrize(
    ("make", "expected"), [(transposes, ["lookup"]), (turned, ["transpose", "lookup"]), (reshapes, ["lookup"])], ids=lambda v: str(v)[:24]
)
def test_movements_that_cancel_vanish(make: Callable[[TinyBuilder], relax.Var], expected: list[str], rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 4, 4, 3))
    mod = b.finish(b.call("lookup", make(b), SQUARED))
    out = FuseOps()(mod)
    assert op_names(out) == expected
    assert_same_meaning(mod, out, rng)


def padded_maximum(b: TinyBuilder, value: int, before: int = 1) -> relax.Var:
    pad = b.call("pad", b.x, before=[0, before, 1, 0], after=[0, 1, 0, 0], value=value)
    return b.call("max_pool2d", pad, kernel=[2, 3], strides=[2, 1])


def test_pad_with_the_least_value_becomes_the_maximums_padding(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 5, 7, 3))
    mod = b.finish(padded_maximum(b, -128))
    out = FuseOps()(mod)
    assert op_names(out) == ["max_pool2d"]
    assert only_node(out, "max_pool2d")["padding"] == [1, 1, 1, 0]
    assert_same_meaning(mod, out, rng)


@pytest.mark.parametrize(("value", "before", "why"), [(-127, 1, "would count as -128"), (-128, 2, "lie in the padding wholly")])
def test_other_padding_of_a_maximum_stays(value: int, before: int, why: str) -> None:
    b = TinyBuilder((1, 5, 7, 3))
    mod = b.finish(padded_maximum(b, value, before))
    with collecting() as told:
        assert op_names(FuseOps()(mod)) == ["pad", "max_pool2d"]
    assert any(why in d.reason and not d.accepted for d in told)


def test_padding_of_an_average_stays() -> None:
    b = TinyBuilder((1, 5, 7, 3))
    pad = b.call("pad", b.x, before=[0, 1, 1, 0], after=[0, 1, 1, 0], value=-128)
    assert op_names(FuseOps()(b.finish(b.call("avg_pool2d", pad, kernel=[2, 2])))) == ["pad", "avg_pool2d"]


@pytest.mark.parametrize("clamp", [{}, {"clamp_min": -20, "clamp_max": 90}])
def test_a_rising_function_comes_after_the_maximum(clamp: dict[str, int], rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 6, 6, 3))
    rising = b.call("lookup", b.x, np.clip(ALL.astype(int) ** 3 // 9000, -128, 127).astype(np.int8))
    mod = b.finish(b.call("max_pool2d", rising, kernel=[3, 2], strides=[2, 2], padding=[1, 1, 2, 0], **clamp))
    out = FuseOps()(mod)
    assert op_names(out) == ["max_pool2d", "lookup"]
    assert_same_meaning(mod, out, rng)


def test_a_falling_function_stays_before_the_maximum() -> None:
    b = TinyBuilder((1, 6, 6, 3))
    mod = b.finish(b.call("max_pool2d", b.call("lookup", b.x, NEGATED), kernel=[3, 3]))
    assert op_names(FuseOps()(mod)) == ["lookup", "max_pool2d"]


def test_requantisations_in_a_row_around_a_maximum_are_one_table(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 6, 6, 3))
    first = b.call("requantize", b.x, x_zp=3, y_zp=-7, multiplier=1500000000, shift=0)
    pooled = b.call("max_pool2d", first, kernel=[2, 2])
    mod = b.finish(b.call("requantize", pooled, x_zp=-7, y_zp=20, multiplier=1300000000, shift=-1))
    out = FuseOps()(mod)
    assert op_names(out) == ["max_pool2d", "lookup"]
    assert_same_meaning(mod, out, rng)


@pytest.mark.parametrize("shape", [(1, 1, 5, 7), (1, 6, 1, 1)])
def test_a_transpose_of_axes_of_one_element_is_a_reshape(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    b = TinyBuilder(shape)
    mod = b.finish(b.call("lookup", b.call("transpose", b.x, axes=[0, 2, 3, 1]), SQUARED))
    out = FuseOps()(mod)
    assert op_names(out) == ["reshape", "lookup"]
    assert_same_meaning(mod, out, rng)


SUM = {"a_zp": 5, "b_zp": -7, "y_zp": 1, **add_op.quantize_params(0.1, 0.04, 0.09)}


def told_why(mod: tvm.IRModule, why: str) -> bool:
    """The pass rejects something for this reason and leaves the addition."""
    with collecting() as told:
        assert "add" in op_names(FuseOps()(mod))
    return any(why in d.reason and not d.accepted for d in told)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_convolution_adds_the_residual(swapped: bool, rng: np.random.Generator) -> None:
    """Before and expected: one call, the addition's attributes in its own."""
    b = TinyBuilder((1, 6, 5, 3))
    y = b.conv(b.x, 3, 3, clamp_min=-100)
    hidden = b.conv(b.depthwise(y), 3, clamp_max=90, source="inner")
    total = b.call("add", *([y, hidden] if swapped else [hidden, y]), source="sum", y_scale=0.5, **SUM)
    mod = b.finish(total)
    out = FuseOps()(mod)

    wanted = TinyBuilder((1, 6, 5, 3))
    y = wanted.conv(wanted.x, 3, 3, clamp_min=-100)
    middle = wanted.depthwise(y)
    (_, plain) = [n for n in TinyGraph(mod["main"]).nodes if n.op == "conv2d"]
    (addition,) = [n for n in TinyGraph(mod["main"]).nodes if n.op == "add"]
    attrs = {**plain.attrs, "source": "sum", "y_scale": 0.5, "residual": to_attribute(addition.attrs, swapped=swapped)}
    expected = wanted.finish(wanted.call("conv2d", middle, *plain.args[1:], y, **attrs))
    tvm.ir.assert_structural_equal(out["main"], expected["main"], map_free_vars=True)
    assert_same_meaning(mod, out, rng)


def test_the_end_of_the_longer_chain_takes_the_sum(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 8, 8, 4))
    long = b.conv(b.conv(b.x, 4, 3), 8, 3, strides=[2, 2], source="long")
    short = b.conv(b.x, 8, 1, strides=[2, 2], source="short")
    mod = b.finish(b.call("add", short, long, **SUM))
    with collecting() as told:
        out = FuseOps()(mod)
    assert op_names(out) == ["conv2d"] * 3
    (node,) = [n for n in TinyGraph(out["main"]).nodes if n.attrs.get("residual")]
    assert node.constant(1).shape == (8, 3, 3, 4)
    assert any("ends the longer chain" in d.reason for d in told)
    assert_same_meaning(mod, out, rng)


def test_a_clamp_behind_the_sum_is_the_sums(rng: np.random.Generator) -> None:
    """Also where the sum is in the convolution already."""
    b = TinyBuilder((1, 4, 4, 3))
    total = b.call("add", b.conv(b.conv(b.x, 3), 3), b.x, **SUM)
    mod = b.finish(b.call("lookup", total, CLIPPED))
    fused = FuseOps()(mod)
    assert op_names(fused) == ["conv2d", "conv2d"]
    assert_same_meaning(mod, fused, rng)

    (node,) = [n for n in TinyGraph(fused["main"]).nodes if n.attrs.get("residual")]
    b = TinyBuilder((1, 4, 4, 3))
    again = b.finish(b.call("lookup", b.call("conv2d", b.conv(b.x, 3), *node.args[1:5], b.x, **node.attrs), np.clip(ALL, -5, 60)))
    narrowed = FuseOps()(again)
    assert op_names(narrowed) == ["conv2d", "conv2d"]
    assert_same_meaning(again, narrowed, rng)


def test_padding_goes_into_a_convolution_that_adds(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 6, 6, 3), (1, 6, 6, 4))
    pad = b.call("pad", b.x, before=[0, 1, 1, 0], after=[0, 1, 1, 0], value=-3)
    attrs = {"padding": [0] * 4, "residual": to_attribute(registry.get("add").complete_attrs(SUM))}
    plain = b.builder.lookup_binding(b.conv(pad, 4, 3, padding=[0] * 4))
    last = b.call("conv2d", *plain.args, b.params[1], **{**registry.attrs_of(plain), **attrs})
    both = relax.transform.DeadCodeElimination()(b.finish(last))
    out = FuseOps()(both)
    assert op_names(out) == ["conv2d"]
    assert only_node(out, "conv2d")["padding"] == [1, 1, 1, 1]
    assert_same_meaning(both, out, rng)


def test_sums_in_a_row_go_into_their_own_convolutions(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 5, 7, 4))
    x = b.conv(b.x, 4)
    for _ in range(3):
        x = b.call("add", b.conv(b.depthwise(x), 4), x, **SUM)
    mod = b.finish(x)
    out = FuseOps()(mod)
    assert op_names(out) == ["conv2d"] + ["depthwise_conv2d", "conv2d"] * 3
    assert_same_meaning(mod, out, rng)


def test_what_is_no_residual_of_a_convolution_stays() -> None:
    b = TinyBuilder((1, 6, 6, 4))
    y = b.conv(b.x, 4)
    assert told_why(b.finish(b.call("add", y, b.depthwise(b.x), **SUM), y), "other operators read the convolution's own result")

    b = TinyBuilder((1, 6, 6, 4))
    assert told_why(b.finish(b.call("add", b.conv(b.x, 4), b.x, **SUM)), "it reads the other operand as its input")

    b = TinyBuilder((1, 6, 6, 4), (1, 6, 6, 4))
    assert told_why(b.finish(b.call("add", b.depthwise(b.x), b.params[1], **SUM)), "depthwise_conv2d has no kernel that adds")

    b = TinyBuilder((1, 6, 6, 4), (1, 1, 1, 4))
    assert told_why(b.finish(b.call("add", b.conv(b.x, 4), b.params[1], **SUM)), "the operands' shapes differ")

    b = TinyBuilder((1, 6, 6, 4))
    twice = b.conv(b.x, 4)
    assert told_why(b.finish(b.call("add", twice, twice, **SUM)), "other operators read the convolution's own result")

    b = TinyBuilder((2, 6, 6, 4), (2, 6, 6, 5))
    assert told_why(b.finish(b.call("add", b.conv(b.x, 5), b.params[1], **SUM)), "one image, ungrouped")

    b = TinyBuilder((1, 6, 6, 4))
    bias = b.rng.integers(-128, 128, (1, 6, 6, 4)).astype(np.int8)
    assert told_why(b.finish(b.call("add", b.conv(b.x, 4), bias, **SUM)), "the other operand is a constant")


def test_it_is_a_stock_pass_that_keeps_module_attributes() -> None:
    b = TinyBuilder((1, 6, 6, 3))
    mod = b.finish(padded(b, -3)).with_attr("tiny.model", '{"name": "m"}')
    out = tvm.ir.transform.Sequential([FuseOps(), relax.transform.DeadCodeElimination()])(mod)
    assert str(out.attrs["tiny.model"]) == '{"name": "m"}'
    assert FuseOps().info.name == "fuse-ops"
    tvm.ir.assert_structural_equal(FuseOps()(out)["main"], out["main"])  # nothing is left to do
