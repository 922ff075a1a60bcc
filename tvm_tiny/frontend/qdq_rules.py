# SPDX-License-Identifier: Apache-2.0
"""One rule per Relax operator that TVM's ONNX importer makes: how it joins the QDQ form (`qdq`). NCHW in, NHWC out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from tvm import relax
from tvm.relax import op as R

from tvm_tiny.frontend.qdq import NHWC, Origin, Scale, Value, array, identity, shape_of
from tvm_tiny.frontend.qdq_moves import MOVES, binary, reshaped
from tvm_tiny.frontend.qdq_rewriter import Rewriter, Rule, unsupported


def _check_weights(weight: Value, axis: int, origin: Origin | None) -> None:
    """Weights are symmetric, and several scales lie along the output channels (`axis` of the source's layout)."""
    if weight.zero != 0:
        raise unsupported(origin, f"weights with zero point {weight.zero} (only 0)")
    if weight.scales is not None and weight.scales.size > 1 and weight.scales.shape[axis] != weight.scales.size:
        raise unsupported(origin, f"weight scales of shape {list(weight.scales.shape)} (one a channel along axis {axis})")


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
    if x.data is not None or weight.data is None or weight.data.ndim != 2:
        operands = [self.out.real(v, identity(len(v.shape))) for v in (x, weight)]
        return Value(shape_of(call), identity(len(shape_of(call))), origin, var=self.out.emit(R.matmul(*operands)))
    _check_weights(weight, 1, origin)
    depth, units = weight.data.shape
    rows = math.prod(x.shape) // depth
    weights = weight.data
    flat, order = x.flat if x.flat is not None else (None, None)
    if flat is not None and flat.quant == x.quant and x.shape == (rows, depth):
        x, weights = replace(flat, raw=False), weights[order]
    else:
        x = reshaped(self, self.stored(call.args[0]), (rows, depth), None)
    var = self.out.product(partial(R.matmul, self.out.real(x)), weight, weights, 1, x)
    value = Value((rows, units), identity(2), origin, var=var)
    return value if shape_of(call) == (rows, units) else reshaped(self, value, shape_of(call), origin)


def _add(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    left, right = (self.value(a) for a in call.args)
    for product, bias in ((left, right), (right, left)):
        if product.var is not None and product.var in self.out.products and _per_channel(bias, product):
            var = self.out.biased(product.var, bias)
            if var is not None:
                return replace(product, var=var, origin=origin)
    return binary(self, call, origin, R.add)


def _per_channel(bias: Value, product: Value) -> bool:
    """Whether a constant's only extent above 1 is the product's channel axis (1 of NCHW, the last of a matrix)."""
    if bias.data is None:
        return False
    rank = len(product.shape)
    padded = (1,) * (rank - bias.data.ndim) + bias.data.shape
    axis = 1 if rank == 4 else rank - 1
    return all(extent == 1 for i, extent in enumerate(padded) if i != axis)


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


def _reduce(self: Rewriter, call: relax.Call, origin: Origin | None, function: Callable[..., relax.Expr]) -> Value:
    x = self.stored(call.args[0])
    rank = len(x.shape)
    axes = sorted(int(a) % rank for a in call.attrs.axis) if call.attrs.axis is not None else list(range(rank))
    keep = bool(call.attrs.keepdims)
    if rank == 4 and x.perm == identity(4) and axes == [2, 3]:
        x = self.out.laid(x, NHWC)
    expr = function(self.out.real(x), sorted(x.perm.index(a) for a in axes), keep)
    left = [a for a in x.perm if a not in axes]
    perm = x.perm if keep else tuple(sorted(left).index(a) for a in left)
    return Value(shape_of(call), perm, origin, var=self.out.emit(expr))


def _softmax(self: Rewriter, call: relax.Call, origin: Origin | None) -> Value:
    x = self.stored(call.args[0])
    rank = len(x.shape)
    axis = int(call.attrs.axis) % rank
    if x.perm[-1] != axis:
        x = self.out.laid(x, (*(a for a in range(rank) if a != axis), axis))
    return self.made(R.nn.softmax(self.out.real(x), axis=-1), x, origin)


RULES: dict[str, Rule] = {
    **MOVES,
    "relax.quantize": _quantize,
    "relax.dequantize": _dequantize,
    "relax.nn.conv2d": _conv2d,
    "relax.matmul": _matmul,
    "relax.add": _add,
    "relax.nn.avg_pool2d": partial(_pool, pool=partial(R.nn.avg_pool2d, count_include_pad=False)),
    "relax.nn.max_pool2d": partial(_pool, pool=R.nn.max_pool2d),
    "relax.max": partial(_reduce, function=R.max),
    "relax.mean": partial(_reduce, function=R.mean),
    "relax.min": partial(_reduce, function=R.min),
    "relax.sum": partial(_reduce, function=R.sum),
    "relax.nn.softmax": _softmax,
}
