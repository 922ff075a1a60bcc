# SPDX-License-Identifier: Apache-2.0
"""Pointwise layers whose geometry is data: the reference's bits for every number of pixels and channels, tile, and place of the weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.microkernels.test_add_kernels import random_add
from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.schedules.conv2d import distance, stores
from tvm_tiny.schedules.microkernels import BlockChoice, Conv2DShape, Core, LayerParameters, MicroKernel
from tvm_tiny.schedules.microkernels.gemm_driver import pointwise_shared


def random_pointwise(name: str, rng: np.random.Generator, core: Core) -> tuple[MicroKernel, np.ndarray, Conv2DShape]:
    """Draw a layer the driver takes, and an input."""
    while True:
        height, width = (int(v) for v in rng.integers(1, 6, 2))
        shape = Conv2DShape(height, width, int(rng.choice([4, 5, 6, 7, 8, 13, 16, 31, 40, 64, 70])), int(rng.choice([2, 3, 4, 7, 10])))
        layer = random_parameters(random_weights((shape.outputs, 1, 1, shape.channels), rng), False, rng)
        choice = BlockChoice(2, int(rng.integers(1, 4)), [None, None, "w8"][int(rng.integers(3))], tile=int(rng.integers(1, 5)))
        choice = replace(choice, weights=str(rng.choice(["flash", "layer", "block"])), fixed=bool(rng.integers(2)))
        kernel = pointwise_shared(name, shape, layer, core, choice)
        if kernel is not None:
            return kernel, random_input(kernel.input_shape, rng), shape


@pytest.mark.host_cc
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_portable_form_is_exact(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    kernel, x, _ = random_pointwise("pw", np.random.default_rng(seed), Core(dual_issue=bool(seed % 2)))
    directory: Path = tmp_path_factory.mktemp("pw")
    np.testing.assert_array_equal(run_host(kernel, x, directory, "gcc"), kernel.reference(x))


@pytest.mark.host_cc
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_output_may_lie_at_the_distance_promised(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Run with the output overlapping the input as closely as the kernel allows."""
    kernel, x, shape = random_pointwise("pw", np.random.default_rng(seed), Core())
    apart = max(distance(shape, kernel), 1 - x.size)
    image = np.zeros(x.size + int(np.prod(kernel.output_shape)) + abs(apart), np.int8)
    at = max(apart, 0)
    image[at : at + x.size] = x.reshape(-1)
    source = kernel.c_source + (
        f"void overlapped(int8_t *image, int8_t *unused, const void *packed, void *scratch) {{\n"
        f"  (void)unused;\n  {kernel.name}(image + {at}, image + {at - apart}, packed, scratch);\n}}\n"
    )
    assert np.array_equal(_overlapped(source, kernel, image, at - apart, tmp_path_factory.mktemp("pw")), kernel.reference(x).reshape(-1))


def _overlapped(source: str, kernel: MicroKernel, image: np.ndarray, at: int, directory: Path) -> np.ndarray:
    import ctypes
    import subprocess

    (directory / "k.c").write_text(source)
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", str(directory / "k.so"), str(directory / "k.c")], check=True)
    packed, scratch = np.frombuffer(kernel.packed, np.uint8).copy(), np.zeros(kernel.scratch_bytes + 8, np.uint8)
    arrays = (image, image, packed, scratch)
    ctypes.CDLL(str(directory / "k.so")).overlapped(*(ctypes.c_void_p(a.ctypes.data) for a in arrays))
    return image[at : at + int(np.prod(kernel.output_shape))]


