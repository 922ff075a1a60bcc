# SPDX-License-Identifier: Apache-2.0
"""Depthwise kernels equal the numpy meaning: portable form on the host, assembly on emulated cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.schedules.microkernels import Core, DepthwiseChoice, DepthwiseShape, MicroKernel, depthwise
from tvm_tiny.schedules.microkernels.depthwise_block import weight_pairs


def random_depthwise(
    name: str, rng: np.random.Generator, core: Core, make: Callable[..., MicroKernel] = depthwise
) -> tuple[MicroKernel, np.ndarray]:
    """Draw a depthwise convolution and an input."""
    kernel = tuple(int(v) for v in rng.choice([1, 2, 3, 3, 3, 5, 7], 2))
    dilation = tuple(int(v) for v in rng.choice([1, 1, 1, 2, 3], 2))
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple(int(rng.integers(0, r + 1)) for r in (*reach, *reach))
    height, width = (int(rng.integers(1, 30 if rng.random() < 0.2 else 10)) + r for r in reach)
    channels, multiplier = int(rng.choice([1, 3, 4, 5, 8, 12])), int(rng.choice([1, 1, 1, 2]))
    stride = tuple(int(v) for v in rng.choice([1, 1, 2, 2, 3], 2))
    shape = DepthwiseShape(height, width, channels, channels * multiplier, kernel, stride, padding, dilation)
    layer = random_parameters(random_weights((*kernel, shape.outputs), rng), True, rng)
    choice = DepthwiseChoice(strip=int(rng.integers(1, 4))) if rng.random() < 0.3 else None
    made = make(name, shape, layer, core, choice=choice)
    return made, random_input(made.input_shape, rng)


@pytest.mark.host_cc
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_portable_depthwise_is_exact(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    kernel, x = random_depthwise("dw", rng, Core(dual_issue=bool(rng.integers(2))))
    found = run_host(kernel, x, tmp_path_factory.mktemp("dw"), "clang" if seed % 2 else "gcc")
    np.testing.assert_array_equal(found, kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize(("mcpu", "flags"), [("cortex-m7", ("-O2",)), ("cortex-m7", ("-O0",)), ("cortex-m4", ("-O3", "-fpic"))])
def test_depthwise_on_emulated_cores_is_exact(mcpu: str, flags: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(5 + len(mcpu) + len(flags))
    cases = [random_depthwise(f"dw{i}", rng, Core.of(mcpu)) for i in range(24)]
    assert {k.choices["operand"] for k, _ in cases} >= {"planes"}
    wrong = mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path_factory.mktemp("dw"), flags)
    assert wrong == [0] * len(cases)


def test_a_left_shift_falls_back_to_plain_c() -> None:
    rng = np.random.default_rng(1)
    layer = random_parameters(random_weights((3, 3, 4), rng), True, rng)
    huge = replace(layer, shift=np.full(4, 9), rounding="gemmlowp")
    assert depthwise("dw", DepthwiseShape(5, 5, 4, 4), huge, Core()).choices["operand"] == "plain C"


def test_weight_words_serve_every_alignment() -> None:
    assert weight_pairs(3, 1, 1) == ((0, 1), (1, 2))
    assert weight_pairs(3, 2, 1) == ((0, 1), (2, -1))
    assert weight_pairs(5, 1, 1) == ((0, 1), (2, 3), (1, 2), (3, 4))


@pytest.mark.qemu
def test_pixels_far_apart_stay_within_reach_of_a_load(tmp_path: Path) -> None:
    """A dozen pixels of some hundred channels span more than the 4095 bytes a load's offset has."""
    rng = np.random.default_rng(3)
    cases = []
    for i, (width, channels) in enumerate([(14, 384), (13, 400), (7, 960), (20, 240)]):
        shape = DepthwiseShape(3, width, channels, channels)
        layer = random_parameters(random_weights((3, 3, channels), rng), True, rng)
        kernel = depthwise(f"wide{i}", shape, layer, Core())
        cases.append((kernel, random_input(kernel.input_shape, rng)))
    assert mismatches_on_device([k for k, _ in cases], [x for _, x in cases], "cortex-m7", tmp_path) == [0] * len(cases)


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_short_rows_go_in_twos(mcpu: str, tmp_path: Path) -> None:
    """Rows side by side and one after the other, an odd one left or not, at every stride and dilation."""
    rng = np.random.default_rng(11)
    cases = []
    for i in range(24):
        width, height, stride, dilation = 1 + i % 8, int(rng.integers(1, 8)), 1 + i % 2, 1 + (i % 3 == 2)
        reach = (int(rng.choice([1, 3, 5])) - 1) * dilation
        size = ((height - 1) * stride + reach + 1, (width - 1) * stride + reach + 1)
        channels = int(rng.choice([3, 4, 8]))
        kernel = (reach // dilation + 1,) * 2
        shape = DepthwiseShape(*size, channels, channels, kernel, (stride, stride), (0, 0, 0, 0), (dilation, dilation))
        layer = random_parameters(random_weights((*kernel, channels), rng), True, rng)
        made = depthwise(f"twos{i}", shape, layer, Core.of(mcpu), choice=DepthwiseChoice(strip=int(rng.integers(1, height + 1))))
        cases.append((made, random_input(made.input_shape, rng)))
    assert mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path) == [0] * len(cases)
