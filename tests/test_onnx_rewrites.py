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
    "Resize linear": plain("Resize", np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32), mode="linear"),
}


TIES = ("Resize linear", "HardSigmoid")  # many results lie between two steps


def model_of(case: str) -> bytes:
    b = OnnxBuilder()
    b.input("x", SHAPE)
    b.output(b.qdq(CASES[case](b, b.qdq("x", STEP, 5)), STEP, -9))
    return b.bytes()


@pytest.mark.host_cc
@pytest.mark.parametrize("case", CASES)
def test_within_one_step(case: str, rng: np.random.Generator) -> None:
    data = model_of(case)
    session, library = onnxruntime.InferenceSession(data), HostModel(tvm_tiny.build(data, "c", name="net"))
    steps = []
    for _ in range(3):
        x = rng.normal(0, 1.2, SHAPE).astype(np.float32)
        (theirs,), (ours,) = session.run(None, {"x": x}), library(x)
        assert ours.shape == theirs.shape
        steps.append(np.abs(ours - theirs) / STEP)
    assert np.ptp(theirs) > 0
    assert np.max(steps) < 1.01
    assert np.mean(np.array(steps) > 0.5) < (0.2 if case in TIES else 0.02)


def test_what_no_rewrite_takes_is_refused() -> None:
    b = OnnxBuilder()
    b.input("x", SHAPE)
    weights = b.weights(np.ones((4, 1, 3, 3)), 0.1)
    b.output(b.qdq(b.node("ConvTranspose", b.qdq("x", STEP, 5), weights, group=4), STEP, 0))
    with pytest.raises(UnsupportedModelError, match=r"ConvTranspose.*this form of it is not supported; supported: two dimensions"):
        tvm_tiny.load(b.bytes())