@pytest.mark.host_cc
@pytest.mark.parametrize("weights", ["flash", "layer", "block"])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 17])
def test_a_row_is_written_and_nothing_before_it(width: int, weights: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """Rows of fewer pixels than a block have none before them to compute again."""
    shape = Conv2DShape(4, width, 8, 6)
    layer = random_parameters(random_weights((6, 1, 1, 8), rng), False, rng)
    kernel = pointwise_shared("k", shape, layer, Core(), BlockChoice(2, 3, tile=1 + width // 6, weights=weights), row_form=True)
    assert kernel is not None
    x = random_input(kernel.input_shape, rng)
    size = 6 * width
    image = np.concatenate([x.reshape(-1), np.full(3 * size, 0x55, np.int8)])
    at = x.size + size
    source = kernel.c_source + (
        f"void overlapped(int8_t *image, int8_t *unused, const void *packed, void *scratch) {{\n"
        f"  const int8_t *row = image + {2 * 8 * width};\n  (void)unused;\n"
        f"  {kernel.row_name}(&row, image + {at}, 2, 3, packed, scratch);\n}}\n"
    )
    found = _overlapped(source, replace(kernel, output_shape=(size,)), image, at, tmp_path)
    assert np.array_equal(found, kernel.reference(x)[2].reshape(-1))
    assert (image[x.size : at] == 0x55).all()
    assert (image[at + size :] == 0x55).all()


@pytest.mark.host_cc
@pytest.mark.parametrize(
    ("size", "weights", "tile"), [((1, 1), "flash", 1), ((7, 7), "flash", 1), ((13, 5), "block", 3), ((5, 9), "layer", 2)]
)
def test_a_residual_is_added_after_every_call(
    size: tuple[int, int], weights: str, tile: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    """Every pixel once: the driver computes some again, but none that is summed."""
    shape = Conv2DShape(*size, 8, 24)
    layer = random_parameters(random_weights((24, 1, 1, 8), rng), False, rng)
    kernel = pointwise_shared("k", shape, layer, Core(), BlockChoice(2, 3, tile=tile, weights=weights), residual=random_add(rng))
    assert kernel is not None
    x, y = rng.integers(-128, 128, (2, max(size[0] * size[1] * 24, 8))).astype(np.int8)
    x, y = x[: size[0] * size[1] * 8], y[: size[0] * size[1] * 24]
    source = kernel.c_source + (
        f"void overlapped(int8_t *image, int8_t *unused, const void *packed, void *scratch) {{\n"
        f"  (void)unused;\n  {kernel.name}(image, image + {x.size}, image + {x.size + y.size}, packed, scratch);\n}}\n"
    )
    image = np.concatenate([x, y, np.zeros(y.size, np.int8)])
    found = _overlapped(source, kernel, image, x.size + y.size, tmp_path)
    np.testing.assert_array_equal(found, kernel.reference(np.concatenate([x, y])).reshape(-1))
    ends = stores(shape, kernel)
    assert ends[-1] == y.size
    assert all(b - a >= int(str(kernel.choices["chunk"])) * 24 for a, b in pairwise([0, *ends[:-1]]))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_assembly_is_exact(mcpu: str, rng: np.random.Generator, tmp_path: Path) -> None:
    cases = [random_pointwise(f"pw{i}", rng, Core.of(mcpu)) for i in range(30)]
    assert mismatches_on_device([k for k, _, _ in cases], [x for _, x, _ in cases], mcpu, tmp_path) == [0] * len(cases)


def test_layers_share_all_their_code(rng: np.random.Generator) -> None:
    """Layers of one form differ in their constants alone, in one length of sums or, without that, in any."""

    def names(channels: int, outputs: int, *, fixed: bool) -> set[str]:
        weights = rng.integers(-127, 128, (outputs, 1, 1, channels)).astype(np.int8)
        constants = (np.zeros(outputs, np.int32), np.full(outputs, 2**30, np.int32), np.full(outputs, -7, np.int32))
        shape, layer = Conv2DShape(6, 6, channels, outputs), LayerParameters(weights, *constants, -128, -128)
        kernel = pointwise_shared("k", shape, layer, Core(), BlockChoice(2, 3, fixed=fixed))
        assert kernel is not None
        return {f.name for f in kernel.functions}

    assert names(16, 8, fixed=False) == names(32, 12, fixed=False) == names(61, 11, fixed=False)
    assert names(16, 8, fixed=True) == names(13, 12, fixed=True)
    assert names(16, 8, fixed=True) != names(24, 8, fixed=True)


@pytest.mark.parametrize(("channels", "outputs"), [(3, 8), (8, 1)])
def test_what_the_driver_leaves(channels: int, outputs: int, rng: np.random.Generator) -> None:
    layer = random_parameters(random_weights((outputs, 1, 1, channels), rng), False, rng)
    assert pointwise_shared("k", Conv2DShape(4, 4, channels, outputs), layer, Core(), BlockChoice(2, 3)) is None
