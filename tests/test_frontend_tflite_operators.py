# SPDX-License-Identifier: Apache-2.0
"""Every supported TFLite operator: the form it comes in as (the contract, asserted) and its meaning against the reference interpreter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.support.qdq import bindings, check_qdq, model_of, name_of, run_qdq
from tests.support.tflite_graphs import GraphBuilder
from tvm_tiny.frontend import load
from tvm_tiny.frontend.tflite_operators import RULES
from tvm_tiny.frontend.tflite_reader import read_graph

RNG = np.random.default_rng(11)
IMAGE = (1, 6, 5, 4)
WINDOW = {"stride_h": 2, "stride_w": 1, "padding": 0}


def conv(b: GraphBuilder, activation: int = 3, padding: int = 0) -> int:
    """3x2 convolution, per channel, fused RELU6."""
    x, scales = b.input(IMAGE), np.array([0.01, 0.02, 0.005])
    w = b.tensor((3, 3, 2, 4), scales, data=RNG.integers(-127, 128, (3, 3, 2, 4)))
    bias = b.tensor((3,), scales * 0.05, dtype="int32", data=RNG.integers(-900, 900, 3))
    shape = (1, 3, 5, 3) if padding == 0 else (1, 2, 4, 3)
    options = {**WINDOW, "padding": padding, "activation": activation}
    return b.op("CONV_2D", [x, w, bias], b.tensor(shape, 0.05, -20), **options)


def depthwise(b: GraphBuilder) -> int:
    x, scales = b.input(IMAGE), np.linspace(0.01, 0.03, 8)
    w = b.tensor((1, 3, 3, 8), scales, data=RNG.integers(-127, 128, (1, 3, 3, 8)), axis=3)
    bias = b.tensor((8,), scales * 0.05, dtype="int32", data=RNG.integers(-900, 900, 8))
    options = {"stride_h": 1, "stride_w": 1, "padding": 1, "depth_multiplier": 2}
    return b.op("DEPTHWISE_CONV_2D", [x, w, bias], b.tensor((1, 4, 3, 8), 0.1, 7), **options)


def dense_of_an_image(b: GraphBuilder) -> int:
    x = b.input((1, 2, 3, 4))
    w = b.tensor((5, 24), 0.01, data=RNG.integers(-127, 128, (5, 24)))
    return b.op("FULLY_CONNECTED", [x, w, -1], b.tensor((1, 5), 0.1, -3), activation=1)


def binary(kind: str) -> Callable[[GraphBuilder], int]:
    return lambda b: b.op(kind, [b.input(IMAGE), b.input((1, 1, 1, 4), 0.03, -9)], b.tensor(IMAGE, 0.07, 5))


def unary(kind: str, scale: float = 0.05, zero: int = 3, **options: object) -> Callable[[GraphBuilder], int]:
    return lambda b: b.op(kind, [b.input(IMAGE)], b.tensor(IMAGE, scale, zero), **options)


def pool(kind: str) -> Callable[[GraphBuilder], int]:
    options = {"stride_h": 2, "stride_w": 2, "filter_h": 3, "filter_w": 2, "padding": 0, "activation": 1}
    return lambda b: b.op(kind, [b.input(IMAGE)], b.tensor((1, 3, 3, 4), 0.05, 3), **options)


def moved(kind: str, shape: tuple[int, ...], *constants: Callable[[GraphBuilder], int], **options: object) -> Callable[[GraphBuilder], int]:
    def build(b: GraphBuilder) -> int:
        x = b.input(IMAGE)
        return b.op(kind, [x, *(c(b) for c in constants)], b.tensor(shape, 0.05, 3), **options)

    return build


def ints(*values: int, shape: object = None) -> Callable[[GraphBuilder], int]:
    return lambda b: b.ints(*values, shape=shape)


def concat(b: GraphBuilder) -> int:
    return b.op("CONCATENATION", [b.input(IMAGE), b.input((1, 6, 5, 2))], b.tensor((1, 6, 5, 6), 0.05, 3), axis=-1)


def split(b: GraphBuilder) -> int:
    axis, x = b.ints(3, shape=()), b.input(IMAGE)
    parts = [b.tensor((1, 6, 5, 2), 0.05, 3) for _ in range(2)]
    b.op("SPLIT", [axis, x], parts, num_splits=2)
    return parts[1]


def quantize(b: GraphBuilder) -> int:
    return b.op("QUANTIZE", [b.input(IMAGE, None, dtype="float32")], b.tensor(IMAGE, 0.05, 3))


def dequantize(b: GraphBuilder) -> int:
    return b.op("DEQUANTIZE", [b.input(IMAGE)], b.tensor(IMAGE, dtype="float32"))


def padv2(b: GraphBuilder) -> int:
    return moved("PADV2", (1, 8, 8, 4), ints(0, 0, 1, 1, 3, 0, 0, 0, shape=(4, 2)), lambda b: b.tensor((), 0.05, 3, data=-77))(b)


def grouped(b: GraphBuilder) -> int:
    w = b.tensor((6, 1, 1, 2), 0.01, data=RNG.integers(-127, 128, (6, 1, 1, 2)))
    return b.op("CONV_2D", [b.input(IMAGE), w, -1], b.tensor((1, 6, 5, 6), 0.05, 1), stride_h=1, stride_w=1, padding=0)


def transposed(b: GraphBuilder) -> int:
    x, scales = b.input((1, 3, 2, 4)), np.array([0.01, 0.02, 0.005])
    w = b.tensor((3, 3, 3, 4), scales, data=RNG.integers(-127, 128, (3, 3, 3, 4)))
    bias = b.tensor((3,), scales * 0.05, dtype="int32", data=RNG.integers(-900, 900, 3))
    options = {"stride_h": 2, "stride_w": 1, "padding": 0, "activation": 3}
    return b.op("TRANSPOSE_CONV", [b.ints(1, 6, 2, 3), w, x, bias], b.tensor((1, 6, 2, 3), 0.05, -20), **options)


def split_v(b: GraphBuilder) -> int:
    outputs = [b.tensor((1, 6, 5, n), 0.05, 3) for n in (3, 1)]
    return b.op("SPLIT_V", [b.input(IMAGE), b.ints(3, -1), b.ints(-1, shape=())], outputs, num_splits=2)


def pack(b: GraphBuilder) -> int:
    x = b.input((1, 6, 5))
    return b.op("PACK", [x, x], b.tensor((1, 6, 2, 5), 0.05, 3), values_count=2, axis=2)


def unpack(b: GraphBuilder) -> int:
    return b.op("UNPACK", [b.input(IMAGE)], [b.tensor((1, 6, 5), 0.05, 3) for _ in range(4)], num=4, axis=-1)


def batch_matmul(adj_x: bool, adj_y: bool, constant: bool = False) -> Callable[[GraphBuilder], int]:
    def build(b: GraphBuilder) -> int:
        x = b.input((2, 1, 5, 4) if adj_x else (2, 1, 4, 5), 0.05, 3)
        shape = (3, 6, 5) if adj_y else (3, 5, 6)
        y = b.tensor(shape, 0.03, -9, data=RNG.integers(-128, 128, shape)) if constant else b.input(shape, 0.03, -9)
        return b.op("BATCH_MATMUL", [x, y], b.tensor((2, 3, 4, 6), 0.2, 11), adj_x=adj_x, adj_y=adj_y)

    return build


def prelu(b: GraphBuilder) -> int:
    return b.op("PRELU", [b.input(IMAGE), b.tensor((1, 1, 4), 0.004, 20, data=[-128, 20, 100, 127])], b.tensor(IMAGE, 0.06, -9))


def real(b: GraphBuilder) -> int:
    return b.tensor(IMAGE, dtype="float32")


def in_float(kind: str, operands: int = 1) -> Callable[[GraphBuilder], int]:
    """Of numbers above zero, so that every function has a value."""
    return lambda b: b.op(kind, [b.op("DEQUANTIZE", [b.input(IMAGE, 0.05, -128)], real(b)) for _ in range(operands)], real(b))


BATCH, SPACE = (6, 2, 3, 4), (1, 3, 7, 4)
FLOAT = {"CEIL": "ceil", "COS": "cos", "EXP": "exp", "FLOOR": "floor", "LOG": "log", "NEG": "negative", "SIN": "sin", "SQRT": "sqrt"}
FLOAT |= {"SQUARE": "square"}
POSITIVE = {"RSQRT", "LOG", "DIV"}  # of zero they have no value
D, Q = "dequantize", "quantize"
CASES: dict[str, tuple[Callable[[GraphBuilder], int], list[str]]] = {
    "CONV_2D": (conv, [D, D, "nn.conv2d", D, "add", Q, "clip"]),
    "CONV_2D VALID": (lambda b: conv(b, 0, 1), [D, D, "nn.conv2d", D, "add", Q]),
    "DEPTHWISE_CONV_2D": (depthwise, [D, D, "nn.conv2d", D, "add", Q]),
    "FULLY_CONNECTED": (dense_of_an_image, ["reshape", D, D, "matmul", Q, "clip"]),
    "ADD": (binary("ADD"), [D, D, "add", Q]),
    "SUB": (binary("SUB"), [D, D, "subtract", Q]),
    "MUL": (binary("MUL"), [D, D, "multiply", Q]),
    "AVERAGE_POOL_2D": (pool("AVERAGE_POOL_2D"), [D, "nn.avg_pool2d", Q, "clip"]),
    "MAX_POOL_2D": (pool("MAX_POOL_2D"), [D, "nn.max_pool2d", Q, "clip"]),
    "MEAN": (
        lambda b: b.op("MEAN", [b.input(IMAGE), b.ints(1, 2)], b.tensor((1, 1, 1, 4), 0.02, 1), keep_dims=True),
        [D, "mean", Q],
    ),
    "SOFTMAX": (unary("SOFTMAX", 1 / 256, -128, beta=1.0), [D, "nn.softmax", Q]),
    "SOFTMAX beta": (unary("SOFTMAX", 1 / 256, -128, beta=0.5), [D, "multiply", "nn.softmax", Q]),
    "LOGISTIC": (unary("LOGISTIC", 1 / 256, -128), [D, "sigmoid", Q]),
    "TANH": (unary("TANH", 1 / 128, 0), [D, "tanh", Q]),
    "HARD_SWISH": (unary("HARD_SWISH", 0.04, -100), [D, "add", "clip", "divide", "multiply", Q]),
    "LEAKY_RELU": (unary("LEAKY_RELU", 0.06, -30, alpha=0.1), [D, "nn.leakyrelu", Q]),
    "RELU": (unary("RELU", 0.03, -100), [D, Q, "clip"]),
    "RELU6": (unary("RELU6"), [D, Q, "clip"]),
    "QUANTIZE": (quantize, [Q]),
    "QUANTIZE int8": (unary("QUANTIZE", 0.08, -9), [D, Q]),
    "DEQUANTIZE": (dequantize, [D]),
    "RESHAPE": (moved("RESHAPE", (1, 30, 4), ints(1, -1, 4)), ["reshape"]),
    "SQUEEZE": (moved("SQUEEZE", (6, 5, 4), squeeze_dims=(0,)), ["reshape"]),
    "EXPAND_DIMS": (moved("EXPAND_DIMS", (1, 1, 6, 5, 4), ints(0, shape=())), ["reshape"]),
    "PAD": (moved("PAD", (1, 8, 8, 4), ints(0, 0, 1, 1, 3, 0, 0, 0, shape=(4, 2))), ["nn.pad"]),
    "PADV2": (padv2, ["nn.pad"]),
    "TRANSPOSE": (moved("TRANSPOSE", (1, 4, 6, 5), ints(0, 3, 1, 2)), ["permute_dims"]),
    "CONCATENATION": (concat, ["concat"]),
    "SPLIT": (split, ["split", "TupleGetItem"]),
    "STRIDED_SLICE": (
        moved("STRIDED_SLICE", (1, 3, 4), ints(0, 1, 1, -9), ints(1, 6, 3, -1), ints(1, 2, 1, 1), end_mask=8, shrink_axis_mask=4),
        ["strided_slice", "reshape"],
    ),
    "RESIZE_NEAREST_NEIGHBOR": (moved("RESIZE_NEAREST_NEIGHBOR", (1, 11, 9, 4), ints(11, 9)), ["image.resize2d"]),
    "RESIZE_NEAREST_NEIGHBOR align": (
        moved("RESIZE_NEAREST_NEIGHBOR", (1, 11, 9, 4), ints(11, 9), align_corners=True),
        ["image.resize2d"],
    ),
    "RESIZE_NEAREST_NEIGHBOR half": (
        moved("RESIZE_NEAREST_NEIGHBOR", (1, 11, 9, 4), ints(11, 9), half_pixel_centers=True),
        ["image.resize2d"],
    ),
}
CASES |= {
    "CONV_2D groups": (grouped, ["split", *[D, "TupleGetItem", D, "nn.conv2d", Q] * 2, "concat"]),
    "TRANSPOSE_CONV": (
        transposed,
        [D, D, "nn.conv2d", D, "add", Q, "clip", "reshape", "permute_dims", "reshape"],
    ),
    "SLICE": (moved("SLICE", (1, 3, 4, 2), ints(0, 2, 1, 1), ints(-1, 3, -1, 2)), ["strided_slice"]),
    "SPLIT_V": (split_v, ["split", "TupleGetItem"]),
    "PACK": (pack, ["reshape", "reshape", "concat"]),
    "UNPACK": (
        unpack,
        ["split", "TupleGetItem", "reshape"],
    ),
    "DEPTH_TO_SPACE": (moved("DEPTH_TO_SPACE", (1, 12, 10, 1), block_size=2), ["reshape", "permute_dims", "reshape"]),
    "SPACE_TO_DEPTH": (
        lambda b: b.op("SPACE_TO_DEPTH", [b.input((1, 6, 4, 3))], b.tensor((1, 3, 2, 12), 0.05, 3), block_size=2),
        ["reshape", "permute_dims", "reshape"],
    ),
    "MAXIMUM": (moved("MAXIMUM", IMAGE, lambda b: b.tensor((4,), 0.05, 3, data=[3, -20, 90, -128])), ["maximum"]),
    "MINIMUM": (moved("MINIMUM", IMAGE, lambda b: b.tensor((), 0.05, 3, data=[-7])), ["minimum"]),
    "REDUCE_MAX": (moved("REDUCE_MAX", (1, 4), ints(2, 1)), [D, "max", Q]),
    "REDUCE_MIN": (moved("REDUCE_MIN", (1, 1, 5, 1), ints(3, 1), keep_dims=True), [D, "min", Q]),
    "SUM": (lambda b: b.op("SUM", [b.input(IMAGE), b.ints(1, -1)], b.tensor((1, 5), 0.3, -7)), [D, "sum", Q]),
    "ARG_MAX": (lambda b: b.op("ARG_MAX", [b.input(IMAGE), b.ints(3, shape=())], b.tensor((1, 6, 5), dtype="int32")), ["argmax", "astype"]),
    "ARG_MIN": (lambda b: b.op("ARG_MIN", [b.input(IMAGE), b.ints(1)], b.tensor((1, 5, 4), dtype="int32")), ["argmin", "astype"]),
    "GATHER": (moved("GATHER", (1, 6, 2, 2, 4), ints(4, 0, 1, 1, shape=(2, 2)), axis=2), ["take", "reshape"]),
    "MIRROR_PAD": (moved("MIRROR_PAD", (1, 9, 7, 4), ints(0, 0, 1, 2, 0, 2, 0, 0, shape=(4, 2))), ["take", "take", "reshape"]),
    "MIRROR_PAD symmetric": (moved("MIRROR_PAD", (1, 12, 5, 4), ints(0, 0, 6, 0, 0, 0, 0, 0, shape=(4, 2)), mode=1), ["take", "reshape"]),
    "BROADCAST_TO": (
        lambda b: b.op("BROADCAST_TO", [b.input((5, 1)), b.ints(2, 5, 4)], b.tensor((2, 5, 4), 0.05, 3)),
        ["reshape", "take", "take", "reshape"],
    ),
    "REVERSE_V2": (moved("REVERSE_V2", IMAGE, ints(1, 2)), ["flip", "flip", "reshape"]),
    "SPACE_TO_BATCH_ND": (  # without padding: the interpreter of the tests pads with a number it never set
        lambda b: b.op(
            "SPACE_TO_BATCH_ND", [b.input((1, 8, 9, 4)), b.ints(2, 3), b.ints(0, 0, 0, 0, shape=(2, 2))], b.tensor((6, 4, 3, 4), 0.05, 3)
        ),
        ["reshape", "permute_dims", "reshape"],
    ),
    "UNPACK of one": (lambda b: b.op("UNPACK", [b.input((1, 6, 5))], b.tensor((6, 5), 0.05, 3), num=1), ["reshape", "reshape"]),
    "SPLIT of one": (
        lambda b: b.op("SPLIT", [b.ints(1, shape=()), b.input((1, 6, 5))], b.tensor((1, 6, 5), 0.05, 3), num_splits=1),
        ["reshape"],
    ),
    "SPACE_TO_BATCH_ND lines": (
        lambda b: b.op("SPACE_TO_BATCH_ND", [b.input((2, 6, 3)), b.ints(2), b.ints(0, 0, shape=(1, 2))], b.tensor((4, 3, 3), 0.05, 3)),
        ["reshape", "permute_dims", "reshape"],
    ),
    "BATCH_TO_SPACE_ND": (
        lambda b: b.op("BATCH_TO_SPACE_ND", [b.input(BATCH), b.ints(2, 3), b.ints(1, 0, 0, 2, shape=(2, 2))], b.tensor(SPACE, 0.05, 3)),
        ["reshape", "permute_dims", "reshape", "strided_slice"],
    ),
    "STRIDED_SLICE backwards": (
        moved("STRIDED_SLICE", (1, 3, 5, 2), ints(0, -2, 0, 3), ints(1, -9, 0, 0), ints(1, -2, -1, -2), begin_mask=4, end_mask=4),
        ["strided_slice", "flip", "flip", "flip"],
    ),
    "BATCH_MATMUL": (batch_matmul(False, False), [D, D, "matmul", Q]),
    "BATCH_MATMUL both": (batch_matmul(True, True), ["permute_dims", D, "permute_dims", D, "matmul", Q]),
    "BATCH_MATMUL constant": (batch_matmul(False, True, constant=True), [D, D, "matmul", Q]),
    "PRELU": (prelu, [D, D, "clip", "clip", "multiply", "add", Q]),
    "SQUARED_DIFFERENCE": (binary("SQUARED_DIFFERENCE"), [D, D, "subtract", "square", Q]),
    "ABS": (unary("ABS", 0.03, -120), [D, "abs", Q]),
    "ELU": (unary("ELU", 0.03, -90), [D, "minimum", "exp", "nn.relu", "subtract", "add", Q]),
    "RSQRT": (lambda b: b.op("RSQRT", [b.input(IMAGE, 0.05, -128)], b.tensor(IMAGE, 0.02, -128)), [D, "rsqrt", Q]),
    **{kind: (in_float(kind), [D, function]) for kind, function in FLOAT.items()},
    "DIV": (in_float("DIV", 2), [D, D, "divide"]),
    "RESIZE_BILINEAR": (moved("RESIZE_BILINEAR", (1, 11, 9, 4), ints(11, 9)), [D, "image.resize2d", Q]),
    "RESIZE_BILINEAR align": (moved("RESIZE_BILINEAR", (1, 11, 9, 4), ints(11, 9), align_corners=True), [D, "image.resize2d", Q]),
    "RESIZE_BILINEAR half": (moved("RESIZE_BILINEAR", (1, 4, 3, 4), ints(4, 3), half_pixel_centers=True), [D, "image.resize2d", Q]),
}
EXACT = {
    "ARG_MAX",
    "ARG_MIN",
    "BATCH_TO_SPACE_ND",
    "BROADCAST_TO",
    "GATHER",
    "MIRROR_PAD",
    "REDUCE_MIN",
    "REVERSE_V2",
    "SPACE_TO_BATCH_ND",
    "SLICE",
    "SPLIT_V",
    "PACK",
    "UNPACK",
    "DEPTH_TO_SPACE",
    "SPACE_TO_DEPTH",
    "MAXIMUM",
    "MINIMUM",
    "REDUCE_MAX",
    "RESHAPE",
    "SQUEEZE",
    "EXPAND_DIMS",
    "PAD",
    "PADV2",
    "TRANSPOSE",
    "CONCATENATION",
    "SPLIT",
    "STRIDED_SLICE",
    "RESIZE_NEAREST_NEIGHBOR",
}


def build(case: str) -> GraphBuilder:
    builder = GraphBuilder()
    return builder.output(CASES[case][0](builder))


def test_every_supported_operator_has_a_case() -> None:
    assert set(RULES) - {"RELU_N1_TO_1"} == {case.split(" ")[0] for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_form(case: str) -> None:
    mod = load(build(case).bytes())
    check_qdq(mod)
    assert [name_of(v).removeprefix("relax.") for v in bindings(mod).values()] == CASES[case][1]
    (output,) = [t for t in model_of(mod)["tensors"].values() if t["name"] == model_of(mod)["outputs"][0]["name"]]
    assert output["op"] == case.split(" ")[0]


@pytest.mark.parametrize("case", CASES)
def test_meaning(case: str) -> None:
    """Within one step of the output; data movement exactly."""
    runtime = pytest.importorskip("tflite_micro").runtime
    data = build(case).bytes()
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=200_000)
    mod = load(data)
    inputs = []
    for position, port in enumerate(model_of(mod)["inputs"]):
        low = -127 if case in POSITIVE else -128
        x = RNG.integers(low, 128, port["shape"]).astype(np.int8) if port["dtype"] == "int8" else RNG.normal(0, 3, port["shape"])
        inputs.append(x.astype(port["dtype"]))
        interpreter.set_input(inputs[-1], position)
    interpreter.invoke()
    want, (got,) = interpreter.get_output(0), run_qdq(mod, *inputs)
    assert got.shape == want.shape
    assert np.ptp(want.astype(np.float64)) > 0, "the test says nothing: the output is constant"
    difference = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
    assert difference <= (0 if case.split(" ")[0] in EXACT else 1 if got.dtype == np.int8 else 1e-6)


def test_batches_of_blocks_are_padded_with_the_zero_point() -> None:
    """Which TensorFlow Lite does; the interpreter of the tests pads with whatever lies there."""
    b = GraphBuilder()
    made = b.op(
        "SPACE_TO_BATCH_ND", [b.input((1, 7, 5, 2)), b.ints(2, 3), b.ints(1, 0, 0, 1, shape=(2, 2))], b.tensor((6, 4, 2, 2), 0.05, 3)
    )
    x = RNG.integers(-128, 128, (1, 7, 5, 2)).astype(np.int8)
    (got,) = run_qdq(load(b.output(made).bytes()), x)
    padded = np.pad(x, ((0, 0), (1, 0), (0, 1), (0, 0)), constant_values=3)
    blocks = [padded[:, i::2, j::3] for i in range(2) for j in range(3)]
    np.testing.assert_array_equal(got, np.concatenate(blocks))


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_is_read(case: str) -> None:
    graph = build(case).graph()
    read = read_graph(build(case).bytes())
    assert (read.inputs, read.outputs) == (graph.inputs, graph.outputs)
    assert [(o.kind, o.inputs, o.outputs) for o in read.operators] == [(o.kind, o.inputs, o.outputs) for o in graph.operators]
    assert [(t.name, t.shape, t.dtype) for t in read.tensors] == [(t.name, t.shape, t.dtype) for t in graph.tensors]


def test_a_float_island_stays_float() -> None:
    b = GraphBuilder()
    x = b.op("DEQUANTIZE", [b.input(IMAGE)], b.tensor(IMAGE, dtype="float32"))
    b.output(b.op("SOFTMAX", [x], b.tensor(IMAGE, dtype="float32"), beta=1.0))
    mod = load(b.bytes())
    check_qdq(mod)
    assert [name_of(v).removeprefix("relax.") for v in bindings(mod).values()] == [D, "nn.softmax"]


def test_names_survive_whatever_they_are() -> None:
    b = GraphBuilder()
    x = b.input(IMAGE, name="in put/0:ä")
    y = b.op("RELU", [x], b.tensor(IMAGE, 0.05, 3, name="lv"))
    z = b.op("RELU", [y], b.tensor(IMAGE, 0.05, 3, name="lv"))
    b.output(b.op("ADD", [y, z], b.tensor(IMAGE, 0.05, 3, name="")))
    mod = load(b.bytes())
    check_qdq(mod)
    tensors = model_of(mod)["tensors"]
    assert {hint: info["name"] for hint, info in tensors.items()} == {
        "in_put_0__": "in put/0:ä", "t_lv": "lv", "t_lv_1": "lv", "tensor_3": "tensor_3"
    }  # fmt: skip


def test_two_outputs() -> None:
    b = GraphBuilder()
    x = b.input(IMAGE)
    y = b.op("RELU", [x], b.tensor(IMAGE, 0.05, 3))
    b.output(y, b.op("TANH", [y], b.tensor(IMAGE, 1 / 128, 0)))
    mod = load(b.bytes())
    check_qdq(mod)
    assert [o["name"] for o in model_of(mod)["outputs"]] == ["t1", "t2"]
