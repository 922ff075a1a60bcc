# SPDX-License-Identifier: Apache-2.0
"""ONNX QDQ networks with uint8 activations, weights, inputs and outputs: the same as in int8, within one step of ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

import tvm_tiny
from tests.support.host import HostModel
from tests.support.onnx_builder import OnnxBuilder
from tvm_tiny.errors import UnsupportedModelError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
SHAPE, STEP = [1, 3, 9, 7], 0.02
PORTS = {np.uint8: onnx.TensorProto.UINT8, np.int8: onnx.TensorProto.INT8}


def network(integers: type, weights: type, ports: bool) -> bytes:
    """Convolution, integer max pooling and concatenation, mean; `ports`: inputs and outputs are integers."""
    rng, b, above = np.random.default_rng(0), OnnxBuilder(), 128 if integers is np.uint8 else 0
    x = b.input("x", SHAPE, PORTS[integers] if ports else onnx.TensorProto.FLOAT)
    x = b.dequantize(x, STEP, 5 + above, integers) if ports else b.qdq(x, STEP, 5 + above, integers)
    w, scale = rng.integers(-127, 128, (8, 3, 3, 3)), rng.uniform(0.002, 0.01, 8).astype(np.float32)
    if weights is np.uint8:
        scale = scale[0]
        kernel = b.dequantize(b.const((w + 128).astype(np.uint8)), scale, 128, np.uint8)
    else:
        kernel = b.weights(w, scale)
    bias = b.bias(rng.integers(-900, 900, 8), scale * np.float32(STEP))
    y = b.node("Relu", b.node("Conv", x, kernel, bias, pads=[1, 1, 1, 1], strides=[2, 2]))
    y = b.node("MaxPool", b.quantize(y, 0.03, -128 + above, integers), kernel_shape=[2, 2], strides=[1, 1])
    y = b.node("GlobalAveragePool", b.dequantize(b.node("Concat", y, y, axis=1), 0.03, -128 + above, integers))
    y = b.quantize(y, STEP, above, integers) if ports else b.qdq(y, STEP, above, integers)
    b.output(y, None, PORTS[integers] if ports else onnx.TensorProto.FLOAT)
    return b.bytes()


@pytest.mark.host_cc
@pytest.mark.parametrize("ports", [False, True], ids=["float", "integer"])
@pytest.mark.parametrize("weights", [np.int8, np.uint8])
@pytest.mark.parametrize("integers", [np.int8, np.uint8])
def test_within_one_step(integers: type, weights: type, ports: bool, rng: np.random.Generator) -> None:
    data = network(integers, weights, ports)
    session, model = onnxruntime.InferenceSession(data), tvm_tiny.build(data, "c", name="net")
    library = HostModel(model)
    for _ in range(5):
        x = rng.integers(0, 256, SHAPE).astype(np.uint8).view(integers) if ports else rng.normal(0, 1.5, SHAPE).astype(np.float32)
        (theirs,), (ours,) = session.run(None, {"x": x}), library(x)
        assert ours.dtype == theirs.dtype
        assert np.abs(ours.reshape(-1).astype(np.float64) - theirs.reshape(-1)).max() <= (1 if ports else STEP * 1.001)
    if ports:
        assert (model.inputs[0].dtype, model.inputs[0].zero_point) == (np.dtype(integers).name, 133 if integers is np.uint8 else 5)


def qoperators(integers: type, weights: type) -> bytes:
    """The operators of ONNX Runtime on integers: convolution per channel, pools, addition, concatenation, product, softmax."""
    rng, b, above = np.random.default_rng(2), OnnxBuilder(), 128 if integers is np.uint8 else 0
    wide = 128 if weights is np.uint8 else 0

    def quant(scale: float, zero: int) -> tuple[str, str]:
        return b.const(np.float32(scale)), b.const(integers(zero + above))

    x = b.quantize(b.input("x", SHAPE), STEP, 5 + above, integers)
    step, out = quant(STEP, 5), quant(0.03, -128)
    scale = rng.uniform(0.002, 0.01, 8 if weights is np.int8 else 1).astype(np.float32)
    w = b.const((rng.integers(-127, 128, (8, 3, 3, 3)) + wide).astype(weights))
    zeros = b.const(np.full(scale.shape, wide).astype(weights)) if scale.size > 1 else b.const(weights(wide))
    scales = b.const(scale if scale.size > 1 else scale[0])
    y = b.node("QLinearConv", x, *step, w, scales, zeros, *out, b.const(rng.integers(-900, 900, 8).astype(np.int32)), pads=[1, 1, 1, 1])
    pooled = b.node("QLinearAveragePool", y, *out, *out, domain="com.microsoft", kernel_shape=[2, 2], strides=[2, 2])
    both = b.node("QLinearConcat", *out, pooled, *out, b.node("QLinearAdd", pooled, *out, pooled, *out, *out, domain="com.microsoft"), *out,
                  domain="com.microsoft", axis=1)  # fmt: skip
    mean = b.node("QLinearGlobalAveragePool", both, *out, *out, domain="com.microsoft", channels_last=0)
    flat = b.node("Reshape", mean, b.const(np.array([1, 16])))
    last = quant(0.01, 3)
    kernel = b.const((rng.integers(-127, 128, (16, 5)) + wide).astype(weights))
    product = b.node("QLinearMatMul", flat, *out, kernel, b.const(np.float32(0.002)), b.const(weights(wide)), *last)
    b.output(b.dequantize(product, 0.01, 3 + above, integers))
    return b.bytes()


@pytest.mark.host_cc
@pytest.mark.parametrize(("integers", "weights"), [(np.int8, np.int8), (np.uint8, np.int8), (np.uint8, np.uint8)])
def test_operators_on_integers(integers: type, weights: type, rng: np.random.Generator) -> None:
    data = qoperators(integers, weights)
    assert tvm_tiny.frontend.check.check(data).ok
    session, library = onnxruntime.InferenceSession(data), HostModel(tvm_tiny.build(data, "c", name="net"))
    for _ in range(5):
        x = rng.normal(0, 1.5, SHAPE).astype(np.float32)
        (theirs,), (ours,) = session.run(None, {"x": x}), library(x)
        assert np.abs(ours - theirs).max() <= 2 * 0.01001, "each of six layers may be a step off"


def test_zero_point_left_out_is_uint8() -> None:
    b = OnnxBuilder()
    b.input("x", [1, 4])
    scale = b.const(np.float32(0.1))
    b.output(b.node("DequantizeLinear", b.node("QuantizeLinear", "x", scale), scale))
    model = tvm_tiny.build(b.bytes(), "c", name="net")
    x = np.array([[-1, 0.06, 3, 99]], np.float32)
    np.testing.assert_allclose(model.run(x)["dequantizelinear_1"], [[0, 0.1, 3, 25.5]], rtol=1e-6)


def test_arithmetic_on_uint8_is_refused() -> None:
    b = OnnxBuilder(14)
    b.input("x", [1, 4])
    x = b.quantize("x", 0.1, 3, np.uint8)
    b.output(b.dequantize(b.node("Add", x, x), 0.1, 3, np.uint8))
    with pytest.raises(UnsupportedModelError, match="uint8 is not supported"):
        tvm_tiny.load(b.bytes())
