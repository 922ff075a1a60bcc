# SPDX-License-Identifier: Apache-2.0
"""The depthwise code that layers share: the same bits as the reference, whole and by rows, and one copy of it for many layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.microkernels.test_depthwise_kernels import random_depthwise
from tests.microkernels.test_row_forms import by_rows
from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.schedules.microkernels import Core, DepthwiseChoice, DepthwiseShape, LayerParameters, MicroKernel, depthwise


def random_shared(name: str, rng: np.random.Generator, core: Core) -> tuple[MicroKernel, np.ndarray]:
    """A layer that the shared code takes, half of the time through its row form a few rows at a time."""
    rows = rng.random() < 0.5

    def make(name: str, shape: DepthwiseShape, layer: LayerParameters, core: Core, *, choice: DepthwiseChoice | None) -> MicroKernel:
        shared = replace(choice or DepthwiseChoice(), shared=True, fixed=bool(rng.integers(2)))
        kernel = depthwise(name, shape, layer, core, choice=shared, row_form=rows)
        return by_rows(kernel, shape.stride[0], shape.padding[0], 2) if rows else kernel

    drawn = (random_depthwise(name, rng, core, make=make) for _ in range(200))
    return next(found for found in drawn if "_strips" in found[0].c_source)


@pytest.mark.host_cc
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_portable_form_is_exact(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    kernel, x = random_shared("dw", np.random.default_rng(seed), Core(dual_issue=bool(seed % 2)))
    np.testing.assert_array_equal(run_host(kernel, x, tmp_path_factory.mktemp("dw"), "gcc"), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_assembly_is_exact(mcpu: str, rng: np.random.Generator, tmp_path: Path) -> None:
    cases = [random_shared(f"dw{i}", rng, Core.of(mcpu)) for i in range(30)]
    assert mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path) == [0] * len(cases)


def test_layers_of_different_size_share_everything_but_their_table(rng: np.random.Generator) -> None:
    sources: list[dict[str, str]] = []
    shapes: tuple[Any, ...] = ((12, 12, 8), (24, 18, 16), (6, 30, 4))
    for height, width, channels in shapes:
        weights = np.ones((3, 3, channels), np.int8)
        layer = replace(random_parameters(weights, True, rng), multiplier=np.full(channels, 2**30), shift=np.full(channels, -5))
        layer = replace(layer, bias=np.zeros(channels, int), x_zero_point=-128, y_zero_point=-128, clamp=(-128, 127), rounding="gemmlowp")
        kernel = depthwise("dw", DepthwiseShape(height, width, channels, channels), layer, Core(), choice=DepthwiseChoice(6, shared=True))
        sources.append({f.name: f.source for f in kernel.functions[:-1]})
    assert sources[0] == sources[1] == sources[2]


def of_width(
    name: str, width: int, kernel: int, stride: int, core: Core, rng: np.random.Generator, fitted: bool
) -> tuple[MicroKernel, np.ndarray]:
    """A layer of `width` outputs a row, some of whose padding is to the left."""
    height, channels, left = int(rng.integers(1, 4)), int(rng.choice([4, 5, 7, 8])), int(rng.integers(0, kernel))
    size = [(n - 1) * stride + kernel for n in (height, width)]
    padding = (0, min(left, size[1] - 1), 0, 0)
    shape = DepthwiseShape(size[0], size[1] - padding[1], channels, channels, (kernel, kernel), (stride, stride), padding)
    layer = random_parameters(random_weights((kernel, kernel, channels), rng), True, rng)
    layer = replace(layer, x_zero_point=int(rng.choice([-128, 127, 3])))
    made = depthwise(name, shape, layer, core, choice=DepthwiseChoice(shared=True, fixed=fitted))
    return made, random_input(made.input_shape, rng)


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_rows_of_every_width(mcpu: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """Groups of both sizes or of one that fits, an output too many or none, words read beyond the last row, in both ways into planes."""
    geometry = [(width, kernel, stride) for kernel in (3, 5, 7) for stride in (1, 2) for width in (1, 2, 3, 5, 6, 7, 10, 11, 13)]
    every = [(*each, fitted) for each in geometry for fitted in (False, True)]
    cases = [of_width(f"dw{i}", *each[:3], Core.of(mcpu), rng, each[3]) for i, each in enumerate(every)]
    cases = [(kernel, x) for kernel, x in cases if kernel.choices["operand"] == "planes"]
    assert len(cases) > 20
    assert mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path) == [0] * len(cases)
