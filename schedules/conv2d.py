# SPDX-License-Identifier: Apache-2.0
"""Convolution of any kernel, stride, padding and dilation, pointwise included: GEMM over a few expanded columns (im2col without the copy).

A group of output pixels is gathered and widened to int16 in scratch, then multiplied with all channels by the block function;
requantisation is fused. The tensor is never padded or copied as a whole.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels import BlockChoice, Conv2DShape, Core, LayerParameters, MicroKernel, RegisterPressureError, conv2d
from tvm_tiny.schedules.microkernels.conv2d_shape import default_choice, shared_choice
from tvm_tiny.schedules.nests.gemm import gemm_nest
from tvm_tiny.schedules.nests.products import TILED, products
from tvm_tiny.schedules.overlap import ascending_distance, window_starts
from tvm_tiny.schedules.residual import addition_of, rights
from tvm_tiny.schedules.space import Choice, Space, divisions
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget

_MOST_SUMS = 9  # accumulators of a block; more never leave registers for operands


def apply(func: tirx.PrimFunc, target: TinyTarget, tunable: bool) -> Applied:
    """Take ungrouped `tiny.conv2d` of one image and `tiny.dense`, NHWC in and out."""
    layer = Layer.of(func)
    shape = _takes(layer)
    if layer is None or shape is None:
        return None
    if tunable:
        return space_of(shape).sample(func)
    choice = keep_within(layer, shape, default_choice(shape, Core.of(target.mcpu), layer.scratch_room))
    return gemm(func, layer, shape, choice, target, "conv2d")


def keep_within(layer: Layer, shape: Conv2DShape, choice: BlockChoice) -> BlockChoice:
    """`choice`, or the block of most pixels whose columns keep to the chosen peak; where none does, of one pixel."""
    if layer.step_room is None or choice.tile > 1 or choice.weights != "flash":
        return choice
    fitting = (p for p in range(choice.pixels, 1, -1) if p * column_bytes(shape) <= room_by_sharing(layer, shape, p))
    return replace(choice, pixels=next(fitting, 1))


def room_by_sharing(layer: Layer, shape: Conv2DShape, group: int) -> int:
    """Bytes of scratch within the chosen peak when the output lies over the input as far as it may, groups of so many pixels together."""
    room = layer.step_room or 0
    if not layer.last_reader:
        return room
    starts = window_starts((shape.height, shape.width), (shape.out_height, shape.out_width), shape.stride, shape.padding) * shape.channels
    before, after = shape.height * shape.width * shape.channels, starts.size * shape.outputs
    edges = np.arange(0, starts.size, group)
    ends = np.minimum(edges + group, starts.size) * shape.outputs
    apart = max(0, ascending_distance(np.minimum.reduceat(starts, edges), ends))
    return before + after + room - max(after, min(apart, after) + before)


def column_bytes(shape: Conv2DShape) -> int:
    """Scratch of a pixel: widened, and beside that gathered, where it is put together from bytes."""
    return 4 * -(-shape.k // 4) * (3 if is_gathered(shape) else 2)


def gemm(func: tirx.PrimFunc, layer: Layer, shape: Conv2DShape, choice: BlockChoice, target: TinyTarget, rule: str) -> Schedule:
    """The whole layer in one call, or in the form with the least code of its own where the layer asks for that.

    Raises
    ------
    RegisterPressureError
        The block needs more registers than there are.
    """
    core, parameters, added = Core.of(target.mcpu), parameters_of(layer, shape), addition_of(layer)
    kernel = None
    if layer.small_code:
        with contextlib.suppress(RegisterPressureError):  # the shared form needs more registers; wide blocks keep code of their own
            shared = shared_choice(shape, core, choice, layer.scratch_room, fixed=bool(layer.short_code))
            kernel = conv2d(f"{PREFIX}gemm", shape, parameters, core, choice=shared, residual=added)
    kernel = kernel or conv2d(f"{PREFIX}gemm", shape, parameters, core, choice=choice, residual=added)
    nest = gemm_nest(f"{PREFIX}gemm", shape, parameters, kernel, core, layer.shapes)
    return tensorized(kernel, func, rule, nest=nest, rights=rights(kernel, distance(shape, kernel), stores(shape, kernel)))


def is_gathered(shape: Conv2DShape) -> bool:
    """Whether windows are put together from bytes: a pixel is no whole number of words (rule first_layer)."""
    return shape.channels % 4 != 0 and not shape.is_pointwise


def _takes(layer: Layer | None) -> Conv2DShape | None:
    return shape_of(layer) if layer is not None and layer.op in ("tiny.conv2d", "tiny.dense") else None


def space(func: tirx.PrimFunc, _target: TinyTarget) -> Space | None:
    """The tuning space of the layer, None when the rule does not take it or a rule of its own does."""
    layer = Layer.of(func)
    shape = _takes(layer)
    if layer is None or shape is None or (layer.op == "tiny.conv2d" and (shape.is_pointwise or is_gathered(shape))):
        return None
    return space_of(shape)


def space_of(shape: Conv2DShape, rule: str = "conv2d") -> Space:
    """Block of channels and pixels, operand form, groups an iteration, and pixel groups a walk over the weights."""
    pixels, groups = shape.out_height * shape.out_width, -(-shape.k // 4)
    decisions: dict[str, tuple[int | str, ...]] = {
        "channels": tuple(c for c in (1, 2, 3, 4, 6, 8) if c <= shape.outputs),
        "pixels": tuple(p for p in (1, 2, 3, 4) if p <= pixels),
        "operand": ("r8", "w8", "w16"),
        "unroll": tuple(sorted({min(u, groups) for u in (4, 8, 16, 32)})),
        "tile": (1,) if pixels < 2 else tuple(sorted({1, 4, *divisions(max(1, pixels // 3), 4), max(1, pixels // 2)})),
    }

    def legal(choice: Choice) -> bool:
        channels, together = int(choice["channels"]), int(choice["pixels"])
        return channels * together <= (6 if choice["operand"] == "w8" else _MOST_SUMS) and int(choice["tile"]) * together <= pixels

    return Space(rule, decisions, legal, as_products, TILED)


def as_products(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The layer as columns and products; itself where it is none of those."""
    layer = Layer.of(func)
    shape = shape_of(layer) if layer is not None and layer.op in ("tiny.conv2d", "tiny.dense") else None
    return func if layer is None or shape is None else products(layer, shape)


