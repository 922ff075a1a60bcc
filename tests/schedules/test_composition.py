# SPDX-License-Identifier: Apache-2.0
"""Kernels whose loops are in C are their blocks put together: the blocks' descriptions on the kernel's own constants make the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.block_cases import BlockCase
from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.schedules.blocks import depthwise as depthwise_blocks
from tvm_tiny.schedules.blocks import planes as planes_blocks
from tvm_tiny.schedules.blocks import winograd as winograd_blocks
from tvm_tiny.schedules.blocks.base import Block
from tvm_tiny.schedules.microkernels import (
    Conv2DShape,
    Core,
    DepthwiseChoice,
    DepthwiseShape,
    LayerParameters,
    MicroKernel,
    WinogradChoice,
    depthwise,
    winograd,
)
from tvm_tiny.schedules.microkernels.depthwise_block import DepthwiseBlock
from tvm_tiny.schedules.microkernels.planes import PlaneRow
from tvm_tiny.schedules.microkernels.requantize import RequantShape
from tvm_tiny.schedules.microkernels.winograd_block import ProductBlock, TileGroup
from tvm_tiny.schedules.requantize_forms import find_form

CORE = Core()


def described(block: Block, written: str, **arrays: np.ndarray) -> np.ndarray:
    """What a block's description makes of its operands."""
    return BlockCase(block, arrays).expected()[written]


def until_found(make: Callable[[np.random.Generator], Any], seed: int) -> tuple[Any, np.random.Generator]:
    """The first draw that has a kernel."""
    rng = np.random.default_rng(seed)
    while True:
        made = make(rng)
        if made is not None:
            return made, rng


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_depthwise(seed: int) -> None:
    """Padded planes of four channels, then their outputs, over strips of all rows."""

    def draw(rng: np.random.Generator) -> tuple[DepthwiseShape, LayerParameters, MicroKernel] | None:
        kernel = (int(rng.choice([1, 3, 5])), int(rng.choice([1, 2, 3])))
        padding = tuple(int(rng.integers(0, k)) for k in (*kernel, *kernel))
        height, width = (int(rng.integers(k, 8)) for k in kernel)
        shape = DepthwiseShape(height, width, 8, 8, kernel, tuple(int(v) for v in rng.integers(1, 3, 2)), padding)
        layer = random_parameters(random_weights((*kernel, 8), rng), True, rng)
        made = depthwise("k", shape, layer, CORE, choice=DepthwiseChoice(strip=shape.out_height))
        return (shape, layer, made) if made.choices["operand"] == "planes" else None

    (shape, layer, kernel), rng = until_found(draw, seed)
    requant = RequantShape.of(find_form(layer.requantization(layer.weights.reshape(-1, 8).T), 0))
    rows, top = shape.plane_rows(shape.out_height), shape.padding[0]
    block = DepthwiseBlock(
        shape.out_width, shape.kernel, shape.stride, shape.dilation, shape.row_bytes, 8, requant, min(4, shape.out_width), True, 4,
        rows * shape.row_bytes,
    )  # fmt: skip
    image = planes_blocks.Rows(rows, top, min(rows, top + shape.height))
    spread = PlaneRow(shape.width, shape.padding[1], shape.row_bytes // 4, 8, rows * shape.row_bytes, shape.width * 8)
    filled = planes_blocks.plane_rows("k", spread, image, layer.x_zero_point)
    outputs = depthwise_blocks.depthwise("k", block, shape.out_height)
    x, stream = random_input(kernel.input_shape, rng), np.frombuffer(kernel.packed, np.int32).reshape(8, -1)
    y = np.zeros(kernel.output_shape, np.int8)
    for channel in (0, 4):
        planes = described(filled, "planes", x=np.roll(x, -channel, axis=2)[: image.last - image.first])
        made = described(outputs, "y", planes=planes, stream=stream[channel : channel + 4])
        y[..., channel : channel + 4] = made.reshape(shape.out_height, shape.out_width, -1)[..., :4]
    np.testing.assert_array_equal(y, kernel.reference(x))


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_winograd(seed: int) -> None:
    """Four padded rows, the transform of a group of tiles, then every block of channels."""

    def draw(rng: np.random.Generator) -> tuple[Conv2DShape, LayerParameters, MicroKernel] | None:
        shape = Conv2DShape(4, int(rng.choice([4, 6])), 4, 4, (3, 3), padding=(1, 1, 1, 1))
        layer = random_parameters(random_weights((4, 3, 3, 4), rng), False, rng)
        made = winograd("k", shape, layer, CORE, choice=WinogradChoice(1, 1))
        return None if made is None else (shape, layer, made)

    (shape, layer, kernel), rng = until_found(draw, seed)
    requant = RequantShape.of(find_form(layer.requantization(layer.weights.reshape(4, -1)), 2))
    row, tiles = shape.out_width + 2, shape.out_width // 2
    group = TileGroup(4, 2, tiles, row * 4)
    block = ProductBlock(group, requant, 4, shape.out_width * 4)
    transform, products = winograd_blocks.transform("k", group), winograd_blocks.products("k", block)
    x, stream = random_input(kernel.input_shape, rng), np.frombuffer(kernel.packed, np.int32).reshape(2, -1)
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=layer.x_zero_point)
    y = np.zeros(kernel.output_shape, np.int8)
    for line in range(0, shape.out_height, 2):
        moved = described(transform, "group", x=padded[line : line + 4])
        for channel in (0, 2):
            y[line : line + 2, :, channel : channel + 2] = described(products, "y", group=moved, stream=stream[channel // 2])[..., :2]
    np.testing.assert_array_equal(y, kernel.reference(x))
