# SPDX-License-Identifier: Apache-2.0
"""What networks of other families have and those of the benchmarks have not: each in small, exact on the host and on emulated cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.oracle import Oracle
from tests.support.tflite_graphs import GraphBuilder

EMULATED = ("decoder", "grouped", "dilated", "bilinear", "attention", "slopes", "by index", "reductions")  # by default, on one core
DEEP = ("decoder", "dilated", "parts")


def normalised_input(b: GraphBuilder) -> int:
    """x * scalar - scalar before the first layer, the scalars without dimensions (MobileNetV2 of Keras)."""
    shape = (1, 6, 5, 3)
    scaled = b.op("MUL", [b.input(shape, 0.02, -100), b.tensor((), 0.01, data=[99])], b.tensor(shape, 0.015, -120))
    return b.op("SUB", [scaled, b.tensor((), 0.008, -3, data=[125])], b.tensor(shape, 0.015, -7))


def number_first(b: GraphBuilder) -> int:
    """scalar - x and scalar + x."""
    x = b.input((1, 3, 7), 0.02, 9)
    rest = b.op("SUB", [b.tensor((), 0.01, 3, data=[100]), x], b.tensor((1, 3, 7), 0.03, -1))
    return b.op("ADD", [b.tensor((1,), 0.05, data=[-77]), rest], b.tensor((1, 3, 7), 0.06, 20), activation=1)


def transposed(b: GraphBuilder, hw: tuple[int, int], kernel: int, stride: int, padding: int, channels: int = 5) -> int:
    """A transposed convolution, per channel, with the output's extents that converters give it."""
    rng = np.random.default_rng(kernel)
    x, step = b.input((1, *hw, 4), 0.05, 11), rng.uniform(0.002, 0.01, channels)
    weights = b.tensor((channels, kernel, kernel, 4), step, data=rng.integers(-127, 128, (channels, kernel, kernel, 4)))
    bias = b.tensor((channels,), step * 0.05, dtype="int32", data=rng.integers(-900, 900, channels))
    out = [e * stride if padding == 0 else (e - 1) * stride + kernel for e in hw]
    options = {"stride_h": stride, "stride_w": stride, "padding": padding, "activation": 1}
    y = b.tensor((1, *out, channels), 0.03, -100)
    return b.op("TRANSPOSE_CONV", [b.ints(1, *out, channels), weights, x, bias], y, **options)


def decoder(b: GraphBuilder) -> int:
    """An encoder's layer, its double in size by a transposed convolution, and both side by side (U-Net)."""
    rng = np.random.default_rng(5)
    x = b.input((1, 8, 6, 3), 0.05, 3)
    w = b.tensor((6, 3, 3, 3), 0.01, data=rng.integers(-127, 128, (6, 3, 3, 3)))
    low = b.op("CONV_2D", [x, w, -1], b.tensor((1, 4, 3, 6), 0.1, -20), stride_h=2, stride_w=2, padding=0, activation=1)
    up = b.tensor((3, 2, 2, 6), 0.01, data=rng.integers(-127, 128, (3, 2, 2, 6)))
    high = b.op("TRANSPOSE_CONV", [b.ints(1, 8, 6, 3), up, low], b.tensor((1, 8, 6, 3), 0.05, 3), stride_h=2, stride_w=2, padding=1)
    both = b.op("CONCATENATION", [x, high], b.tensor((1, 8, 6, 6), 0.05, 3), axis=3)
    return b.op("CONV_2D", [both, b.tensor((2, 1, 1, 6), 0.01, data=rng.integers(-127, 128, (2, 1, 1, 6))), -1],
                b.tensor((1, 8, 6, 2), 0.04, 0), stride_h=1, stride_w=1, padding=1)  # fmt: skip


def grouped(b: GraphBuilder, groups: int = 3) -> int:
    """A convolution in groups, per channel."""
    rng = np.random.default_rng(groups)
    x, step = b.input((1, 7, 5, 4 * groups), 0.05, -9), rng.uniform(0.002, 0.01, 2 * groups)
    w = b.tensor((2 * groups, 3, 3, 4), step, data=rng.integers(-127, 128, (2 * groups, 3, 3, 4)))
    bias = b.tensor((2 * groups,), step * 0.05, dtype="int32", data=rng.integers(-900, 900, 2 * groups))
    return b.op("CONV_2D", [x, w, bias], b.tensor((1, 4, 3, 2 * groups), 0.05, 1), stride_h=2, stride_w=2, padding=0, activation=3)


