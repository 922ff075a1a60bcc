# SPDX-License-Identifier: Apache-2.0
"""Convolutions whose windows share widened columns equal the numpy meaning: any cut of the rows, portable form and assembly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.microkernels.test_row_forms import by_rows
from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.schedules.microkernels import Conv2DShape, Core, LayerParameters, MicroKernel, conv2d
from tvm_tiny.schedules.microkernels.bands import Band, band_kernel, bands_apply


def banded(name: str, shape: Conv2DShape, layer: LayerParameters, core: Core, band: Band, chunk: int) -> MicroKernel | None:
    """The layer by its row kernel, `chunk` rows a call."""
    made = band_kernel(f"{name}_band", shape, layer, core, band)
    if made is None:
        return None
    whole = conv2d(name, shape, layer, core)
    rows = replace(whole, functions=made.functions, packed=made.packed, scratch_bytes=made.scratch_bytes, row_name=made.functions[-1].name)
    return by_rows(rows, shape.stride[0], shape.padding[0], chunk)


def random_band(name: str, rng: np.random.Generator, core: Core) -> tuple[MicroKernel, np.ndarray]:
    """Draw a layer that bands apply to, a cut and an input; cuts that leave no kernel are drawn again."""
    while True:
        kernel = (int(rng.integers(1, 5)), int(rng.integers(2, 5)))
        stride = (int(rng.integers(1, 4)), int(rng.integers(1, kernel[1])))
        dilation = (int(rng.integers(1, 3)), 1)
        reach = ((kernel[0] - 1) * dilation[0], kernel[1] - 1)
        height, width = (int(rng.integers(1, 9)) + r for r in reach)
        padding = tuple(int(rng.integers(0, r + 1)) for r in (*reach, *reach))
        shape = Conv2DShape(
            height, width, int(rng.choice([4, 8, 12, 20, 64, 68])), int(rng.choice([1, 2, 3, 5, 8])), kernel, stride, padding, dilation
        )
        if not bands_apply(shape):
            continue
        layer = random_parameters(random_weights((shape.outputs, *kernel, shape.channels), rng), False, rng)
        pixels = int(rng.integers(1, min(4, shape.out_width) + 1))
        bands = int(rng.integers(1, shape.out_width // pixels + 1))
        cut = Band(pixels, shape.out_width if rng.random() < 0.3 else bands * pixels, bool(rng.integers(2)), int(rng.choice([1, 1, 2, 4])))
        made = banded(name, shape, layer, core, cut, int(rng.integers(1, 4)))
        if made is not None:
            return made, random_input((shape.height, shape.width, shape.channels), rng)


@pytest.mark.host_cc
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_portable_bands_are_exact(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    kernel, x = random_band("bands", rng, Core(dual_issue=bool(rng.integers(2))))
    np.testing.assert_array_equal(run_host(kernel, x, tmp_path_factory.mktemp("bands")), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_bands_on_emulated_cores_are_exact(mcpu: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(41)
    cases = [random_band(f"bands{i}", rng, Core.of(mcpu)) for i in range(24)]
    wrong = mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path_factory.mktemp("bands"))
    assert wrong == [0] * len(cases)


def test_bands_are_for_windows_that_overlap_in_whole_words() -> None:
    def applies(**changes: object) -> bool:
        return bands_apply(replace(Conv2DShape(8, 8, 16, 4, (3, 3), (1, 1), (1, 1, 1, 1)), **changes))  # type: ignore[arg-type]

    assert applies()
    assert applies(stride=(2, 2))
    assert not applies(stride=(3, 3))
    assert not applies(channels=3)
    assert not applies(dilation=(1, 2))
    assert not applies(kernel=(1, 1), padding=(0, 0, 0, 0))


def test_sums_that_need_32_bits_leave_no_kernel_and_weights_of_minus_128_one() -> None:
    rng = np.random.default_rng(1)
    shape = Conv2DShape(6, 6, 8, 4, (3, 3), (1, 1), (1, 1, 1, 1))
    layer = random_parameters(random_weights((4, 3, 3, 8), rng), False, rng)
    unpacked = replace(layer, weights=np.full_like(layer.weights, -128))
    assert band_kernel("wide", shape, replace(layer, shift=np.full(4, 14)), Core(), Band(3, 6)) is None
    made = band_kernel("unpacked", shape, unpacked, Core(), Band(3, 6))
    assert made is not None
    assert made.operand == "w8"
