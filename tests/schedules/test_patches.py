# SPDX-License-Identifier: Apache-2.0
"""Stages in patches as C: bit for bit on random networks, under the arena's guard, on host and emulated core, and on the shared models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tvm import relax

import tvm_tiny
from tests.schedules.test_fetch import Camera, run
from tests.support.guarded import GuardedModel
from tests.support.host import HostModel
from tests.support.random_inputs import random_values
from tests.support.random_tiny import tiny_chains
from tests.support.shared import SHARED, needs_shared
from tests.support.tiny_builder import TinyBuilder, evaluate
from tests.test_exact_host import assert_exact
from tvm_tiny.compiled import CompiledModel
from tvm_tiny.device import build_image, measure_image
from tvm_tiny.memory.patches import can_patch, has_empty_tiles, patch_stage
from tvm_tiny.memory.tiny_rows import tiny_rows
from tvm_tiny.ops import add as add_op
from tvm_tiny.ops import registry
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.fetch_rows import FetchRows
from tvm_tiny.passes.fuse_ops import FuseOps
from tvm_tiny.passes.patch_inference import PatchInference
from tvm_tiny.reference import Reference

pytestmark = pytest.mark.host_cc

QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
ALONE = {"disable": ["stream-rows", "remove-constant-channels"], "optimize": "speed"}
LEAST = {"optimize": "sram", "disable": ["stream-rows"]}
LIMITS = {  # bytes of the arena with patches alone and at most a tenth of the work done again; image and kernel scratch inside
    "pretrainedResnet_quant": 34_500,
    "vww_96_int8": 40_000,
    "person_detect": 36_000,
    "mcunet_vww_80": 36_000,
    "mcunetv2_large": 256_000,
}


def patched(model: CompiledModel) -> list[dict]:
    """The kernels of a model's patch stages."""
    return [row.kernel for row in model.report.layers if row.kernel.get("rule") == "patches"]


def in_patches(mod: tvm.IRModule, first: int, last: int, grid: tuple[int, int], target: str = "c") -> CompiledModel:
    """Built with exactly these operators in patches."""
    model = tvm_tiny.build(PatchInference(stage=(first, last, grid))(mod), target, name="net", **ALONE)
    assert len(patched(model)) == 1
    return model


def inputs_of(model: CompiledModel, rng: np.random.Generator) -> list[np.ndarray]:
    """Random and extreme images."""
    shape = model.inputs[0].shape
    draws = [rng.integers(-128, 128, shape), np.full(shape, -128), np.full(shape, 127), rng.choice([-128, 127], shape)]
    return [d.astype(np.int8) for d in draws]


def check(mod: tvm.IRModule, model: CompiledModel) -> None:
    """The same bits as numpy, and no byte written or read that the plan does not grant."""
    library = GuardedModel(model)
    for x in inputs_of(model, np.random.default_rng(0)):
        np.testing.assert_array_equal(library(x)[0].reshape(-1), evaluate(mod, x)[0].reshape(-1))
        assert not library.faults


@st.composite
def stages(draw: st.DrawFn, mod: tvm.IRModule) -> tuple[int, int, tuple[int, int]]:
    """Any operators of the network that can be patched, on any grid."""
    rows = tiny_rows(TinyGraph(mod["main"]))
    assert rows is not None
    spans = [(i, j) for j in range(1, len(rows.graph.ops) + 1) for i in range(j) if can_patch(rows.graph, i, j)]
    assume(spans)
    first, last = draw(st.sampled_from(sorted(spans, key=lambda s: s[0] - s[1])))
    grid = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    assume(not has_empty_tiles(rows.graph, patch_stage(rows.graph, first, last, grid)))
    return first, last, grid


@settings(max_examples=15, deadline=None, suppress_health_check=QUIET)
@given(st.data(), tiny_chains() | tiny_chains().map(FuseOps()))
def test_random_networks_in_patches(data: st.DataObject, mod: tvm.IRModule) -> None:
    check(mod, in_patches(mod, *data.draw(stages(mod))))


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=QUIET)
@given(st.data(), tiny_chains(1, 7))
def test_many_random_networks_in_patches(data: st.DataObject, mod: tvm.IRModule) -> None:
    check(mod, in_patches(mod, *data.draw(stages(mod))))


def residual_network() -> tvm.IRModule:
    """Everything at once: asymmetric padding, stride 2, a residual whose operand keeps its halo, an odd image, prime channels."""
    b = TinyBuilder((1, 23, 19, 3))
    x = b.conv(b.x, 7, 3, strides=[2, 2], padding=[0, 1, 1, 0], x_zp=-128)
    y = b.conv(b.depthwise(b.conv(x, 13), 3, x_zp=127), 7)
    params = add_op.quantize_params(0.11, 0.37, 0.2)
    x = b.call("add", y, x, a_zp=3, b_zp=-7, y_zp=1, **params)
    return b.finish(b.depthwise(x, 5, strides=[2, 1], padding=[2, 3, 1, 0]))


@pytest.mark.parametrize("grid", [(1, 3), (3, 1), (2, 2), (5, 5)])
def test_residuals_strides_and_asymmetric_padding(grid: tuple[int, int]) -> None:
    mod = residual_network()
    check(mod, in_patches(mod, 0, 6, grid))


