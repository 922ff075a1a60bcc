# SPDX-License-Identifier: Apache-2.0
"""The rule of depthwise convolutions: columns of pixels are computed as rows, and give the bits of the operator's meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.support.host import HostModel
from tests.support.kernel_runner import mismatches_on_device
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.in_place import layer_of
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.depthwise import parameters_of, shape_of
from tvm_tiny.schedules.microkernels import Core, depthwise


def column(rng: np.random.Generator, height: int | None = None) -> tvm.IRModule:
    """One layer over an image one pixel wide; kernels wider than that meet padding only."""
    height = height or int(rng.integers(2, 60))
    taps, across, dilation = int(rng.integers(1, min(height, 15) + 1)), int(rng.choice([1, 1, 3])), int(rng.choice([1, 1, 2]))
    dilation = 1 if (taps - 1) * dilation + 1 > height else dilation
    b = TinyBuilder((1, height, 1, int(rng.choice([1, 3, 4, 7, 13, 16]))), seed=int(rng.integers(2**32)))
    weight = b.rng.integers(-127, 128, (taps, across, int(b.x.ty.shape.values[3]))).astype(np.int8)
    padding = [int(rng.integers(0, 3)), across // 2, int(rng.integers(0, 3)), across // 2]
    zero_points = {name: int(rng.choice([-128, 127, 0, 5])) for name in ("x_zp", "y_zp")}
    strides = [int(rng.integers(1, 3)), int(rng.integers(1, 3))]
    return b.finish(b.depthwise(b.x, weight=weight, padding=padding, strides=strides, dilation=[dilation, 1], **zero_points))


def layer_in(mod: tvm.IRModule) -> Layer:
    graph = TinyGraph(mod["main"])
    return layer_of(graph, next(n for n in graph.nodes if n.op == "depthwise_conv2d"))


@pytest.mark.host_cc
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), goal=st.sampled_from(["speed", "balanced", "sram"]))
def test_a_column_gives_the_same_bits(seed: int, goal: str) -> None:
    mod = column(np.random.default_rng(seed))
    shape = shape_of(layer_in(mod))
    assert shape.height == 1
    model = HostModel(tvm_tiny.build(mod, "c -mcpu=cortex-m7", name="net", optimize=goal))
    x = np.random.default_rng(seed).integers(-128, 128, tuple(int(d) for d in mod["main"].params[0].ty.shape.values)).astype(np.int8)
    np.testing.assert_array_equal(model(x)[0], evaluate(mod, x)[0])


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_a_column_on_the_core(mcpu: str, rng: np.random.Generator, tmp_path: Path) -> None:
    layers = [layer_in(column(rng)) for _ in range(12)]
    kernels = [depthwise(f"column{i}", shape_of(la), parameters_of(la), Core.of(mcpu)) for i, la in enumerate(layers)]
    inputs = [rng.integers(-128, 128, k.input_shape).astype(np.int8) for k in kernels]
    assert mismatches_on_device(kernels, inputs, mcpu, tmp_path) == [0] * len(kernels)


@pytest.mark.host_cc
@pytest.mark.parametrize("shape", [(1, 7, 19, 1), (1, 7, 1, 19)], ids=["column", "row"])
def test_planes_of_one_column_or_row(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """The input in NCHW, the result in NHWC."""
    b = TinyBuilder(shape)
    taps = (5, 1, 7) if shape[3] == 1 else (1, 5, 7)
    padding = [2, 0, 1, 0] if shape[3] == 1 else [0, 2, 0, 1]
    weight = rng.integers(-127, 128, taps).astype(np.int8)
    bias, multiplier, shift = (np.full(7, v, np.int32) for v in (100, 2**30 + 12345, -8))
    attrs = {"x_zp": 5, "y_zp": -3, "padding": padding, "x_layout": "NCHW"}
    mod = b.finish(b.call("depthwise_conv2d", b.x, weight, bias, multiplier, shift, **attrs))
    model = tvm_tiny.build(mod, "c -mcpu=cortex-m4", name="net", optimize="speed")
    assert [row.kernel["rule"] for row in model.report.layers] == ["planar"]
    x = rng.integers(-128, 128, shape).astype(np.int8)
    np.testing.assert_array_equal(HostModel(model)(x)[0], evaluate(mod, x)[0])


def test_what_does_not_lie_down(rng: np.random.Generator) -> None:
    """A column too long for its planes, and layers of more than one column."""
    assert shape_of(layer_in(column(rng, 3000))).width == 1
    b = TinyBuilder((1, 9, 2, 4))
    assert shape_of(layer_in(b.finish(b.depthwise(b.x)))).height == 9
