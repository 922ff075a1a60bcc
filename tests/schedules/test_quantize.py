# SPDX-License-Identifier: Apache-2.0
"""Quantisation of floats: the kernel against the operator's meaning, at ties, beside ties, and beyond the range."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tvm_tiny.ops import registry
from tvm_tiny.schedules import quantize
from tvm_tiny.schedules.microkernels.c_source import PREAMBLE

pytestmark = pytest.mark.host_cc


@pytest.mark.parametrize("rounding", ["half_away", "half_even"])
@pytest.mark.parametrize(("scale", "zp"), [(0.007839307188987732, 0), (0.5, -128), (1e-3, 127), (3.7, -5), (0.1, 3)])
def test_every_float_rounds_as_the_operator_says(scale: float, zp: int, rounding: str, tmp_path: Path, rng: np.random.Generator) -> None:
    scale = float(np.float32(scale))
    ties = (np.arange(-300, 301) + 0.5).astype(np.float32) * np.float32(scale)
    near = np.concatenate([ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))])
    wild = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-45], np.float32)
    x = np.concatenate([near, wild, (rng.normal(size=50_000) * 100 * scale).astype(np.float32)])
    attrs = {"scale": scale, "zp": zp, "rounding": rounding}
    source = tmp_path / "q.c"
    source.write_text(PREAMBLE + quantize._divide("q", attrs) + quantize._source("q", x.size, attrs))
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
