# SPDX-License-Identifier: Apache-2.0
"""Residual additions: the linear form is proven over all pairs of bytes; kernels equal the reference on host and emulated cores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input
from tvm_tiny.ops.add import quantize_params
from tvm_tiny.schedules.microkernels import AddLayer, Core, add
from tvm_tiny.schedules.microkernels.add import find_linear


def random_add(rng: np.random.Generator, clamp: tuple[int, int] = (-128, 127)) -> AddLayer:
    """Draw the constants of an addition from float scales."""
    p = quantize_params(*rng.uniform(0.01, 0.12, 3))
    zero_points = tuple(int(rng.choice([-128, 127, 0, int(rng.integers(-128, 128))])) for _ in range(3))
    multipliers, shifts = (tuple(p[f"{key}_{what}"] for key in "aby") for what in ("multiplier", "shift"))
    return AddLayer(zero_points, multipliers, shifts, clamp)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_linear_form_agrees_on_all_pairs_of_bytes(seed: int) -> None:
    layer = random_add(np.random.default_rng(seed))
    linear = find_linear(layer)
    if linear is not None:
        a, b = np.arange(-128, 128)[:, None], np.arange(-128, 128)[None, :]
        np.testing.assert_array_equal(linear(a, b), layer(a, b))
        assert np.abs(a * linear.ma).max() + np.abs(b * linear.mb).max() + abs(linear.constant) < 2**31


def test_most_additions_have_a_linear_form() -> None:
    rng = np.random.default_rng(3)
    assert sum(find_linear(random_add(rng)) is not None for _ in range(20)) >= 18


@pytest.mark.host_cc
def test_portable_additions_are_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for i, clamp in enumerate([(-128, 127), (-128, 127), (-10, 100)]):
        kernel = add(f"add{i}", 50 + i, random_add(rng, clamp), Core())
        x = random_input(kernel.input_shape, rng)
        np.testing.assert_array_equal(run_host(kernel, x, tmp_path), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_additions_on_emulated_cores_are_exact(mcpu: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    kernels = [add(f"add{i}", int(rng.integers(1, 3000)), random_add(rng), Core.of(mcpu)) for i in range(12)]
    inputs = [random_input(k.input_shape, rng) for k in kernels]
    assert mismatches_on_device(kernels, inputs, mcpu, tmp_path) == [0] * len(kernels)
