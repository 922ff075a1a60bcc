# SPDX-License-Identifier: Apache-2.0
"""The block that layers share: the same bits as the reference, for every length and left-over of channels and pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.microkernels.test_conv2d_kernels import random_conv
from tests.support.kernel_runner import mismatches_on_device, run_host
from tvm_tiny.schedules.microkernels import BlockChoice, Conv2DShape, Core, LayerParameters, MicroKernel, conv2d


def shared_conv(
    name: str, shape: Conv2DShape, layer: LayerParameters, core: Core, *, choice: BlockChoice | None = None, **options: bool
) -> MicroKernel:
    """A convolution whose blocks are the shared ones, of any length or of its own."""
    pixels, operand = (choice.pixels, choice.operand) if choice is not None else (3, None)
    made = BlockChoice(2, min(pixels, 3), operand, shared=True, fixed=layer.x_zero_point % 2 == 0)
    return conv2d(name, shape, layer, core, choice=made, **options)


@pytest.mark.host_cc
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_portable_form_is_exact(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    kernel, x = random_conv("conv", np.random.default_rng(seed), Core(dual_issue=bool(seed % 2)), shared_conv)
    directory: Path = tmp_path_factory.mktemp("conv")
    np.testing.assert_array_equal(run_host(kernel, x, directory, "gcc"), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4", "cortex-m33"])
def test_assembly_is_exact(mcpu: str, rng: np.random.Generator, tmp_path: Path) -> None:
    cases = [random_conv(f"conv{i}", rng, Core.of(mcpu), shared_conv) for i in range(24)]
    assert mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path) == [0] * len(cases)


def test_layers_of_different_length_share_one_function(rng: np.random.Generator) -> None:
    names = set()
    for channels, outputs in ((16, 8), (32, 12), (64, 10)):
        weights = rng.integers(-127, 128, (outputs, 1, 1, channels)).astype(np.int8)
        constants = (np.zeros(outputs, np.int32), np.full(outputs, 2**30, np.int32), np.full(outputs, -7, np.int32))
        layer = LayerParameters(weights, *constants, -128, -128)
        kernel = conv2d("k", Conv2DShape(6, 6, channels, outputs), layer, Core(), choice=BlockChoice(2, 3, shared=True))
        names |= {f.name for f in kernel.functions if "shared" in f.name}
    assert len(names) == 1


@pytest.mark.parametrize(("channels", "outputs", "own"), [(28, 8, True), (64, 8, True), (68, 8, False)])
def test_a_fixed_sum_is_as_long_as_the_layers(channels: int, outputs: int, own: bool, rng: np.random.Generator) -> None:
    """Short sums are not padded; those past the longest take the block of any length."""
    weights = rng.integers(-127, 128, (outputs, 3, 3, channels // 4)).astype(np.int8)[:, :2, :2]
    constants = (np.zeros(outputs, np.int32), np.full(outputs, 2**30, np.int32), np.full(outputs, -7, np.int32))
    layer = LayerParameters(weights, *constants, -128, -128)
    shape = Conv2DShape(7, 7, channels // 4, outputs, (2, 2))
    fixed, looped = (conv2d("k", shape, layer, Core(), choice=BlockChoice(2, 3, shared=True, fixed=f)) for f in (True, False))
    assert (len(fixed.packed) < len(looped.packed)) == (own and channels % 8 != 0)
    names = [{f.name for f in kernel.functions if "shared" in f.name} for kernel in (fixed, looped)]
    assert (names[0] != names[1]) == own
