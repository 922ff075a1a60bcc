# SPDX-License-Identifier: Apache-2.0
"""Layers at the border of NHWC and planes: a convolution that stores NCHW, a depthwise convolution that reads it.

The same kernels as in NHWC, with other strides of the stores and another way into the padded planes (`microkernels/plane_lines.py`).
Nothing may share bytes: all planes of the output are open from the first pixel on, all planes of the input until the last.
"""

from __future__ import annotations

from dataclasses import replace

from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.ops.layout import to_nhwc
from tvm_tiny.schedules import conv2d, depthwise
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels import Core, MicroKernel
from tvm_tiny.schedules.microkernels import conv2d as conv2d_kernel
from tvm_tiny.schedules.microkernels import depthwise as depthwise_kernel
from tvm_tiny.schedules.microkernels.conv2d_shape import default_choice
from tvm_tiny.schedules.residual import addition_of
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget

_SMALL_UNROLL = 4  # groups an iteration where code should be small


def apply(func: tirx.PrimFunc, target: TinyTarget, tunable: bool) -> Applied:
    """Take `tiny.conv2d` from NHWC to NCHW and `tiny.depthwise_conv2d` from NCHW to NHWC, one image."""
    layer = Layer.of(func)
    kernel = planar_kernel(layer, target) if layer is not None and not tunable else None
    if layer is None or kernel is None:
        return None
    return _schedule(kernel, func, layer)


def _schedule(kernel: MicroKernel, func: tirx.PrimFunc, layer: Layer) -> Schedule:
    layouts = {k: layer.attrs[k] for k in ("x_layout", "y_layout")}
    return tensorized(kernel, func, "planar", **layouts)


def planar_kernel(layer: Layer, target: TinyTarget) -> MicroKernel | None:
    """The kernel of a layer that stores or reads planes; None when the layer does neither, or no kernel takes it."""
    layouts = tuple(layer.attrs.get(k, "NHWC") for k in ("x_layout", "y_layout"))
    if addition_of(layer) is not None:
        return None
    core, plain = Core.of(target.mcpu), _as_nhwc(layer)
    try:
        if layer.op == "tiny.conv2d" and layouts == ("NHWC", "NCHW") and (conv := conv2d.shape_of(plain)) is not None:
            planar = replace(conv, planar=True)
            choice = default_choice(planar, core, layer.scratch_room)
            choice = replace(choice, unroll=min(_SMALL_UNROLL, choice.unroll)) if layer.small_code else choice
            return conv2d_kernel(f"{PREFIX}gemm", planar, conv2d.parameters_of(plain, planar), core, choice=choice)
        if layer.op == "tiny.depthwise_conv2d" and layouts == ("NCHW", "NHWC") and plain.shapes[0][0] == 1:
            window = replace(depthwise.shape_of(plain), planar=True)
            return depthwise_kernel(f"{PREFIX}depthwise", window, depthwise.parameters_of(plain), core)
    except ValueError:  # no kernel of this requantisation or size works in planes
        return None
    return None


def _as_nhwc(layer: Layer) -> Layer:
    """The same layer as if all its tensors lay in NHWC."""
    x, y = layer.shapes[0], layer.shapes[-1]
    if len(x) != 4:
        return layer
    shapes = (to_nhwc(x, layer.attrs.get("x_layout", "NHWC")), *layer.shapes[1:-1], to_nhwc(y, layer.attrs.get("y_layout", "NHWC")))
    return replace(layer, attrs={**layer.attrs, "x_layout": "NHWC", "y_layout": "NHWC"}, shapes=shapes)
