# SPDX-License-Identifier: Apache-2.0
"""Paths of a convolution that few shapes take: weights of a first layer copied to scratch, and a single pixel of odd channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.schedules.microkernels import BlockChoice, Conv2DShape, Core, MicroKernel, conv2d
from tvm_tiny.schedules.microkernels.conv2d_shape import default_choice

ZERO_POINTS = (-128, 127)
Draw = Callable[[str, np.random.Generator, Core, int], tuple[MicroKernel, np.ndarray]]


def first_layer(name: str, rng: np.random.Generator, core: Core, zero_point: int) -> tuple[MicroKernel, np.ndarray]:
    """Few input channels, windows of every alignment, asymmetric padding; weights copied whole."""
    kernel, stride, channels = int(rng.choice([2, 3, 5])), int(rng.integers(1, 3)), int(rng.choice([1, 2, 3, 5]))
    sides = tuple(int(v) for v in rng.integers(0, kernel, 4))
    height, width = (kernel + int(v) for v in rng.integers(0, 9, 2))
    shape = Conv2DShape(height, width, channels, int(rng.choice([2, 3, 7, 8])), (kernel, kernel), (stride, stride), sides)
    layer = random_parameters(random_weights((shape.outputs, kernel, kernel, channels), rng), False, rng)
    choice = replace(default_choice(shape, core), weights="layer", tile=1)
    return conv2d(name, shape, replace(layer, x_zero_point=zero_point), core, choice=choice), random_input((height, width, channels), rng)


def single_pixel(name: str, rng: np.random.Generator, core: Core, zero_point: int) -> tuple[MicroKernel, np.ndarray]:
    """One pixel whose channels fill no whole number of words."""
    shape = Conv2DShape(1, 1, int(rng.choice([1, 2, 3, 5, 7, 13, 31, 67])), int(rng.choice([1, 2, 5, 7, 26])))
    layer = random_parameters(random_weights((shape.outputs, 1, 1, shape.channels), rng), False, rng)
    layer = replace(layer, x_zero_point=zero_point)
    choice = [None, BlockChoice(2, 1, unroll=2)][int(rng.integers(2))]
    return conv2d(name, shape, layer, core, choice=choice), random_input((1, 1, shape.channels), rng)


@pytest.mark.host_cc
@pytest.mark.parametrize("zero_point", ZERO_POINTS)
@pytest.mark.parametrize("draw", [first_layer, single_pixel])
def test_portable_form_is_exact(draw: Draw, zero_point: int, rng: np.random.Generator, tmp_path: Path) -> None:
    for i in range(4):
        kernel, x = draw(f"k{i}", rng, Core(dual_issue=bool(i % 2)), zero_point)
        folder = tmp_path / str(i)
        folder.mkdir()
        np.testing.assert_array_equal(run_host(kernel, x, folder, "gcc"), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_assembly_is_exact(mcpu: str, rng: np.random.Generator, tmp_path: Path) -> None:
    core, draws = Core.of(mcpu), (first_layer, single_pixel)
    cases = [draw(f"k{i}", rng, core, ZERO_POINTS[i % 2]) for i, draw in enumerate(d for d in draws for _ in range(10))]
    assert mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path) == [0] * len(cases)


def test_the_paths_are_taken(rng: np.random.Generator) -> None:
    """The weights' copy is called; a single pixel has no loop over windows."""
    layers = [first_layer(f"k{i}", rng, Core(dual_issue=False), -128)[0] for i in range(20)]
    copied = [kernel for kernel in layers if kernel.choices["weights"] == "layer"]
    assert len(copied) > 5
    assert all(any(f.name.endswith("_copy") for f in kernel.functions) for kernel in copied)
    pixels = [single_pixel(f"k{i}", rng, Core(dual_issue=False), -128)[0] for i in range(20)]
    assert all(f.name.startswith(kernel.name) and "_columns" not in f.name for kernel in pixels for f in kernel.functions)
