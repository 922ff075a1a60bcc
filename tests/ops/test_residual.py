# SPDX-License-Identifier: Apache-2.0
"""A convolution with a residual is CONV_2D and then ADD of the reference interpreter, bit for bit; misuse is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tests.support import oracle
from tests.support.op_cases import int8s, seeds
from tests.support.residual_models import residual_model
from tests.support.tiny_builder import TinyBuilder, evaluate, op_names
from tvm_tiny.errors import DialectError
from tvm_tiny.frontend import load
from tvm_tiny.ops import add as add_op
from tvm_tiny.ops import registry
from tvm_tiny.ops.residual import residual_of, to_attribute
from tvm_tiny.passes.fuse_ops import FuseOps
from tvm_tiny.passes.quantize_to_integer import QuantizeToInteger

SUM = {"a_zp": 3, "b_zp": -7, "y_zp": 1, "rounding": "gemmlowp", "clamp_min": -128, "clamp_max": 127}


@settings(max_examples=12, deadline=None)
@given(seed=seeds, swapped=st.booleans())
def test_convolution_and_sum_are_the_interpreters(seed: int, swapped: bool) -> None:
    rng = np.random.default_rng(seed)
    model, shapes = residual_model(rng, swapped=swapped)
    mod = FuseOps()(QuantizeToInteger()(load(model)))
    assert op_names(mod) == ["conv2d"]
    inputs = [int8s(rng, s) for s in shapes]
    np.testing.assert_array_equal(evaluate(mod, *inputs)[0], oracle.run(model, inputs))


def sum_attrs(**more: object) -> dict[str, object]:
    return {**SUM, **add_op.quantize_params(0.1, 0.04, 0.09), **more}


def test_the_other_operand_may_come_first() -> None:
    attrs = sum_attrs()
    turned = json.loads(to_attribute(attrs, swapped=True))
    assert (turned["a_zp"], turned["b_multiplier"]) == (attrs["b_zp"], attrs["a_multiplier"])
    assert (turned["y_zp"], turned["left_shift"], turned["clamp_max"]) == (1, 20, 127)


@pytest.mark.parametrize(
    ("shape", "attribute", "problem"),
    [
        ((1, 4, 4, 5), "", "go together"),
        (None, to_attribute(sum_attrs()), "go together"),
        ((1, 4, 4, 4), to_attribute(sum_attrs()), "residual must be int8 (1, 4, 4, 5) as the result"),
        ((1, 4, 4, 5), '{"a_zp": 0}', "too many or missing"),
    ],
)
def test_misuse_is_refused(shape: tuple[int, ...] | None, attribute: str, problem: str) -> None:
    b = TinyBuilder((1, 4, 4, 3), *([shape] if shape else []))
    args = b.builder.lookup_binding(b.conv(b.x, 5)).args
    attrs = {"x_zp": -3, "y_zp": 5, "residual": attribute}
    with pytest.raises(DialectError, match=r"tiny\.conv2d: ") as error:
        registry.call("tiny.conv2d", *args, *b.params[1:], **attrs)
    assert problem in str(error.value)


def test_a_convolution_without_one_has_none() -> None:
    assert residual_of({"residual": ""}) is None
    assert residual_of({}) is None
    b = TinyBuilder((1, 4, 4, 3))
    call = b.builder.lookup_binding(b.conv(b.x, 5))
    assert isinstance(call, relax.Call)
    assert registry.attrs_of(call)["residual"] == ""
    with pytest.raises(DialectError, match="takes 5 or 6 tensors"):
        registry.call("tiny.conv2d", *call.args[:4], x_zp=0, y_zp=0)
