# SPDX-License-Identifier: Apache-2.0
"""ONNX QDQ networks on host C: within one step of ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tvm_tiny
from tests.support.host import HostModel
from tests.support.onnx_builder import OnnxBuilder
from tests.support.shared import SHARED, needs_shared

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.host_cc
NAMES = ("kws_ref_model", "resnet")


def inputs(rng: np.random.Generator, session: object, count: int = 100) -> list[np.ndarray]:
    """Normal inputs of three magnitudes, so that every layer sees small values and saturation."""
    shape = [d if isinstance(d, int) else 1 for d in session.get_inputs()[0].shape]
    return [(rng.normal(size=shape) * rng.choice([1, 10, 50])).astype(np.float32) for _ in range(count)]


def until_logits(path: Path) -> tuple[bytes, float]:
    """The network without its float softmax, and the scale of its last quantised tensor."""
    model = onnx.load(path)
    graph = model.graph
    softmax = graph.node[-1]
    last = next(n for n in graph.node if n.output[0] == softmax.input[0])
    assert (softmax.op_type, last.op_type) == ("Softmax", "DequantizeLinear")
    scale = next(onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name == last.input[1])
    shape = [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim]
    graph.node.remove(softmax)
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(last.output[0], onnx.TensorProto.FLOAT, shape))
    return model.SerializeToString(), float(scale)


@needs_shared
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_within_one_step(name: str, rng: np.random.Generator) -> None:
    data, scale = until_logits(SHARED / f"models/onnx/{name}.onnx")
    session, library = onnxruntime.InferenceSession(data), HostModel(tvm_tiny.build(data, "c", name=name))
    steps = []
    for x in inputs(rng, session):
        (theirs,) = session.run(None, {session.get_inputs()[0].name: x})
        steps.append(np.round((library(x)[0].reshape(theirs.shape).astype(np.float64) - theirs) / scale))
    assert np.abs(steps).max() <= 1
    assert np.mean(np.array(steps) != 0) < 0.01  # and they are rare: ties and the order of float sums


@needs_shared
@pytest.mark.parametrize("name", NAMES)
def test_probabilities_follow(name: str, rng: np.random.Generator) -> None:
    """The softmax stays a float island: exact up to what one step of a logit changes."""
    path = SHARED / f"models/onnx/{name}.onnx"
    _, scale = until_logits(path)
    model = tvm_tiny.build(path, "c")
    session, library = onnxruntime.InferenceSession(str(path)), HostModel(model)
    for x in inputs(rng, session, 20):
        (theirs,) = session.run(None, {session.get_inputs()[0].name: x})
        ours = library(x)[0].reshape(theirs.shape)
        likely = theirs > 1e-30
        assert np.abs(np.log(ours[likely].astype(np.float64)) - np.log(theirs[likely].astype(np.float64))).max() <= 2 * scale + 1e-4
    assert len(model.report.float_layers) == 1


@needs_shared
@pytest.mark.parametrize("name", NAMES)
def test_only_the_softmax_is_float(name: str) -> None:
    report = tvm_tiny.build(SHARED / f"models/onnx/{name}.onnx", "c").report
    assert report.float_layers == [report.layers[-1].name]


@pytest.mark.parametrize(("kernel", "stride", "op"), [(3, 2, "depthwise_conv2d"), (8, 8, "mean"), (2, 2, "depthwise_conv2d")])
def test_average_pools_that_rescale_are_integer(kernel: int, stride: int, op: str, rng: np.random.Generator) -> None:
    b = OnnxBuilder()
    x = b.qdq(b.input("x", [1, 5, 8, 8]), 0.07, 3)
    y = b.node("AveragePool", x, kernel_shape=[kernel, kernel], strides=[stride, stride])
    b.output(b.qdq(y, 0.0531, -20), [1, 5, (8 - kernel) // stride + 1, (8 - kernel) // stride + 1])
    model = tvm_tiny.build(b.bytes(), "c", name="pool", optimize="speed")  # layer by layer, so that the operators can be told apart
    assert not model.report.float_layers
    assert op in [row.op for row in model.report.layers]
    session, library = onnxruntime.InferenceSession(b.bytes()), HostModel(model)
    steps = []
    for _ in range(20):
        value = rng.normal(size=(1, 5, 8, 8), scale=5).astype(np.float32)
        (theirs,) = session.run(None, {"x": value})
        steps.append(np.round((library(value)[0].reshape(theirs.shape) - theirs) / 0.0531))
    assert np.abs(steps).max() <= 1
    assert np.mean(np.array(steps) != 0) < 0.02


def test_a_float_island_works_and_is_reported(rng: np.random.Generator) -> None:
    """A softmax whose output scale no integer kernel has: computed in float between the quantised layers, and the report says so."""
    b = OnnxBuilder()
    x = b.qdq(b.input("x", [1, 12]), 0.07, 3)
    b.output(b.qdq(b.node("Softmax", x, axis=-1, name="island"), 0.0071, -128), [1, 12])
    model = tvm_tiny.build(b.bytes(), "c", name="island")
    floats = [row for row in model.report.layers if row.op == "float"]
    assert model.report.float_layers == [row.name for row in floats]
    assert len(floats) == 1
    session, library = onnxruntime.InferenceSession(b.bytes()), HostModel(model)
    for _ in range(50):
        value = rng.normal(size=(1, 12), scale=4).astype(np.float32)
        (theirs,) = session.run(None, {"x": value})
        np.testing.assert_allclose(library(value)[0], theirs, atol=0.0071 * 1.01)


def normalised(b: OnnxBuilder, rng: np.random.Generator, *, gamma: np.ndarray, smallest: int = -127, second: bool = False) -> None:
    """conv → BatchNormalization → Relu, quantised around; with `second` another reader of the convolution."""
    channels = gamma.size
    x = b.qdq(b.input("x", [1, 5, 8, 7]), 0.05, -3)
    weights = rng.integers(-127, 128, (channels, 5, 3, 3))
    weights[:, 0, 0, 0] = smallest
    scales = rng.uniform(0.002, 0.01, channels)
    conv = b.node("Conv", x, b.weights(weights, scales), b.bias(rng.integers(-900, 900, channels), scales * 0.05), kernel_shape=[3, 3])
    numbers = (gamma, rng.normal(size=channels), rng.normal(size=channels), rng.uniform(0.3, 2, channels))
    y = b.node("BatchNormalization", conv, *(b.const(v.astype(np.float32)) for v in numbers), epsilon=1e-3)
    b.output(b.qdq(b.node("Relu", y), 0.06, -128), [1, channels, 6, 5])
    if second:
        b.output(b.qdq(conv, 0.05, 0), [1, channels, 6, 5])


def test_batch_normalisation_becomes_part_of_the_convolution(rng: np.random.Generator) -> None:
    """Negative, zero and large factors: within one step of ONNX Runtime, and nothing is left in float."""
    b = OnnxBuilder()
    normalised(b, rng, gamma=np.array([1.3, -0.7, 0.0, 2.5, -1.0, 0.1]))
    model = tvm_tiny.build(b.bytes(), "c", name="normalised")
    assert [row.op for row in model.report.layers if row.op not in ("quantize", "dequantize", "transpose")] == ["conv2d"]
    session, library = onnxruntime.InferenceSession(b.bytes()), HostModel(model)
    for _ in range(10):
        value = rng.normal(size=(1, 5, 8, 7), scale=3).astype(np.float32)
        (theirs,) = session.run(None, {"x": value})
        assert np.abs((library(value)[0].reshape(theirs.shape) - theirs) / 0.06).max() <= 1 + 1e-3


@pytest.mark.parametrize(("smallest", "second"), [(-128, False), (-127, True)])
def test_batch_normalisation_that_can_not_be_folded_is_computed(smallest: int, second: bool, rng: np.random.Generator) -> None:
    b = OnnxBuilder()
    normalised(b, rng, gamma=np.array([-1.0, 0.5]), smallest=smallest, second=second)
    session, library = onnxruntime.InferenceSession(b.bytes()), HostModel(tvm_tiny.build(b.bytes(), "c", name="normalised"))
    for _ in range(10):
        value = rng.normal(size=(1, 5, 8, 7), scale=3).astype(np.float32)
        for ours, theirs in zip(library(value), session.run(None, {"x": value}), strict=True):
            assert np.abs((ours.reshape(theirs.shape) - theirs) / 0.06).max() <= 1 + 1e-3
