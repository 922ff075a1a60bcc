# SPDX-License-Identifier: Apache-2.0
"""fetch-rows: which inputs come through a function, what it refuses, and that it changes no bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.support.tiny_builder import TinyBuilder, assert_same_meaning, evaluate, op_names
from tvm_tiny.errors import OptionError
from tvm_tiny.ops import registry
from tvm_tiny.passes.fetch_rows import FetchRows

INPUT = {"name": "the image", "dtype": "float32", "shape": [1, 6, 5, 3], "scale": None, "zero_point": None}


def int8_model() -> tvm.IRModule:
    b = TinyBuilder((1, 6, 5, 3))
    return b.finish(b.conv(b.x, 4, 3))


def float_model(readers: int = 1, layout: str = "NHWC") -> tvm.IRModule:
    """A float image, quantised `readers` times."""
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((1, 6, 5, 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            attrs = {"zp": 3, "x_layout": layout, "y_layout": layout}
            made = [builder.emit(registry.call("tiny.quantize", x, scale=0.5 + i, **attrs)) for i in range(readers)]
            out = builder.emit_output(registry.call("tiny.max_pool2d", made[0], kernel=[2, 2]))
        builder.emit_func_output(out)
    return builder.get().with_attr("tiny.model", json.dumps({"name": "m", "inputs": [INPUT]}))


def test_an_int8_image(rng: np.random.Generator) -> None:
    before = int8_model()
    after = FetchRows(True)(before)
    assert op_names(after) == ["fetch", "conv2d"]
    assert_same_meaning(before, after, rng)


def test_float_rows_are_quantised_as_they_come(rng: np.random.Generator) -> None:
    before = float_model()
    after = FetchRows({"the image": True})(before)
    assert op_names(after) == ["fetch", "max_pool2d"]
    x = rng.uniform(-80, 80, (1, 6, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(before, x)[0], evaluate(after, x)[0])


def test_rows_that_the_application_quantises(rng: np.random.Generator) -> None:
    before = float_model()
    after = FetchRows("int8")(before)
    x = rng.uniform(-80, 80, (1, 6, 5, 3)).astype(np.float32)
    quantised = registry.get("quantize").numpy(x, scale=0.5, zp=3)
    np.testing.assert_array_equal(evaluate(before, x)[0], evaluate(after, quantised)[0])
    (described,) = json.loads(str(after.attrs["tiny.model"]))["inputs"]
    assert described == {**INPUT, "dtype": "int8", "scale": 0.5, "zero_point": 3}


def uint8_model() -> tvm.IRModule:
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((1, 6, 5, 3), "uint8"))
    with builder.function("main", [x]):
        with builder.dataflow():
            signed = builder.emit(registry.call("tiny.flip_sign", x))
            out = builder.emit_output(registry.call("tiny.max_pool2d", signed, kernel=[2, 2]))
        builder.emit_func_output(out)
    described = {**INPUT, "dtype": "uint8", "scale": 0.5, "zero_point": 131}
    return builder.get().with_attr("tiny.model", json.dumps({"name": "m", "inputs": [described]}))


def test_bytes_are_signed_as_they_come(rng: np.random.Generator) -> None:
    after, signed = FetchRows(True)(uint8_model()), FetchRows("int8")(uint8_model())
    assert op_names(after) == op_names(signed) == ["fetch", "max_pool2d"]
    x = rng.integers(0, 256, (1, 6, 5, 3)).astype(np.uint8)
    (want,) = evaluate(uint8_model(), x)
    np.testing.assert_array_equal(evaluate(after, x)[0], want)
    np.testing.assert_array_equal(evaluate(signed, (x ^ 128).view(np.int8))[0], want)
    (described,) = json.loads(str(signed.attrs["tiny.model"]))["inputs"]
    assert described == {**INPUT, "dtype": "int8", "scale": 0.5, "zero_point": 3}


def test_every_reader_of_an_image_reads_the_fetched_one(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 6, 6, 4))
    before = b.finish(b.conv(b.x, 4, 3), b.depthwise(b.x))
    after = FetchRows(True)(before)
    assert op_names(after) == ["fetch", "conv2d", "depthwise_conv2d"]
    assert_same_meaning(before, after, rng)


def test_nothing_asked_for_nothing_done() -> None:
    before = int8_model()
    assert FetchRows()(before).same_as(before)


MISTAKES = {
    "unknown input": (int8_model, {"image": True}, "no input is called image\n  remedy: the inputs are input_0"),
    "unknown type": (int8_model, "uint8", "camera='uint8' is no type of a row"),
    "planes": (lambda: float_model(layout="NCHW"), True, "its channels are planes (NCHW)"),
    "two quantisations": (lambda: float_model(readers=2), True, "used by more than one quantisation"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_what_it_refuses(case: str) -> None:
    make, camera, text = MISTAKES[case]
    with pytest.raises(OptionError) as caught:
        FetchRows(camera)(make())
    assert text in str(caught.value)


def test_a_vector_is_no_image() -> None:
    b = TinyBuilder((1, 16))
    mod = b.finish(b.dense(b.x, 4))
    with pytest.raises(OptionError, match="no input is an image"):
        FetchRows(True)(mod)
    with pytest.raises(OptionError, match="it is no single image"):
        FetchRows({"input_0": True})(mod)