def dilated(b: GraphBuilder) -> int:
    """Dilated convolutions of both kinds, wider than the image."""
    rng = np.random.default_rng(2)
    x = b.input((1, 7, 9, 4), 0.05, 17)
    w = b.tensor((5, 3, 3, 4), 0.01, data=rng.integers(-127, 128, (5, 3, 3, 4)))
    bias = b.tensor((5,), 0.01 * 0.05, dtype="int32", data=rng.integers(-900, 900, 5))
    y = b.op("CONV_2D", [x, w, bias], b.tensor((1, 7, 9, 5), 0.1, -4), stride_h=1, stride_w=1, padding=0, dilation_h=4, dilation_w=2)
    d = b.tensor((1, 3, 3, 5), 0.02, data=rng.integers(-127, 128, (1, 3, 3, 5)), axis=3)
    options = {"stride_h": 1, "stride_w": 1, "padding": 1, "dilation_h": 2, "dilation_w": 3, "depth_multiplier": 1}
    return b.op("DEPTHWISE_CONV_2D", [y, d, bias], b.tensor((1, 3, 3, 5), 0.06, 3), **options)


def parts(b: GraphBuilder) -> list[int]:
    """Parts of every kind, compared and put together again; one tensor is a result and read by others."""
    x = b.input((1, 4, 6, 8))
    left, right = (b.tensor((1, 4, 6, 3), 0.05, 3), b.tensor((1, 4, 6, 5), 0.05, 3))
    b.op("SPLIT_V", [x, b.ints(3, -1), b.ints(3, shape=())], [left, right], num_splits=2)
    cut = b.op("SLICE", [right, b.ints(0, 1, 0, 1), b.ints(1, -1, 2, 3)], b.tensor((1, 3, 2, 3), 0.05, 3))
    rows = [b.tensor((1, 6, 3), 0.05, 3) for _ in range(4)]
    b.op("UNPACK", [left], rows, num=4, axis=1)
    best = b.op("MAXIMUM", [rows[0], rows[2]], b.tensor((1, 6, 3), 0.05, 3))
    least = b.op("MINIMUM", [best, b.tensor((), 0.05, 3, data=[20])], b.tensor((1, 6, 3), 0.05, 3))
    again = b.op("PACK", [least, rows[3], best], b.tensor((1, 6, 3, 3), 0.05, 3), values_count=3, axis=-1)
    most = b.op("REDUCE_MAX", [again, b.ints(1, 2)], b.tensor((1, 3), 0.05, 3))
    return [again, cut, best, most]


def blocks(b: GraphBuilder) -> int:
    """Space to depth and back with other blocks."""
    deep = b.op("SPACE_TO_DEPTH", [b.input((1, 6, 12, 2))], b.tensor((1, 2, 4, 18), 0.05, 3), block_size=3)
    wide = b.op("TRANSPOSE", [deep, b.ints(0, 1, 3, 2)], b.tensor((1, 2, 18, 4), 0.05, 3))
    return b.op("DEPTH_TO_SPACE", [wide], b.tensor((1, 4, 36, 1), 0.05, 3), block_size=2)


def bilinear(b: GraphBuilder, size: tuple[int, int], **mode: bool) -> int:
    return b.op("RESIZE_BILINEAR", [b.input((1, 5, 7, 3)), b.ints(*size)], b.tensor((1, *size, 3), 0.05, 3), **mode)


def attention(b: GraphBuilder) -> int:
    """Queries, keys and values of one input, and a skip beside them (a transformer's block)."""
    rng = np.random.default_rng(8)
    x = b.input((1, 6, 8), 0.05, 3)
    parts = []
    for zero in (-9, 4, 20):
        w = b.tensor((8, 8), 0.01, data=rng.integers(-127, 128, (8, 8)))
        parts.append(b.op("FULLY_CONNECTED", [x, w, -1], b.tensor((1, 6, 8), 0.06, zero), keep_num_dims=True))
    scores = b.op("BATCH_MATMUL", parts[:2], b.tensor((1, 6, 6), 0.08, 1), adj_y=True)
    weights = b.op("SOFTMAX", [scores], b.tensor((1, 6, 6), 1 / 256, -128), beta=0.35)
    mixed = b.op("BATCH_MATMUL", [weights, parts[2]], b.tensor((1, 6, 8), 0.05, 7))
    return b.op("ADD", [x, mixed], b.tensor((1, 6, 8), 0.08, 5))


