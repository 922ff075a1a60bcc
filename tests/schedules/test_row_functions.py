# SPDX-License-Identifier: Apache-2.0
"""Operators between convolutions that networks for faces and hands have: streamed row by row, exact on the host and an emulated core."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.oracle import Oracle
from tests.support.tflite_graphs import GraphBuilder


def network() -> bytes:
    """PReLU, channels padded for a residual, and the larger of x and slope * x (PReLU as converters take it apart)."""
    rng, b = np.random.default_rng(6), GraphBuilder()

    def conv(x: int, inputs: int, outputs: int, hw: tuple[int, int], **options: Any) -> int:
        w = b.tensor((outputs, 3, 3, inputs), 0.01, data=rng.integers(-127, 128, (outputs, 3, 3, inputs)))
        return b.op("CONV_2D", [x, w, -1], b.tensor((1, *hw, outputs), 0.06, -7), padding=0, **options)

    def slopes(channels: int) -> int:
        return b.tensor((1, 1, channels), 0.004, 5, data=rng.integers(-128, 128, channels))

    x = conv(b.input((1, 32, 24, 3), 0.03, 2), 3, 6, (16, 12), stride_h=2, stride_w=2)
    x = b.op("PRELU", [x, slopes(6)], b.tensor((1, 16, 12, 6), 0.05, 3))
    wide = b.op("PAD", [x, b.ints(0, 0, 0, 0, 0, 0, 0, 5, shape=(4, 2))], b.tensor((1, 16, 12, 11), 0.05, 3))
    y = b.op("ADD", [wide, conv(x, 6, 11, (16, 12), stride_h=1, stride_w=1)], b.tensor((1, 16, 12, 11), 0.08, -2))
    scaled = b.op("MUL", [y, slopes(11)], b.tensor((1, 16, 12, 11), 0.08, -2))
    larger = b.op("MAXIMUM", [y, scaled], b.tensor((1, 16, 12, 11), 0.08, -2))
    least = b.op("MINIMUM", [larger, b.tensor((11,), 0.08, -2, data=rng.integers(-20, 128, 11))], b.tensor((1, 16, 12, 11), 0.08, -2))
    z = conv(least, 11, 4, (8, 6), stride_h=2, stride_w=2)
    return b.output(
        b.op("MAX_POOL_2D", [z], b.tensor((1, 2, 2, 4), 0.06, -7), stride_h=4, stride_w=3, filter_h=4, filter_w=3, padding=1)
    ).bytes()


@pytest.mark.host_cc
@pytest.mark.parametrize("disable", [(), ("stream-rows",)], ids=["rows", "patches"])
def test_on_the_host(disable: tuple[str, ...], rng: np.random.Generator) -> None:
    data = network()
    whole = tvm_tiny.build(data, "c", optimize="speed").report.arena_bytes
    model = tvm_tiny.build(data, "c", name="net", optimize="sram", max_overhead=0.5, disable=disable)
    library, oracle = GuardedModel(model), Oracle(data)
    assert disable or model.report.arena_bytes < 0.7 * whole
    for _ in range(3):
        x = rng.integers(-128, 128, (1, 32, 24, 3)).astype(np.int8)
        np.testing.assert_array_equal(library(x)[0], oracle.run(x)[0])
        assert not library.faults


@pytest.mark.qemu
def test_on_an_emulated_m7(rng: np.random.Generator) -> None:
    data = network()
    model, oracle = tvm_tiny.build(data, board="mps2_an500", name="net", optimize="sram"), Oracle(data)
    x = rng.integers(-128, 128, (1, 32, 24, 3)).astype(np.int8)
    (found,) = model.run(x).values()
    np.testing.assert_array_equal(found, oracle.run(x)[0])
