# SPDX-License-Identifier: Apache-2.0
"""Products with one factor a channel: kernels equal the operator's meaning, on the host and on emulated cores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input
from tvm_tiny.ops import registry
from tvm_tiny.ops.mul import quantize_params
from tvm_tiny.schedules.microkernels import Core, MicroKernel, MulLayer, gate_mul


def random_mul(name: str, rng: np.random.Generator, core: Core, pixels: int, channels: int) -> tuple[MicroKernel, MulLayer]:
    """Draw a product from float scales, relus in three of four, until one has a kernel: few lack a requantisation of the cheap form."""
    while True:
        p = quantize_params(*rng.uniform(0.004, 0.1, 2), float(rng.uniform(0.01, 0.2)))
        relu = rng.random() < 0.75
        zero_points = tuple(-128 if relu else int(rng.choice([-128, 127, 0, 31])) for _ in range(3))
        clamp = (-128, 127) if rng.random() < 0.7 else (-100, 90)
        layer = MulLayer(zero_points, p["multiplier"], p["shift"], clamp, str(rng.choice(["gemmlowp", "single"])))
        kernel = gate_mul(name, pixels, channels, layer, core, gate_first=bool(rng.integers(2)))
        if kernel is not None:
            return kernel, layer


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_reference_is_the_operators_meaning(seed: int) -> None:
    rng = np.random.default_rng(seed)
    _, layer = random_mul("mul", rng, Core(), 6, 5)
    x, gate = random_input((6, 5), rng), random_input((5,), rng)
    zeros = dict(zip(("a_zp", "b_zp", "y_zp"), layer.zero_points, strict=True))
    low, high = layer.clamp
    attrs = {"multiplier": layer.multiplier, "shift": layer.shift, "clamp_min": low, "clamp_max": high, "rounding": layer.rounding, **zeros}
    np.testing.assert_array_equal(layer(x, gate), registry.get("mul").numpy(x, gate, **attrs))


@pytest.mark.host_cc
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_portable_products_are_exact(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    kernel, _ = random_mul("mul", rng, Core(), int(rng.integers(1, 40)), int(rng.integers(1, 9)))
    x = random_input(kernel.input_shape, rng)
    np.testing.assert_array_equal(run_host(kernel, x, tmp_path_factory.mktemp("mul")), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_products_on_emulated_cores_are_exact(mcpu: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    sizes = [(1, 1), (1, 7), (4, 2), (5, 3), (49, 32), (8, 2049), (70_000, 1), *((int(rng.integers(1, 60)), int(c)) for c in range(1, 9))]
    kernels = [random_mul(f"mul{i}", rng, Core.of(mcpu), *size)[0] for i, size in enumerate(sizes)]
    inputs = [random_input(k.input_shape, rng) for k in kernels]
    assert mismatches_on_device(kernels, inputs, mcpu, tmp_path) == [0] * len(kernels)