def normalised_rows(b: GraphBuilder) -> int:
    """The mean taken off, the variance's root divided by, in integers."""
    x = b.input((1, 5, 12), 0.05, 3)
    mean = b.op("MEAN", [x, b.ints(2)], b.tensor((1, 5, 1), 0.03, -4), keep_dims=True)
    squares = b.op("SQUARED_DIFFERENCE", [x, mean], b.tensor((1, 5, 12), 0.15, -128))
    variance = b.op("MEAN", [squares, b.ints(2)], b.tensor((1, 5, 1), 0.08, -128), keep_dims=True)
    more = b.op("ADD", [variance, b.tensor((), 0.01, 0, data=[100])], b.tensor((1, 5, 1), 0.09, -128))
    factor = b.op("RSQRT", [more], b.tensor((1, 5, 1), 0.008, -128))
    centred = b.op("SUB", [x, mean], b.tensor((1, 5, 12), 0.06, 1))
    return b.op("MUL", [centred, factor], b.tensor((1, 5, 12), 0.02, 0))


def slopes(b: GraphBuilder) -> list[int]:
    """PReLU with a slope a channel, an element and for all, and ELU."""
    rng = np.random.default_rng(3)
    x = b.input((1, 4, 5, 6), 0.05, 3)
    out = []
    for shape in ((1, 1, 6), (4, 5, 6), (1, 1, 1)):
        slope = b.tensor(shape, 0.003, 11, data=rng.integers(-128, 128, shape))
        out.append(b.op("PRELU", [x, slope], b.tensor((1, 4, 5, 6), 0.04, -9)))
    return [*out, b.op("ELU", [x], b.tensor((1, 4, 5, 6), 0.03, -90)), b.op("ABS", [x], b.tensor((1, 4, 5, 6), 0.04, -128))]


def reductions(b: GraphBuilder) -> list[int]:
    x = b.input((1, 4, 6, 5), 0.05, 3)
    least = b.op("REDUCE_MIN", [x, b.ints(1, 3)], b.tensor((1, 6), 0.05, 3))
    most = b.op("REDUCE_MAX", [x, b.ints(1, 3)], b.tensor((1, 1, 6, 1), 0.05, 3), keep_dims=True)
    total = b.op("SUM", [x, b.ints(2)], b.tensor((1, 4, 5), 0.2, -3))
    best = b.op("ARG_MAX", [x, b.ints(3, shape=())], b.tensor((1, 4, 6), dtype="int32"))
    return [least, most, total, best]


def by_index(b: GraphBuilder) -> list[int]:
    """Mirrored edges, chosen channels, rows backwards, a row for all; as batches and back."""
    x = b.input((1, 4, 6, 3), 0.05, 3)
    wide = b.op("MIRROR_PAD", [x, b.ints(0, 0, 2, 1, 1, 3, 0, 0, shape=(4, 2))], b.tensor((1, 7, 10, 3), 0.05, 3))
    chosen = b.op("GATHER", [wide, b.ints(2, 0)], b.tensor((1, 7, 10, 2), 0.05, 3), axis=3)
    turned = b.op("REVERSE_V2", [chosen, b.ints(1)], b.tensor((1, 7, 10, 2), 0.05, 3))
    options = {"begin_mask": 4, "end_mask": 4}
    back = b.op(
        "STRIDED_SLICE", [turned, b.ints(0, 6, 0, 0), b.ints(1, 0, 0, 2), b.ints(1, -2, -3, 1)], b.tensor((1, 3, 4, 2), 0.05, 3), **options
    )
    batches = b.op("SPACE_TO_BATCH_ND", [x, b.ints(2, 4), b.ints(0, 0, 1, 1, shape=(2, 2))], b.tensor((8, 2, 2, 3), 0.05, 3))
    image = b.op("BATCH_TO_SPACE_ND", [batches, b.ints(2, 4), b.ints(1, 0, 1, 1, shape=(2, 2))], b.tensor((1, 3, 6, 3), 0.05, 3))
    row = b.op(
        "STRIDED_SLICE",
        [x, b.ints(0, 3, 0, 0), b.ints(0, 0, 0, 0), b.ints(1, 1, 1, 1)],
        b.tensor((6, 3), 0.05, 3),
        end_mask=12,
        shrink_axis_mask=3,
    )
    return [turned, back, image, b.op("BROADCAST_TO", [row, b.ints(5, 6, 3)], b.tensor((5, 6, 3), 0.05, 3))]


def computed_shape(b: GraphBuilder) -> int:
    """A reshape to (batch, rest) as Keras writes it for an unknown batch."""
    x = b.input((1, 4, 3, 2), 0.05, 3)
    shape = b.op("SHAPE", [x], b.tensor((4,), dtype="int32"))
    batch = b.op("STRIDED_SLICE", [shape, b.ints(0), b.ints(1), b.ints(1)], b.tensor((), dtype="int32"), shrink_axis_mask=1)
    whole = b.op("PACK", [batch, b.ints(24, shape=())], b.tensor((2,), dtype="int32"), values_count=2)
    flat = b.op("RESHAPE", [x, whole], b.tensor((1, 24), 0.05, 3))
    w = b.tensor((5, 24), 0.01, data=np.random.default_rng(1).integers(-127, 128, (5, 24)))
    return b.op("FULLY_CONNECTED", [flat, w, -1], b.tensor((1, 5), 0.1, -3))