@pytest.mark.qemu
@pytest.mark.parametrize(("target", "board"), [("c -mcpu=cortex-m7", "mps2-an500"), ("c -mcpu=cortex-m0plus", "mps2-an385")])
def test_on_the_emulated_core(target: str, board: str) -> None:
    mod = residual_network()
    model = in_patches(mod, 0, 6, (3, 3), target)
    draws = inputs_of(model, np.random.default_rng(0))
    for x, result in zip(draws, model.run([{model.inputs[0].name: x} for x in draws], board=board), strict=True):
        np.testing.assert_array_equal(result[model.outputs[0].name].reshape(-1), evaluate(mod, x)[0].reshape(-1))


def test_columns_of_equal_geometry_share_their_kernels() -> None:
    b = TinyBuilder((1, 8, 40, 4))
    mod = b.finish(b.depthwise(b.conv(b.x, 8, 3), 3))
    (kernel,) = patched(in_patches(mod, 0, 2, (1, 8)))
    assert kernel["kernels"] == 2 * 3, "left, right and inner columns"


@pytest.fixture(scope="module")
def by_patches() -> tuple[tvm.IRModule, CompiledModel, HostModel]:
    """The network with residuals, its image handed over patch by patch."""
    mod = residual_network()
    model = tvm_tiny.build(PatchInference(stage=(0, 7, (3, 2)))(FetchRows(True)(mod)), "c", name="net", **ALONE)
    return mod, model, HostModel(model)


def test_patches_handed_over_by_the_application(by_patches: tuple[tvm.IRModule, CompiledModel, HostModel]) -> None:
    mod, model, library = by_patches
    for x in inputs_of(model, np.random.default_rng(0)):
        camera = Camera(x)
        status, out = run(model, library, camera)
        assert status == 0
        np.testing.assert_array_equal(out.reshape(-1), evaluate(mod, x)[0].reshape(-1))
        assert len(camera.asked) == 6, "each patch by one call"
        assert camera.asked[0][0] == camera.columns[0][0] == 0
    assert b"Patches are asked for" in model.files["codegen/host/include/tvmgen_net.h"]


@pytest.mark.parametrize("fails", [0, 22])
def test_what_the_function_returns_ends_the_run(fails: int, by_patches: tuple[tvm.IRModule, CompiledModel, HostModel]) -> None:
    camera = Camera(np.zeros(by_patches[1].inputs[0].shape, np.int8), fails)
    assert run(*by_patches[1:], camera)[0] == 1234
    assert sum(row + rows > fails for row, rows in camera.asked) == 1, "asked again after it failed"


def test_float_patches_are_quantised_row_by_row() -> None:
    b = TinyBuilder((1, 12, 11, 3))
    b.params[0] = relax.Var("x", relax.TensorType((1, 12, 11, 3), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", b.params):
        with builder.dataflow():
            q = builder.emit(registry.call("tiny.quantize", b.params[0], scale=0.05, zp=-4))
            y = builder.emit_output(registry.call("tiny.max_pool2d", q, kernel=[3, 3], strides=[1, 1], padding=[1, 1, 1, 1]))
        builder.emit_func_output(y)
    mod = builder.get()
    model = tvm_tiny.build(PatchInference(stage=(0, 2, (2, 3)))(FetchRows(True)(mod)), "c", name="net", **ALONE)
    x = np.random.default_rng(0).normal(0, 3, (1, 12, 11, 3)).astype(np.float32)
    status, out = run(model, HostModel(model), Camera(x))
    assert status == 0
    np.testing.assert_array_equal(out, evaluate(mod, x)[0])


@needs_shared
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "pretrainedResnet_quant" else [pytest.mark.slow]) for n in LIMITS])
def test_shared_models_in_patches_are_exact_and_small(name: str, rng: np.random.Generator) -> None:
    path = Path(SHARED) / "models/tflite" / f"{name}.tflite"
    model = tvm_tiny.build(path, "c -mcpu=cortex-m7", **LEAST)
    assert model.workspace_size <= LIMITS[name]
    assert model.report.decisions["patches"]["chosen"]["extra_macs"] <= 0.1
    assert_exact(path, rng, 1, **LEAST)


@needs_shared
@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.parametrize("name", LIMITS)
def test_shared_models_in_patches_on_the_emulated_m7(name: str, rng: np.random.Generator, tmp_path: Path) -> None:
    path = Path(SHARED) / "models/tflite" / f"{name}.tflite"
    model = tvm_tiny.build(path, board="mps2_an500", name="net", **LEAST)
    linked = measure_image(build_image(model.save(tmp_path / "model"), "mps2_an500", tmp_path / "project"))
    assert model.workspace_size == linked.workspace("net") <= LIMITS[name]
    sample = [random_values(rng, t.shape, t.dtype) for t in model.inputs]
    found = model.run({t.name: x for t, x in zip(model.inputs, sample, strict=True)}, timeout=600.0)
    for tensor, wanted in zip(model.outputs, Reference(path.read_bytes()).run(sample), strict=True):
        np.testing.assert_array_equal(found[tensor.name].reshape(-1), wanted.reshape(-1))
