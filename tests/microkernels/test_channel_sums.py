# SPDX-License-Identifier: Apache-2.0
"""Sums of channels equal numpy's, up to the most pixels of the largest and the smallest byte, portable form and assembly."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.kernel_runner import mismatches_on_device, run_host
from tvm_tiny.schedules.microkernels import CFunction, MicroKernel
from tvm_tiny.schedules.microkernels.channel_sums import MOST_PIXELS, TOGETHER, channel_sums


def summing(name: str, pixels: int, stride: int) -> MicroKernel:
    """A kernel whose output are the bytes of eight sums, each of which begins at its own number."""
    add = channel_sums(name)
    signature = f"void {name}(const int8_t *in, int8_t *out, const void *packed, void *scratch)"
    body = (
        f"  int32_t sums[{TOGETHER}];\n  (void)packed;\n  (void)scratch;\n  for (int32_t i = 0; i < {TOGETHER}; ++i) sums[i] = 1000 * i;\n"
        f"  {add.name}(in, sums, {pixels}u, {stride}u);\n  memcpy(out, sums, sizeof sums);\n"
    )
    wrapper = CFunction(name, f"{signature};\n{signature} {{\n{body}}}\n")

    def reference(x: np.ndarray) -> np.ndarray:
        sums = x[:, :TOGETHER].astype(np.int32).sum(axis=0) + 1000 * np.arange(TOGETHER)
        return sums.astype("<i4").view(np.int8).reshape(1, -1)

    return MicroKernel(name, (add, wrapper), b"", 0, (pixels, stride), (1, 4 * TOGETHER), 0, reference)


def cases(rng: np.random.Generator) -> list[tuple[MicroKernel, np.ndarray]]:
    """Extremes of the most pixels, and random ones."""
    found = [(summing(f"most{abs(v)}", MOST_PIXELS, 8), np.full((MOST_PIXELS, 8), v, np.int8)) for v in (-128, 127)]
    for i, (pixels, stride) in enumerate(((1, 8), (3, 11), (20, 64))):
        found.append((summing(f"sums{i}", pixels, stride), rng.integers(-128, 128, (pixels, stride)).astype(np.int8)))
    return found


@pytest.mark.host_cc
def test_portable_sums_are_exact(rng: np.random.Generator, tmp_path_factory: pytest.TempPathFactory) -> None:
    for kernel, x in cases(rng):
        np.testing.assert_array_equal(run_host(kernel, x, tmp_path_factory.mktemp("sums")), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_sums_on_emulated_cores_are_exact(mcpu: str, rng: np.random.Generator, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = cases(rng)
    assert mismatches_on_device([k for k, _ in made], [x for _, x in made], mcpu, tmp_path_factory.mktemp("sums")) == [0] * len(made)
