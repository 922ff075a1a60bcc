# SPDX-License-Identifier: Apache-2.0
"""Kernels of convolutions that add a residual: equal to meaning and description, also where the output lies over an operand as allowed."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.s_tir import Schedule

import tvm_tiny
from tests.schedules.test_intrinsics import TARGETS, check
from tests.support.op_cases import int8s
from tests.support.residual_models import residual_layer, residual_model
from tests.support.scheduled import Generated
from tests.support.tiny_builder import TinyBuilder, evaluate, op_names
from tvm_tiny.device import run
from tvm_tiny.ops import add as add_op
from tvm_tiny.ops import registry
from tvm_tiny.passes.fuse_ops import FuseOps
from tvm_tiny.passes.lower_ops import LowerOps
from tvm_tiny.reference import Reference
from tvm_tiny.schedules.add import described
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels import Core
from tvm_tiny.schedules.microkernels.residual import residual_sum
from tvm_tiny.schedules.residual import addition_of, unsummed
from tvm_tiny.schedules.rules import default_schedule, realise, spaces
from tvm_tiny.target import parse_target
from tvm_tiny.tuning.network import lowered_layers
from tvm_tiny.tuning.workload import Workload

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


def fused(rng: np.random.Generator, kind: str) -> tirx.PrimFunc:
    """One layer with its residual as rules get it."""
    b, y = residual_layer(rng, kind)
    return lowered(b.finish(y))


def lowered(mod: tvm.IRModule) -> tirx.PrimFunc:
    mod = FuseOps()(mod)
    assert op_names(mod) == ["conv2d"]
    (func,) = [f for _, f in LowerOps()(mod).functions_items() if isinstance(f, tirx.PrimFunc)]
    return func


@pytest.mark.host_cc
@pytest.mark.parametrize("kind", ["pointwise", "conv2d", "winograd"])
@settings(max_examples=3, deadline=None, suppress_health_check=QUIET)
@given(seed=st.integers(0, 2**32 - 1))
def test_kernels_are_their_layers(kind: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    kernel = check(fused(rng, kind), TARGETS[seed % 3], rng, tmp_path_factory.mktemp("residual"))
    assert kernel["residual"] in ("linear", "plain C")


def overlapped(scheduled: Schedule, layer: Layer, inputs: list[np.ndarray], argument: int, directory: Path) -> np.ndarray:
    """The output, computed as near under the kernel's input number `argument` as its right allows."""
    func = scheduled.mod["main"]
    (order, distance), *_ = json.loads(str(func.attrs["tiny.overlap"]))[f"0:{argument}"]
    assert order == "ascending"
    made, size = Generated(scheduled, directory), int(np.prod(layer.shapes[-1]))
    distance = max(distance, -size)
    memory = np.full(3 * (size + inputs[argument].size) + 64, 0x5A, np.uint8)
    out_at = size + inputs[argument].size
    where = {argument: memory[out_at + distance :][: inputs[argument].size]}
    where[argument][:] = inputs[argument].reshape(-1).view(np.uint8)
    for i, x in enumerate(inputs):
        where.setdefault(i, np.ascontiguousarray(x).reshape(-1).view(np.uint8).copy())
    packed = [a.numpy().copy() for a in func.attrs.get("tiny.packed", [])]
    scratch = [np.zeros(int(n), np.uint8) for n in func.attrs.get("tiny.scratch", [])]
    arrays = [*(where[i] for i in range(len(inputs))), *packed, memory[out_at:], *scratch]
    made.library.layer(*(ctypes.c_void_p(a.ctypes.data) for a in arrays))
    return memory[out_at:][:size].view(np.int8).reshape(layer.shapes[-1])


