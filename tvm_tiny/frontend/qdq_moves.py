# SPDX-License-Identifier: Apache-2.0
"""How operators on single elements, and those that move data, join the QDQ form (`qdq`). NCHW in, NHWC out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from tvm import relax
from tvm.relax import op as R

from tvm_tiny.frontend.qdq import NHWC, Origin, Scale, Value, identity, preferred, shape_of
from tvm_tiny.frontend.qdq_rewriter import Rewriter, Rule

# --- element by element -----------------------------------------------------------------------------------------------------------------


def _unary(self: Rewriter, call: relax.Call, origin: Origin | None, function: Callable[[relax.Expr], relax.Expr]) -> Value:
    x = self.stored(call.args[0])
    return self.made(function(self.out.real(x)), x, origin)


def _leaky_relu(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    return _unary(self, call, origin, lambda x: R.nn.leakyrelu(x, float(call.attrs.alpha)))


def _clamp(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    x = self.stored(call.args[0])
    low, high = (0.0, math.inf) if call.op.name == "relax.nn.relu" else (float(a.value) for a in call.args[1:3])
    if x.base is not None:
        low, high = max(low, x.bounds[0]), min(high, x.bounds[1])
        x = x.base
    return Value(x.shape, x.perm, origin, base=x, bounds=(low, high))


def _hard_swish(self: Rewriter, x: relax.Expr) -> relax.Expr:
    gate = self.out.emit(R.clip(self.out.emit(R.add(x, relax.const(np.float32(3)))), 0, 6))
    return R.multiply(x, self.out.emit(R.divide(gate, relax.const(np.float32(6)))))


def binary(self: Rewriter, call: relax.Call, origin: Origin | None, function: Callable[..., relax.Expr]) -> Value:
    """An operator on two values, in the layout where they meet."""
    if origin is not None and origin.op == "HardSwish":
        return _unary(self, call, origin, partial(_hard_swish, self))
    left, right = (self.value(a) for a in call.args)
    shape = shape_of(call)
    full = [v for v in (left, right) if v.data is None and v.shape == shape]
    perm = preferred(full) if full else identity(len(shape))
    operands = [_operand(self, v, perm) for v in (left, right)]
    return Value(shape, perm, origin, var=self.out.emit(function(*operands)))


def _operand(self: Rewriter, value: Value, perm: tuple[int, ...]) -> relax.Expr:
    if value.data is None and len(value.shape) != len(perm):
        value = reshaped(self, value, (1,) * (len(perm) - len(value.shape)) + value.shape, None)
    return self.out.real(value, perm)


# --- data movement ----------------------------------------------------------------------------------------------------------------------


def _permute(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    x = self.value(call.args[0])
    rank = len(x.shape)
    axes = [int(a) % rank for a in call.attrs.axes] if call.attrs.axes is not None else list(range(rank))[::-1]
    shape = tuple(x.shape[a] for a in axes)
    if x.data is not None:
        scales = x.scales.transpose(axes) if x.scales is not None and x.scales.ndim else x.scales
        return replace(x, data=x.data.transpose(axes), scales=scales, shape=shape)
    perm = tuple(axes.index(a) for a in x.perm)
    return _renamed(x, shape, perm, origin)


def _renamed(x: Value, shape: tuple[int, ...], perm: tuple[int, ...], origin: Origin | None) -> Value:
    """The same stored data under another order of the source's axes."""
    if x.base is not None:
        return replace(x, base=_renamed(x.base, shape, perm, None), shape=shape, perm=perm, origin=origin or x.origin)
    return replace(x, shape=shape, perm=perm, origin=origin or x.origin)


