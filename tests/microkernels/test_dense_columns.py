# SPDX-License-Identifier: Apache-2.0
"""Fully connected layers that leave out inputs at their zero point: the same bits as the reference however many there are, and in time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernel_runner import build_image, mismatches_on_device, run_host
from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.profiler import cycles_of_block, profile_elf
from tvm_tiny.schedules.microkernels import LayerParameters
from tvm_tiny.schedules.microkernels.dense_columns import ColumnsKernel, columns_dense


def random_columns(name: str, rng: np.random.Generator) -> tuple[ColumnsKernel, np.ndarray]:
    """A layer of any length with its input: none, half, or all of it at the zero point."""
    while True:
        outputs, inputs = int(rng.integers(1, 70)), int(rng.choice([1, 3, 4, 7, 12, 52, 128]))
        layer = random_parameters(np.maximum(random_weights((outputs, inputs), rng), -127), False, rng)
        if rng.random() < 0.5:
            layer = replace(layer, multiplier=np.repeat(layer.multiplier[:1], outputs), shift=np.repeat(layer.shift[:1], outputs))
        found = columns_dense(name, layer, batch=int(rng.integers(1, 3)))
        if found is not None:  # an accumulator past 2**23, or no requantisation in assembly
            x = random_input(found.kernel.input_shape, rng)
            return found, np.where(rng.random(x.shape) < rng.choice([0.0, 0.5, 1.0]), layer.x_zero_point, x).astype(np.int8)


@pytest.mark.host_cc
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_portable_form_is_exact(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    found, x = random_columns("columns", np.random.default_rng(seed))
    np.testing.assert_array_equal(run_host(found.kernel, x, tmp_path_factory.mktemp("columns"), "gcc"), found.kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4", "cortex-m33", "cortex-m3"])
def test_assembly_is_exact(mcpu: str, rng: np.random.Generator, tmp_path: Path) -> None:
    cases = [random_columns(f"columns{i}", rng) for i in range(30)]
    assert mismatches_on_device([k.kernel for k, _ in cases], [x for _, x in cases], mcpu, tmp_path) == [0] * len(cases)


def layer_of(outputs: int, inputs: int) -> LayerParameters:
    weights = np.random.default_rng(outputs).integers(-127, 128, (outputs, inputs)).astype(np.int8)
    return LayerParameters(weights, np.zeros(outputs), np.full(outputs, 2**30), np.full(outputs, -9), -128, -128)


@pytest.mark.parametrize("sign", [-127, 127])
def test_extremes_stay_exact_on_the_host(sign: int, tmp_path: Path) -> None:
    weights = np.full((4, 16), sign, np.int8)
    weights[1::2] *= -1
    found = columns_dense("k", replace(layer_of(4, 16), weights=weights))
    assert found is not None
    x = np.full(found.kernel.input_shape, 127, np.int8)
    np.testing.assert_array_equal(run_host(found.kernel, x, tmp_path, "gcc"), found.kernel.reference(x))


def test_refused_where_it_would_not_be_exact() -> None:
    layer = layer_of(4, 16)
    assert columns_dense("k", replace(layer, weights=np.full((4, 16), -128, np.int8))) is None
    assert columns_dense("k", replace(layer, bias=np.full(4, 2**23))) is None
    assert columns_dense("k", layer_of(1, 4000)) is None  # no list holds so many inputs


@pytest.mark.qemu
def test_cycles_are_a_close_bound(tmp_path: Path) -> None:
    """What is told of the time holds on the emulated core for any share of zeros, and is at most a tenth and 200 cycles above."""
    kernels, inputs, bounds = [], [], []
    for outputs, length in ((128, 128), (13, 7), (8, 128)):
        for percent in (100, 50, 0):
            found = columns_dense(f"columns{outputs}x{length}_{percent}", layer_of(outputs, length))
            assert found is not None
            listed = percent * length // 100
            x = np.full(found.kernel.input_shape, -128, np.int8)
            x[..., :listed] = 5
            kernels.append(found.kernel)
            inputs.append(np.random.default_rng(0).permuted(x, axis=-1))
            bounds.append(found.cycles(listed, lambda lines: cycles_of_block(lines, "cortex-m4")))
    image, command = build_image(kernels, inputs, "cortex-m4", tmp_path, ("-O2", "-fno-inline"))
    profile = profile_elf(image, command, "cortex-m4", cut_at=[*(k.name for k in kernels), "differing"])
    taken = {s.opened_by - 256: s.cycles["cortex-m4"] for s in profile.segments if s.opened_by is not None}
    assert all(taken[i] <= bound <= 1.1 * taken[i] + 200 for i, bound in enumerate(bounds))
