# SPDX-License-Identifier: Apache-2.0
"""Functions of single elements, for `quantize-to-integer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from tvm import relax

from tvm_tiny.frontend.elementwise import Elementwise
from tvm_tiny.frontend.qdq_view import Dequantized, Quant, constant, is_constant, op_name, shape_of
from tvm_tiny.ops import add, mul, prelu, registry, requantize, squared_difference, tables
from tvm_tiny.passes._quantize_base import Convert, Result, common, scalar

if TYPE_CHECKING:
    from tvm_tiny.passes.quantize_to_integer import Converter


def _addition(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    return _of_two(cv, "tiny.add" if op_name(expr) == "relax.add" else "tiny.sub", add.quantize_params, expr, result)


def _product(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    return _of_two(cv, "tiny.mul", mul.quantize_params, expr, result)


def _squared_difference(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    difference = cv.view.definition(expr.args[0])
    if op_name(difference) != "relax.subtract":
        return None
    return _of_two(cv, "tiny.squared_difference", squared_difference.quantize_params, difference, result)


def _of_two(
    cv: Converter, name: str, quantize_params: Callable[[float, float, float], dict[str, int]], expr: relax.Call, result: Result
) -> relax.Expr | None:
    """The operator `name` on the two arguments of `expr`; with one constant number it has 256 results, which are a table."""
    a, b = (cv.activation(arg) for arg in expr.args)
    if a is None or b is None:
        return None
    params = quantize_params(a.quant.real_scale, b.quant.real_scale, result.quant.real_scale)
    attrs = {"a_zp": a.quant.zp, "b_zp": b.quant.zp, "rounding": cv.rounding, **params, **result.attrs()}
    for value, number in ((a, b), (b, a)):
        if not is_constant(number.value) or constant(number.value).size > 1 or is_constant(value.value):
            continue
        if len(shape_of(number.value)) > len(shape_of(value.value)):
            continue
        every = np.arange(-128, 128).astype(np.int8)
        operands = [every if v is value else constant(v.value).reshape(1) for v in (a, b)]
        scales = {"x_scale": value.quant.real_scale, "y_scale": attrs["y_scale"], "source": attrs["source"]}
        return registry.call("tiny.lookup", cv.value(value.value), relax.const(registry.get(name).numpy(*operands, **attrs)), **scales)
    return registry.call(name, cv.value(a.value), cv.value(b.value), **attrs)


def _prelu(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    """add(clip(d(x), 0, ∞), multiply(clip(d(x), -∞, 0), slope)) with constant slopes."""
    above, product = (cv.view.definition(arg) for arg in expr.args)
    if op_name(product) != "relax.multiply" or (x := _half(cv, above, positive=True)) is None:
        return None
    below, slope = product.args
    other, found = _half(cv, cv.view.definition(below), positive=False), _slope(cv, slope)
    if other is None or found is None or not (other.value.same_as(x.value) and other.quant.equals(x.quant)):
        return None
    numbers, scale, zero_point = found
    params = prelu.quantize_params(x.quant.real_scale, scale, result.quant.real_scale)
    attrs = {**params, "slope_zp": zero_point, **common(cv, x, result)}
    if numbers.size == 1:
        every = np.arange(-128, 128).astype(np.int8)
        table = registry.get("tiny.prelu").numpy(every, numbers.reshape(1), **attrs)
        scales = {"x_scale": attrs["x_scale"], "y_scale": attrs["y_scale"], "source": result.name}
        return registry.call("tiny.lookup", cv.value(x.value), relax.const(table), **scales)
    return registry.call("tiny.prelu", cv.value(x.value), relax.const(numbers), **attrs)


def _half(cv: Converter, expr: relax.Expr, *, positive: bool) -> Dequantized | None:
    """What a `clip` keeps the numbers above (below) zero of."""
    if op_name(expr) != "relax.clip":
        return None
    low, high = (float(scalar(a)) for a in expr.args[1:3])
    bounds = (low == 0 and high >= _LARGEST) if positive else (low <= -_LARGEST and high == 0)
    return cv.activation(expr.args[0]) if bounds else None


_LARGEST = float(np.finfo(np.float32).max)


def _slope(cv: Converter, expr: relax.Expr) -> tuple[np.ndarray, float, int] | None:
    """Constant slopes as (integers, scale, zero point); slopes in float, or with a scale each, are quantised to int16."""
    found = cv.activation(expr)
    if found is not None and is_constant(found.value):
        return constant(found.value), found.quant.real_scale, found.quant.zp
    definition = cv.view.definition(expr)
    if op_name(definition) == "relax.dequantize" and is_constant(definition.args[0]):
        definition = cv.value(definition)
    if not is_constant(definition):
        return None
    real = constant(definition)
    scale = float(np.float32(max(float(np.abs(real).max()), 1e-30) / 32767))
    return np.clip(np.rint(real / scale), -32767, 32767).astype(np.int16), scale, 0


def _requantize(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    x = cv.activation(expr)
    if x is None:
        return None
    if x.quant.equals(result.quant) and not result.clamps:
        return cv.value(x.value)
    if cv.tensors.get(result.name, {}).get("op") == "RELU":
        table = tables.relu(
            x.quant.real_scale, x.quant.zp, result.quant.real_scale, result.quant.zp
        )  # a rescaling of its own, see `tables`
        return registry.call(
            "tiny.lookup",
            cv.value(x.value),
            relax.const(table),
            x_scale=x.quant.real_scale,
            y_scale=result.quant.real_scale,
            source=result.name,
        )
    params = requantize.quantize_params(x.quant.real_scale, result.quant.real_scale)
    return registry.call("tiny.requantize", cv.value(x.value), **params, **common(cv, x, result))


def elementwise(cv: Converter, expr: relax.Expr, result: Result) -> relax.Expr | None:
    """Any float function of one int8 value, as a table of its 256 results."""
    function = Elementwise(cv.view, expr)
    if function.source is None:
        return None
    kind = cv.tensors.get(result.name, {}).get("op", "") if cv.rounding == "gemmlowp" else "onnx"
    table = np.clip(_table(function, result.quant, kind), result.low, result.high).astype(np.int8)
    scales = {"x_scale": function.source.quant.real_scale, "y_scale": result.quant.real_scale}
    return registry.call("tiny.lookup", cv.value(function.source.value), relax.const(table), source=result.name, **scales)


_BY_OPERATOR = {"ABS": tables.absolute, "ELU": tables.elu, "EXP": tables.exp, "LOG": tables.log, "RSQRT": tables.rsqrt}


def _table(function: Elementwise, y: Quant, operator: str) -> np.ndarray:
    """The 256 results: as the reference kernel of a TFLite `operator` computes them; of ONNX, by rounding the real result."""
    assert function.source is not None
    x = function.source.quant
    quantisations = x.real_scale, x.zp, y.real_scale, y.zp
    if operator in _BY_OPERATOR:
        return _BY_OPERATOR[operator](*quantisations)
    if operator == "onnx":
        scaled = function.values() / y.real_scale
        return np.clip(np.trunc(scaled + np.copysign(0.5, scaled)) + y.zp, -128, 127)
    kind, parameter = function.kind()
    if kind == "logistic" and (y.real_scale, y.zp) == (1 / 256, -128):
        return tables.logistic(x.real_scale, x.zp)
    if kind == "tanh" and (y.real_scale, y.zp) == (1 / 128, 0):
        return tables.tanh(x.real_scale, x.zp)
    if kind == "hard_swish":
        return tables.hard_swish(*quantisations)
    if kind == "leaky_relu":
        return tables.leaky_relu(*quantisations, parameter)
    return tables.rounded(function.values(single=True), y.real_scale, y.zp)


FUNCTIONS: dict[str, tuple[Convert, ...]] = {
    "relax.add": (_prelu, _addition),
    "relax.subtract": (_addition,),
    "relax.multiply": (_product,),
    "relax.square": (_squared_difference,),
    "relax.dequantize": (_requantize,),
}
