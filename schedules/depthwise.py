# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution of any kernel, stride, padding, dilation and channel multiplier, NHWC in and out.

Strips of rows of four channels are widened into padded int16 planes in scratch and convolved channel by channel with SMLAD.
A column of pixels (an image one pixel wide, as of sound) is computed as a row: the bytes are the same, and blocks are wide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels import Core, DepthwiseChoice, DepthwiseShape, LayerParameters, MicroKernel, depthwise
from tvm_tiny.schedules.microkernels.depthwise import default_strip
from tvm_tiny.schedules.nests.depthwise import depthwise_nest
from tvm_tiny.schedules.nests.planes import in_strips
from tvm_tiny.schedules.overlap import element_distance, window_starts
from tvm_tiny.schedules.space import Choice, Space, divisions
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget


def apply(func: tirx.PrimFunc, target: TinyTarget, tunable: bool) -> Applied:
    """Take `tiny.depthwise_conv2d` of one image, NHWC in and out."""
    layer = Layer.of(func)
    if not _takes(layer):
        return None
    if tunable:
        return space_of(shape_of(layer)).sample(func)
    shape, parameters, core = shape_of(layer), parameters_of(layer), Core.of(target.mcpu)

    def make(strip: int | None) -> MicroKernel:
        choice = DepthwiseChoice(strip=strip, shared=bool(layer.small_code), fixed=bool(layer.short_code))
        return depthwise(f"{PREFIX}depthwise", shape, parameters, core, choice=choice)

    kernel = make(None)
    if 0 in layer.attrs.get("in_place", ()):
        in_place = make(shape.out_height)
        kernel = in_place if in_place.choices["operand"] == "planes" else kernel
    if layer.step_room is not None:
        kernel = _within(layer, shape, kernel, make)
    return _tensorized(kernel, func, layer, shape)


def _tensorized(kernel: MicroKernel, func: tirx.PrimFunc, layer: Layer, shape: DepthwiseShape) -> Schedule:
    nest = depthwise_nest(f"{PREFIX}depthwise", shape, parameters_of(layer), kernel, layer.shapes)
    return tensorized(kernel, func, "depthwise", nest=nest, rights=_rights(layer, shape, kernel))


def _within(layer: Layer, shape: DepthwiseShape, kernel: MicroKernel, make: Callable[[int], MicroKernel]) -> MicroKernel:
    """The kernel of most rows a strip, at most those of `kernel`, that keeps to the room; where none does, of the least bytes."""
    before, after = shape.height * shape.width * shape.channels, shape.out_height * shape.out_width * shape.outputs
    room = before + after + (layer.step_room or 0)

    def need(candidate: MicroKernel) -> int:
        """Input, output as far as it may not lie over the input, and scratch."""
        granted = [d for order, d in _rights(layer, shape, candidate) if order != "in-place" or 0 in layer.attrs.get("in_place", ())]
        apart = min(granted, default=after) if layer.last_reader else after
        return max(after, min(max(apart, 0), after) + before) + candidate.scratch_bytes

    if kernel.choices["operand"] != "planes" or need(kernel) <= room:
        return kernel
    smaller = [make(strip) for strip in sorted(divisions(shape.out_height, 6), reverse=True) if strip < int(str(kernel.choices["strip"]))]
    return next((k for k in smaller if need(k) <= room), min([kernel, *smaller], key=need))


def can_run_in_place(shape: DepthwiseShape) -> bool:
    """Output pixel p of a channel lies where pixel p of the same input channel lay: not behind the pixels whose planes are read."""
    return shape.outputs == shape.channels and shape.out_height * shape.out_width <= shape.height * shape.width


def bytes_in_place(shape: DepthwiseShape) -> int:
    """Input, which the output takes the place of, and planes of all rows."""
    return shape.height * shape.width * shape.channels + plane_bytes(shape, shape.out_height)


def bytes_in_strips(shape: DepthwiseShape, *, overlap: bool = True) -> int:
    """Input, output as far as it may not lie over the input (`overlap`: at the distance of strips), and planes of a strip."""
    before, after = shape.height * shape.width * shape.channels, shape.out_height * shape.out_width * shape.outputs
    strip = default_strip(shape, DepthwiseChoice().scratch_limit)
    apart = max(0, _strip_distance(shape, strip)) if overlap else after
    return min(before + after, max(after, before + apart)) + plane_bytes(shape, strip)


def plane_bytes(shape: DepthwiseShape, rows: int) -> int:
    """Bytes of the planes behind `rows` output rows."""
    return shape.planes * shape.plane_rows(rows) * shape.row_bytes


