# SPDX-License-Identifier: Apache-2.0
"""Inputs that the application hands over row by row, in C: exact, in order, each row once, ended by what the function returns."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given, settings

import tvm_tiny
from tests.support.demo import MODEL, demo_samples
from tests.support.host import HostModel
from tests.support.random_tiny import tiny_chains
from tests.support.shared import SHARED, needs_shared
from tests.support.tflite_graphs import GraphBuilder
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.compiled import CompiledModel
from tvm_tiny.device import build_image, measure_image
from tvm_tiny.memory.tiny_rows import tiny_rows
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.fetch_rows import FetchRows
from tvm_tiny.passes.stream_rows import StreamRows

pytestmark = pytest.mark.host_cc

LIMITS = {"mcunet_vww_80": 17_500, "vww_96_int8": 16_500}  # the project's goals, bytes of the arena, rows of the image inside
FETCH = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, *[ctypes.c_int32] * 4, ctypes.c_void_p)
CONTEXT = 0x5AFE


class Source(ctypes.Structure):
    """`struct tvmgen_<model>_source`."""

    _fields_ = (("fetch", FETCH), ("context", ctypes.c_void_p))


class Camera:
    """Hands over an image (1, height, width, channels) and notes what it was asked for; fails at row `fails`."""

    def __init__(self, image: np.ndarray, fails: int | None = None) -> None:
        self.image, self.fails = np.ascontiguousarray(image), fails
        self.asked: list[tuple[int, int]] = []
        self.columns: list[tuple[int, int]] = []

    def __call__(self, context: int, row: int, column: int, rows: int, columns: int, out: int) -> int:
        assert context == CONTEXT
        assert 0 <= column < column + columns <= self.image.shape[2]
        assert 0 <= row < row + rows <= self.image.shape[1]
        self.asked.append((row, rows))
        self.columns.append((column, columns))
        if self.fails is not None and row + rows > self.fails:
            return 1234
        part = np.ascontiguousarray(self.image[0, row : row + rows, column : column + columns])
        ctypes.memmove(out, part.ctypes.data, part.nbytes)
        return 0


def run(model: CompiledModel, library: HostModel, camera: Camera) -> tuple[int, np.ndarray]:
    """Status and output of one inference in an arena between canaries."""
    size, guard = model.workspace_size, 64
    raw = np.full(size + 2 * guard + 16, 0xA5, np.uint8)
    start = guard + -(raw.ctypes.data + guard) % 16
    out = np.zeros(model.outputs[0].shape, model.outputs[0].dtype)
    function = ctypes.CDLL(str(library.library))[f"tvmgen_{model.name}_run_with_workspace"]
    source = Source(FETCH(camera), CONTEXT)
    status = function(ctypes.byref(source), (ctypes.c_void_p * 1)(out.ctypes.data), ctypes.c_void_p(raw.ctypes.data + start))
    assert (raw[:start] == 0xA5).all()
    assert (raw[start + size :] == 0xA5).all()
    return status, out


def wide_image() -> tvm.IRModule:
    """A network whose image is most of its memory."""
    b = TinyBuilder((1, 24, 20, 3))
    x = b.conv(b.x, 4, 3, strides=[2, 2])
    return b.finish(b.conv(b.depthwise(x, strides=[2, 2]), 6))


@pytest.fixture(scope="module")
def by_rows() -> tuple[CompiledModel, HostModel]:
    """That network on the host, its image fetched."""
    model = tvm_tiny.build(wide_image(), "c", optimize="sram", camera=True, name="net")
    return model, HostModel(model)


@pytest.mark.parametrize("goal", ["speed", "balanced"])
def test_the_demo_network(goal: str) -> None:
    plain = HostModel(tvm_tiny.build(MODEL, "c", optimize="speed"))
    model = tvm_tiny.build(MODEL, "c", optimize=goal, camera=True)
    library = HostModel(model)
    for image in demo_samples(5)[0]:
        camera = Camera(image.reshape(model.inputs[0].shape))
        status, out = run(model, library, camera)
        assert status == 0
        np.testing.assert_array_equal(out, plain(image)[0])
        assert [r for row, rows in camera.asked for r in range(row, row + rows)] == list(range(28))


def test_the_image_is_never_there_whole(by_rows: tuple[CompiledModel, HostModel], rng: np.random.Generator) -> None:
    model, library = by_rows
    image = rng.integers(-128, 128, model.inputs[0].shape).astype(np.int8)
    camera = Camera(image)
    status, out = run(model, library, camera)
    assert status == 0
    np.testing.assert_array_equal(out, evaluate(wide_image(), image)[0])
    assert camera.asked == [(row, 1) for row in range(24)]
    assert set(camera.columns) == {(0, 20)}
    assert model.workspace_size < image.nbytes


@pytest.mark.parametrize("goal", ["speed", "sram"])
@pytest.mark.parametrize("camera", [True, "int8"])
def test_bytes_of_a_uint8_image(goal: str, camera: bool | str, rng: np.random.Generator) -> None:
    """A width of odd bytes, so that rows begin anywhere."""
    b = GraphBuilder()
    x = b.op("QUANTIZE", [b.input((1, 20, 17, 3), 0.02, 100, dtype="uint8")], b.tensor((1, 20, 17, 3), 0.03, -20))
    w = b.tensor((4, 3, 3, 3), 0.01, data=rng.integers(-127, 128, (4, 3, 3, 3)))
    y = b.op("CONV_2D", [x, w, -1], b.tensor((1, 10, 9, 4), 0.1, 3), stride_h=2, stride_w=2, padding=0)
    data = b.output(
        b.op("MAX_POOL_2D", [y], b.tensor((1, 5, 4, 4), 0.1, 3), stride_h=2, stride_w=2, filter_h=2, filter_w=2, padding=1)
    ).bytes()
    plain, model = (tvm_tiny.build(data, "c", optimize=goal, camera=c, name="net") for c in (False, camera))
    image = rng.integers(0, 256, (1, 20, 17, 3)).astype(np.uint8)
    handed = (image ^ 128).view(np.int8) if camera == "int8" else image
    status, out = run(model, HostModel(model), Camera(handed))
    assert (status, str(model.inputs[0].dtype)) == (0, str(handed.dtype))
    np.testing.assert_array_equal(out, HostModel(plain)(image)[0])


@pytest.mark.parametrize("fails", [0, 9, 23])
def test_what_the_function_returns_ends_the_run(fails: int, by_rows: tuple[CompiledModel, HostModel]) -> None:
    model, library = by_rows
    camera = Camera(np.zeros(model.inputs[0].shape, np.int8), fails)
    assert run(model, library, camera)[0] == 1234
    assert camera.asked[-1] == (fails, 1), "asked again after it failed"


def test_no_function_is_an_error(by_rows: tuple[CompiledModel, HostModel]) -> None:
    library = ctypes.CDLL(str(by_rows[1].library))
    assert library["tvmgen_net_run"](ctypes.byref(Source()), (ctypes.c_void_p * 1)(0)) == -1


@pytest.mark.parametrize("transport", ["frames", "rpc"])
def test_the_projects_hand_over_what_they_received(transport: str, by_rows: tuple[CompiledModel, HostModel]) -> None:
    image = np.arange(24 * 20 * 3).astype(np.int8).reshape(1, 24, 20, 3)
    (out,) = by_rows[0].run({"input_0": image}, board="native", transport=transport).values()
    np.testing.assert_array_equal(out, evaluate(wide_image(), image)[0])


@settings(max_examples=4, deadline=None)
@given(tiny_chains())
def test_random_chains_are_exact(mod: tvm.IRModule) -> None:
    fetched = FetchRows(True)(mod)
    rows = tiny_rows(TinyGraph(fetched["main"]))
    assert rows is not None
    streamed = StreamRows(segments=[(0, len(rows.graph.ops))])(fetched)
    model = tvm_tiny.build(streamed, "c", disable=["remove-constant-channels"], optimize="speed")
    x = np.random.default_rng(1).integers(-128, 128, model.inputs[0].shape).astype(np.int8)
    status, out = run(model, HostModel(model), Camera(x))
    assert status == 0
    np.testing.assert_array_equal(out, evaluate(mod, x)[0])


@pytest.mark.qemu
def test_on_the_emulated_m7_and_in_the_linker_map(tmp_path: Path, rng: np.random.Generator) -> None:
    model = tvm_tiny.build(wide_image(), board="mps2_an500", optimize="sram", camera=True, name="net")
    images = [rng.integers(-128, 128, model.inputs[0].shape).astype(np.int8) for _ in range(3)]
    for image, result in zip(images, model.run([{model.inputs[0].name: image} for image in images]), strict=True):
        np.testing.assert_array_equal(evaluate(wide_image(), image)[0], result[model.outputs[0].name])
    linked = measure_image(build_image(model.save(tmp_path / "model"), "mps2_an500", tmp_path / "project"))
    assert model.report.arena_bytes == model.metadata()["workspace_size"] == linked.workspace("net")


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITS)
def test_shared_models_without_their_image_keep_to_their_limits(name: str) -> None:
    path = Path(SHARED) / "models/tflite" / f"{name}.tflite"
    assert tvm_tiny.build(path, "c -mcpu=cortex-m7", optimize="sram", camera=True).workspace_size <= LIMITS[name]


@needs_shared
@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("camera", [True, "int8"])
def test_shared_models_without_their_image(name: str, camera: bool | str, rng: np.random.Generator, tmp_path: Path) -> None:
    path = Path(SHARED) / "models/tflite" / f"{name}.tflite"
    plain = tvm_tiny.build(path, "c", optimize="speed")
    board, host = (tvm_tiny.build(path, target, optimize="sram", camera=camera, name="net") for target in ("c -mcpu=cortex-m7", "c"))
    image = measure_image(build_image(board.save(tmp_path / "model"), "mps2_an500", tmp_path / "project"))
    assert board.report.arena_bytes == image.workspace("net")
    shape, dtype = plain.inputs[0].shape, plain.inputs[0].dtype
    x = rng.integers(-128, 128, shape).astype(np.int8) if dtype == "int8" else rng.uniform(-1, 1, shape).astype(np.float32)
    handed = x
    if host.inputs[0].dtype != dtype:
        handed = np.clip(np.round(x.astype(np.float64) / host.inputs[0].scale) + host.inputs[0].zero_point, -128, 127).astype(np.int8)
    status, out = run(host, HostModel(host), Camera(handed))
    assert status == 0
    np.testing.assert_array_equal(out, HostModel(plain)(x)[0])
    np.testing.assert_array_equal(out, board.run(handed, board="mps2_an500")[board.outputs[0].name])
