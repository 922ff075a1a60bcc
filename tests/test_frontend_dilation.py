# SPDX-License-Identifier: Apache-2.0
"""Dilated convolutions written as batches: one operator, and the bits of the reference for the same convolution written with a dilation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.support.host import HostModel
from tests.support.oracle import Oracle
from tests.support.tflite_graphs import GraphBuilder

Pair = tuple[int, int]


class Dilated:
    """A convolution with gaps over an image that is padded as much as given, in both of the ways a converter writes it."""

    def __init__(self, kind: str, image: Pair, blocks: Pair, kernel: Pair, around: Pair, zero: int, channels: int = 4) -> None:
        self.kind, self.image, self.blocks, self.kernel, self.zero, self.channels = kind, image, blocks, kernel, zero, channels
        self.pads = [(n // 2, n - n // 2) for n in around]
        spans = [(k - 1) * b for k, b in zip(kernel, blocks, strict=True)]
        self.out = [e + n - s for e, n, s in zip(image, around, spans, strict=True)]

    def _convolve(self, b: GraphBuilder, x: int, shape: tuple[int, ...], **dilation: int) -> int:
        rng = np.random.default_rng(7)
        deep = self.kind == "CONV_2D"
        weights = (5, *self.kernel, self.channels) if deep else (1, *self.kernel, self.channels)
        outputs = weights[0] if deep else self.channels
        scale = rng.uniform(0.002, 0.01, outputs)
        w = b.tensor(weights, scale, data=rng.integers(-127, 128, weights), axis=0 if deep else 3)
        bias = b.tensor((outputs,), scale * 0.02, dtype="int32", data=rng.integers(-900, 900, outputs))
        options: dict[str, Any] = {"stride_h": 1, "stride_w": 1, "padding": 1, "activation": 1, **({} if deep else {"depth_multiplier": 1})}
        return b.op(self.kind, [x, w, bias], b.tensor((*shape, outputs), 0.03, -20), **options, **dilation)

    def with_dilation(self) -> bytes:
        b = GraphBuilder()
        x = b.input((1, *self.image, self.channels), 0.02, self.zero)
        whole = [e + sum(p) for e, p in zip(self.image, self.pads, strict=True)]
        padded = b.tensor((1, *whole, self.channels), 0.02, self.zero)
        b.op("PAD", [x, b.ints(0, 0, *self.pads[0], *self.pads[1], 0, 0, shape=(4, 2))], padded)
        return b.output(self._convolve(b, padded, (1, *self.out), dilation_h=self.blocks[0], dilation_w=self.blocks[1])).bytes()

    def in_batches(self) -> bytes:
        b = GraphBuilder()
        x = b.input((1, *self.image, self.channels), 0.02, self.zero)
        whole = [e + sum(p) for e, p in zip(self.image, self.pads, strict=True)]
        more = [-n % d for n, d in zip(whole, self.blocks, strict=True)]
        parts = [(n + m) // d for n, m, d in zip(whole, more, self.blocks, strict=True)]
        images, pads = self.blocks[0] * self.blocks[1], [n for p, m in zip(self.pads, more, strict=True) for n in (p[0], p[1] + m)]
        split = b.tensor((images, *parts, self.channels), 0.02, self.zero)
        b.op("SPACE_TO_BATCH_ND", [x, b.ints(*self.blocks), b.ints(*pads, shape=(2, 2))], split)
        y = self._convolve(b, split, (images, *(p - k + 1 for p, k in zip(parts, self.kernel, strict=True))))
        channels = b.tensors[y].shape[3]
        joined = b.tensor((1, *self.out, channels), 0.03, -20)
        return b.output(b.op("BATCH_TO_SPACE_ND", [y, b.ints(*self.blocks), b.ints(0, more[0], 0, more[1], shape=(2, 2))], joined)).bytes()


def check(network: Dilated, rng: np.random.Generator) -> None:
    data = network.in_batches()
    library, oracle = HostModel(tvm_tiny.build(data, "c", name="net")), Oracle(network.with_dilation())
    assert [layer.op for layer in library.model.report.layers] == [network.kind.lower().replace("conv_2d", "conv2d")]
    x = rng.integers(-128, 128, library.model.inputs[0].shape).astype(np.int8)
    np.testing.assert_array_equal(library(x)[0], oracle.run(x)[0])


@pytest.mark.host_cc
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["CONV_2D", "DEPTHWISE_CONV_2D"]),
    st.tuples(st.integers(9, 13), st.sampled_from([1, 9, 11])),
    st.tuples(st.integers(2, 4), st.integers(1, 3)),
    st.sampled_from([(3, 1), (2, 1), (3, 3)]),
    st.sampled_from([-128, -7, 127]),
)
def test_one_convolution_with_the_bits_of_the_reference(kind: str, image: Pair, blocks: Pair, kernel: Pair, zero: int) -> None:
    blocks = (blocks[0], 1) if image[1] == 1 else blocks
    kernel = (kernel[0], 1) if image[1] == 1 else kernel
    around = tuple((k - 1) * b for k, b in zip(kernel, blocks, strict=True))
    check(Dilated(kind, image, blocks, kernel, (around[0], around[1]), zero), np.random.default_rng(3))


@pytest.mark.host_cc
def test_nothing_around_the_image(rng: np.random.Generator) -> None:
    check(Dilated("CONV_2D", (13, 17), (3, 2), (3, 5), (0, 0), 5), rng)


@pytest.mark.host_cc
@pytest.mark.parametrize("goal", ["speed", "balanced", "sram"])
@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_batches_that_something_else_reads_stay(kind: str, goal: str, rng: np.random.Generator) -> None:
    """Convolutions of several images, by plain loops; nothing streams them."""
    b = GraphBuilder()
    x = b.input((1, 6, 8, 4), 0.02, 0)
    first = b.op("RELU", [x], b.tensor((1, 6, 8, 4), 0.02, 0))
    split = b.op("SPACE_TO_BATCH_ND", [first, b.ints(2, 2), b.ints(0, 0, 0, 0, shape=(2, 2))], b.tensor((4, 3, 4, 4), 0.02, 0))
    shape = (3, 2, 2, 4) if kind == "CONV_2D" else (1, 2, 2, 4)
    axis = 0 if kind == "CONV_2D" else 3
    w = b.tensor(shape, np.full(shape[axis], 0.01), data=rng.integers(-127, 128, shape), axis=axis)
    bias = b.tensor((shape[axis],), np.full(shape[axis], 0.0002), dtype="int32", data=rng.integers(-900, 900, shape[axis]))
    options = {"stride_h": 1, "stride_w": 1, "padding": 1, **({"depth_multiplier": 1} if kind != "CONV_2D" else {})}
    y = b.op(kind, [split, w, bias], b.tensor((4, 2, 3, 3 if kind == "CONV_2D" else 4), 0.05, 1), **options)
    data = b.output(split, y).bytes()
    library, oracle = HostModel(tvm_tiny.build(data, "c -mcpu=cortex-m7", name="net", optimize=goal)), Oracle(data)
    sample = rng.integers(-128, 128, (1, 6, 8, 4)).astype(np.int8)
    for ours, theirs in zip(library(sample), oracle.run(sample), strict=True):
        np.testing.assert_array_equal(ours, theirs)
