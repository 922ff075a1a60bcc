# SPDX-License-Identifier: Apache-2.0
"""Resized images: the kernels against the operators' meaning, and networks that shrink and grow again, on the host and a core."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.kernel_runner import mismatches_on_device
from tests.support.oracle import Oracle
from tests.support.scheduled import Generated, layers_of
from tests.support.tflite_graphs import GraphBuilder
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.memory.tiny_rows import tiny_rows
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.stream_rows import StreamRows
from tvm_tiny.schedules import resize
from tvm_tiny.schedules.base import Layer
from tvm_tiny.target import parse_target

NAMES = ("resize_nearest", "resize_bilinear")
FORMS = ((False, False), (False, True), (True, False))  # align_corners, half_pixel
EXTREMES = ((1, 1, 1), (7, 5, 4), (24, 3, 9), (2, 9, 33))


def layer(name: str, shape: tuple[int, int, int], size: tuple[int, int], form: tuple[bool, bool]) -> tuple[TinyBuilder, Any]:
    b = TinyBuilder((1, *shape))
    return b, b.call(name, b.x, size=list(size), align_corners=form[0], half_pixel=form[1])


@pytest.mark.host_cc
@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 3, 4, 7, 8, 33, 70])),
    st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([1, 2, 4])),
    st.tuples(st.integers(-3, 1), st.integers(0, 2)),
    st.sampled_from(FORMS),
)
def test_kernels_mean_what_the_operators_do(
    tmp_path_factory: pytest.TempPathFactory, name: str, shape: tuple, factors: tuple, more: tuple, form: tuple
) -> None:
    size = tuple(max(1, n * factor + extra) for n, factor, extra in zip(shape, factors, more, strict=False))
    (func,) = layers_of(*layer(name, shape, size, form))
    scheduled = resize.apply(func, parse_target("c"), False)
    assert scheduled is not None
    generated = Generated(scheduled, tmp_path_factory.mktemp("resize"))
    found = Layer.of(func)
    assert found is not None
    for x in (np.full((1, *shape), -128), np.full((1, *shape), 127), np.random.default_rng(0).integers(-128, 128, (1, *shape))):
        want = resize.kernel_of(found, "net").reference(x.astype(np.int8))
        np.testing.assert_array_equal(generated([x.astype(np.int8)], want), want)


@pytest.mark.host_cc
@pytest.mark.parametrize("form", FORMS[:2])
def test_rounded_steps_end_at_the_last_pixel(form: tuple[bool, bool]) -> None:
    """From one pixel to 65, and from two to 3000: steps in 1/1024 pixel lead behind the image, where its last pixel is meant."""
    b = TinyBuilder((1, 1, 2, 3))
    y = b.call("resize_bilinear", b.x, size=[65, 3000], align_corners=form[0], half_pixel=form[1])
    mod = b.finish(y)
    x = np.array([[-128, 127, 5], [100, -128, 6]], np.int8).reshape(1, 1, 2, 3)
    (want,) = evaluate(mod, x)
    np.testing.assert_array_equal(want[:, :, -1], np.broadcast_to(x[:, :, -1], (1, 65, 3)))
    library = GuardedModel(tvm_tiny.build(mod, "c", name="net"))
    np.testing.assert_array_equal(library(x)[0].reshape(want.shape), want)
    assert not library.faults


@pytest.mark.qemu
def test_kernels_on_an_emulated_m7(rng: np.random.Generator, tmp_path: Path) -> None:
    kernels, inputs = [], []
    for name in NAMES:
        for number, (shape, form) in enumerate(zip(EXTREMES, (*FORMS, FORMS[1]), strict=True)):
            (func,) = layers_of(*layer(name, shape, (2 * shape[0], 2 * shape[1] + number), form))
            found = Layer.of(func)
            assert found is not None
            kernels.append(resize.kernel_of(found, f"{name}{number}"))
            inputs.append(rng.integers(-128, 128, (1, *shape)).astype(np.int8))
    assert mismatches_on_device(kernels, inputs, "cortex-m7", tmp_path) == [0] * len(kernels)


@pytest.mark.host_cc
def test_other_layouts_and_types_are_left_to_loops() -> None:
    for arguments in ({"x_layout": "NCHW"}, {"y_layout": "NCHW"}):
        b = TinyBuilder((1, 3, 4, 5))
        (func,) = layers_of(b, b.call("resize_nearest", b.x, size=[6, 8], **arguments))
        assert resize.apply(func, parse_target("c"), False) is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("size", "out"), [(5, 10), (5, 7), (9, 4), (1, 6), (6, 1)])
def test_a_row_reads_the_rows_its_numbers_come_from(name: str, form: tuple[bool, bool], size: int, out: int) -> None:
    b, y = layer(name, (size, 1, 1), (out, 1), form)
    mod = b.finish(y)
    rows = tiny_rows(TinyGraph(mod["main"]))
    assert rows is not None
    (op,) = rows.graph.ops
    assert op.kind == "resize"
    for row in range(size):
        x = np.zeros((1, size, 1, 1), np.int8)
        x[0, row] = 100
        changed = np.flatnonzero(evaluate(mod, x)[0].reshape(-1))
        assert all(op.sources[i][0] <= row < op.sources[i][1] for i in changed)


def unet(kind: str, size: tuple[int, int] = (20, 12)) -> bytes:
    """Two levels down and up again, skips around them; upsampled by two, or back to an odd size."""
    rng, b = np.random.default_rng(5), GraphBuilder()

    def conv(x: int, outputs: int, kernel: int = 3, stride: int = 1) -> int:
        _, h, w, c = b.tensors[x].shape
        weight = b.tensor((outputs, kernel, kernel, c), 0.008, data=rng.integers(-127, 128, (outputs, kernel, kernel, c)))
        out = b.tensor((1, -(-h // stride), -(-w // stride), outputs), 0.05, -128)
        return b.op("CONV_2D", [x, weight, -1], out, padding=0, stride_h=stride, stride_w=stride, activation=0)

    def up(x: int, like: int) -> int:
        (_, h, w, _), c = b.tensors[like].shape, b.tensors[x].shape[3]
        even = (h, w) == tuple(2 * n for n in b.tensors[x].shape[1:3])
        return b.op(kind, [x, b.ints(h, w)], b.tensor((1, h, w, c), 0.05, -128), half_pixel_centers=even)

    x, skips = conv(b.input((1, *size, 2), 0.02, 3), 6), []
    for channels in (10, 12):
        skips.append(x)
        x = conv(x, channels, 3, 2)
    for skip in reversed(skips):
        grown = up(conv(x, 5, 1), skip)
        shape = (*b.tensors[skip].shape[:3], 5 + b.tensors[skip].shape[3])
        x = conv(b.op("CONCATENATION", [grown, skip], b.tensor(shape, 0.05, -128), axis=3), 7)
    return b.output(conv(x, 3, 1)).bytes()


NETWORKS = [("RESIZE_NEAREST_NEIGHBOR", (20, 12)), ("RESIZE_BILINEAR", (20, 12)), ("RESIZE_BILINEAR", (21, 13))]


@pytest.mark.host_cc
@pytest.mark.parametrize(("kind", "size"), NETWORKS)
def test_networks_that_grow_again_on_the_host(kind: str, size: tuple[int, int], rng: np.random.Generator) -> None:
    data = unet(kind, size)
    whole = tvm_tiny.build(data, "c", optimize="speed").report.arena_bytes
    model = tvm_tiny.build(data, "c", name="net", optimize="sram", max_overhead=1.0)
    assert model.report.arena_bytes < 0.85 * whole
    library, x = GuardedModel(model), rng.integers(-128, 128, (1, *size, 2)).astype(np.int8)
    np.testing.assert_array_equal(library(x)[0], Oracle(data).run(x)[0])
    assert not library.faults


@pytest.mark.qemu
def test_a_network_that_grows_again_on_an_emulated_m7(rng: np.random.Generator) -> None:
    data = unet(*NETWORKS[1])
    model = tvm_tiny.build(data, board="mps2_an500", name="net", optimize="sram", max_overhead=1.0)
    x = rng.integers(-128, 128, (1, 20, 12, 2)).astype(np.int8)
    (found,) = model.run(x).values()
    np.testing.assert_array_equal(found, Oracle(data).run(x)[0])


@pytest.mark.host_cc
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [[22, 12], [17, 7], [9, 5]])
def test_a_resize_between_windows_is_one_stream(name: str, size: list[int], rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 11, 6, 5))
    y = b.call(name, b.conv(b.x, 7, 3, strides=[1, 1], padding=[1, 1, 1, 1]), size=size, half_pixel=name == "resize_bilinear")
    mod = b.finish(b.conv(y, 4, 3, strides=[1, 1], padding=[1, 1, 1, 1]))
    streamed = StreamRows(segments=[(0, 3)])(mod)
    model = tvm_tiny.build(streamed, "c", name="net", disable=["remove-constant-channels"], optimize="speed")
    (call,) = model.program.calls
    kernel = json.loads(str(model.program.kernels[call.kernel].attrs["tiny.kernel"]))
    assert kernel["rings"] < 11 + size[0], "rows of both tensors, not the tensors"
    library, x0 = GuardedModel(model), rng.integers(-128, 128, (1, 11, 6, 5)).astype(np.int8)
    np.testing.assert_array_equal(library(x0)[0], evaluate(mod, x0)[0])
    assert not library.faults
