# SPDX-License-Identifier: Apache-2.0
"""Fully connected layers by pair blocks: the same bits as the reference for every length, left-over, zero point and requantisation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.schedules.microkernels import Core, DenseChoice, LayerParameters, MicroKernel, dense, paired_dense
from tvm_tiny.schedules.microkernels.dense import default_choice


def random_dense(name: str, rng: np.random.Generator, core: Core) -> tuple[MicroKernel, np.ndarray]:
    """A layer of any length, multiples of four most of the time, one scale for all channels half of the time."""
    outputs, inputs = int(rng.integers(1, 40)), int(rng.choice([4, 8, 12, 20, 52, 128, 7, 10]))
    layer = random_parameters(random_weights((outputs, inputs), rng), False, rng)
    if rng.random() < 0.5:
        layer = replace(layer, multiplier=np.repeat(layer.multiplier[:1], outputs), shift=np.repeat(layer.shift[:1], outputs))
    choice = DenseChoice(int(rng.choice([2, 4, 6])), int(rng.choice([1, 3, 8])), bool(rng.random() < 0.5))
    kernel = dense(name, layer, core, batch=int(rng.integers(1, 3)), choice=choice)
    return kernel, random_input(kernel.input_shape, rng)


@pytest.mark.host_cc
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_portable_form_is_exact(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    kernel, x = random_dense("dense", np.random.default_rng(seed), Core(dual_issue=bool(seed % 2)))
    np.testing.assert_array_equal(run_host(kernel, x, tmp_path_factory.mktemp("dense"), "gcc"), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4", "cortex-m33", "cortex-m3"])
def test_assembly_is_exact(mcpu: str, rng: np.random.Generator, tmp_path: Path) -> None:
    cases = [random_dense(f"dense{i}", rng, Core.of(mcpu)) for i in range(30)]
    assert mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path) == [0] * len(cases)


def layer_of(weights: np.ndarray, bias: int = 0, shift: int = -9) -> LayerParameters:
    n = len(weights)
    return LayerParameters(weights, np.full(n, bias), np.full(n, 2**30), np.full(n, shift), -128, -128)


@pytest.mark.parametrize(
    ("weights", "bias", "shift"),
    [(-128, 0, -9), (5, 2**23, -9), (5, 0, 3)],
    ids=["a weight of -128", "an accumulator past 2**23", "no requantisation in assembly"],
)
def test_pairs_are_refused_where_they_would_not_be_exact(weights: int, bias: int, shift: int) -> None:
    layer = layer_of(np.full((4, 8), weights, np.int8), bias, shift)
    assert paired_dense("k", layer, Core()) is None
    assert dense("k", layer, Core()).choices["operand"] != "pairs"


def test_extremes_stay_exact_on_the_host(tmp_path: Path) -> None:
    """Weights and inputs at both ends: the halves of a word and the widened sums reach their limits."""
    for sign in (-127, 127):
        weights = np.full((4, 16), sign, np.int8)
        weights[1::2] *= -1
        for value in (-128, 127):
            kernel = dense("k", layer_of(weights), Core())
            assert kernel.choices["operand"] == "pairs"
            x = np.full(kernel.input_shape, value, np.int8)
            folder = tmp_path / f"{sign}{value}"
            folder.mkdir()
            np.testing.assert_array_equal(run_host(kernel, x, folder, "gcc"), kernel.reference(x))


def test_no_scratch_unless_it_is_free() -> None:
    layer = layer_of(np.ones((8, 64), np.int8))
    assert paired_dense("k", layer, Core()).scratch_bytes == 0  # type: ignore[union-attr]
    assert [default_choice(64, 8, room).expanded for room in (0, 127, 128)] == [False, False, True]


def test_one_scale_for_all_channels_costs_one_set_of_constants() -> None:
    layer = layer_of(np.arange(-60, 60, dtype=np.int8).reshape(30, 4))
    many = replace(layer, multiplier=np.arange(30) * 1009 + 2**30)
    blocks = 5
    shared, own = (paired_dense("k", each, Core()) for each in (layer, many))
    assert shared is not None
    assert own is not None
    assert len(own.packed) - len(shared.packed) == 8 * 30 - 8 * blocks
