# SPDX-License-Identifier: Apache-2.0
"""Row forms: any range of output rows from an array of row pointers equals those rows of the layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.microkernels.test_conv2d_kernels import random_conv
from tests.microkernels.test_depthwise_kernels import random_depthwise
from tests.microkernels.test_gemm_shared import shared_conv
from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.schedules.microkernels import CFunction, Core, DepthwiseChoice, DepthwiseShape, MicroKernel, conv2d, depthwise


def by_rows(kernel: MicroKernel, stride: int, top: int, chunk: int) -> MicroKernel:
    """The same layer, computed by its row form a few rows at a time; rows in the padding are null pointers."""
    height, width, channels = kernel.input_shape
    out_row = kernel.output_shape[1] * kernel.output_shape[2]
    rows, name = kernel.output_shape[0], f"{kernel.name}_chunks"
    signature = f"void {name}(const int8_t *in, int8_t *out, const void *packed, void *scratch)"
    text = (
        f"{signature};\n{signature} {{\n"
        f"  for (int32_t y = 0; y < {rows}; y += {chunk}) {{\n"
        f"    const int32_t end = y + {chunk} < {rows} ? y + {chunk} : {rows};\n"
        f"    const int8_t *rows[{height + 64}];\n"
        f"    for (int32_t i = 0; i < {height + 64}; ++i) {{\n"
        f"      const int32_t iy = y * {stride} - {top} + i;\n"
        f"      rows[i] = iy >= 0 && iy < {height} ? in + iy * {width * channels} : 0;\n"
        f"    }}\n"
        f"    {kernel.row_name}(rows, out + y * {out_row}, y, end, packed, scratch);\n"
        f"  }}\n}}\n"
    )
    return replace(kernel, name=name, functions=(*kernel.functions, CFunction(name, text)))


def random_rows(name: str, rng: np.random.Generator, core: Core) -> tuple[MicroKernel, np.ndarray]:
    """Draw a layer with a row form and wrap it."""
    seen: list[MicroKernel] = []

    def build(make: Callable[..., MicroKernel], *arguments: Any, **options: Any) -> MicroKernel:
        shape = arguments[1]
        kernel = make(*arguments, row_form=True, **options)
        seen.append(by_rows(kernel, shape.stride[0], shape.padding[0], int(rng.integers(1, 4))))
        return kernel

    draw, make = ((random_conv, conv2d), (random_conv, shared_conv), (random_depthwise, depthwise))[int(rng.integers(3))]
    _, x = draw(name, rng, core, make=lambda *a, **k: build(make, *a, **k))
    return seen[0], x


@pytest.mark.host_cc
def test_portable_row_forms_are_exact(tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(21)
    for i in range(10):
        kernel, x = random_rows(f"rows{i}", rng, Core())
        np.testing.assert_array_equal(run_host(kernel, x, tmp_path_factory.mktemp("rows")), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_row_forms_on_emulated_cores_are_exact(mcpu: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(22)
    cases = [random_rows(f"rows{i}", rng, Core.of(mcpu)) for i in range(20)]
    wrong = mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path_factory.mktemp("rows"))
    assert wrong == [0] * len(cases)


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_depthwise_kernels_of_one_row_at_a_time_are_exact(mcpu: str, tmp_path: Path) -> None:
    """Rows of one to many groups of outputs, channels that are no multiple of four, several outputs a channel."""
    rng, cases = np.random.default_rng(23), []
    layers = [(5, 7, 1, 3, 1), (61, 5, 1, 3, 1), (47, 4, 1, 3, 2), (40, 6, 1, 5, 1), (33, 3, 2, 3, 1), (9, 1, 1, 7, 2), (1, 9, 1, 1, 1)]
    for i, (width, channels, more, size, stride) in enumerate([*layers, (70, 48, 1, 5, 1)]):
        shape = DepthwiseShape(size + 3, width, channels, channels * more, (size, size), (stride, stride), (size // 2, 0, 1, size // 2))
        layer = random_parameters(random_weights((size, size, shape.outputs), rng), True, rng)
        kernel = depthwise(f"one{i}", shape, layer, Core.of(mcpu), choice=DepthwiseChoice(strip=1), row_form=True)
        assert any("depthwise_row_" in f.name for f in kernel.functions)
        cases.append((by_rows(kernel, stride, size // 2, 1 + i % 3), random_input(kernel.input_shape, rng)))
    assert mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path) == [0] * len(cases)
