# SPDX-License-Identifier: Apache-2.0
"""Kernels that store or read planes (NCHW) equal the numpy meaning: portable form on the host, assembly on emulated cores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.schedules.microkernels import BlockChoice, Conv2DShape, Core, DepthwiseChoice, DepthwiseShape, MicroKernel, conv2d, depthwise


def random_reader(name: str, rng: np.random.Generator, core: Core) -> tuple[MicroKernel, np.ndarray]:
    """A depthwise convolution over planes, or over a single channel, which is one."""
    kernel = tuple(int(v) for v in rng.choice([1, 2, 3, 3, 5], 2))
    padding = tuple(int(rng.integers(0, k)) for k in (*kernel, *kernel))
    height, width = (int(rng.integers(1, 60 if rng.random() < 0.3 else 12)) + k for k in kernel)
    channels, planar = int(rng.choice([1, 2, 3, 4, 5, 11])), bool(rng.integers(4))
    shape = DepthwiseShape(
        height, width, channels, channels * int(rng.choice([1, 1, 2])), kernel, (int(rng.integers(1, 3)), int(rng.integers(1, 4))),
        padding, planar=planar or channels > 1,
    )  # fmt: skip
    layer = random_parameters(random_weights((*kernel, shape.outputs), rng), True, rng)
    try:
        made = depthwise(name, shape, layer, core, choice=DepthwiseChoice(strip=int(rng.integers(1, 4))) if rng.random() < 0.3 else None)
    except ValueError:
        return random_reader(name, rng, core)
    return made, random_input(made.input_shape, rng)


def random_writer(name: str, rng: np.random.Generator, core: Core) -> tuple[MicroKernel, np.ndarray]:
    """A convolution that stores planes."""
    kernel = int(rng.choice([1, 1, 3]))
    height, width = (int(v) for v in rng.integers(kernel, 12, 2))
    shape = Conv2DShape(
        height, width, int(rng.choice([1, 3, 4, 8, 13])), int(rng.integers(1, 9)), (kernel, kernel), (int(rng.integers(1, 3)),) * 2,
        (kernel // 2,) * 4, planar=True,
    )  # fmt: skip
    layer = random_parameters(random_weights((shape.outputs, kernel, kernel, shape.channels), rng), False, rng)
    choice = BlockChoice(int(rng.integers(1, 3)), int(rng.integers(1, 4)), tile=int(rng.choice([1, 1, 2])), unroll=4)
    try:
        made = conv2d(name, shape, layer, core, choice=choice if rng.random() < 0.5 else None)
    except ValueError:
        return random_writer(name, rng, core)
    return made, random_input(made.input_shape, rng)


MAKERS = (random_reader, random_writer)


@pytest.mark.host_cc
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_portable_planes_are_exact(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    kernel, x = MAKERS[seed % 2]("planar", rng, Core(dual_issue=bool(rng.integers(2))))
    np.testing.assert_array_equal(run_host(kernel, x, tmp_path_factory.mktemp("planar"), "gcc"), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_planes_on_emulated_cores_are_exact(mcpu: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(len(mcpu) + ord(mcpu[-1]))
    cases = [MAKERS[i % 2](f"planar{i}", rng, Core.of(mcpu)) for i in range(32)]
    wrong = mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path_factory.mktemp("planar"), ("-O2",))
    assert wrong == [0] * len(cases)


def test_planes_out_of_reach_are_refused() -> None:
    rng = np.random.default_rng(1)
    layer = random_parameters(random_weights((4, 1, 1, 4), rng), False, rng)
    with pytest.raises(ValueError, match="store NHWC"):
        conv2d("wide", Conv2DShape(80, 80, 4, 4, planar=True), layer, Core())