def in_float(b: GraphBuilder) -> int:
    """Functions that the converter has left in float between integers: a table."""
    value = b.op("DEQUANTIZE", [b.input((1, 5, 9), 0.03, -100)], b.tensor((1, 5, 9), dtype="float32"))
    for kind in ("SQUARE", "SQRT", "NEG", "EXP"):
        value = b.op(kind, [value], b.tensor((1, 5, 9), dtype="float32"))
    return b.op("QUANTIZE", [value], b.tensor((1, 5, 9), 1 / 256, -128))


NETWORKS: dict[str, Callable[[GraphBuilder], int | list[int]]] = {
    "normalised input": normalised_input,
    "number first": number_first,
    "transposed 3 by 2": lambda b: transposed(b, (4, 3), 3, 2, 0),
    "transposed 2 by 2": lambda b: transposed(b, (3, 5), 2, 2, 0),
    "transposed 4 by 2": lambda b: transposed(b, (1, 3), 4, 2, 0),
    "transposed 5 by 3, valid": lambda b: transposed(b, (3, 2), 5, 3, 1),
    "transposed 3 by 1": lambda b: transposed(b, (4, 4), 3, 1, 0),
    "transposed 1 by 2": lambda b: transposed(b, (3, 3), 1, 2, 0),
    "decoder": decoder,
    "grouped": grouped,
    "dilated": dilated,
    "parts": parts,
    "blocks": blocks,
    "bilinear": lambda b: bilinear(b, (10, 14)),
    "bilinear, smaller": lambda b: bilinear(b, (3, 2), half_pixel_centers=True),
    "bilinear, half": lambda b: bilinear(b, (11, 16), half_pixel_centers=True),
    "attention": attention,
    "normalised rows": normalised_rows,
    "slopes": slopes,
    "reductions": reductions,
    "by index": by_index,
    "computed shape": computed_shape,
    "in float": in_float,
    "bilinear, corners": lambda b: bilinear(b, (9, 1), align_corners=True),
}


def model_of(*names: str) -> bytes:
    """The file of a network, or of several side by side."""
    b = GraphBuilder()
    for name in names:
        outputs = NETWORKS[name](b)
        b.output(*([outputs] if isinstance(outputs, int) else outputs))
    return b.bytes()


def samples(model: tvm_tiny.CompiledModel, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Two random inputs and one of extremes."""
    drawn = [[rng.integers(0, 256, t.shape).astype(np.uint8).view(t.dtype) for t in model.inputs] for _ in range(2)]
    return [*drawn, [rng.choice([0, 127, 128, 255], t.shape).astype(np.uint8).view(t.dtype) for t in model.inputs]]


@pytest.mark.host_cc
@pytest.mark.parametrize(("name", "goal"), [*((n, "balanced") for n in NETWORKS), *((n, "sram") for n in DEEP)])
def test_on_the_host(name: str, goal: str, rng: np.random.Generator) -> None:
    data = model_of(name)
    library, oracle = GuardedModel(tvm_tiny.build(data, "c", name="net", optimize=goal)), Oracle(data)
    for sample in samples(library.model, rng):
        for ours, theirs in zip(library(*sample), oracle.run(*sample), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert not library.faults


@pytest.mark.qemu
def test_on_an_emulated_m7(rng: np.random.Generator) -> None:
    """Side by side in one network, so that one firmware is built."""
    check_on_board(model_of(*EMULATED), "mps2_an500", rng, disable=["order-ops"])


@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an500", "mps2_an386"])
@pytest.mark.parametrize("name", NETWORKS)
def test_on_emulated_cores(name: str, board: str, rng: np.random.Generator) -> None:
    check_on_board(model_of(name), board, rng)


def check_on_board(data: bytes, board: str, rng: np.random.Generator, **options: Any) -> None:
    """Every output bit the reference interpreter's."""
    model, oracle = tvm_tiny.build(data, board=board, name="net", **options), Oracle(data)
    drawn = samples(model, rng)
    found = model.run([{t.name: x for t, x in zip(model.inputs, sample, strict=True)} for sample in drawn])
    for ours, sample in zip(found, drawn, strict=True):
        for mine, theirs in zip(ours.values(), oracle.run(*sample), strict=True):
            np.testing.assert_array_equal(mine, theirs)
