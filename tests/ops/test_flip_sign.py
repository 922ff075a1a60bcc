# SPDX-License-Identifier: Apache-2.0
"""uint8 at the model's borders: the change of type is the reference interpreter's QUANTIZE, for every value, scale and zero point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.op_cases import scales, zero_points
from tests.support.oracle import Oracle
from tests.support.primfuncs import check_compiled
from tests.support.tflite_graphs import GraphBuilder
from tvm_tiny import ops
from tvm_tiny.errors import DialectError, UnsupportedModelError

EVERY = np.arange(256).astype(np.uint8).reshape(1, 4, 8, 8)


def quantised(source: str, x: tuple[float, int], result: str, y: tuple[float, int]) -> bytes:
    """One QUANTIZE."""
    b = GraphBuilder()
    return b.output(b.op("QUANTIZE", [b.input(EVERY.shape, *x, source)], b.tensor(EVERY.shape, *y, result))).bytes()


@pytest.mark.host_cc
@settings(max_examples=8)
@given(scales(), scales(), zero_points, zero_points, st.booleans(), st.booleans())
def test_quantize_between_types(x_scale: float, y_scale: float, x_zero: int, y_zero: int, same: bool, unsigned_input: bool) -> None:
    source, result = ("uint8", "int8") if unsigned_input else ("int8", "uint8")
    y_scale, y_zero = (x_scale, x_zero) if same else (y_scale, y_zero)
    above = {"uint8": 128, "int8": 0}
    model = quantised(source, (x_scale, x_zero + above[source]), result, (y_scale, y_zero + above[result]))
    x = EVERY.view(source)
    library = GuardedModel(tvm_tiny.build(model, "c", name="net"))
    np.testing.assert_array_equal(library(x)[0], Oracle(model).run(x)[0])
    assert not library.faults


@pytest.mark.parametrize("source", ["uint8", "int8"])
@pytest.mark.parametrize("count", [1, 3, 4, 257])
def test_the_tir_is_the_numpy_meaning(source: str, count: int, rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, count).astype(np.uint8).view(source)
    check_compiled("flip_sign", [x])


def image_network(b: GraphBuilder, padding: int = 0) -> bytes:
    """uint8 image → int8 convolution, stride 2 → uint8: what converters write with inference_input_type = inference_output_type = uint8."""
    rng = np.random.default_rng(padding)
    x = b.op("QUANTIZE", [b.input((1, 9, 7, 3), 1 / 255, 0, "uint8")], b.tensor((1, 9, 7, 3), 1 / 255, -128))
    step = rng.uniform(0.002, 0.01, 8)
    weights = b.tensor((8, 3, 3, 3), step, data=rng.integers(-127, 128, (8, 3, 3, 3)))
    bias = b.tensor((8,), step / 255, dtype="int32", data=rng.integers(-900, 900, 8))
    shape = (1, 5, 4, 8) if padding == 0 else (1, 4, 3, 8)
    y = b.op("CONV_2D", [x, weights, bias], b.tensor(shape, 0.03, -128), stride_h=2, stride_w=2, padding=padding, activation=1)
    return b.output(b.op("QUANTIZE", [y], b.tensor(shape, 0.03, 0, "uint8"))).bytes()


@pytest.mark.parametrize(
    "board", [None, pytest.param("mps2_an500", marks=pytest.mark.qemu), pytest.param("mps2_an386", marks=pytest.mark.qemu)]
)
@pytest.mark.parametrize("goal", ["balanced", "sram"])
def test_a_network_with_uint8_borders(board: str | None, goal: str, rng: np.random.Generator) -> None:
    data = image_network(GraphBuilder())
    model = tvm_tiny.build(data, None if board else "c", board=board, name="net", optimize=goal)
    images = [rng.integers(0, 256, (1, 9, 7, 3)).astype(np.uint8) for _ in range(3)]
    assert [t.dtype for t in (*model.inputs, *model.outputs)] == ["uint8", "uint8"]
    found = model.run([{model.inputs[0].name: x} for x in images], board=board or "native")
    for ours, x in zip(found, images, strict=True):
        np.testing.assert_array_equal(next(iter(ours.values())), Oracle(data).run(x)[0])


def test_the_image_and_its_signed_form_share_their_bytes() -> None:
    model = tvm_tiny.build(image_network(GraphBuilder(), padding=1), "c", name="net", optimize="sram")
    first = model.plan.steps[0]
    assert model.plan.offset(first.reads[0]) == model.plan.offset(first.writes[0])


def test_only_bytes() -> None:
    with pytest.raises(DialectError, match=r"tiny\.flip_sign: x must be int8 or uint8, got int32"):
        ops.get("flip_sign").numpy(np.zeros(3, np.int32))


def test_uint8_inside_is_refused() -> None:
    b = GraphBuilder()
    model = b.output(b.op("RELU", [b.input((1, 4), 0.1, 128, "uint8")], b.tensor((1, 4), 0.1, 128, "uint8"))).bytes()
    with pytest.raises(UnsupportedModelError, match="only inputs and outputs of the model may be uint8"):
        tvm_tiny.load(model)
