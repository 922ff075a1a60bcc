# SPDX-License-Identifier: Apache-2.0
"""Convolution of any kernel, stride, padding and dilation, pointwise included: GEMM over a few expanded columns (im2col without the copy).

A group of output pixels is gathered and widened to int16 in scratch, then multiplied with all channels by the block function;
requantisation is fused. The tensor is never padded or copied as a whole.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
from tvm import tirx

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.extern_kernel import extern_schedule
from tvm_tiny.schedules.microkernels import Conv2DShape, Core, LayerParameters, MicroKernel, RegisterPressureError, conv2d
from tvm_tiny.schedules.microkernels.conv2d import default_choice
from tvm_tiny.schedules.overlap import ascending_distance, window_starts
from tvm_tiny.target import TinyTarget


def apply(func: tirx.PrimFunc, target: TinyTarget, _tunable: bool) -> Applied:
    """Take ungrouped `tiny.conv2d` of one image and `tiny.dense`, NHWC in and out."""
    layer = Layer.of(func)
    if layer is None or layer.op not in ("tiny.conv2d", "tiny.dense"):
        return None
    shape = shape_of(layer)
    if shape is None:
        return None
    core, parameters = Core.of(target.mcpu), parameters_of(layer, shape)
    choice = default_choice(shape, core, layer.scratch_room)
    kernel = None
    if layer.small_code:
        with contextlib.suppress(RegisterPressureError):  # the shared form needs more registers; wide blocks keep code of their own
            kernel = conv2d(f"{PREFIX}gemm", shape, parameters, core, choice=replace(choice, shared=True, tile=1))
    kernel = kernel or conv2d(f"{PREFIX}gemm", shape, parameters, core, choice=choice)
    return extern_schedule(kernel, func, "conv2d", rights=[["ascending", _distance(shape, kernel)]])


def shape_of(layer: Layer) -> Conv2DShape | None:
    """The microkernel's description of the layer's geometry; None when it can't take it."""
    x, w = layer.shapes[0], layer.shapes[1]
    if layer.op == "tiny.dense":
        return Conv2DShape(x[0], 1, x[1], w[0]) if len(x) == 2 else None
    attrs = layer.attrs
    if attrs["groups"] != 1 or x[0] != 1 or not layer.is_nhwc:
        return None
    windows = {k: tuple(attrs[v]) for k, v in (("stride", "strides"), ("padding", "padding"), ("dilation", "dilation"))}
    return Conv2DShape(x[1], x[2], x[3], w[0], (w[1], w[2]), **windows)


def parameters_of(layer: Layer, shape: Conv2DShape) -> LayerParameters:
    """The layer's constants."""
    weights, bias, multiplier, shift = (layer.constants[i] for i in (1, 2, 3, 4))
    a = layer.attrs
    weights = weights.reshape(shape.outputs, *shape.kernel, shape.channels)
    return LayerParameters(weights, bias, multiplier, shift, a["x_zp"], a["y_zp"], (a["clamp_min"], a["clamp_max"]), a["rounding"])


def _distance(shape: Conv2DShape, kernel: MicroKernel) -> int:
    """Columns of a tile of pixel groups are complete before the first of its outputs is stored; pixels left over are done one by one."""
    group = int(str(kernel.choices["block"]).split("x")[1])
    out = (shape.out_height, shape.out_width)
    starts = window_starts((shape.height, shape.width), out, shape.stride, shape.padding) * shape.channels
    grouped = starts.size // group * group
    edges = [*range(0, grouped, group * int(str(kernel.choices["tile"]))), *range(grouped, starts.size)]
    ends = [*edges[1:], starts.size]
    return ascending_distance(np.minimum.reduceat(starts, edges), np.array(ends) * shape.outputs)
