# SPDX-License-Identifier: Apache-2.0
"""Windows over few channels whose rows lie anywhere: row forms of such convolutions equal the numpy meaning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.schedules.microkernels import BlockChoice, CFunction, Conv2DShape, Core, MicroKernel, conv2d
from tvm_tiny.schedules.microkernels.conv2d_shape import default_choice

FIRST = {  # kernel, channels, stride
    "3x3x3/2": ((3, 3), 3, (2, 2)),
    "3x3x3/1": ((3, 3), 3, (1, 1)),
    "10x4x1/1": ((10, 4), 1, (1, 1)),
    "5x5x1/2": ((5, 5), 1, (2, 2)),
    "7x7x1/1": ((7, 7), 1, (1, 1)),
    "4x1x2/1": ((4, 1), 2, (1, 1)),
    "1x1x7/1": ((1, 1), 7, (1, 1)),
    "1x5x3/3": ((1, 5), 3, (1, 3)),
}


def scattered(kernel: MicroKernel, stride: int, top: int, chunk: int) -> MicroKernel:
    """The same layer by its row form, `chunk` rows at a time, the input's rows lying in opposite order; none in the padding."""
    (height, width, channels), (rows, columns, outputs) = kernel.input_shape, kernel.output_shape
    nbytes, name = width * channels, f"{kernel.name}_scattered"
    signature = f"void {name}(const int8_t *in, int8_t *out, const void *packed, void *scratch)"
    text = (
        f"{signature};\n{signature} {{\n"
        f"  static int8_t turned[{height * nbytes}];\n"
        f"  for (int32_t y = 0; y < {height}; ++y) memcpy(turned + ({height - 1} - y) * {nbytes}, in + y * {nbytes}, {nbytes});\n"
        f"  for (int32_t y = 0; y < {rows}; y += {chunk}) {{\n"
        f"    const int32_t end = y + {chunk} < {rows} ? y + {chunk} : {rows};\n"
        f"    const int8_t *rows[{height + 64}];\n"
        f"    for (int32_t i = 0; i < {height + 64}; ++i) {{\n"
        f"      const int32_t at = y * {stride} - {top} + i;\n"
        f"      rows[i] = at >= 0 && at < {height} ? turned + ({height - 1} - at) * {nbytes} : 0;\n"
        f"    }}\n"
        f"    {kernel.row_name}(rows, out + y * {columns * outputs}, y, end, packed, scratch);\n"
        f"  }}\n}}\n"
    )
    return replace(kernel, name=name, functions=(*kernel.functions, CFunction(name, text)))


def first_layer(name: str, what: str, rng: np.random.Generator, core: Core) -> tuple[MicroKernel, np.ndarray]:
    """A layer of that kernel with a random size, padding, zero point and block, and an input."""
    kernel, channels, stride = FIRST[what]
    height, width = (int(k + rng.integers(0, 12)) for k in kernel)
    padding = tuple(int(rng.integers(0, k)) for k in (*kernel, *kernel))
    shape = Conv2DShape(height, width, channels, int(rng.choice([1, 3, 8])), kernel, stride, padding)
    layer = random_parameters(random_weights((shape.outputs, *kernel, channels), rng), False, rng)
    layer = replace(layer, x_zero_point=int(rng.choice([-128, 127, layer.x_zero_point])))
    choice = replace(default_choice(shape, core), operand=[None, "w8"][int(rng.integers(2))], tile=1, weights="flash")
    if rng.random() < 0.5:
        choice = BlockChoice(2, int(rng.integers(1, 4)), choice.operand, pairs=bool(rng.integers(2)))
    made = conv2d(name, shape, layer, core, choice=choice, row_form=True)
    return scattered(made, stride[0], padding[0], int(rng.integers(1, 4))), random_input(made.input_shape, rng)


@pytest.mark.host_cc
@settings(max_examples=8, deadline=None)
@given(what=st.sampled_from(sorted(FIRST)), seed=st.integers(0, 2**32 - 1))
def test_portable_windows_over_few_channels_are_exact(what: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    kernel, x = first_layer("first", what, np.random.default_rng(seed), Core(dual_issue=bool(seed % 2)))
    np.testing.assert_array_equal(run_host(kernel, x, tmp_path_factory.mktemp("rows")), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_windows_over_few_channels_on_emulated_cores_are_exact(mcpu: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(41)
    cases = [first_layer(f"first{i}", what, rng, Core.of(mcpu)) for i, what in enumerate([*FIRST, *FIRST, *FIRST])]
    assert sum(any("gather_rows" in f.name for f in kernel.functions) for kernel, _ in cases) > len(cases) / 2
    assert mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path) == [0] * len(cases)


def test_long_columns_and_dilated_ones_are_put_together_byte_by_byte() -> None:
    for channels, dilation in ((13, 1), (3, 2)):
        shape = Conv2DShape(12, 12, channels, 4, (3, 3), (1, 1), (0, 0, 0, 0), (dilation, dilation))
        layer = random_parameters(random_weights((4, 3, 3, channels), rng := np.random.default_rng(1)), False, rng)
        made = conv2d("far", shape, layer, Core(), row_form=True)
        assert not any("gather_rows" in f.name for f in made.functions), shape


def test_groups_that_are_never_inside_are_put_together_byte_by_byte() -> None:
    for width, found in ((4, False), (12, True)):
        layer = random_parameters(random_weights((4, 3, 3, 3), rng := np.random.default_rng(1)), False, rng)
        shape = Conv2DShape(9, width, 3, 4, (3, 3), (1, 1), (0, 1, 0, 1))
        made = conv2d("k", shape, layer, Core(), choice=BlockChoice(2, 3), row_form=True)
        (group,) = (f for f in made.functions if f.name.endswith("columns3_rows"))
        assert ("gather_rows" in group.source) == found
