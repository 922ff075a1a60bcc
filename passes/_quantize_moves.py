# SPDX-License-Identifier: Apache-2.0
"""What moves or compares integers, for `quantize-to-integer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from tvm import relax

from tvm_tiny.frontend.qdq_view import constant, dtype_of, ints, is_constant, op_name, shape_of
from tvm_tiny.ops import registry
from tvm_tiny.passes._quantize_base import scalar

if TYPE_CHECKING:
    from tvm_tiny.passes.quantize_to_integer import Converter


def _reshape(cv: Converter, call: relax.Call, _name: str) -> relax.Expr:
    return registry.call("tiny.reshape", cv.value(call.args[0]), shape=list(shape_of(call)))


def _transpose(cv: Converter, call: relax.Call, name: str) -> relax.Expr:
    axes = ints(call.attrs.axes) if call.attrs.axes is not None else list(range(len(shape_of(call))))[::-1]
    return registry.call("tiny.transpose", cv.value(call.args[0]), axes=axes, source=name)


def _pad(cv: Converter, call: relax.Call, name: str) -> relax.Expr:
    value = float(scalar(call.args[1])) if len(call.args) > 1 else float(call.attrs.pad_value)
    width = ints(call.attrs.pad_width)
    return registry.call("tiny.pad", cv.value(call.args[0]), before=width[0::2], after=width[1::2], value=int(value), source=name)


def _concat(cv: Converter, call: relax.Call, name: str) -> relax.Expr:
    parts = cv.view.definition(call.args[0])
    return registry.call("tiny.concat", *(cv.value(f) for f in parts.fields), axis=int(call.attrs.axis), source=name)


def _slice(cv: Converter, call: relax.Call, name: str) -> relax.Expr:
    axes, begin, end, strides = ([int(scalar(v)) for v in arg.fields] for arg in call.args[1:5])
    shape = shape_of(call.args[0])
    bounds = {"begin": [0] * len(shape), "size": list(shape), "strides": [1] * len(shape)}
    for axis, first, last, step in zip(axes, begin, end, strides, strict=True):
        bounds["begin"][axis], bounds["size"][axis], bounds["strides"][axis] = first, -(-(last - first) // step), step
    return registry.call("tiny.strided_slice", cv.value(call.args[0]), source=name, **bounds)


def _resize(cv: Converter, call: relax.Call, name: str) -> relax.Expr | None:
    mode = {"align_corners": (True, False), "tf_half_pixel_for_nn": (False, True), "asymmetric": (False, False)}
    attrs = call.attrs
    if str(attrs.method) != "nearest_neighbor" or str(attrs.layout) != "NHWC" or str(attrs.coordinate_transformation_mode) not in mode:
        return None
    align, half = mode[str(attrs.coordinate_transformation_mode)]
    size = list(shape_of(call)[1:3])
    return registry.call("tiny.resize_nearest", cv.value(call.args[0]), size=size, align_corners=align, half_pixel=half, source=name)


def _extreme(cv: Converter, call: relax.Call, name: str) -> relax.Expr | None:
    if dtype_of(call) != "int8":
        return None
    function = "maximum" if op_name(call) == "relax.maximum" else "minimum"
    for value, number in ((call.args[0], call.args[1]), (call.args[1], call.args[0])):
        if is_constant(number) and constant(number).size == 1 and shape_of(value) == shape_of(call):
            table = getattr(np, function)(np.arange(-128, 128), int(scalar(number))).astype(np.int8)
            return registry.call("tiny.lookup", cv.value(value), relax.const(table), source=name)
    return registry.call(f"tiny.{function}", *(cv.value(a) for a in call.args), source=name)


def _take(cv: Converter, call: relax.Call, name: str) -> relax.Expr | None:
    if not is_constant(call.args[1]):
        return None
    axis = int(call.attrs.axis) % len(shape_of(call.args[0]))
    return registry.call("tiny.gather", cv.value(call.args[0]), call.args[1], axis=axis, source=name)


def _flip(cv: Converter, call: relax.Call, name: str) -> relax.Expr:
    shape = list(shape_of(call))
    begin, strides, axis = [0] * len(shape), [1] * len(shape), int(call.attrs.axis) % len(shape)
    begin[axis], strides[axis] = shape[axis] - 1, -1
    return registry.call("tiny.strided_slice", cv.value(call.args[0]), begin=begin, size=shape, strides=strides, source=name)


def _arg_extreme(cv: Converter, call: relax.Call, name: str) -> relax.Expr | None:
    """astype(argmax | argmin(x), int32)."""
    found = cv.view.definition(call.args[0])
    kind = op_name(found)
    if kind not in ("relax.argmax", "relax.argmin") or dtype_of(call) != "int32" or dtype_of(found.args[0]) != "int8":
        return None
    axis = int(found.attrs.axis) % len(shape_of(found.args[0]))
    value = registry.call("tiny.arg_extreme", cv.value(found.args[0]), axis=axis, least=kind == "relax.argmin", source=name)
    if not found.attrs.keepdims:
        return value
    return registry.call("tiny.reshape", cv.builder.emit(value), shape=list(shape_of(call)))


MOVES: dict[str, Callable[[Converter, relax.Call, str], relax.Expr | None]] = {
    **dict.fromkeys(("relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten"), _reshape),
    "relax.permute_dims": _transpose,
    "relax.nn.pad": _pad,
    "relax.concat": _concat,
    "relax.strided_slice": _slice,
    "relax.image.resize2d": _resize,
    "relax.maximum": _extreme,
    "relax.minimum": _extreme,
    "relax.take": _take,
    "relax.flip": _flip,
    "relax.astype": _arg_extreme,
}
