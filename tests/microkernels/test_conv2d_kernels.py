# SPDX-License-Identifier: Apache-2.0
"""Convolution, pointwise and dense kernels equal the numpy meaning: portable form on the host, assembly on emulated cores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.schedules.microkernels import (
    BlockChoice,
    Conv2DShape,
    Core,
    LayerParameters,
    MicroKernel,
    RegisterPressureError,
    conv2d,
    dense,
)
from tvm_tiny.schedules.microkernels.conv2d_shape import default_choice


def random_conv(
    name: str, rng: np.random.Generator, core: Core, make: Callable[..., MicroKernel] = conv2d
) -> tuple[MicroKernel, np.ndarray]:
    """Draw a convolution and an input."""
    kernel = tuple(int(v) for v in rng.choice([1, 1, 2, 3], 2))
    dilation = tuple(int(v) for v in rng.choice([1, 1, 1, 2], 2))
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    height, width = (int(rng.integers(1, 9)) + r for r in reach)
    padding = tuple(int(rng.integers(0, r + 1)) for r in (*reach, *reach))
    shape = Conv2DShape(
        height, width, int(rng.choice([1, 3, 4, 8, 10, 12, 20, 64])), int(rng.choice([1, 2, 3, 5, 8, 10])), kernel,
        tuple(int(v) for v in rng.integers(1, 3, 2)), padding, dilation,
    )  # fmt: skip
    layer = random_parameters(random_weights((shape.outputs, *kernel, shape.channels), rng), False, rng)
    operand = [None, None, "w8", "w16"][int(rng.integers(4))]
    pixels = int(rng.integers(1, 5 if operand is None else 4))
    weights = str(rng.choice(["flash", "layer", "block"]))
    choice = BlockChoice(2, pixels, operand, int(rng.choice([2, 3, 16])), int(rng.choice([1, 1, 2, 3])), weights=weights)
    kernel_ = make(name, shape, layer, core, choice=choice if rng.random() < 0.7 else None)
    return kernel_, random_input(kernel_.input_shape, rng)


@pytest.mark.host_cc
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_portable_convolution_is_exact(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    kernel, x = random_conv("conv", rng, Core(dual_issue=bool(rng.integers(2))))
    directory: Path = tmp_path_factory.mktemp("conv")
    compiler = "clang" if seed % 2 else "gcc"
    np.testing.assert_array_equal(run_host(kernel, x, directory, compiler), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("mcpu", "flags"),
    [
        ("cortex-m7", ("-O2",)),
        ("cortex-m7", ("-O0", "-fno-omit-frame-pointer")),
        ("cortex-m7", ("-O3", "-fpic")),
        ("cortex-m4", ("-Os",)),
        ("cortex-m33", ("-O2",)),
        ("cortex-m3", ("-O2",)),  # no DSP extension: the portable form
    ],
)
def test_convolutions_on_emulated_cores_are_exact(mcpu: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(len(flags[0]) + len(mcpu) * 7 + ord(flags[0][-1]))
    cases = [random_conv(f"conv{i}", rng, Core.of(mcpu)) for i in range(24)]
    wrong = mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path, flags)
    assert wrong == [0] * len(cases)


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_dense_on_emulated_cores_is_exact(mcpu: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    cases = []
    for i, (inputs, outputs) in enumerate([(640, 128), (128, 8), (10, 10), (3, 1), (64, 10), (256, 30)]):
        layer = random_parameters(random_weights((outputs, inputs), rng), False, rng)
        kernel = dense(f"dense{i}", layer, Core.of(mcpu), batch=1 + i % 2)
        cases.append((kernel, random_input(kernel.input_shape, rng)))
    assert mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path) == [0] * len(cases)


def test_r8_refuses_a_weight_of_minus_128_and_sums_of_wide_range() -> None:
    def operand(weights: np.ndarray, bias: int) -> object:
        n = len(weights)
        layer = LayerParameters(weights, np.full(n, bias), np.full(n, 2**30), np.full(n, -9), -128, -128)
        return conv2d("k", Conv2DShape(2, 2, weights.shape[-1], n), layer, Core()).choices["operand"]

    plain = np.full((2, 1, 1, 20), -127, np.int8)
    low = plain.copy()
    low[1, 0, 0, 3] = -128
    long = np.full((2, 1, 1, 1024), -127, np.int8)
    assert [operand(plain, 0), operand(low, 0), operand(plain, 2**29), operand(long, 0)] == ["r8", "w8", "r8", "w8"]


def test_a_block_that_needs_too_many_registers_says_so() -> None:
    layer = LayerParameters(np.ones((8, 1, 1, 8), np.int8), np.zeros(8, int), np.full(8, 2**30), np.full(8, -9), -128, -128)
    with pytest.raises(RegisterPressureError, match="doesn't fit"):
        conv2d("k", Conv2DShape(4, 4, 8, 8), layer, Core(), choice=BlockChoice(4, 4))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_every_block_and_loop_order_is_exact(mcpu: str, tmp_path: Path) -> None:
    """Blocks whose y lives on the stack (2x4), both loop orders, straight and looped sums, each requantisation form."""
    rng, cases = np.random.default_rng(31), []
    for pixels in (3, 4):
        for tile in (1, 2):
            for unroll in (2, 16):
                for y_zero_point, shift in ((-128, -8), (5, -8), (5, 14)):
                    layer = LayerParameters(
                        rng.integers(-127, 128, (5, 1, 1, 20)).astype(np.int8), rng.integers(-999, 999, 5),
                        rng.integers(2**30, 2**31, 5), shift - rng.integers(0, 2, 5), -3, y_zero_point,
                    )  # fmt: skip
                    choice = BlockChoice(2, pixels, unroll=unroll, tile=tile)
                    kernel = conv2d(f"c{len(cases)}", Conv2DShape(3, 6, 20, 5), layer, Core.of(mcpu), choice=choice)
                    cases.append((kernel, random_input(kernel.input_shape, rng)))
    assert {str(k.choices["requantise"]).split()[0] for k, _ in cases} == {"single", "double", "accumulator"}
    assert mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path) == [0] * len(cases)


def test_a_single_issue_core_copies_weights_it_reads_again_as_scratch_allows() -> None:
    def weights(outputs: int, room: int, core: Core) -> str:
        return default_choice(Conv2DShape(10, 10, 64, outputs), core, room).weights

    assert [weights(2, 0, Core(False)), weights(64, 0, Core(False)), weights(64, 0, Core(True))] == ["layer", "flash", "flash"]
    assert [weights(64, room, Core(False)) for room in (8_000, 2_000)] == ["layer", "block"]
