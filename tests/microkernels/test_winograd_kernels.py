# SPDX-License-Identifier: Apache-2.0
"""Winograd kernels equal the direct numpy meaning, bit for bit, and decline what they cannot do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.schedules.microkernels import Conv2DShape, Core, MicroKernel, WinogradChoice, winograd


def random_winograd(name: str, rng: np.random.Generator, core: Core) -> tuple[MicroKernel, np.ndarray] | None:
    """Draw a 3x3 convolution and an input; None where Winograd declines the requantisation."""
    out_height, out_width = (2 * int(v) for v in rng.integers(1, 7, 2))
    padding = tuple(int(v) for v in rng.integers(0, 2, 4))
    height, width = out_height + 2 - padding[0] - padding[2], out_width + 2 - padding[1] - padding[3]
    shape = Conv2DShape(height, width, int(rng.choice([4, 8, 16, 20])), int(rng.choice([2, 4, 6])), (3, 3), (1, 1), padding)
    layer = random_parameters(random_weights((shape.outputs, 3, 3, shape.channels), rng), False, rng)
    made = winograd(name, shape, layer, core, choice=WinogradChoice(int(rng.integers(1, 5)), int(rng.integers(1, 4))))
    return None if made is None else (made, random_input(made.input_shape, rng))


@pytest.mark.host_cc
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_portable_winograd_is_exact(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    drawn = random_winograd("wino", rng, Core())
    if drawn is not None:
        kernel, x = drawn
        found = run_host(kernel, x, tmp_path_factory.mktemp("wino"), "clang" if seed % 2 else "gcc")
        np.testing.assert_array_equal(found, kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_winograd_on_emulated_cores_is_exact(mcpu: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(len(mcpu))
    drawn = [random_winograd(f"wino{i}", rng, Core.of(mcpu)) for i in range(20)]
    cases = [d for d in drawn if d is not None]
    assert len(cases) > 8
    wrong = mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path_factory.mktemp("wino"))
    assert wrong == [0] * len(cases)


def test_winograd_declines_what_it_cannot_do() -> None:
    rng = np.random.default_rng(0)
    shape = Conv2DShape(8, 8, 8, 4, (3, 3), (1, 1), (1, 1, 1, 1))
    layer = replace(random_parameters(random_weights((4, 3, 3, 8), rng), False, rng), rounding="gemmlowp", clamp=(-128, 127))
    for other in (
        replace(shape, stride=(2, 2)),
        replace(shape, channels=6),
        replace(shape, height=7),
        replace(shape, dilation=(2, 2)),
        replace(shape, outputs=3),
        replace(shape, channels=256),
    ):
        assert winograd("w", other, layer, Core()) is None
    assert winograd("w", shape, replace(layer, shift=np.full(4, 5)), Core()) is None
