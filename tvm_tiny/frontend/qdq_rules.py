# SPDX-License-Identifier: Apache-2.0
"""One rule per Relax operator that TVM's ONNX importer makes: how it joins the QDQ form (`qdq`). NCHW in, NHWC out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import tvm
from tvm import relax
from tvm.relax import op as R

from tvm_tiny.errors import Problem, UnsupportedModelError
from tvm_tiny.frontend.qdq import NHWC, Emitter, Origin, Scale, Value, array, identity, preferred, shape_of


@dataclass
class Rewriter:
    """Walks the bindings of an imported function; `values` holds what each of its variables became."""

    out: Emitter
    origins: dict[relax.Var, Origin]
    ports: frozenset[str]
    values: dict[relax.Var, Value | list[Value]] = field(default_factory=dict)

    def bind(self, var: relax.Var, expr: relax.Expr) -> None:
        """Rewrite one binding."""
        origin = self.origins.get(var)
        if isinstance(expr, relax.Call):
            if expr.op.name not in RULES:
                raise _unsupported(origin, f"it comes in as {expr.op.name}, which has no QDQ form")
            self.values[var] = RULES[expr.op.name](self, expr, origin)
        elif isinstance(expr, relax.TupleGetItem):
            parts = self.values[expr.tuple_value]
            self.values[var] = parts[expr.index] if isinstance(parts, list) else parts
        elif isinstance(expr, relax.Tuple):
            self.values[var] = [self.value(f) for f in expr.fields]
        else:
            self.values[var] = self.value(expr)

    def value(self, expr: relax.Expr) -> Value:
        """What an argument became."""
        if isinstance(expr, tvm.ir.GenericConst):
            data = array(expr)
            return Value(data.shape, identity(data.ndim), data=data)
        value = self.values[expr]
        assert isinstance(value, Value)
        return value

    def stored(self, expr: relax.Expr) -> Value:
        """An argument as a stored, clamped or moved value, never a bare constant."""
        value = self.value(expr)
        if value.data is None:
            return value
        return Value(value.shape, value.perm, var=self.out.real(value, value.perm))

    def made(self, expr: relax.Expr, like: Value, origin: Origin | None, shape: tuple[int, ...] | None = None) -> Value:
        """A real value computed by an operator."""
        return Value(like.shape if shape is None else shape, like.perm, origin, var=self.out.emit(expr))


def _unsupported(origin: Origin | None, reason: str) -> UnsupportedModelError:
    origin = origin or Origin("", "an operator", -1)
    return UnsupportedModelError([Problem(f"node {origin.node} {origin.op}", (origin.tensor,), reason, "export the operator differently")])


def _check_weights(weight: Value, axis: int, origin: Origin | None) -> None:
    """Weights are symmetric, and several scales lie along the output channels (`axis` of the source's layout)."""
    if weight.zero != 0:
        raise _unsupported(origin, f"weights with zero point {weight.zero} (only 0)")
    if weight.scales is not None and weight.scales.size > 1 and weight.scales.shape[axis] != weight.scales.size:
        raise _unsupported(origin, f"weight scales of shape {list(weight.scales.shape)} (one a channel along axis {axis})")


# --- quantisation -----------------------------------------------------------------------------------------------------------------------


def _quantize(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    x = self.value(call.args[0])
    if x.data is not None:
        scale, zero = array(call.args[1]), array(call.args[2])
        scale = _along(scale, x.data.ndim, int(call.attrs.axis))
        integers = np.clip(np.rint(x.real / scale) + _along(zero, x.data.ndim, int(call.attrs.axis)), -128, 127).astype(np.int8)
        return Value(x.shape, x.perm, data=integers)
    quant = Scale(float(array(call.args[1]).ravel()[0]), int(array(call.args[2]).ravel()[0]))
    # The tensor an operator computes is the one before its quantisation; a model output keeps its own name.
    name = origin if x.origin is None or (origin is not None and origin.tensor in self.ports) else x.origin
    return self.out.quantize(x, quant, name)


def _dequantize(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    x = self.value(call.args[0])
    scale, zero = array(call.args[1]), array(call.args[2])
    if x.data is not None:
        scales = _along(scale.astype(np.float32), x.data.ndim, int(call.attrs.axis))
        return Value(x.shape, x.perm, data=x.data, scales=scales, zero=int(zero.ravel()[0]))
    return replace(x, quant=Scale(float(scale.ravel()[0]), int(zero.ravel()[0])), raw=False, origin=origin)


def _along(numbers: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """Per-channel numbers shaped to broadcast along `axis`; one number as a scalar."""
    if numbers.size == 1:
        return numbers.reshape(())
    return numbers.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


# --- products and pools -----------------------------------------------------------------------------------------------------------------


def _conv2d(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    x, weight, attrs = self.out.laid(self.stored(call.args[0]), NHWC), self.value(call.args[1]), call.attrs
    assert weight.data is not None
    _check_weights(weight, 0, origin)
    groups = int(attrs.groups)
    depthwise = groups > 1
    weights = weight.data.transpose(2, 3, 0, 1) if depthwise else weight.data.transpose(0, 2, 3, 1)
    make = partial(
        R.nn.conv2d,
        self.out.real(x),
        strides=[int(s) for s in attrs.strides],
        padding=[int(p) for p in attrs.padding],
        dilation=[int(d) for d in attrs.dilation],
        groups=groups,
        data_layout="NHWC",
        kernel_layout="HWOI" if depthwise else "OHWI",
    )
    var = self.out.product(make, weight, weights, 2 if depthwise else 0, x)
    return Value(shape_of(call), NHWC, origin, var=var)


def _matmul(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    x, weight = self.value(call.args[0]), self.value(call.args[1])
    assert weight.data is not None
    _check_weights(weight, 1, origin)
    depth, units = weight.data.shape
    rows = math.prod(x.shape) // depth
    weights = weight.data
    flat, order = x.flat if x.flat is not None else (None, None)
    if flat is not None and flat.quant == x.quant and x.shape == (rows, depth):
        x, weights = replace(flat, raw=False), weights[order]
    else:
        x = _reshaped(self, self.stored(call.args[0]), (rows, depth), None)
    var = self.out.product(partial(R.matmul, self.out.real(x)), weight, weights, 1, x)
    value = Value((rows, units), identity(2), origin, var=var)
    return value if shape_of(call) == (rows, units) else _reshaped(self, value, shape_of(call), origin)


def _add(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    left, right = (self.value(a) for a in call.args)
    for product, bias in ((left, right), (right, left)):
        if product.var is not None and product.var in self.out.products and _per_channel(bias, product):
            var = self.out.biased(product.var, bias)
            if var is not None:
                return replace(product, var=var, origin=origin)
    return _binary(self, call, origin, R.add)


def _per_channel(bias: Value, product: Value) -> bool:
    """Whether a constant's only extent above 1 is the product's channel axis (1 of NCHW, the last of a matrix)."""
    if bias.data is None:
        return False
    rank = len(product.shape)
    padded = (1,) * (rank - bias.data.ndim) + bias.data.shape
    axis = 1 if rank == 4 else rank - 1
    return all(extent == 1 for i, extent in enumerate(padded) if i != axis)


def _binary(self: Rewriter, call: relax.Call, origin: Origin | None, function: Callable[..., relax.Expr]) -> Value:
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
        value = _reshaped(self, value, (1,) * (len(perm) - len(value.shape)) + value.shape, None)
    return self.out.real(value, perm)


def _pool(self: Rewriter, call: relax.Call, origin: Origin | None, pool: Callable[..., relax.Expr]) -> Value:
    x = self.out.laid(self.stored(call.args[0]), NHWC)
    if x.raw:  # largest integers: those of the largest reals, whatever the scale
        scale = x.quant or Scale(1.0, 0)
        return self.out.quantize(_pool_of(self, replace(x, quant=scale, raw=False), call, None, pool), scale, origin)
    return _pool_of(self, x, call, origin, pool)


def _pool_of(self: Rewriter, x: Value, call: relax.Call, origin: Origin | None, pool: Callable[..., relax.Expr]) -> Value:
    attrs = call.attrs
    expr = pool(
        self.out.real(x),
        pool_size=[int(n) for n in attrs.pool_size],
        strides=[int(n) for n in attrs.strides],
        padding=[int(n) for n in attrs.padding],
        layout="NHWC",
    )
    return self.made(expr, x, origin, shape_of(call))


def _mean(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    x = self.stored(call.args[0])
    rank = len(x.shape)
    axes = sorted(int(a) % rank for a in call.attrs.axis)
    keep = bool(call.attrs.keepdims)
    if rank == 4 and x.perm == identity(4) and axes == [2, 3]:
        x = self.out.laid(x, NHWC)
    expr = R.mean(self.out.real(x), sorted(x.perm.index(a) for a in axes), keep)
    left = [a for a in x.perm if a not in axes]
    perm = x.perm if keep else tuple(sorted(left).index(a) for a in left)
    return Value(shape_of(call), perm, origin, var=self.out.emit(expr))


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


def _softmax(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    x = self.stored(call.args[0])
    rank = len(x.shape)
    axis = int(call.attrs.axis) % rank
    if x.perm[-1] != axis:
        x = self.out.laid(x, (*(a for a in range(rank) if a != axis), axis))
    return self.made(R.nn.softmax(self.out.real(x), axis=-1), x, origin)


def _hard_swish(self: Rewriter, x: relax.Expr) -> relax.Expr:
    gate = self.out.emit(R.clip(self.out.emit(R.add(x, relax.const(np.float32(3)))), 0, 6))
    return R.multiply(x, self.out.emit(R.divide(gate, relax.const(np.float32(6)))))


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
    value = _reshaped(self, x, shape, origin)
    image = x.base is None and x.perm == NHWC and len(shape) == 2 and shape[0] == x.shape[0]
    if not image or x.shape[1] == 1 or x.shape[2:] == (1, 1):
        return value
    flat = self.out.moved([x], lambda parts, _: self.out.reshape(parts[0], shape), shape, identity(2), origin)
    return replace(value, flat=(flat, np.arange(shape[1]).reshape(x.shape[1:]).transpose(1, 2, 0).ravel()))


def _reshaped(self: Rewriter, x: Value, shape: tuple[int, ...], origin: Origin | None) -> Value:
    if x.shape == shape and origin is None:
        return self.out.laid(x, identity(len(shape)))
    if x.base is not None:
        return replace(x, base=_reshaped(self, x.base, shape, None), shape=shape, perm=identity(len(shape)), origin=origin)
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


RULES: dict[str, Callable[[Rewriter, relax.Call, Origin | None], Value | list[Value]]] = {
    "relax.quantize": _quantize,
    "relax.dequantize": _dequantize,
    "relax.nn.conv2d": _conv2d,
    "relax.matmul": _matmul,
    "relax.add": _add,
    "relax.subtract": partial(_binary, function=R.subtract),
    "relax.multiply": partial(_binary, function=R.multiply),
    "relax.divide": partial(_binary, function=R.divide),
    "relax.nn.avg_pool2d": partial(_pool, pool=partial(R.nn.avg_pool2d, count_include_pad=False)),
    "relax.nn.max_pool2d": partial(_pool, pool=R.nn.max_pool2d),
    "relax.mean": _mean,
    "relax.sigmoid": partial(_unary, function=R.sigmoid),
    "relax.tanh": partial(_unary, function=R.tanh),
    "relax.nn.leakyrelu": _leaky_relu,
    "relax.nn.relu": _clamp,
    "relax.clip": _clamp,
    "relax.nn.softmax": _softmax,
    "relax.permute_dims": _permute,
    **dict.fromkeys(("relax.reshape", "relax.squeeze", "relax.expand_dims"), _reshape),
    "relax.concat": _concat,
    "relax.split": _split,
    "relax.strided_slice": _strided_slice,
    "relax.nn.pad": _pad,
    "relax.image.resize2d": _resize,
}
