# SPDX-License-Identifier: Apache-2.0
"""Convolutions and matrix products, for `quantize-to-integer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tvm import relax

from tvm_tiny.frontend.qdq_view import constant, ints, is_constant, op_name, shape_of
from tvm_tiny.ops import batch_matmul, conv2d, dense, registry
from tvm_tiny.passes._quantize_base import Convert, Result, channel_constants, common

if TYPE_CHECKING:
    from tvm_tiny.passes.quantize_to_integer import Converter


def _convolution(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    call, bias = cv.split_bias(expr)
    if op_name(call) != "relax.nn.conv2d":
        return None
    x, w = cv.activation(call.args[0]), cv.view.dequantized(call.args[1])
    if x is None or w is None or not is_constant(w.value) or np.any(w.quant.zero_point):
        return None
    attrs = call.attrs
    weight, layout = constant(w.value), str(attrs.kernel_layout)
    depthwise = layout == "HWOI"
    out_channels = weight.shape[2] if depthwise else weight.shape[0]
    extra: dict[str, object] = {} if depthwise else {"groups": int(attrs.groups)}
    params = conv2d.quantize_params(x.quant.real_scale, w.quant.scale.reshape(-1), result.quant.real_scale, out_channels)
    scaling = channel_constants(bias, params, out_channels)
    return registry.call(
        "tiny.depthwise_conv2d" if depthwise else "tiny.conv2d",
        cv.value(x.value),
        relax.const(weight[:, :, :, 0] if depthwise else weight),
        *scaling,
        strides=ints(attrs.strides),
        padding=ints(attrs.padding),
        dilation=ints(attrs.dilation),
        **common(cv, x, result),
        **extra,
    )


def _dense(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    call, bias = cv.split_bias(expr)
    if op_name(call) != "relax.matmul":
        return None
    x, w = cv.activation(call.args[0]), cv.view.dequantized(call.args[1])
    if x is None or w is None or not is_constant(w.value) or np.any(w.quant.zero_point) or len(shape_of(w.value)) != 2:
        return None
    weight = np.ascontiguousarray(constant(w.value).T)
    params = dense.quantize_params(x.quant.real_scale, w.quant.scale.reshape(-1), result.quant.real_scale, weight.shape[0])
    scaling = channel_constants(bias, params, weight.shape[0])
    return registry.call("tiny.dense", cv.value(x.value), relax.const(weight), *scaling, **common(cv, x, result))


def _batch_matmul(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    a, b = (cv.activation(arg) for arg in expr.args)
    if a is None or b is None or min(len(shape_of(a.value)), len(shape_of(b.value))) < 2:
        return None
    turned = cv.view.definition(b.value)
    transpose_b = _swaps_last(turned)
    right = turned.args[0] if transpose_b else b.value
    params = batch_matmul.quantize_params(a.quant.real_scale, b.quant.real_scale, result.quant.real_scale)
    zero_points = {"a_zp": a.quant.zp, "b_zp": b.quant.zp, "rounding": cv.rounding, "x_scale": a.quant.real_scale}
    operands = cv.value(a.value), cv.value(right)
    return registry.call("tiny.batch_matmul", *operands, transpose_b=transpose_b, **zero_points, **params, **result.attrs())


def _swaps_last(expr: relax.Expr) -> bool:
    """A transposition of the last two axes."""
    if op_name(expr) != "relax.permute_dims" or expr.attrs.axes is None:
        return False
    axes, rank = ints(expr.attrs.axes), len(shape_of(expr))
    return [a % rank for a in axes] == [*range(rank - 2), rank - 1, rank - 2]


PRODUCTS: dict[str, tuple[Convert, ...]] = {
    "relax.add": (_convolution, _dense),
    "relax.nn.conv2d": (_convolution,),
    "relax.matmul": (_dense, _batch_matmul),
}
