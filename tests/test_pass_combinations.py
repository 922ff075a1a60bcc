# SPDX-License-Identifier: Apache-2.0
"""The same bits with every optional pass alone, every pair, and all together; under canaries, with dead bytes poisoned."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.support.combinations import EVERY, OPTIONAL, Combinations, named
from tests.support.guarded import GuardedModel
from tests.support.oracle import Oracle
from tests.support.random_networks import networks
from tests.support.random_tiny import tiny_chains
from tests.support.shared import ROOT, needs_shared, shared_models
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.compiled import CompiledModel
from tvm_tiny.memory.program import model_info
from tvm_tiny.ops import add

OWN = ROOT / "examples/fashion_mnist/fashion_mnist_int8.tflite"
NONE = frozenset(OPTIONAL)
LARGE = ("mcunetv2_large", "mcunet_vww_80")  # one input instead of three
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def draws(shape: tuple[int, ...], rng: np.random.Generator, count: int = 2) -> list[np.ndarray]:
    """Random inputs and extreme ones."""
    found = [rng.integers(-128, 128, shape) for _ in range(count)]
    return [x.astype(np.int8) for x in (*found, np.full(shape, -128), np.full(shape, 127), rng.choice([-128, 127], shape))]


def check(mod: tvm.IRModule, disabled: frozenset[str], rng: np.random.Generator, **options: object) -> None:
    """Built without `disabled`: the same bits as numpy, and the guard saw nothing."""
    library = GuardedModel(tvm_tiny.build(mod, "c", name="net", disable=disabled, **options))
    for x in draws(_shape(mod), rng):
        for ours, wanted in zip(library(x), evaluate(mod, x), strict=True):
            np.testing.assert_array_equal(ours.reshape(-1), wanted.reshape(-1))
        assert not library.faults


@cache
def everything() -> tvm.IRModule:
    """A network every optional pass has something to do in: padding, constant channels, branches out of order, residuals, stride 2."""
    b = TinyBuilder((1, 14, 11, 3), seed=3)
    pad = b.call("pad", b.x, before=[0, 1, 1, 0], after=[0, 1, 1, 0], value=-3)
    bias = np.where(np.arange(12) % 3 == 0, -(10**6), 0)  # every third channel is clamped away for all inputs
    y = b.conv(pad, 12, 3, padding=[0] * 4, bias=bias, clamp_min=5)
    y = b.depthwise(y, x_zp=5, clamp_min=5)
    wide = b.conv(y, 16, x_zp=5)
    low = b.call("max_pool2d", b.call("lookup", b.conv(y, 24, 3, x_zp=5), np.arange(-128, 128).astype(np.int8) // 2), kernel=[2, 2])
    wide = b.depthwise(wide, x_zp=5, strides=[2, 2], padding=[0, 0, 1, 1])
    low = b.conv(b.call("max_pool2d", low, kernel=[2, 2], strides=[2, 2], padding=[0, 0, 1, 0]), 16, x_zp=2)
    total = b.call("add", wide, low, a_zp=3, b_zp=-7, y_zp=1, **add.quantize_params(0.11, 0.37, 0.2))
    turned = b.call("transpose", b.call("transpose", total, axes=[0, 3, 1, 2]), axes=[0, 2, 3, 1])
    return b.finish(b.conv(turned, 6, x_zp=1))


def test_the_network_gives_every_pass_something_to_do() -> None:
    told = [d for goal in ("balanced", "speed") for d in tvm_tiny.build(everything(), "c", name="net", optimize=goal).explanation]
    assert {d.pass_name for d in told if d.accepted} >= {"fuse-ops", "remove-constant-channels", "in-place", "overlap"}
    assert {d.pass_name for d in told} >= set(OPTIONAL) - {"fetch-rows"}


@pytest.mark.host_cc
@pytest.mark.parametrize("goal", ["balanced", "sram"])
def test_one_network_under_every_combination(goal: str, rng: np.random.Generator) -> None:
    x = draws(_shape(everything()), rng)
    wanted = [evaluate(everything(), sample) for sample in x]
    for name, model in Combinations(everything(), optimize=goal).models(EVERY):
        _same_on_host(name, model, [[sample] for sample in x], wanted)


def _shape(mod: tvm.IRModule) -> tuple[int, ...]:
    return tuple(int(d) for d in mod["main"].params[0].ty.shape.values)


def _same_on_host(name: str, model: CompiledModel, inputs: list[list[np.ndarray]], wanted: list[list[np.ndarray]]) -> None:
    """Exact for each sample, and the guard saw nothing."""
    library = GuardedModel(model)
    for sample, results in zip(inputs, wanted, strict=True):
        for mine, reference in zip(library(*sample), results, strict=True):
            np.testing.assert_array_equal(mine.reshape(-1), reference.reshape(-1), err_msg=name)
        assert not library.faults, name


def _same_on_board(name: str, model: CompiledModel, inputs: list[list[np.ndarray]], wanted: list[list[np.ndarray]]) -> None:
    """Exact for each sample, all in one boot."""
    samples = [{t.name: x for t, x in zip(model.inputs, sample, strict=True)} for sample in inputs]
    for found, results in zip(model.run(samples), wanted, strict=True):
        for mine, reference in zip(found.values(), results, strict=True):
            np.testing.assert_array_equal(mine.reshape(-1), reference.reshape(-1), err_msg=name)


@pytest.mark.host_cc
@settings(max_examples=8, suppress_health_check=QUIET)
@given(networks() | tiny_chains(), st.sets(st.sampled_from(OPTIONAL)), st.sampled_from(["speed", "balanced", "sram"]))
def test_random_networks_and_random_passes(mod: tvm.IRModule, disabled: set[str], goal: str) -> None:
    check(mod, frozenset(disabled), np.random.default_rng(0), optimize=goal)


@pytest.mark.slow
@pytest.mark.host_cc
@settings(max_examples=300, suppress_health_check=QUIET)
@given(networks(8) | tiny_chains(), st.sets(st.sampled_from(OPTIONAL)), st.sampled_from(["speed", "balanced", "sram"]))
def test_many_random_networks_and_random_passes(mod: tvm.IRModule, disabled: set[str], goal: str) -> None:
    check(mod, frozenset(disabled), np.random.default_rng(0), optimize=goal)


def check_model(path: Path, disabled: frozenset[str], rng: np.random.Generator) -> None:
    """Host C against the reference interpreter."""
    library = GuardedModel(tvm_tiny.build(path, "c", name="net", disable=disabled), optimise="-O2")
    oracle = Oracle(path.read_bytes())
    for _ in range(3):
        inputs = [rng.integers(-128, 128, t.shape).astype(t.dtype) for t in library.model.inputs]
        for ours, wanted in zip(library(*inputs), oracle.run(*inputs), strict=True):
            np.testing.assert_array_equal(ours, wanted)
        assert not library.faults


@pytest.mark.host_cc
@pytest.mark.parametrize("disabled", [NONE, frozenset({"stream-rows"})], ids=named)
def test_own_model_under_some_combinations(disabled: frozenset[str], rng: np.random.Generator) -> None:
    check_model(OWN, disabled, rng)


@needs_shared
@pytest.mark.host_cc
@pytest.mark.parametrize("disabled", [NONE], ids=named)
@pytest.mark.parametrize("path", shared_models("tflite/kws*.tflite") + shared_models("layers/vww_layer[26].tflite"), ids=lambda p: p.stem)
def test_some_shared_models(path: Path, disabled: frozenset[str], rng: np.random.Generator) -> None:
    check_model(path, disabled, rng)


def _inputs(path: Path, rng: np.random.Generator, count: int) -> list[list[np.ndarray]]:
    """Random samples for a model file."""
    tensors = model_info(tvm_tiny.load(path))["inputs"]
    return [[rng.integers(-128, 128, t["shape"]).astype(t["dtype"]) for t in tensors] for _ in range(count)]


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("board", [pytest.param(None, marks=pytest.mark.host_cc), pytest.param("mps2_an500", marks=pytest.mark.qemu)])
@pytest.mark.parametrize("path", shared_models("tflite/*.tflite") + shared_models("layers/*.tflite"), ids=lambda p: p.stem)
def test_shared_models_under_every_combination(path: Path, board: str | None, rng: np.random.Generator) -> None:
    inputs = _inputs(path, rng, 1 if path.stem in LARGE else 3)
    oracle = Oracle(path.read_bytes())
    wanted = [oracle.run(*sample) for sample in inputs]
    for name, model in Combinations(path, board).models(EVERY):
        (_same_on_board if board else _same_on_host)(name, model, inputs, wanted)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("board", [pytest.param(None, marks=pytest.mark.host_cc), pytest.param("mps2_an500", marks=pytest.mark.qemu)])
@pytest.mark.parametrize("path", shared_models("tflite/*.tflite"), ids=lambda p: p.stem)
def test_shared_models_in_the_least_memory(path: Path, board: str | None, rng: np.random.Generator) -> None:
    """All passes, and all but one, at the goal that rows, strips and patches are chosen most for."""
    inputs = _inputs(path, rng, 1 if path.stem in LARGE else 3)
    oracle = Oracle(path.read_bytes())
    wanted = [oracle.run(*sample) for sample in inputs]
    every = [frozenset[str](), *(frozenset({name}) for name in OPTIONAL)]
    for name, model in Combinations(path, board, optimize="sram").models(every):
        (_same_on_board if board else _same_on_host)(name, model, inputs, wanted)


@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.parametrize("goal", ["balanced", "sram"])
def test_one_network_on_an_emulated_m7(goal: str, rng: np.random.Generator) -> None:
    x = draws(_shape(everything()), rng)
    wanted = [evaluate(everything(), sample) for sample in x]
    for name, model in Combinations(everything(), "mps2_an500", optimize=goal).models(EVERY):
        _same_on_board(name, model, [[sample] for sample in x], wanted)
