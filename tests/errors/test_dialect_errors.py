# SPDX-License-Identifier: Apache-2.0
"""Misused operators are refused with the operator, what is wrong, and what would be right."""

from __future__ import annotations

from typing import Any

import pytest
from tvm import relax

from tvm_tiny import ops
from tvm_tiny.errors import DialectError

X, W, P = ((1, 8, 8, 4), "int8"), ((5, 3, 3, 4), "int8"), ((5,), "int32")
ZPS = {"x_zp": 0, "y_zp": 0}
BINARY = {"a_zp": 0, "b_zp": 0, "y_zp": 0, "multiplier": 1, "shift": 0}

BAD: list[tuple[str, list[Any], dict[str, Any], str]] = [
    ("conv2d", [X, W, P, P], ZPS, "takes 5 or 6 tensors (x, weight, bias, multiplier, shift, optional residual), got 4"),
    ("conv2d", [X, W, P, P, P], {**ZPS, "stride": 2}, "unknown attribute stride; known: clamp_max, "),
    ("conv2d", [X, W, P, P, P], {"x_zp": 0}, "attribute y_zp has no default and is missing"),
    ("conv2d", [X, ((5, 3, 3, 3), "int8"), P, P, P], ZPS, "x has 4 channels, weight (5, 3, 3, 3) with 1 groups takes 3"),
    ("conv2d", [X, W, P, P, P], {**ZPS, "groups": 2}, "5 output channels do not split into 2 groups"),
    ("conv2d", [X, W, P, P, ((5,), "int8")], ZPS, "shift must be int32 (5,), got int8 (5,)"),
    ("conv2d", [((1, 2, 8, 4), "int8"), W, P, P, P], ZPS, "a window of 3 does not fit an axis of 2 with padding 0+0"),
    ("conv2d", [X, W, P, P, P], {**ZPS, "strides": [0, 1]}, "strides, dilation, kernel must be >= 1 and padding >= 0"),
    ("conv2d", [X, W, P, P, P], {**ZPS, "x_layout": "HWCN"}, "x_layout must be one of NHWC, NCHW, got 'HWCN'"),
    ("conv2d", [((1, 8, 8, 4), "float32"), W, P, P, P], ZPS, "x must be int8, got float32"),
    ("depthwise_conv2d", [X, ((3, 3, 6), "int8"), P, P, P], ZPS, "bias must be int32 (6,), got int32 (5,)"),
    ("depthwise_conv2d", [X, ((3, 3, 5), "int8"), P, P, P], ZPS, "5 output channels are no multiple of x's 4"),
    ("dense", [((1, 9), "int8"), ((5, 8), "int8"), P, P, P], ZPS, "x ends in 9, weight (5, 8) takes 8"),
    ("mul", [((2, 3), "int8"), ((4,), "int8")], BINARY, "shapes do not broadcast: (2, 3), (4,)"),
    ("mul", [((2, 3), "int8"), ((3,), "int8")], {**BINARY, "y_layout": "NCHW"}, "y_layout NCHW needs a 4-D tensor, got 2-D"),
    ("avg_pool2d", [X], {"kernel": [2, 2], "padding": [2, 0, 0, 0]}, "padding [2, 0, 0, 0] is not smaller than kernel [2, 2]"),
    ("mean", [X], {**ZPS, "multiplier": 1, "shift": 0, "axes": [1, 4]}, "axes must be distinct, in 0..3; got [1, 4]"),
    ("softmax", [((1, 5000), "int8"), ((256,), "int32")], {}, "at most 4095 classes, got 5000"),
    ("lookup", [X, ((255,), "int8")], {}, "table must be int8 (256,), got int8 (255,)"),
    ("concat", [X, ((1, 8, 7, 4), "int8")], {"axis": 3}, "shapes differ beyond axis 3: (1, 8, 8, 4), (1, 8, 7, 4)"),
    ("reshape", [X], {"shape": [3, 5]}, "shape (3, 5) does not hold the 256 elements of (1, 8, 8, 4)"),
    ("transpose", [X], {"axes": [0, 1, 1, 2]}, "axes must be an order of 0..3, got [0, 1, 1, 2]"),
    (
        "strided_slice",
        [((4,), "int8")],
        {"begin": [1], "strides": [2], "size": [3]},
        "axis 0 of 4: begin 1, stride 2, size 3 reaches outside",
    ),
    ("quantize", [((4,), "float32")], {"scale": -1.0, "zp": 0}, "scale must be positive, got -1.0"),
    ("pad", [((4,), "int8")], {"before": [-1], "after": [0], "value": 0}, "padding must not be negative, got [-1], [0]"),
]


def variables(specs: list[tuple[tuple[int, ...], str]]) -> list[relax.Var]:
    return [relax.Var(f"v{i}", relax.TensorType(shape, dtype)) for i, (shape, dtype) in enumerate(specs)]


@pytest.mark.parametrize(("name", "specs", "attrs", "message"), BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)])
def test_misuse_is_refused(name: str, specs: list[Any], attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(DialectError) as caught:
        ops.call(name, *variables(specs), **attrs)
    assert str(caught.value).startswith(f"tiny.{name}: {message}")


def test_unknown_operator_lists_the_known() -> None:
    with pytest.raises(DialectError, match=r"tiny\.conv3d: no such operator; known: tiny\.add, .*tiny\.transpose"):
        ops.get("conv3d")


def test_symbolic_shapes_are_refused() -> None:
    from tvm import tirx

    x = relax.Var("x", relax.TensorType((tirx.Var("n", "int64"), 3), "int8"))
    with pytest.raises(DialectError, match=r"tiny\.reshape: shapes must be static, got"):
        ops.call("reshape", x, shape=[3, 3])


def test_misuse_met_by_a_pass_names_the_operator() -> None:
    """Through TVM the error stays what it is."""
    import tvm

    x = variables([((4,), "int8")])[0]
    attrs = tvm.ir.make_node("ir.DictAttrs", axes=[1])
    with pytest.raises(DialectError, match=r"tiny\.transpose: axes must be an order of 0\.\.0, got \[1\]"):
        relax.BlockBuilder().normalize(relax.Call(tvm.ir.Op.get("tiny.transpose"), [x], attrs))


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_impossible_scales_are_refused(scale: float) -> None:
    with pytest.raises(DialectError, match="a scale must be finite and not negative"):
        ops.requantize.quantize_params(scale, 1.0)


def test_scales_too_far_apart_are_refused() -> None:
    with pytest.raises(DialectError, match=r"tiny\.add: scales too far apart"):
        ops.add.quantize_params(0.1, 0.1, 1e-8)