def has_planes(layer: Layer, target: TinyTarget) -> bool:
    """Whether the layer's kernel of all rows at once works in planes; else it is plain C, pixel by pixel."""
    shape = shape_of(layer)
    choice = DepthwiseChoice(strip=shape.out_height)
    kernel = depthwise(f"{PREFIX}depthwise", shape, parameters_of(layer), Core.of(target.mcpu), choice=choice)
    return kernel.choices["operand"] == "planes"


def _takes(layer: Layer | None) -> TypeGuard[Layer]:
    return layer is not None and layer.op == "tiny.depthwise_conv2d" and layer.is_nhwc and layer.shapes[0][0] == 1


def space(func: tirx.PrimFunc, _target: TinyTarget) -> Space | None:
    """The tuning space of the layer, None when the rule does not take it."""
    layer = Layer.of(func)
    return space_of(shape_of(layer)) if _takes(layer) else None


def space_of(shape: DepthwiseShape) -> Space:
    """Outputs computed together, and output rows whose planes are built at once."""
    decisions = {"pixels": (2, 4, 6, 8), "strip": divisions(shape.out_height, 6)}
    return Space("depthwise", decisions, loops=in_strips(padded=any(shape.padding)))


def realise(func: tirx.PrimFunc, target: TinyTarget, choice: Choice) -> Schedule | None:
    """The schedule of one candidate of `space`; None when the rule does not take the layer, or has only plain C for the candidate."""
    layer = Layer.of(func)
    if not _takes(layer):
        return None
    shape = shape_of(layer)
    wanted = DepthwiseChoice(int(choice["pixels"]), int(choice["strip"]))
    kernel = depthwise(f"{PREFIX}depthwise", shape, parameters_of(layer), Core.of(target.mcpu), choice=wanted)
    if kernel.choices["operand"] != "planes":
        return None
    return _tensorized(kernel, func, layer, shape)


def shape_of(layer: Layer) -> DepthwiseShape:
    """The microkernel's description of the layer's geometry; of a column of pixels that of the same bytes as a row."""
    upright = _upright_shape(layer)
    return _lying(upright) if _lies_down(layer, upright) else upright


def _upright_shape(layer: Layer) -> DepthwiseShape:
    x, w, attrs = layer.shapes[0], layer.shapes[1], layer.attrs
    windows: dict[str, Any] = {k: tuple(attrs[v]) for k, v in (("stride", "strides"), ("padding", "padding"), ("dilation", "dilation"))}
    return DepthwiseShape(x[1], x[2], x[3], w[2], (w[0], w[1]), **windows)


def _lying(upright: DepthwiseShape) -> DepthwiseShape:
    """Rows and columns exchanged."""
    top, left, bottom, right = upright.padding
    turned: dict[str, Any] = {k: getattr(upright, k)[::-1] for k in ("kernel", "stride", "dilation")}
    return replace(upright, height=upright.width, width=upright.height, padding=(left, top, right, bottom), **turned)


def _lies_down(layer: Layer, upright: DepthwiseShape) -> bool:
    """Whether the layer is a column of pixels that all go to planes at once; streamed rows are rows."""
    if layer.by_rows or upright.width != 1 or upright.out_width != 1 or upright.height == 1:
        return False
    return plane_bytes(_lying(upright), 1) <= DepthwiseChoice().scratch_limit


def parameters_of(layer: Layer) -> LayerParameters:
    """The layer's constants."""
    weights, bias, multiplier, shift = (layer.constants[i] for i in (1, 2, 3, 4))
    if _lies_down(layer, _upright_shape(layer)):
        weights = weights.transpose(1, 0, 2)
    a = layer.attrs
    return LayerParameters(weights, bias, multiplier, shift, a["x_zp"], a["y_zp"], (a["clamp_min"], a["clamp_max"]), a["rounding"])


def _rights(layer: Layer, shape: DepthwiseShape, kernel: MicroKernel) -> list[list[Any]]:
    if kernel.choices["operand"] != "planes":
        return [["ascending", element_distance(layer)]] if shape.outputs == shape.channels else []
    strip = int(str(kernel.choices["strip"]))
    rights: list[list[Any]] = [["ascending", _strip_distance(shape, strip)]]
    whole = strip >= shape.out_height and can_run_in_place(shape)
    return [["in-place", 0], *rights] if whole else rights  # a channel's plane is read whole before that channel's bytes are stored


def _strip_distance(shape: DepthwiseShape, strip: int) -> int:
    """Within a strip, channels are read after others were stored."""
    out = (shape.out_height, shape.out_width)
    rows = window_starts((shape.height, shape.width), out, shape.stride, shape.padding).reshape(out)[:, 0] * shape.channels
    first = np.arange(0, shape.out_height, strip)
    ends = np.minimum(first + strip, shape.out_height) * shape.out_width * shape.outputs
    return int(np.max(ends - rows[first]))
