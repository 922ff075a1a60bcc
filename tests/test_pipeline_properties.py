# SPDX-License-Identifier: Apache-2.0
"""Random networks through the whole pipeline, as host C: exact against the operators' numpy semantics, and under the arena's guard."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.random_networks import networks
from tests.support.shared import ROOT, needs_shared, shared_models
from tests.support.tiny_builder import evaluate

pytestmark = pytest.mark.host_cc

OWN = ROOT / "examples/fashion_mnist/fashion_mnist_int8.tflite"
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def check(mod: tvm.IRModule, **options: object) -> None:
    """Built, run on random and on extreme inputs: the same bits as numpy, and the guard saw nothing."""
    library = GuardedModel(tvm_tiny.build(mod, "c", name="net", **options))
    rng = np.random.default_rng(0)
    shape = tuple(int(d) for d in mod["main"].params[0].ty.shape.values)
    draws = [rng.integers(-128, 128, shape) for _ in range(3)] + [np.full(shape, -128), np.full(shape, 127), rng.choice([-128, 127], shape)]
    for x in (d.astype(np.int8) for d in draws):
        for ours, wanted in zip(library(x), evaluate(mod, x), strict=True):
            np.testing.assert_array_equal(ours.reshape(-1), wanted.reshape(-1))
        assert not library.faults


@settings(max_examples=12, suppress_health_check=QUIET)
@given(networks())
def test_random_networks(mod: tvm.IRModule) -> None:
    check(mod)


@pytest.mark.slow
@settings(max_examples=400, suppress_health_check=QUIET)
@given(networks(8))
def test_many_random_networks(mod: tvm.IRModule) -> None:
    check(mod)


def test_own_model_under_guard(rng: np.random.Generator) -> None:
    library = GuardedModel(tvm_tiny.build(OWN, "c", name="net"))
    library(rng.integers(-128, 128, library.model.inputs[0].shape))
    assert not library.faults


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("path", shared_models("tflite/*.tflite"), ids=lambda p: p.stem)
def test_shared_models_under_guard(path: object, rng: np.random.Generator) -> None:
    library = GuardedModel(tvm_tiny.build(path, "c", name="net"), optimise="-O2")  # type: ignore[arg-type]
    inputs = [rng.integers(-128, 128, t.shape).astype(t.dtype) for t in library.model.inputs]
    first = library(*inputs)
    assert not library.faults
    for ours, again in zip(first, library(*inputs), strict=True):  # other poison, same answer
        np.testing.assert_array_equal(ours, again)


def test_the_guard_sees_a_plan_that_is_wrong(rng: np.random.Generator) -> None:
    """Scratch laid over a buffer that is read later: the answer changes, or bytes that are not the layer's own do."""
    model, right = (tvm_tiny.build(OWN, "c", name="net") for _ in range(2))
    plan = model.plan
    step = next(s for s in plan.steps[1:] if s.scratch)
    object.__setattr__(plan, "placements", {**plan.placements, step.scratch[0]: plan.placements[step.reads[0]]})
    library, x = GuardedModel(model), rng.integers(-128, 128, model.inputs[0].shape)
    assert not np.array_equal(library(x)[0], GuardedModel(right)(x)[0]) or library.faults


def test_the_guard_sees_a_write_outside(rng: np.random.Generator) -> None:
    """A layer whose output is declared smaller than what its kernel writes."""
    model = tvm_tiny.build(OWN, "c", name="net")
    first = model.plan.steps[0].writes[0]
    smaller = tuple(replace(b, nbytes=b.nbytes - 8) if b.name == first else b for b in model.plan.buffers)
    library = GuardedModel(model)
    library.model = SimpleNamespace(  # type: ignore[assignment]
        plan=replace(model.plan, buffers=smaller), name=model.name, inputs=model.inputs, outputs=model.outputs
    )
    library(rng.integers(-128, 128, model.inputs[0].shape))
    assert any("not its own" in fault for fault in library.faults)
