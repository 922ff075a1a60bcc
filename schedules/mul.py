# SPDX-License-Identifier: Apache-2.0
"""Product of a tensor with one factor a channel (squeeze-and-excitation): two multiply-accumulates an element where that is exact."""

from __future__ import annotations

import math

from tvm import tirx

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels import Core, MulLayer, gate_mul
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget


def apply(func: tirx.PrimFunc, target: TinyTarget, _tunable: bool) -> Applied:
    """Take `tiny.mul` of a tensor and a gate of its last axis, in either order, both computed at run time, NHWC in and out."""
    layer = Layer.of(func)
    if layer is None or layer.op != "tiny.mul" or layer.constants or not layer.is_nhwc:
        return None
    out, channels = layer.shapes[-1], layer.shapes[-1][-1]
    wide = [i for i in (0, 1) if layer.shapes[i] == out]
    gates = [i for i in (0, 1) if math.prod(layer.shapes[i]) == channels == layer.shapes[i][-1]]
    if len(wide) != 1 or len(gates) != 1:
        return None
    kernel = gate_mul(
        f"{PREFIX}mul", math.prod(out) // channels, channels, layer_of(layer, wide[0]), Core.of(target.mcpu), gate_first=gates == [0]
    )
    # Pairs of channels are walked over all pixels: an element is read just before its own byte is stored.
    return None if kernel is None else tensorized(kernel, func, "mul", rights={wide[0]: [["in-place", 0]]})


def layer_of(layer: Layer, wide: int) -> MulLayer:
    """The microkernel's description of the product; `wide` is the number of the argument that has the output's shape."""
    a = layer.attrs
    zero_points = (a["a_zp"], a["b_zp"]) if wide == 0 else (a["b_zp"], a["a_zp"])
    return MulLayer((*zero_points, a["y_zp"]), a["multiplier"], a["shift"], (a["clamp_min"], a["clamp_max"]), a["rounding"])
