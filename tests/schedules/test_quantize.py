# SPDX-License-Identifier: Apache-2.0
"""Quantisation of floats: the kernel against the operator's meaning, at ties, beside ties, and beyond the range."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support.kernel_runner import mismatches_on_device
from tvm_tiny.ops import registry
from tvm_tiny.schedules import quantize
from tvm_tiny.schedules.microkernels import MicroKernel, merge

pytestmark = pytest.mark.host_cc


def floats(scale: float, rng: np.random.Generator, count: int) -> np.ndarray:
    """Ties, their neighbours, values out of range and no numbers, and `count` ordinary values, some of them among the others."""
    ties = (np.arange(-300, 301) + 0.5).astype(np.float32) * np.float32(scale)
    near = np.concatenate([ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))])
    wild = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-45], np.float32)
    ordinary = (rng.normal(size=count) * 100 * scale).astype(np.float32)
    return np.concatenate([near, wild, rng.permutation(np.concatenate([ordinary, np.repeat(wild, 5)]))])


@pytest.mark.parametrize("rounding", ["half_away", "half_even"])
@pytest.mark.parametrize(("scale", "zp"), [(0.007839307188987732, 0), (0.5, -128), (1e-3, 127), (3.7, -5), (0.1, 3)])
def test_every_float_rounds_as_the_operator_says(scale: float, zp: int, rounding: str, tmp_path: Path, rng: np.random.Generator) -> None:
    scale = float(np.float32(scale))
    x = floats(scale, rng, 50_000)
    attrs = {"scale": scale, "zp": zp, "rounding": rounding}
    source = tmp_path / "q.c"
    source.write_text(merge([quantize.quantize_functions("q", x.size, attrs)]))
    command = [
        "gcc",
        "-std=c99",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Werror",
        "-shared",
        "-fPIC",
        str(source),
        "-o",
        str(tmp_path / "q.so"),
    ]
    subprocess.run(command, check=True)
    y = np.empty(x.size, np.int8)
    ctypes.CDLL(str(tmp_path / "q.so")).q(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), None, None)
    np.testing.assert_array_equal(y, registry.get("quantize").numpy(x, **attrs))


@pytest.mark.qemu
@pytest.mark.parametrize(("mcpu", "fpu"), [("cortex-m7", "fpv5-sp-d16"), ("cortex-m4", "fpv4-sp-d16")])
def test_groups_in_the_floating_point_unit_are_exact(mcpu: str, fpu: str, tmp_path: Path, rng: np.random.Generator) -> None:
    kernels, inputs = [], []
    for i, (scale, zp, rounding) in enumerate([(0.00784, 0, "half_away"), (0.5, -128, "half_even"), (3.7, 127, "half_away")]):
        attrs = {"scale": float(np.float32(scale)), "zp": zp, "rounding": rounding}
        x = floats(attrs["scale"], rng, 3_000)

        def meaning(x: np.ndarray, attrs: dict[str, object] = attrs) -> np.ndarray:
            return registry.get("quantize").numpy(x, **attrs)

        name = f"quantize{i}"
        kernels.append(MicroKernel(name, quantize.quantize_functions(name, x.size, attrs), b"", 0, x.shape, x.shape, 0, meaning))
        inputs.append(x)
    flags = ("-O2", "-mfloat-abi=hard", f"-mfpu={fpu}")
    assert mismatches_on_device(kernels, inputs, mcpu, tmp_path, flags) == [0] * len(kernels)
