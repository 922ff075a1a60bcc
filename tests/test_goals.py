# SPDX-License-Identifier: Apache-2.0
"""What each goal promises, on networks of families that no figure was measured of: less memory from goal to goal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tvm_tiny
from tests.support.tflite_graphs import GraphBuilder

GOALS = ("speed", "balanced", "sram")


class Layers:
    """Layers with random weights, whose outputs use much of int8."""

    def __init__(self, seed: int = 0) -> None:
        self.b, self.rng = GraphBuilder(), np.random.default_rng(seed)

    def conv(self, x: int, channels: int, kernel: int = 1, stride: int = 1, kind: str = "CONV_2D") -> int:
        _, height, width, depth = self.b.tensors[x].shape
        deep = kind == "CONV_2D"
        shape = (channels, kernel, kernel, depth) if deep else (1, kernel, kernel, channels)
        scale = self.rng.uniform(0.5, 1.5, channels) / (60 * 50 * np.sqrt(kernel * kernel * (depth if deep else 1)) / 64)
        w = self.b.tensor(shape, scale, data=np.clip(np.round(self.rng.normal(0, 50, shape)), -127, 127), axis=0 if deep else 3)
        bias = self.b.tensor((channels,), scale / 64, dtype="int32", data=np.round(self.rng.normal(0, 30, channels) / scale / 64))
        y = self.b.tensor((1, -(-height // stride), -(-width // stride), channels), 6 / 255, -128)
        options: dict[str, Any] = {"stride_h": stride, "stride_w": stride, "padding": 0, "activation": 3}
        return self.b.op(kind, [x, w, bias], y, **options, **({} if deep else {"depth_multiplier": 1}))

    def separable(self, x: int, channels: int, stride: int = 1) -> int:
        return self.conv(self.conv(x, self.b.tensors[x].shape[3], 3, stride, "DEPTHWISE_CONV_2D"), channels)

    def larger(self, x: int) -> int:
        _, height, width, channels = self.b.tensors[x].shape
        y = self.b.tensor((1, 2 * height, 2 * width, channels), 6 / 255, -128)
        return self.b.op("RESIZE_NEAREST_NEIGHBOR", [x, self.b.ints(2 * height, 2 * width)], y)

    def bytes(self, *outputs: int) -> bytes:
        return self.b.output(*outputs).bytes()


def autoencoder() -> bytes:
    """Convolutions down, and up by resizing: what resizes is computed whole."""
    n = Layers(17)
    x = n.b.input((1, 32, 32, 1), 1 / 64, 0)
    for channels in (8, 12, 16):
        x = n.conv(x, channels, 3, 2)
    for channels in (12, 8, 4):
        x = n.conv(n.larger(x), channels, 3)
    return n.bytes(n.conv(x, 1, 3))


def unsigned() -> bytes:
    """A small separable network of uint8 images of odd size."""
    n = Layers(20)
    image = n.b.input((1, 33, 29, 3), 1 / 64, 128, "uint8")
    x = n.b.op("QUANTIZE", [image], n.b.tensor((1, 33, 29, 3), 1 / 64, 0))
    return n.bytes(n.separable(n.separable(n.conv(x, 10, 3, 2), 14), 22, 2))


@pytest.mark.parametrize(
    ("network", "core"),
    [
        (autoencoder, "cortex-m7"),
        pytest.param(autoencoder, "cortex-m4", marks=pytest.mark.slow),
        pytest.param(unsigned, "cortex-m7", marks=pytest.mark.slow),
        pytest.param(unsigned, "cortex-m4", marks=pytest.mark.slow),
    ],
)
def test_no_goal_takes_more_memory_than_the_one_before(network: Callable[[], bytes], core: str) -> None:
    found = [tvm_tiny.build(network(), f"c -mcpu={core}", name="net", optimize=goal).report for goal in GOALS]
    arenas = [report.arena_bytes for report in found]
    assert arenas == sorted(arenas, reverse=True)
    assert found[2].decisions["curve"]["chosen"]["streaming"] <= 0.1


def test_what_only_moves_has_no_overhead() -> None:
    """No cycles are counted, so nothing can be a fraction of them."""
    b = GraphBuilder()
    data = b.output(b.op("RESHAPE", [b.input((1, 3, 4, 5)), b.ints(1, 60)], b.tensor((1, 60), 0.05, 3))).bytes()
    chosen = tvm_tiny.build(data, "c", name="net").report.decisions["curve"]["chosen"]
    assert (chosen["cycles"], chosen["extra_work"]) == (0, 0.0)


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (1, 16, 20, 8)])
def test_cycles_of_a_transpose_grow_with_its_elements(shape: tuple[int, ...]) -> None:
    b = GraphBuilder()
    turned = b.op("TRANSPOSE", [b.input(shape), b.ints(0, 3, 1, 2)], b.tensor((1, shape[3], *shape[1:3]), 0.05, 3))
    chosen = tvm_tiny.build(b.output(turned).bytes(), "c -mcpu=cortex-m7", name="net").report.decisions["curve"]["chosen"]
    assert chosen["cycles"] <= 200 + 10 * np.prod(shape)


def test_cycles_of_convolutions_of_a_batch_count_their_products() -> None:
    b = GraphBuilder()
    w = b.tensor((5, 3, 3, 4), 0.01, data=np.random.default_rng(1).integers(-127, 128, (5, 3, 3, 4)))
    y = b.op("CONV_2D", [b.input((2, 8, 8, 4)), w, -1], b.tensor((2, 8, 8, 5), 0.1, -4), stride_h=1, stride_w=1, padding=0)
    chosen = tvm_tiny.build(b.output(y).bytes(), "c -mcpu=cortex-m7", name="net").report.decisions["curve"]["chosen"]
    assert chosen["cycles"] >= 4 * 2 * 8 * 8 * 5 * 36