def realise(func: tirx.PrimFunc, target: TinyTarget, choice: Choice) -> Schedule | None:
    """The schedule of one candidate of `space`; None when the rule does not take the layer.

    Raises
    ------
    RegisterPressureError
        The block needs more registers than there are.
    """
    layer = Layer.of(func)
    shape = _takes(layer)
    if layer is None or shape is None:
        return None
    return gemm(func, replace(layer, small_code=frozenset()), shape, block_of(choice), target, "conv2d")


def block_of(choice: Choice) -> BlockChoice:
    """The block that decisions of `space_of` stand for."""
    channels, pixels, unroll, tile = (int(choice[name]) for name in ("channels", "pixels", "unroll", "tile"))
    return BlockChoice(channels, pixels, str(choice["operand"]), unroll, tile)


def shape_of(layer: Layer) -> Conv2DShape | None:
    """The microkernel's description of the layer's geometry; None when it can't take it."""
    x, w = layer.shapes[0], layer.shapes[1]
    if layer.op == "tiny.dense":
        return Conv2DShape(x[0], 1, x[1], w[0]) if len(x) == 2 else None
    attrs = layer.attrs
    if attrs["groups"] != 1 or x[0] != 1 or not layer.is_nhwc:
        return None
    windows: dict[str, Any] = {k: tuple(attrs[v]) for k, v in (("stride", "strides"), ("padding", "padding"), ("dilation", "dilation"))}
    return Conv2DShape(x[1], x[2], x[3], w[0], (w[1], w[2]), **windows)


def parameters_of(layer: Layer, shape: Conv2DShape) -> LayerParameters:
    """The layer's constants."""
    weights, bias, multiplier, shift = (layer.constants[i] for i in (1, 2, 3, 4))
    a = layer.attrs
    weights = weights.reshape(shape.outputs, *shape.kernel, shape.channels)
    return LayerParameters(weights, bias, multiplier, shift, a["x_zp"], a["y_zp"], (a["clamp_min"], a["clamp_max"]), a["rounding"])


def distance(shape: Conv2DShape, kernel: MicroKernel) -> int:
    """How far the output must lie below the input.

    Columns of a tile of pixel groups are complete before the first of its outputs is stored; pixels left over are done one by one.
    """
    if kernel.choices.get("code") == "shared":
        return _distance_of_shared(shape, kernel)
    starts, edges, ends = _groups(shape, kernel)
    return ascending_distance(np.minimum.reduceat(starts, edges), ends)


def stores(shape: Conv2DShape, kernel: MicroKernel) -> list[int]:
    """Bytes of the output that lie there after each tile of pixel groups, and after each pixel left over."""
    if "chunk" in kernel.choices:  # of the shared driver, whose last call takes what is left
        chunk, pixels = int(str(kernel.choices["chunk"])), shape.out_height * shape.out_width
        return [end * shape.outputs for end in (*range(chunk, pixels - chunk + 1, chunk), pixels)]
    return [int(end) for end in _groups(shape, kernel)[2]]


def _groups(shape: Conv2DShape, kernel: MicroKernel) -> tuple[np.ndarray, list[int], np.ndarray]:
    """The first input byte of every pixel's window; of all tiles and pixels left over the first pixel, and the bytes stored after them."""
    group = int(str(kernel.choices["block"]).split("x")[1])
    out = (shape.out_height, shape.out_width)
    starts = window_starts((shape.height, shape.width), out, shape.stride, shape.padding) * shape.channels
    grouped = starts.size // group * group
    edges = [*range(0, grouped, group * int(str(kernel.choices["tile"]))), *range(grouped, starts.size)]
    return starts, edges, np.array([*edges[1:], starts.size]) * shape.outputs


def _distance_of_shared(shape: Conv2DShape, kernel: MicroKernel) -> int:
    """The same for the shared driver, whose last group reads again pixels that outputs stored before must not lie over."""
    group, tile = int(str(kernel.choices["block"]).split("x")[1]), int(str(kernel.choices["tile"]))
    pixels = shape.out_height * shape.out_width
    grouped = pixels // group * group
    edges = [*range(0, grouped, group * tile), *([pixels - group] if grouped < pixels else [])]
    ends = [*(min(e + group * tile, grouped) for e in range(0, grouped, group * tile)), *([pixels] if grouped < pixels else [])]
    return ascending_distance(np.array(edges) * shape.channels, np.array(ends) * shape.outputs)
