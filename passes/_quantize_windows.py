# SPDX-License-Identifier: Apache-2.0
"""Pools, reductions, softmax and bilinear resize, for `quantize-to-integer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tvm import relax

from tvm_tiny.frontend.qdq_view import Dequantized, Quant, ints, is_constant, op_name, shape_of
from tvm_tiny.ops import conv2d, mean, registry, requantize, softmax
from tvm_tiny.passes._quantize_base import Convert, Result, channel_constants, clamped, common, full_range, scalar

if TYPE_CHECKING:
    from tvm_tiny.passes.quantize_to_integer import Converter


def _pool(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    x = cv.activation(expr.args[0])
    average = op_name(expr) == "relax.nn.avg_pool2d"
    if x is not None and average and not x.quant.equals(result.quant):
        return _rescaled_average(cv, expr, x, result)
    if x is None:
        return None
    if not x.quant.equals(result.quant):  # ONNX; the largest integer is that of the largest number whatever the scale
        same = Result(x.quant, *full_range("int8"), "")
        pooled = cv.builder.emit(_window(cv, expr, x, same))
        params = requantize.quantize_params(x.quant.real_scale, result.quant.real_scale)
        return registry.call("tiny.requantize", pooled, **params, **common(cv, x, result))
    return _window(cv, expr, x, result)


def _window(cv: Converter, expr: relax.Call, x: Dequantized, result: Result) -> relax.Call:
    """A pool that keeps the quantisation."""
    average = op_name(expr) == "relax.nn.avg_pool2d"
    name = "tiny.avg_pool2d" if average else "tiny.max_pool2d"
    window = {"kernel": ints(expr.attrs.pool_size), "strides": ints(expr.attrs.strides), "padding": ints(expr.attrs.padding)}
    attrs = result.attrs()
    del attrs["y_zp"]
    return registry.call(name, cv.value(x.value), x_scale=x.quant.real_scale, **window, **attrs)


def _rescaled_average(cv: Converter, pool: relax.Call, x: Dequantized, result: Result) -> relax.Expr | None:
    """An average pool whose output has another quantisation (ONNX): a mean, or a depthwise convolution with ones, rounded once."""
    height, width, channels = shape_of(pool.args[0])[1:4]
    kernel = ints(pool.attrs.pool_size)
    if any(ints(pool.attrs.padding)):
        return None  # how many elements a window averages depends on where it is
    count = kernel[0] * kernel[1]
    shared = common(cv, x, result)
    if list(kernel) == [height, width] and not result.clamps:
        params = mean.quantize_params(x.quant.real_scale, result.quant.real_scale, count)
        shared = {k: v for k, v in shared.items() if not k.startswith("clamp")}
        return registry.call("tiny.mean", cv.value(x.value), axes=[1, 2], keepdims=True, **params, **shared)
    scaling = conv2d.quantize_params(x.quant.real_scale, np.array([1 / count]), result.quant.real_scale, channels)
    ones = relax.const(np.ones((*kernel, channels), np.int8))
    window = {"strides": ints(pool.attrs.strides), "padding": [0, 0, 0, 0]}
    return registry.call("tiny.depthwise_conv2d", cv.value(x.value), ones, *channel_constants(None, scaling, channels), **window, **shared)


def _mean(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    """Mean, and sum: a mean of which the count is left out."""
    x = cv.activation(expr.args[0])
    if x is None:
        return None
    shape = shape_of(expr.args[0])
    axes = _axes(expr)
    count = int(np.prod([shape[a] for a in axes])) if op_name(expr) == "relax.mean" else 1
    params = mean.quantize_params(x.quant.real_scale, result.quant.real_scale, count)
    shared = {k: v for k, v in common(cv, x, result).items() if not k.startswith("clamp")}
    call = registry.call("tiny.mean", cv.value(x.value), axes=axes, keepdims=bool(expr.attrs.keepdims), **params, **shared)
    return clamped(cv, call, result)


def _axes(expr: relax.Call) -> list[int]:
    """The axes of a reduction; all where none are named."""
    rank = len(shape_of(expr.args[0]))
    return list(range(rank)) if expr.attrs.axis is None else sorted(a % rank for a in ints(expr.attrs.axis))


_INVERTED = ~np.arange(-128, 128).astype(np.int8)  # turns the order of int8 round


def _extreme(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    """The largest over some axes: a pool over rows of one column. The least: the same of inverted integers."""
    x = cv.activation(expr.args[0])
    if x is None:
        return None
    shape, axes, least = shape_of(expr.args[0]), _axes(expr), op_name(expr) == "relax.min"
    emit, value = cv.builder.emit, cv.value(x.value)
    if axes != list(range(axes[0], axes[-1] + 1)):
        order = [*(a for a in range(len(shape)) if a not in axes), *axes]
        value, shape = emit(registry.call("tiny.transpose", value, axes=order)), tuple(shape[a] for a in order)
        axes = list(range(len(order) - len(axes), len(order)))
    outer, rows, inner = (int(np.prod(part)) for part in (shape[: axes[0]], shape[axes[0] : axes[-1] + 1], shape[axes[-1] + 1 :]))
    value = emit(registry.call("tiny.reshape", value, shape=[outer, rows, 1, inner]))
    value = emit(registry.call("tiny.lookup", value, relax.const(_INVERTED))) if least else value
    scales = {"x_scale": x.quant.real_scale, "y_scale": x.quant.real_scale, "source": result.name}
    value = emit(registry.call("tiny.max_pool2d", value, kernel=[rows, 1], **scales))
    value = emit(registry.call("tiny.lookup", value, relax.const(_INVERTED))) if least else value
    if not x.quant.equals(result.quant):
        params = requantize.quantize_params(x.quant.real_scale, result.quant.real_scale)
        value = emit(registry.call("tiny.requantize", value, **params, **common(cv, x, result)))
    elif result.clamps:
        value = emit(clamped(cv, value, result))
    return registry.call("tiny.reshape", value, shape=list(shape_of(expr)))


def _softmax(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    beta, inner = 1.0, expr.args[0]
    scaled = cv.view.definition(inner)
    if op_name(scaled) == "relax.multiply" and is_constant(scaled.args[1]):
        beta, inner = float(scalar(scaled.args[1])), scaled.args[0]
    x = cv.activation(inner)
    axis = int(expr.attrs.axis) % len(shape_of(expr))
    if x is None or axis != len(shape_of(expr)) - 1 or not _is_probability(result.quant):
        return None
    table = relax.const(softmax.quantize_params(x.quant.real_scale, beta)["table"])
    scales = {"x_scale": x.quant.real_scale, "y_scale": result.quant.real_scale, "source": result.name}
    return clamped(cv, registry.call("tiny.softmax", cv.value(x.value), table, **scales), result)


def _bilinear(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    x, attrs = cv.activation(expr.args[0]), expr.attrs
    modes = {"asymmetric": (False, False), "align_corners": (True, False), "half_pixel": (False, True)}
    mode = modes.get(str(attrs.coordinate_transformation_mode))
    if x is None or mode is None or (str(attrs.method), str(attrs.layout)) != ("linear", "NHWC") or not x.quant.equals(result.quant):
        return None
    size = list(shape_of(expr)[1:3])
    form = {"size": size, "align_corners": mode[0], "half_pixel": mode[1], "source": result.name}
    return clamped(cv, registry.call("tiny.resize_bilinear", cv.value(x.value), **form), result)


def _is_probability(quant: Quant) -> bool:
    """TFLite fixes the output of an int8 softmax to scale 1/256, zero point -128."""
    return quant.real_scale == 1 / 256 and quant.zp == -128


WINDOWS: dict[str, tuple[Convert, ...]] = {
    "relax.nn.avg_pool2d": (_pool,),
    "relax.nn.max_pool2d": (_pool,),
    "relax.mean": (_mean,),
    "relax.sum": (_mean,),
    "relax.max": (_extreme,),
    "relax.min": (_extreme,),
    "relax.nn.softmax": (_softmax,),
    "relax.image.resize2d": (_bilinear,),
}
