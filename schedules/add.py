# SPDX-License-Identifier: Apache-2.0
"""Residual addition of two int8 tensors of the same shape: two multiply-accumulates an element where that is provably exact."""

from __future__ import annotations

from tvm import tirx

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.ops.registry import Attrs
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels import AddLayer, Core, add
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget


def apply(func: tirx.PrimFunc, target: TinyTarget, _tunable: bool) -> Applied:
    """Take `tiny.add` of two tensors of equal shape and layout, both computed at run time."""
    layer = Layer.of(func)
    if layer is None or layer.op != "tiny.add" or layer.constants or len(set(layer.shapes)) != 1:
        return None
    layouts = {layer.attrs.get(k, "NHWC") for k in ("x_layout", "y_layout")}
    if len(layouts) != 1:
        return None
    count = 1
    for extent in layer.shapes[-1]:
        count *= extent
    kernel = add(f"{PREFIX}add", count, layer_of(layer), Core.of(target.mcpu))
    # A block of eight is read whole before its first byte is stored, blocks in ascending order.
    return tensorized(kernel, func, "add", rights=[["in-place", 0], ["ascending", 0]])


def layer_of(layer: Layer) -> AddLayer:
    """The microkernel's description of the addition."""
    return described(layer.attrs)


def described(attrs: Attrs) -> AddLayer:
    """The same from the attributes of `tiny.add`."""

    def of_each(what: str) -> tuple[int, int, int]:
        return attrs[f"a_{what}"], attrs[f"b_{what}"], attrs[f"y_{what}"]

    clamp = (attrs["clamp_min"], attrs["clamp_max"])
    return AddLayer(of_each("zp"), of_each("multiplier"), of_each("shift"), clamp, attrs["left_shift"], attrs["rounding"])
