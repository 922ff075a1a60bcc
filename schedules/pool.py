# SPDX-License-Identifier: Apache-2.0
"""Average and maximum pooling, and means over rows, columns or the whole image: windows of NHWC, four channels an instruction."""

from __future__ import annotations

import numpy as np
from tvm import tirx

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels import Core, MeanLayer, MicroKernel, PoolShape, average_pool, max_pool, mean_pool
from tvm_tiny.schedules.nests.pool import pool_nest
from tvm_tiny.schedules.overlap import ascending_distance, window_starts
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget


def apply(func: tirx.PrimFunc, target: TinyTarget, _tunable: bool) -> Applied:
    """Take `tiny.avg_pool2d`, `tiny.max_pool2d` and `tiny.mean` over height, width or both, of one image, NHWC in and out."""
    layer = Layer.of(func)
    if layer is None or layer.op not in ("tiny.avg_pool2d", "tiny.max_pool2d", "tiny.mean"):
        return None
    shape = shape_of(layer)
    kernel = None if shape is None else _kernel(layer, shape, Core.of(target.mcpu))
    if shape is None or kernel is None:
        return None
    nest = pool_nest(f"{PREFIX}pool", shape, kernel, layer.shapes)
    return tensorized(kernel, func, "pool", nest=nest, rights=[["ascending", distance(shape)]])


def shape_of(layer: Layer) -> PoolShape | None:
    """The microkernel's description of the windows; None where they are none of one NHWC image."""
    x, a = layer.shapes[0], layer.attrs
    if len(x) != 4 or x[0] != 1 or not layer.is_nhwc:
        return None
    if layer.op != "tiny.mean":
        return PoolShape(*x[1:], tuple(a["kernel"]), tuple(a["strides"]), tuple(a["padding"]))
    if not set(a["axes"]) <= {1, 2}:
        return None
    kernel = (x[1] if 1 in a["axes"] else 1, x[2] if 2 in a["axes"] else 1)
    return PoolShape(*x[1:], kernel, kernel)


def distance(shape: PoolShape) -> int:
    """How far the output may lie over the input: some channels of a window are read whole, then stored, then the next are read."""
    out = (shape.out_height, shape.out_width)
    starts = window_starts((shape.height, shape.width), out, shape.stride, shape.padding) * shape.channels
    pixels = np.arange(starts.size)
    within = int(np.max(pixels * shape.channels - starts))
    return max(within, ascending_distance(starts, (pixels + 1) * shape.channels))


def _kernel(layer: Layer, shape: PoolShape, core: Core) -> MicroKernel | None:
    name, a = f"{PREFIX}pool", layer.attrs
    if layer.op == "tiny.mean":
        return mean_pool(name, shape, core, MeanLayer(a["multiplier"], a["shift"], (a["x_zp"], a["y_zp"]), a["rounding"]))
    make = max_pool if layer.op == "tiny.max_pool2d" else average_pool
    return make(name, shape, core, (a["clamp_min"], a["clamp_max"]))
