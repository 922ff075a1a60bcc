# SPDX-License-Identifier: Apache-2.0
"""Every kernel is a `TensorIntrin`: its description in TIR, compiled by TVM, the generated C and the operator's meaning agree bit for bit.

The operators' numpy meaning is proven equal to the reference interpreter in tests/ops.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax, tirx

import tvm_tiny
from tests.support.op_cases import int8s
from tests.support.random_layers import random_parameters, random_weights
from tests.support.random_tiny import tiny_chains
from tests.support.scheduled import Description, Generated, layers_of
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.memory.tiny_rows import tiny_rows
from tvm_tiny.ops import add as add_op
from tvm_tiny.ops import registry, softmax
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.lower_ops import LowerOps
from tvm_tiny.passes.stream_rows import StreamRows
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.rules import default_schedule
from tvm_tiny.target import parse_target

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
TARGETS = ("c", "c -mcpu=cortex-m7", "c -mcpu=cortex-m4")


def linear(op: str, rng: np.random.Generator) -> tuple[TinyBuilder, relax.Expr]:
    """A linear layer of odd shape with extreme constants."""
    if op == "dense":
        batch, inputs, outputs = int(rng.integers(1, 4)), int(rng.choice([1, 3, 8, 20, 64])), int(rng.choice([1, 2, 5, 10, 12]))
        p = random_parameters(random_weights((outputs, inputs), rng), False, rng)
        b, windows = TinyBuilder((batch, inputs)), {}
    else:
        pointwise = op == "pointwise"
        kernel = (1, 1) if pointwise else (3, 3) if op == "winograd" else tuple(int(v) for v in rng.integers(1, 4, 2))
        dilation = [1, 1] if op != "conv2d" else [int(v) for v in rng.choice([1, 1, 2], 2)]
        reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        padding = [1, 1, 1, 1] if op == "winograd" else [int(rng.integers(0, r + 1)) for r in (*reach, *reach)]
        strides = [1, 1] if pointwise or op == "winograd" else [int(v) for v in rng.integers(1, 3, 2)]
        channels, outputs = int(rng.choice([1, 3, 4, 8, 12])), int(rng.choice([1, 2, 5, 8, 11]))
        if op == "winograd":
            channels, outputs = int(rng.choice([4, 8])), int(rng.choice([2, 4, 6]))
        height, width = (int(2 * rng.integers(1, 4) if op == "winograd" else rng.integers(1, 9) + r) for r in reach)
        if pointwise:
            height, width = int(rng.choice([1, 6, 12, 18])), int(rng.choice([1, 5, 12, 13]))
        b, windows = TinyBuilder((1, height, width, channels)), {"strides": strides, "padding": padding, "dilation": dilation}
        if op == "depthwise":
            p = random_parameters(random_weights((*kernel, channels * int(rng.choice([1, 1, 2]))), rng), True, rng)
        else:
            p = random_parameters(random_weights((outputs, *kernel, channels), rng), False, rng)
    constants = [np.asarray(v).astype(np.int32) for v in (p.bias, p.multiplier, p.shift)]
    attrs = {"x_zp": p.x_zero_point, "y_zp": p.y_zero_point, "clamp_min": p.clamp[0], "clamp_max": p.clamp[1], "rounding": p.rounding}
    name = {"dense": "dense", "depthwise": "depthwise_conv2d"}.get(op, "conv2d")
    return b, b.call(name, b.x, p.weights, *constants, **attrs, **windows)


def check(func: tirx.PrimFunc, target: str, rng: np.random.Generator, directory: Path) -> dict[str, Any]:
    """Schedule a layer, and compare description, generated C and meaning on a random and an extreme input; what `tiny.kernel` says."""
    layer = Layer.of(func)
    scheduled = default_schedule(func, parse_target(target))
    assert "call_extern" in scheduled.mod.script()
    op, count = registry.get(layer.op), len(layer.shapes) - 1
    generated, description = Generated(scheduled, directory), Description(scheduled, func)
    for draw in (lambda s: int8s(rng, s), lambda s: rng.choice(np.array([-128, 127], np.int8), s)):
        inputs = {i: draw(layer.shapes[i]) for i in range(count) if i not in layer.constants}
        if layer.dtypes[0] == "float32":
            inputs = {i: (x * 0.37).astype(np.float32) for i, x in inputs.items()}
        want = op.numpy(*(inputs[i] if i in inputs else layer.constants[i] for i in range(count)), **layer.attrs)
        activations = list(inputs.values())
        np.testing.assert_array_equal(generated(activations, want), want)
        for part, output in description.parts(activations, want):
            np.testing.assert_array_equal(description(part), output)
    return json.loads(str(scheduled.mod["main"].attrs["tiny.kernel"]))


@pytest.mark.host_cc
@pytest.mark.parametrize("op", ["pointwise", "conv2d", "winograd", "depthwise", "dense"])
@settings(max_examples=4, deadline=None, suppress_health_check=QUIET)
@given(seed=st.integers(0, 2**32 - 1))
def test_linear_layers(op: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    b, y = linear(op, rng)
    (func,) = layers_of(b, y)
    check(func, TARGETS[seed % 3], rng, tmp_path_factory.mktemp("layer"))


@pytest.mark.host_cc
@pytest.mark.parametrize(("shape", "outputs"), [((1, 64, 1, 8), 1), ((1, 1, 64, 4), 1), ((1, 4, 33, 3), 1), ((1, 72, 1, 5), 3)])
def test_strips_of_thin_images(shape: tuple[int, ...], outputs: int, rng: np.random.Generator, tmp_path: Path) -> None:
    b = TinyBuilder(shape)
    (func,) = layers_of(b, b.conv(b.x, outputs))
    check(func, "c -mcpu=cortex-m7", rng, tmp_path)


@pytest.mark.host_cc
@settings(max_examples=4, deadline=None, suppress_health_check=QUIET)
@given(seed=st.integers(0, 2**32 - 1))
def test_addition(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    shape = (1, *(int(v) for v in rng.choice([1, 3, 8, 13], 3)))
    b = TinyBuilder(shape, shape)
    scales = rng.uniform(0.005, 0.3, 3)
    zero_points = {k: int(rng.choice([-128, 127, 0, -7])) for k in ("a_zp", "b_zp", "y_zp")}
    y = b.call("add", *b.params, **add_op.quantize_params(*(float(s) for s in scales[:2]), float(scales[:2].max() * 2)), **zero_points)
    (func,) = layers_of(b, y)
    check(func, TARGETS[seed % 3], rng, tmp_path_factory.mktemp("add"))


@pytest.mark.host_cc
@settings(max_examples=4, deadline=None, suppress_health_check=QUIET)
@given(seed=st.integers(0, 2**32 - 1))
def test_functions_of_one_byte(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    b = TinyBuilder((1, *(int(v) for v in rng.choice([1, 3, 8, 13], 2)), 33))
    if seed % 2:
        y = b.call("lookup", b.x, int8s(rng, (256,)))
    else:
        x_zp, y_zp, shift = int(rng.choice([-128, 127, 4])), int(rng.choice([-128, 127, -9])), int(rng.integers(-4, 4))
        y = b.call("requantize", b.x, x_zp=x_zp, y_zp=y_zp, multiplier=int(rng.integers(2**30, 2**31)), shift=shift)
    (func,) = layers_of(b, y)
    check(func, TARGETS[seed % 3], rng, tmp_path_factory.mktemp("table"))


@pytest.mark.host_cc
@pytest.mark.parametrize("op", ["avg_pool2d", "max_pool2d", "mul", "softmax"])
def test_pools_and_products(op: str, rng: np.random.Generator, tmp_path: Path) -> None:
    b = TinyBuilder((1, 7, 5, 9), (1, 1, 1, 9))
    if op == "mul":
        y = b.call("mul", *b.params, a_zp=127, b_zp=-128, y_zp=3, multiplier=1518500250, shift=-7)
    elif op == "softmax":
        y = b.call("softmax", b.x, softmax.quantize_params(0.1)["table"])
    else:
        y = b.call(op, b.x, kernel=[3, 2], strides=[2, 1], padding=[1, 0, 0, 1] if op == "max_pool2d" else [0] * 4)
    (func,) = layers_of(b, y)
    check(func, "c -mcpu=cortex-m7", rng, tmp_path)


@pytest.mark.host_cc
@settings(max_examples=3, deadline=None, suppress_health_check=QUIET)
@given(tiny_chains())
def test_streamed_stages(mod: Any) -> None:
    """The description of a stage is all its operators; the generated C of stages is compared in test_stream.py."""
    rows = tiny_rows(TinyGraph(mod["main"]))
    staged = LowerOps()(StreamRows(segments=[(0, len(rows.graph.ops))])(mod))
    (func,) = [f for _, f in staged.functions_items() if isinstance(f, tirx.PrimFunc)]
    scheduled = default_schedule(func, parse_target("c"))
    x = np.random.default_rng(0).integers(-128, 128, Layer.of(func).shapes[0]).astype(np.int8)
    np.testing.assert_array_equal(Description(scheduled, func)([x]), evaluate(mod, x)[0])


@pytest.mark.host_cc
def test_quantize(rng: np.random.Generator, tmp_path: Path) -> None:
    x = relax.Var("x", relax.TensorType((1, 7, 5, 3), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(builder.emit(registry.call("tiny.quantize", x, scale=0.1, zp=-5)))
        builder.emit_func_output(y)
    (func,) = [f for _, f in LowerOps()(builder.get()).functions_items() if isinstance(f, tirx.PrimFunc)]
    check(func, "c", rng, tmp_path)


@pytest.mark.qemu
@pytest.mark.parametrize(("mcpu", "board"), [("cortex-m7", "mps2-an500"), ("cortex-m4", "mps2-an386")])
def test_a_network_of_all_kinds_on_emulated_cores(mcpu: str, board: str) -> None:
    b = TinyBuilder((1, 12, 12, 3))
    y = b.conv(b.x, 8, 3, strides=[2, 2])
    y = b.depthwise(y, x_zp=5)
    y = z = b.conv(y, 12, 1, x_zp=5)
    y = b.conv(y, 12, 3, x_zp=5)
    y = b.call("lookup", y, np.roll(np.arange(-128, 128), 77).astype(np.int8))
    y = b.call("add", y, z, a_zp=5, b_zp=5, y_zp=-3, **add_op.quantize_params(0.02, 0.03, 0.05))
    y = b.call("max_pool2d", y, kernel=[2, 2], strides=[2, 2])
    y = b.dense(b.call("reshape", y, shape=[1, 108]), 10)
    mod = b.finish(y)
    model = tvm_tiny.build(mod, f"c -mcpu={mcpu}", optimize="speed")
    draws = [np.random.default_rng(s).integers(-128, 128, (1, 12, 12, 3)).astype(np.int8) for s in range(2)]
    results = model.run([{model.inputs[0].name: x} for x in draws], board=board)
    for x, result in zip(draws, results, strict=True):
        np.testing.assert_array_equal(result[model.outputs[0].name].reshape(-1), evaluate(mod, x)[0].reshape(-1))
