# SPDX-License-Identifier: Apache-2.0
"""The ONNX importer: the same QDQ form as TFLite, NHWC, and its meaning against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.support.onnx_builder import OnnxBuilder
from tests.support.qdq import bindings, check_qdq, compile_qdq, model_of, name_of, run_qdq
from tests.support.shared import SHARED, needs_shared
from tvm_tiny.frontend import load
from tvm_tiny.frontend.check import check

runtime = pytest.importorskip("onnxruntime")
RNG = np.random.default_rng(5)


def reference(data: bytes, *inputs: np.ndarray) -> list[np.ndarray]:
    """ONNX Runtime without graph optimisations, which would fuse QDQ into kernels that round elsewhere."""
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(data, options)
    return session.run(None, {port.name: x for port, x in zip(session.get_inputs(), inputs, strict=True)})


def names(data: bytes) -> list[str]:
    """The operators of the imported module, without constants' dequantize."""
    return [name_of(v).removeprefix("relax.") for v in bindings(load(data)).values()]


def one(build: Callable[[OnnxBuilder, str], str], shape: list[int], scale: float = 0.05, zero: int = 3, out: float = 0.1) -> bytes:
    """input → Q → DQ → `build` → Q → DQ → output."""
    b = OnnxBuilder()
    y = build(b, b.qdq(b.input("x", list(shape)), scale, zero))
    b.output(b.qdq(y, out, -5))
    return b.bytes()