def _reshape(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    x = self.value(call.args[0])
    shape = shape_of(call)
    if x.data is not None:
        scales = x.scales
        if scales is not None and scales.ndim:
            # A scale a channel survives only where nothing but extents of 1 come and go; otherwise the constant becomes real.
            plain = tuple(e for e in x.shape if e != 1) == tuple(e for e in shape if e != 1) and scales.size == x.data.size
            if not plain:
                return Value(shape, identity(len(shape)), data=x.real.reshape(shape))
            scales = scales.reshape(shape)
        return replace(x, data=x.data.reshape(shape), scales=scales, shape=shape, perm=identity(len(shape)))
    value = reshaped(self, x, shape, origin)
    image = x.base is None and x.perm == NHWC and len(shape) == 2 and shape[0] == x.shape[0]
    if not image or x.shape[1] == 1 or x.shape[2:] == (1, 1):
        return value
    flat = self.out.moved([x], lambda parts, _: self.out.reshape(parts[0], shape), shape, identity(2), origin)
    return replace(value, flat=(flat, np.arange(shape[1]).reshape(x.shape[1:]).transpose(1, 2, 0).ravel()))


def reshaped(self: Rewriter, x: Value, shape: tuple[int, ...], origin: Origin | None) -> Value:
    """The value in another shape, in the source's own order of axes."""
    if x.shape == shape and origin is None:
        return self.out.laid(x, identity(len(shape)))
    if x.base is not None:
        return replace(x, base=reshaped(self, x.base, shape, None), shape=shape, perm=identity(len(shape)), origin=origin)
    x = self.out.laid(x, identity(len(x.shape)))
    return self.out.moved([x], lambda parts, _: self.out.reshape(parts[0], shape), shape, identity(len(shape)), origin)


def _concat(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    parts = [self.stored(f) for f in _fields(self, call.args[0])]
    shape = shape_of(call)
    axis = int(call.attrs.axis) % len(shape)
    perm = preferred(parts)
    laid = [self.out.laid(p, perm) for p in parts]
    return self.out.moved(laid, lambda v, _: self.out.emit(R.concat(v, perm.index(axis))), shape, perm, origin)


def _fields(self: Rewriter, expr: relax.Expr) -> list[relax.Expr]:
    return list(expr.fields) if isinstance(expr, relax.Tuple) else [expr]


def _split(self: Rewriter, call: relax.Call, origin: Origin | None) -> list[Value]:
    x = self.stored(call.args[0])
    axis = int(call.attrs.axis) % len(x.shape)
    parts = []
    begin = 0
    for ty in call.ty.fields:
        shape = tuple(int(e) for e in ty.shape)
        parts.append(_sliced(self, x, {axis: (begin, begin + shape[axis], 1)}, shape, None))
        begin += shape[axis]
    return parts


def _sliced(self: Rewriter, x: Value, bounds: dict[int, tuple[int, int, int]], shape: tuple[int, ...], origin: Origin | None) -> Value:
    everything = [bounds.get(a, (0, x.shape[a], 1)) for a in x.perm]
    begin, end, strides = (list(column) for column in zip(*everything, strict=True))
    axes = list(range(len(everything)))
    return self.out.moved([x], lambda v, _: self.out.emit(R.strided_slice(v[0], axes, begin, end, strides)), shape, x.perm, origin)


def _strided_slice(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    x = self.stored(call.args[0])
    axes, begin, end = ([int(n.value) for n in a.fields] for a in call.args[1:4])
    strides = [int(n.value) for n in call.args[4].fields] if len(call.args) > 4 else [1] * len(axes)
    bounds = {}
    for axis, low, high, step in zip(axes, begin, end, strides, strict=True):
        extent = x.shape[axis % len(x.shape)]
        clip = [min(max(n + extent if n < 0 else n, 0), extent) for n in (low, high)]
        bounds[axis % len(x.shape)] = (clip[0], clip[1], step)
    return _sliced(self, x, bounds, shape_of(call), origin)


def _pad(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    x = self.stored(call.args[0])
    widths = [int(n) for n in call.attrs.pad_width]
    laid = [n for a in x.perm for n in widths[2 * a : 2 * a + 2]]
    value = float(call.attrs.pad_value)

    def move(parts: list[relax.Expr], quant: Scale | None) -> relax.Expr:
        fill = value if quant is None else float(quant.round(value))
        return self.out.emit(R.nn.pad(parts[0], laid, "constant", fill))

    return self.out.moved([x], move, shape_of(call), x.perm, origin)


def _take(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    """Slices at constant places; a single number takes its axis away."""
    x, indices = self.stored(call.args[0]), self.value(call.args[1]).data
    assert indices is not None
    axis = int(call.attrs.axis or 0) % len(x.shape)
    places = relax.const(np.asarray(indices.ravel() % x.shape[axis], np.int32))
    shape = (*x.shape[:axis], indices.size, *x.shape[axis + 1 :])
    value = self.out.moved([x], lambda v, _: self.out.emit(R.take(v[0], places, x.perm.index(axis), mode="fast")), shape, x.perm, origin)
    return value if shape == shape_of(call) else reshaped(self, value, shape_of(call), None)


def _resize(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    x, attrs, shape = self.out.laid(self.stored(call.args[0]), NHWC), call.attrs, shape_of(call)
    if str(attrs.method) == "linear":
        mode = {"layout": "NHWC", "method": "linear", "coordinate_transformation_mode": str(attrs.coordinate_transformation_mode)}
        return self.made(R.image.resize2d(self.out.real(x), shape[2:], **mode), x, origin, shape)

    def move(parts: list[relax.Expr], quant: Scale | None) -> relax.Expr:
        mode, rounding = attrs.coordinate_transformation_mode, attrs.rounding_method
        return self.out.emit(
            R.image.resize2d(
                parts[0],
                shape[2:],
                layout="NHWC",
                method="nearest_neighbor",
                coordinate_transformation_mode=mode,
                rounding_method=rounding,
            )
        )

    return self.out.moved([x], move, shape, NHWC, origin)


_UNARY: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "relax.abs": R.abs,
    "relax.ceil": R.ceil,
    "relax.cos": R.cos,
    "relax.erf": R.erf,
    "relax.exp": R.exp,
    "relax.floor": R.floor,
    "relax.log": R.log,
    "relax.negative": R.negative,
    "relax.nn.gelu": R.nn.gelu,
    "relax.rsqrt": R.rsqrt,
    "relax.sigmoid": R.sigmoid,
    "relax.sin": R.sin,
    "relax.sqrt": R.sqrt,
    "relax.square": R.square,
    "relax.tanh": R.tanh,
}
_BINARY: dict[str, Callable[..., relax.Expr]] = {
    "relax.divide": R.divide,
    "relax.maximum": R.maximum,
    "relax.minimum": R.minimum,
    "relax.multiply": R.multiply,
    "relax.power": R.power,
    "relax.subtract": R.subtract,
}
MOVES: dict[str, Rule] = {
    **{name: partial(_unary, function=function) for name, function in _UNARY.items()},
    **{name: partial(binary, function=function) for name, function in _BINARY.items()},
    "relax.nn.leakyrelu": _leaky_relu,
    "relax.nn.relu": _clamp,
    "relax.clip": _clamp,
    "relax.permute_dims": _permute,
    **dict.fromkeys(("relax.reshape", "relax.squeeze", "relax.expand_dims"), _reshape),
    "relax.concat": _concat,
    "relax.split": _split,
    "relax.strided_slice": _strided_slice,
    "relax.take": _take,
    "relax.nn.pad": _pad,
    "relax.image.resize2d": _resize,
}
