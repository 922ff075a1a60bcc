# SPDX-License-Identifier: Apache-2.0
"""fuse-ops: what feeds only one operator becomes part of it, and not a bit of the result changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.support.tiny_builder import TinyBuilder, assert_same_meaning, op_names
from tvm_tiny.ops.graph import TinyGraph
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


def test_it_is_a_stock_pass_that_keeps_module_attributes() -> None:
    b = TinyBuilder((1, 6, 6, 3))
    mod = b.finish(padded(b, -3)).with_attr("tiny.model", '{"name": "m"}')
    out = tvm.ir.transform.Sequential([FuseOps(), relax.transform.DeadCodeElimination()])(mod)
    assert str(out.attrs["tiny.model"]) == '{"name": "m"}'
    assert FuseOps().info.name == "fuse-ops"
    tvm.ir.assert_structural_equal(FuseOps()(out)["main"], out["main"])  # nothing is left to do
