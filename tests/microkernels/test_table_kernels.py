# SPDX-License-Identifier: Apache-2.0
"""Tables of 256 values equal their numpy meaning: portable form on the host, assembly on emulated cores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input
from tvm_tiny.schedules.microkernels import MicroKernel, table_map

COUNTS = (1, 7, 8, 9, 64, 1000)


def cases(rng: np.random.Generator) -> list[tuple[MicroKernel, np.ndarray]]:
    """A random table for every count, and its input."""
    tables = [rng.integers(-128, 128, 256).astype(np.int8) for _ in COUNTS]
    return [(table_map(f"t{n}", (n,), table), random_input((n,), rng)) for n, table in zip(COUNTS, tables, strict=True)]


@pytest.mark.host_cc
def test_portable_tables_are_exact(rng: np.random.Generator, tmp_path: Path) -> None:
    for kernel, x in cases(rng):
        np.testing.assert_array_equal(run_host(kernel, x, tmp_path), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4", "cortex-m3"])
def test_tables_on_emulated_cores_are_exact(mcpu: str, rng: np.random.Generator, tmp_path: Path) -> None:
    made = cases(rng)
    assert mismatches_on_device([k for k, _ in made], [x for _, x in made], mcpu, tmp_path) == [0] * len(made)
