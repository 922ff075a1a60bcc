# SPDX-License-Identifier: Apache-2.0
"""Tensors one after the other: which layers the rule takes, and dense connections whole, by rows and in patches, on the host and a core."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.host import HostModel
from tests.support.oracle import Oracle
from tests.support.tflite_graphs import GraphBuilder
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.memory.tiny_rows import tiny_rows
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.stream_rows import StreamRows
from tvm_tiny.schedules.microkernels.concat import distance


@pytest.mark.host_cc
@settings(max_examples=8, deadline=None)
@given(st.data(), st.integers(0, 3), st.integers(2, 4))
def test_whole_tensors_along_any_axis_are_exact_over_their_inputs(data: st.DataObject, axis: int, count: int) -> None:
    common = data.draw(st.lists(st.sampled_from([1, 2, 5, 7]), min_size=4, max_size=4))
    sizes = data.draw(st.lists(st.sampled_from([1, 3, 4, 32, 33, 70]), min_size=count, max_size=count))
    shapes = [(*common[:axis], size, *common[axis + 1 :]) for size in sizes]
    b = TinyBuilder(*shapes)
    table = b.rng.integers(-128, 128, 256).astype(np.int8)
    y = b.call("concat", *(b.call("lookup", x, table) for x in b.params), axis=axis)
    mod = b.finish(b.call("lookup", y, table))
    model = tvm_tiny.build(mod, "c", name="net", optimize="speed")
    rules = [json.loads(str(f.attrs["tiny.kernel"]))["rule"] for f in model.program.kernels.values()]
    assert "concat" in rules
    library, rng = GuardedModel(model), np.random.default_rng(0)
    inputs = [rng.integers(-128, 128, shape).astype(np.int8) for shape in shapes]
    np.testing.assert_array_equal(library(*inputs)[0], evaluate(mod, *inputs)[0])
    assert not library.faults


def test_a_turn_stores_below_what_it_and_later_ones_read() -> None:
    sizes, turns = [5, 8, 1], 7
    for k, size in enumerate(sizes):
        base = distance(sizes, turns, k)
        assert all((i + 1) * sum(sizes) <= base + i * size for i in range(turns))
        assert any((i + 1) * sum(sizes) == base + i * size for i in range(turns))


@pytest.mark.host_cc
def test_constants_beside_a_tensor_are_left_to_loops(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 3, 4, 5))
    mod = b.finish(b.call("concat", b.x, b.rng.integers(-128, 128, (1, 3, 4, 2)).astype(np.int8), axis=3))
    model = tvm_tiny.build(mod, "c", optimize="speed")
    assert [json.loads(str(f.attrs["tiny.kernel"]))["rule"] for f in model.program.kernels.values()] == ["fallback"]
    x = rng.integers(-128, 128, (1, 3, 4, 5)).astype(np.int8)
    np.testing.assert_array_equal(HostModel(model)(x)[0], evaluate(mod, x)[0])


def dense_block(height: int = 17, width: int = 10) -> bytes:
    """Dense connections, one of three tensors of which one had another scale, and a fire module."""
    rng, b = np.random.default_rng(3), GraphBuilder()

    def conv(x: int, outputs: int, kernel: int = 1, stride: int = 1, quantisation: tuple[float, int] = (0.05, -128)) -> int:
        _, h, w, c = b.tensors[x].shape
        weight = b.tensor((outputs, kernel, kernel, c), 0.008, data=rng.integers(-127, 128, (outputs, kernel, kernel, c)))
        out = b.tensor((1, -(-h // stride), -(-w // stride), outputs), *quantisation)
        return b.op("CONV_2D", [x, weight, -1], out, padding=0, stride_h=stride, stride_w=stride, activation=0)

    def beside(*parts: int) -> int:
        shapes = [b.tensors[p].shape for p in parts]
        return b.op("CONCATENATION", list(parts), b.tensor((*shapes[0][:3], sum(s[3] for s in shapes)), 0.05, -128), axis=3)

    x = conv(b.input((1, height, width, 3), 0.02, 3), 11, 3, 1)
    x = beside(x, conv(conv(x, 16), 5, 3))
    other = b.op("QUANTIZE", [conv(x, 6, 3, quantisation=(0.04, 5))], b.tensor((1, height, width, 6), 0.05, -128))
    x = beside(conv(x, 8), other, x)
    y = conv(x, 7, 3, 2)
    y = beside(conv(y, 9), conv(y, 13, 3))
    return b.output(conv(y, 4, 3)).bytes()


OPTIONS: list[dict[str, Any]] = [{"max_overhead": 1.0}, {"disable": ("stream-rows",), "max_overhead": 0.5}]


@pytest.mark.host_cc
@pytest.mark.parametrize("options", OPTIONS, ids=["rows", "patches"])
def test_dense_connections_on_the_host(options: dict[str, Any], rng: np.random.Generator) -> None:
    data = dense_block()
    whole = tvm_tiny.build(data, "c", optimize="speed").report.arena_bytes
    model = tvm_tiny.build(data, "c", name="net", optimize="sram", **options)
    assert model.report.arena_bytes < 0.6 * whole
    library, oracle = GuardedModel(model), Oracle(data)
    x = rng.integers(-128, 128, (1, 17, 10, 3)).astype(np.int8)
    np.testing.assert_array_equal(library(x)[0], oracle.run(x)[0])
    assert not library.faults


@pytest.mark.qemu
@pytest.mark.parametrize("options", OPTIONS, ids=["rows", "patches"])
def test_dense_connections_on_an_emulated_m7(options: dict[str, Any], rng: np.random.Generator) -> None:
    data = dense_block()
    model, oracle = tvm_tiny.build(data, board="mps2_an500", name="net", optimize="sram", **options), Oracle(data)
    x = rng.integers(-128, 128, (1, 17, 10, 3)).astype(np.int8)
    (found,) = model.run(x).values()
    np.testing.assert_array_equal(found, oracle.run(x)[0])


@pytest.mark.host_cc
@pytest.mark.parametrize("strips", ["none", 1, 3])
def test_a_dense_block_is_one_stream(strips: str | int, rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 11, 6, 5))
    x = b.x
    for _ in range(3):
        x = b.call("concat", x, b.conv(b.conv(x, 8), 3, 3), b.depthwise(x, 3), axis=3)
    mod = b.finish(x)
    rows = tiny_rows(TinyGraph(mod["main"]))
    assert rows is not None
    streamed = StreamRows(segments=[(0, len(rows.graph.ops))], strips=strips)(mod)
    model = tvm_tiny.build(streamed, "c", name="net", disable=["remove-constant-channels"], optimize="speed")
    assert len(model.program.calls) == 1
    library, x0 = GuardedModel(model), rng.integers(-128, 128, (1, 11, 6, 5)).astype(np.int8)
    np.testing.assert_array_equal(library(x0)[0], evaluate(mod, x0)[0])
    assert not library.faults