def conv(b: OnnxBuilder, x: str, channels: int, out: int, *, group: int = 1, bias: bool = True, **attributes: object) -> str:
    """A 3x3 convolution with per-channel weights."""
    scales = (np.arange(out) % 5 + 1) * 0.004
    weights = b.weights(RNG.integers(-127, 128, (out, channels // group, 3, 3)), scales)
    operands = [x, weights]
    if bias:
        operands.append(b.bias(RNG.integers(-900, 900, out), scales * 0.05))
    return b.node("Conv", *operands, kernel_shape=[3, 3], group=group, **attributes)


IMAGE = [1, 4, 9, 7]
RESIZE = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
GATHERED = {
    "conv": lambda b, x: conv(b, x, 4, 6, pads=[0, 0, 1, 1], strides=[2, 2]),
    "conv without bias": lambda b, x: conv(b, x, 4, 6, bias=False),
    "depthwise": lambda b, x: conv(b, x, 4, 4, group=4, pads=[1, 1, 1, 1]),
    "depthwise with multiplier": lambda b, x: conv(b, x, 4, 8, group=4, dilations=[2, 2]),
    "conv relu": lambda b, x: b.node("Relu", conv(b, x, 4, 6)),
    "conv relu6": lambda b, x: b.node("Clip", conv(b, x, 4, 6), b.const(np.float32(0)), b.const(np.float32(6))),
    "relu": lambda b, x: b.node("Relu", x),
    "leaky relu": lambda b, x: b.node("LeakyRelu", x, alpha=0.2),
    "sigmoid": lambda b, x: b.node("Sigmoid", x),
    "tanh": lambda b, x: b.node("Tanh", x),
    "softmax over channels": lambda b, x: b.node("Softmax", x, axis=1),
    "average pool": lambda b, x: b.node("AveragePool", x, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    "max pool": lambda b, x: b.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 1]),
    "global average pool": lambda b, x: b.node("GlobalAveragePool", x),
    "reduce mean": lambda b, x: b.node("ReduceMean", x, axes=[2, 3], keepdims=0),
    "reduce mean of channels": lambda b, x: b.node("ReduceMean", x, axes=[1], keepdims=1),
    "add": lambda b, x: b.node("Add", x, conv(b, x, 4, 4, pads=[1, 1, 1, 1])),
    "sub constant": lambda b, x: b.node("Sub", x, b.weights(RNG.integers(-99, 99, (1, 4, 1, 1)), 0.02)),
    "mul by gate": lambda b, x: b.node("Mul", x, b.qdq(b.node("Sigmoid", b.qdq(b.node("GlobalAveragePool", x), 0.02, 0)), 1 / 256, -128)),
    "flatten": lambda b, x: b.node("Flatten", x),
    "reshape": lambda b, x: b.node("Reshape", x, b.const(np.array([1, 4, -1]))),
    "transpose": lambda b, x: b.node("Transpose", x, perm=[0, 2, 3, 1]),
    "transposes cancel": lambda b, x: b.node("Transpose", b.node("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2]),
    "concat of channels": lambda b, x: b.node("Concat", x, conv(b, x, 4, 4, pads=[1, 1, 1, 1]), axis=1),
    "split": lambda b, x: b.node("Add", *b.node("Split", x, b.const(np.array([2, 2])), outputs=2, axis=1)),
    "slice": lambda b, x: b.node("Slice", x, *(b.const(np.array(v)) for v in ([1, -6], [8, 6], [2, 3], [2, 1]))),
    "pad": lambda b, x: b.node("Pad", x, b.const(np.array([0, 0, 1, 2, 0, 0, 3, 0]))),
    "resize": lambda b, x: b.node("Resize", x, "", b.const(np.array([1, 1, 2, 2], np.float32)), **RESIZE),
    "squeeze unsqueeze": lambda b, x: b.node("Unsqueeze", b.node("Squeeze", x, b.const(np.array([0]))), b.const(np.array([0]))),
    "dense": lambda b, x: b.node(
        "Gemm",
        b.node("Flatten", b.node("MaxPool", x, kernel_shape=[3, 3], strides=[3, 3])),
        b.weights(RNG.integers(-127, 128, (5, 24)), 0.004),
        b.bias(RNG.integers(-500, 500, 5), 0.004 * 0.05),
        transB=1,
    ),
    "conv with a bias of other scales": lambda b, x: b.node(
        "Conv", x, b.weights(RNG.integers(-127, 128, (6, 4, 3, 3)), 0.004), b.bias(RNG.integers(-90, 90, 6), np.linspace(0.01, 0.02, 6))
    ),
    "matmul with float bias": lambda b, x: b.node(
        "Add", b.node("MatMul", x, b.weights(RNG.integers(-127, 128, (7, 5)), 0.004)), b.const(RNG.standard_normal(5).astype(np.float32))
    ),
}


@pytest.mark.parametrize("build", GATHERED.values(), ids=GATHERED.keys())
def test_operator_means_what_onnxruntime_computes(build: Callable[[OnnxBuilder, str], str]) -> None:
    """Same shape, within one step of the output's scale (0.1), and in QDQ form."""
    data = one(build, IMAGE)
    check_qdq(load(data))
    x = RNG.uniform(-6, 6, IMAGE).astype(np.float32)
    (want,), (got,) = reference(data, x), run_qdq(load(data), x)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 0.1001
    assert np.ptp(want) > 0, "the test says nothing: the output is constant"


def test_hard_swish() -> None:
    b = OnnxBuilder(14)
    b.output(b.qdq(b.node("HardSwish", b.qdq(b.input("x", IMAGE), 0.05, 3)), 0.05, -100))
    got = names(b.bytes())
    assert got[got.index("quantize") + 1 :] == ["dequantize", "add", "clip", "divide", "multiply", "quantize", "dequantize"]
    x = RNG.uniform(-6, 6, IMAGE).astype(np.float32)
    assert np.abs(run_qdq(load(b.bytes()), x)[0] - reference(b.bytes(), x)[0]).max() <= 0.0501


def test_relu6_is_an_integer_clip() -> None:
    got = names(one(GATHERED["conv relu6"], IMAGE))
    convolution = ["dequantize", "dequantize", "nn.conv2d", "dequantize", "add", "quantize", "clip"]
    assert got == ["quantize", "permute_dims", *convolution, "permute_dims", "dequantize"]


def test_transposes_around_a_network_cancel() -> None:
    """An NHWC file of NCHW operators: no transpose is left."""
    b = OnnxBuilder()
    x = b.qdq(b.node("Transpose", b.input("x", [1, 9, 7, 4]), perm=[0, 3, 1, 2]), 0.05, 3)
    y = b.qdq(b.node("Relu", conv(b, x, 4, 4, pads=[1, 1, 1, 1])), 0.1, -128)
    b.output(b.node("Transpose", b.qdq(b.node("Add", x, y), 0.1, 0), perm=[0, 2, 3, 1]))
    got = names(b.bytes())
    assert "permute_dims" not in got
    assert got.count("nn.conv2d") == 1
    x = RNG.uniform(-6, 6, (1, 9, 7, 4)).astype(np.float32)
    assert np.abs(run_qdq(load(b.bytes()), x)[0] - reference(b.bytes(), x)[0]).max() <= 0.1001


def test_flatten_before_a_dense_layer_needs_no_transpose() -> None:
    """The rows of the weights are put in the image's order instead, quantised again in between or not."""
    for again in (False, True):
        b = OnnxBuilder()
        x = b.qdq(conv(b, b.qdq(b.input("x", [1, 1, 9, 7]), 0.05, 3), 1, 6, strides=[2, 2]), 0.1, 4)
        flat = b.node("Flatten", x)
        flat = b.qdq(flat, 0.1, 4) if again else flat
        b.output(b.qdq(b.node("Gemm", flat, b.weights(RNG.integers(-127, 128, (5, 72)), 0.004), transB=1), 0.1, 0))
        assert "permute_dims" not in names(b.bytes())
        x = RNG.uniform(-6, 6, (1, 1, 9, 7)).astype(np.float32)
        assert np.abs(run_qdq(load(b.bytes()), x)[0] - reference(b.bytes(), x)[0]).max() <= 0.1001


def test_int8_at_the_ends() -> None:
    from onnx import TensorProto

    b = OnnxBuilder()
    x = b.dequantize(b.input("x", IMAGE, TensorProto.INT8), 0.05, 3)
    b.output(b.quantize(b.node("Relu", conv(b, x, 4, 6)), 0.1, -128), None, TensorProto.INT8)
    mod = load(b.bytes())
    check_qdq(mod)
    model = model_of(mod)
    assert model["inputs"] == [{"name": "x", "dtype": "int8", "shape": IMAGE, "scale": pytest.approx(0.05), "zero_point": 3}]
    assert model["outputs"][0]["scale"] == pytest.approx(0.1)
    assert model["outputs"][0]["dtype"] == "int8"
    x = RNG.integers(-128, 128, IMAGE).astype(np.int8)
    assert np.abs(run_qdq(mod, x)[0].astype(int) - reference(b.bytes(), x)[0]).max() <= 1


def test_relu_in_one_scale_is_a_clip_behind_a_quantise() -> None:
    b = OnnxBuilder()
    b.output(b.qdq(b.node("Relu", b.qdq(b.input("x", IMAGE), 0.05, 3)), 0.05, 3))
    data = b.bytes()
    check_qdq(load(data))
    assert names(data) == ["quantize", "clip", "dequantize"]


def test_concat_requantises_its_operands() -> None:
    got = names(one(GATHERED["concat of channels"], IMAGE))
    assert got[: got.index("concat")].count("quantize") == 3  # the input's, the convolution's in the result's scale, the requantise


def test_batch_of_unknown_size_is_one() -> None:
    b = OnnxBuilder()
    b.output(b.qdq(b.node("Relu", b.qdq(b.input("x", ["batch", 4, 9, 7]), 0.05, 3)), 0.1, -5))
    assert model_of(load(b.bytes()))["inputs"][0]["shape"] == IMAGE


@needs_shared
@pytest.mark.parametrize("stem", ["kws_ref_model", "resnet"])
def test_reference_models(stem: str) -> None:
    path = SHARED / "models" / "onnx" / f"{stem}.onnx"
    mod = load(path)
    check_qdq(mod)
    assert check(path).ok
    assert "permute_dims" not in [name_of(v).removeprefix("relax.") for v in bindings(mod).values()]
    port, run = model_of(mod)["inputs"][0], compile_qdq(mod)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        x = rng.uniform(0, 255, port["shape"]) if stem == "resnet" else rng.standard_normal(port["shape"]) * 40
        (want,), (got,) = reference(path.read_bytes(), x.astype(np.float32)), run(x.astype(np.float32))
        assert np.abs(got - want).max() <= 0.1  # probabilities; a step of the last logits is 0.17