@pytest.mark.host_cc
@pytest.mark.parametrize("kind", ["pointwise", "conv2d", "winograd"])
@settings(max_examples=3, deadline=None, suppress_health_check=QUIET)
@given(seed=st.integers(0, 2**32 - 1), small=st.booleans())
def test_the_output_may_lie_over_either_operand(kind: str, seed: int, small: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Code of its own or shared."""
    rng = np.random.default_rng(seed)
    func = fused(rng, kind).with_attr("tiny.small_code", [0] if small else [])
    layer, scheduled = Layer.of(func), default_schedule(func, parse_target(TARGETS[seed % 3]))
    inputs = [int8s(rng, layer.shapes[i]) for i in (0, 5)]
    want = registry.get(layer.op).numpy(inputs[0], *(layer.constants[i] for i in (1, 2, 3, 4)), inputs[1], **layer.attrs)
    for argument in (0, 1):
        found = overlapped(scheduled, layer, inputs, argument, tmp_path_factory.mktemp("overlap"))
        np.testing.assert_array_equal(found, want)


def test_what_is_stored_and_not_summed() -> None:
    assert unsummed([100, 200, 300, 350], least=150) == 200
    assert unsummed([500, 1000]) == 500
    assert unsummed([12]) == 12


@pytest.mark.host_cc
def test_every_candidate_of_the_tuner_adds(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    b = TinyBuilder((1, 6, 6, 8), (1, 6, 6, 8))
    y = b.call("add", b.params[1], b.conv(b.x, 8, 3), a_zp=3, b_zp=5, y_zp=1, **add_op.quantize_params(0.1, 0.04, 0.09))
    func, target = lowered(b.finish(y)), parse_target("c -mcpu=cortex-m7")
    layer = Layer.of(func)
    inputs = [int8s(rng, layer.shapes[i]) for i in (0, 5)]
    want = registry.get(layer.op).numpy(inputs[0], *(layer.constants[i] for i in (1, 2, 3, 4)), inputs[1], **layer.attrs)
    found = spaces(func, target)
    assert {"conv2d", "winograd"} <= set(found)
    for name, space in found.items():
        choice = {"rule": name, **{key: values[-1] for key, values in space.decisions.items()}}
        choice |= {"channels": 2, "pixels": 2} if name == "conv2d" else {}
        directory = tmp_path / name
        directory.mkdir()
        made = Generated(realise(func, target, choice), directory)
        np.testing.assert_array_equal(made(inputs, want), want)


def test_a_residual_is_no_part_of_the_workload() -> None:
    """A record of the convolution alone serves the one that adds."""
    b = TinyBuilder((1, 6, 6, 8), (1, 6, 6, 8))
    plain = b.conv(b.x, 8, 3)
    mod = b.finish(b.call("add", plain, b.params[1], a_zp=3, b_zp=5, y_zp=1, **add_op.quantize_params(0.1, 0.04, 0.09)))
    alone = [f for _, f in LowerOps()(mod).functions_items() if isinstance(f, tirx.PrimFunc) and "conv2d" in str(f.attrs["tiny.op"])]
    target = parse_target("c -mcpu=cortex-m7")
    assert Workload.of(Layer.of(lowered(mod)), target) == Workload.of(Layer.of(alone[0]), target)


def test_layers_are_tuned_without_the_residual() -> None:
    target = parse_target("c -mcpu=cortex-m7")
    layers = [Layer.of(f) for f in lowered_layers(branches(np.random.default_rng(0)), target)]
    assert sum(layer.op == "tiny.conv2d" for layer in layers) == 8
    assert all(addition_of(layer) is None and 5 not in layer.constants and len(layer.shapes) == 6 for layer in layers)


def test_sums_of_one_scale_share_a_function() -> None:
    rng, found = np.random.default_rng(0), set()
    for zero in (-128, 3, 90):
        params = {"a_zp": zero, "b_zp": -zero - 1, "y_zp": 0, "clamp_min": -128, "clamp_max": 127, "rounding": "gemmlowp"}
        made = residual_sum("t", described({**params, **add_op.quantize_params(0.1, 0.04, float(rng.uniform(0.09, 0.1)))}), Core())
        found |= {made.name} if made.operand == "linear" else set()
    assert len(found) <= 2


def branches(rng: np.random.Generator) -> tvm.IRModule:
    """Residual blocks of every kind of kernel, one after the other, prime channels and stride 2 among them."""
    b = TinyBuilder((1, 12, 10, 4), seed=int(rng.integers(2**31)))
    x, scales = b.conv(b.x, 8, 3), add_op.quantize_params(0.1, 0.04, 0.09)
    for kernel, middle in ((1, 24), (3, 8)):
        y = b.conv(b.conv(x, middle, 1), 8, kernel, clamp_min=-100)
        x = b.call("add", y, x, a_zp=5, b_zp=5, y_zp=5, **scales)
    short = b.conv(x, 11, 1, strides=[2, 2], padding=[0] * 4)
    y = b.conv(b.conv(x, 7, 3), 11, 3, strides=[2, 2], padding=[0, 0, 1, 1])
    x = b.call("add", short, y, a_zp=5, b_zp=-128, y_zp=127, clamp_min=-90, **scales)
    return b.finish(x)


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an500", "mps2_an386"])
@pytest.mark.parametrize("goal", ["speed", "sram"])
def test_networks_on_emulated_cores(board: str, goal: str, rng: np.random.Generator, tmp_path: Path) -> None:
    mod = branches(rng)
    model = tvm_tiny.build(mod, board=board, optimize=goal, name="net")
    if goal == "speed":
        assert sum("residual" in row.kernel for row in model.report.layers) == 3
        assert all(row.op != "add" for row in model.report.layers)
    samples = [int8s(rng, (1, 12, 10, 4)) for _ in range(3)]
    found = run(model.save(tmp_path / "model"), board, [{model.inputs[0].name: s} for s in samples]).outputs
    for ours, sample in zip(found, samples, strict=True):
        np.testing.assert_array_equal(next(iter(ours.values())).reshape(-1), evaluate(mod, sample)[0].reshape(-1))


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an500", "mps2_an386"])
def test_models_on_emulated_cores_are_the_interpreters(board: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    for i in range(3):
        data, shapes = residual_model(rng, swapped=bool(i % 2))
        model = tvm_tiny.build(data, board=board, name="net", optimize="speed")
        inputs = [int8s(rng, s) for s in shapes]
        sample = {t.name: x for t, x in zip(model.inputs, inputs, strict=True)}
        (found,) = run(model.save(tmp_path / f"model{i}"), board, [sample]).outputs
        (want,) = Reference(data).run(inputs)
        np.testing.assert_array_equal(next(iter(found.values())).reshape(-1), want.reshape(-1))
