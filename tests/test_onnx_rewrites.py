# SPDX-License-Identifier: Apache-2.0
"""ONNX operators that are others in disguise: as they stand in networks, within one step of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tvm_tiny
from tests.support.host import HostModel
from tests.support.onnx_builder import OnnxBuilder
from tvm_tiny.errors import UnsupportedModelError
from tvm_tiny.passes.quantize_to_integer import QuantizeToInteger, float_islands

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
SHAPE, STEP = [1, 4, 9, 7], 0.02
Build = Callable[[OnnxBuilder, str], str]


def weighted(kind: str, shape: tuple[int, ...], axis: int = 0, **attributes: object) -> Build:
    """A convolution of any kind, per channel, with a bias."""

    def build(b: OnnxBuilder, x: str) -> str:
        rng = np.random.default_rng(len(shape))
        channels = shape[axis]
        scale = rng.uniform(0.002, 0.008, channels).astype(np.float32)
        weights = b.weights(rng.integers(-127, 128, shape), scale, axis)
        return b.node(kind, x, weights, b.bias(rng.integers(-900, 900, channels), scale * np.float32(STEP)), **attributes)

    return build


def plain(kind: str, *constants: np.ndarray, **attributes: object) -> Build:
    return lambda b, x: b.node(kind, x, *(b.const(c) for c in constants), **attributes)


def lines(inner: Build) -> Build:
    """Over one dimension."""
    return lambda b, x: inner(b, b.node("Reshape", x, b.const(np.array([1, 4, 63]))))


def normalised(b: OnnxBuilder, x: str) -> str:
    rng = np.random.default_rng(3)
    parts = [rng.uniform(0.5, 1, 4) * [1, -1, 1, 0], rng.normal(0, 0.3, 4), rng.normal(0, 0.3, 4), rng.uniform(0.5, 2, 4)]
    return b.node("BatchNormalization", x, *(b.const(p.astype(np.float32)) for p in parts))


def gelu(b: OnnxBuilder, x: str) -> str:
    """x (1 + erf(x / √2)), as exporters write it."""
    inner = b.node("Erf", b.node("Div", x, b.const(np.float32(2**0.5))))
    return b.node("Mul", x, b.node("Add", inner, b.const(np.float32(1))))


def attention(b: OnnxBuilder, x: str) -> str:
    """x of each channel times its own transposition."""
    turned = b.node("Transpose", x, perm=[0, 1, 3, 2])
    return b.node("Mul", b.qdq(b.node("MatMul", b.qdq(b.node("Sigmoid", x), 1 / 256, -128), turned), STEP, 3), b.const(np.float32(0.2)))


CASES: dict[str, Build] = {
    "Conv SAME_UPPER": weighted("Conv", (6, 4, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    "Conv SAME_LOWER": weighted("Conv", (6, 4, 2, 4), auto_pad="SAME_LOWER", strides=[1, 2]),
    "Conv groups": weighted("Conv", (6, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    "Conv 1-D": lines(weighted("Conv", (6, 4, 5), strides=[2], pads=[2, 1], dilations=[2])),
    "Conv 1-D depthwise": lines(weighted("Conv", (4, 1, 3), group=4)),
    "ConvTranspose 2": weighted("ConvTranspose", (4, 5, 2, 2), 1, strides=[2, 2]),
    "ConvTranspose 3": weighted("ConvTranspose", (4, 5, 3, 3), 1, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    "ConvTranspose 4": weighted("ConvTranspose", (4, 3, 4, 5), 1, strides=[2, 3], pads=[1, 0, 1, 2]),
    "AveragePool padded": plain("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    "MaxPool 1-D": lines(plain("MaxPool", kernel_shape=[3], strides=[2], pads=[1, 0])),
    "GlobalMaxPool": plain("GlobalMaxPool"),
    "GlobalAveragePool 1-D": lines(plain("GlobalAveragePool")),
    "DepthToSpace": plain("DepthToSpace", blocksize=2),
    "DepthToSpace CRD": plain("DepthToSpace", blocksize=2, mode="CRD"),
    "SpaceToDepth": lambda b, x: b.node("SpaceToDepth", b.node("Pad", x, b.const(np.array([0, 0, 0, 1, 0, 0, 0, 1]))), blocksize=3),
    "HardSigmoid": plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    "PRelu": plain("PRelu", np.array([0.1, 0.25, 0, 0.5], np.float32).reshape(4, 1, 1)),
    "BatchNormalization": normalised,
    "Elu": plain("Elu", alpha=0.7),
    "Abs": plain("Abs"),
    "Exp": lambda b, x: b.node("Exp", b.node("Neg", b.node("Abs", x))),
    "Gelu": gelu,
    "Max": plain("Max", np.float32(-0.3)),
    "Pow": plain("Pow", np.float32(2)),
    "Sqrt": lambda b, x: b.node("Sqrt", b.node("Abs", x)),
    "ReduceSum": lambda b, x: b.node(
        "ReduceSum", b.qdq(b.node("Mul", x, b.const(np.float32(0.2))), STEP, 0), b.const(np.array([2])), keepdims=0
    ),
    "ReduceMax": plain("ReduceMax", axes=[1, 3]),
    "ReduceMin": plain("ReduceMin", axes=[-1], keepdims=0),
    "ReduceMean, Relu": lambda b, x: b.node("Relu", b.node("ReduceMean", x, axes=[3])),
    "Gather": plain("Gather", np.array([2, 0, -1, 2]), axis=1),
    "Gather one": plain("Gather", np.array(3), axis=2),
    "MatMul": attention,
    "Resize linear": plain("Resize", np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32), mode="linear"),
}


TIES = ("Resize linear", "HardSigmoid", "PRelu")  # many results lie between two steps


@pytest.fixture(scope="module")
def results() -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """By case: what ONNX Runtime computes, and the C. All cases are outputs of one network, compiled once."""
    b = OnnxBuilder()
    b.input("x", SHAPE)
    x = b.qdq("x", STEP, 5)
    outputs = {case: b.qdq(build(b, x), STEP, -9) for case, build in CASES.items()}
    for name in outputs.values():
        b.output(name)
    data, rng = b.bytes(), np.random.default_rng(4)
    session, library = (
        onnxruntime.InferenceSession(data),
        HostModel(tvm_tiny.build(data, "c", name="net", optimize="speed", disable=["order-ops"])),
    )
    samples = [rng.normal(0, 0.7, SHAPE).astype(np.float32) for _ in range(3)]
    pairs = [list(zip(session.run(None, {"x": x}), library(x), strict=True)) for x in samples]
    return {case: [sample[i] for sample in pairs] for i, case in enumerate(outputs)}


@pytest.mark.host_cc
@pytest.mark.parametrize("case", CASES)
def test_within_one_step(case: str, results: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> None:
    steps = []
    for theirs, ours in results[case]:
        assert ours.shape == theirs.shape
        assert np.ptp(theirs) > 0
        steps.append(np.abs(ours - theirs).ravel() / STEP)
    assert np.max(steps) < 1.01
    assert np.mean(np.array(steps) > 0.5) < (0.2 if case in TIES else 0.03)


def test_no_case_computes_in_float() -> None:
    """But an interpolation between integers of another scale."""
    b = OnnxBuilder()
    b.input("x", SHAPE)
    x = b.qdq("x", STEP, 5)
    for build in CASES.values():
        b.output(b.qdq(build(b, x), STEP, -9))
    converted = QuantizeToInteger()(tvm_tiny.load(b.bytes()))
    assert {kind for _, kind in float_islands(converted)} <= {"relax.image.resize2d"}


def test_what_no_rewrite_takes_is_refused() -> None:
    b = OnnxBuilder()
    b.input("x", SHAPE)
    weights = b.weights(np.ones((4, 1, 3, 3)), 0.1)
    b.output(b.qdq(b.node("ConvTranspose", b.qdq("x", STEP, 5), weights, group=4), STEP, 0))
    with pytest.raises(UnsupportedModelError, match=r"ConvTranspose.*this form of it is not supported; supported: two dimensions"):
        tvm_tiny.load(b.bytes())
