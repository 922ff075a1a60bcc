# SPDX-License-Identifier: Apache-2.0
"""TFLite operators that are functions of single elements, and those over axes: the QDQ form of each is said in `tflite`.

Every function takes the converter and the operator, and returns the value to bind under the operator's output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from tvm import relax
from tvm.relax import op as R

from tvm_tiny.frontend.graph import Operator
from tvm_tiny.frontend.tflite_rules import reduction_axes

if TYPE_CHECKING:
    from tvm_tiny.frontend.tflite import QdqConverter

LARGEST = float(np.finfo(np.float32).max)
_BILINEAR = {(False, False): "asymmetric", (True, False): "align_corners", (False, True): "half_pixel"}


def _number(value: float) -> relax.Expr:
    return relax.const(np.float32(value))


# --- of one element ---------------------------------------------------------------------------------------------------------------------


def _unary(function: Callable[[QdqConverter, relax.Expr], relax.Expr]) -> Callable[[QdqConverter, Operator], relax.Expr]:
    return lambda cv, op: cv.rounded(function(cv, cv.real(cv.graph.need(op, 0))), cv.graph.out(op))


def _hard_swish(cv: QdqConverter, x: relax.Expr) -> relax.Expr:
    """x · relu6(x + 3) / 6."""
    gate = R.clip(cv.bb.emit(R.add(x, _number(3.0))), 0, 6)
    return R.multiply(x, cv.bb.emit(R.divide(cv.bb.emit(gate), _number(6.0))))


def _elu(cv: QdqConverter, x: relax.Expr) -> relax.Expr:
    """max(x, 0) + (exp(min(x, 0)) - 1)."""
    below = cv.bb.emit(R.exp(cv.bb.emit(R.minimum(x, _number(0.0)))))
    return R.add(cv.bb.emit(R.nn.relu(x)), cv.bb.emit(R.subtract(below, _number(1.0))))


def _leaky_relu(cv: QdqConverter, op: Operator) -> relax.Expr:
    return cv.rounded(R.nn.leakyrelu(cv.real(cv.graph.need(op, 0)), op.options["alpha"]), cv.graph.out(op))


def _activation(cv: QdqConverter, op: Operator) -> relax.Expr:
    """RELU, RELU6, RELU_N1_TO_1."""
    code = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}[op.kind]
    return cv.rounded(cv.real(cv.graph.need(op, 0)), cv.graph.out(op), code)


# --- of two elements --------------------------------------------------------------------------------------------------------------------


def _binary(function: Callable[..., relax.Expr]) -> Callable[[QdqConverter, Operator], relax.Expr]:
    def convert(cv: QdqConverter, op: Operator) -> relax.Expr:
        left, right = (cv.real(cv.graph.need(op, i)) for i in range(2))
        return cv.rounded(function(left, right), cv.graph.out(op), op.options["activation"])

    return convert


def _squared_difference(cv: QdqConverter, op: Operator) -> relax.Expr:
    difference = cv.bb.emit(R.subtract(cv.real(cv.graph.need(op, 0)), cv.real(cv.graph.need(op, 1))))
    return cv.rounded(R.square(difference), cv.graph.out(op))


def _prelu(cv: QdqConverter, op: Operator) -> relax.Expr:
    """max(x, 0) + slope · min(x, 0)."""
    x, slope = cv.real(cv.graph.need(op, 0)), cv.real(cv.graph.need(op, 1))
    above, below = (cv.bb.emit(R.clip(x, *bounds)) for bounds in ((0, LARGEST), (-LARGEST, 0)))
    return cv.rounded(R.add(above, cv.bb.emit(R.multiply(below, slope))), cv.graph.out(op))


def _batch_matmul(cv: QdqConverter, op: Operator) -> relax.Expr:
    operands = []
    for position, turned in enumerate((op.options["adj_x"], op.options["adj_y"])):
        tensor = cv.graph.need(op, position)
        value = cv.raw(tensor)
        if turned and tensor.data is not None:
            value = relax.const(np.ascontiguousarray(tensor.values.swapaxes(-1, -2)))
        elif turned:
            rank = len(tensor.shape)
            value = cv.bb.emit(R.permute_dims(value, [*range(rank - 2), rank - 1, rank - 2]))
        operands.append(cv.real(tensor, value))
    return cv.rounded(R.matmul(*operands), cv.graph.out(op))


# --- over axes --------------------------------------------------------------------------------------------------------------------------


def _reduction(function: Callable[..., relax.Expr]) -> Callable[[QdqConverter, Operator], relax.Expr]:
    def convert(cv: QdqConverter, op: Operator) -> relax.Expr:
        axes = reduction_axes(cv.graph, op)
        return cv.rounded(function(cv.real(cv.graph.need(op, 0)), axes, op.options["keep_dims"]), cv.graph.out(op))

    return convert


def _softmax(cv: QdqConverter, op: Operator) -> relax.Expr:
    value, beta = cv.real(cv.graph.need(op, 0)), op.options["beta"]
    if beta != 1.0:
        value = cv.bb.emit(R.multiply(value, _number(beta)))
    return cv.rounded(R.nn.softmax(value, axis=-1), cv.graph.out(op))


def _resize_bilinear(cv: QdqConverter, op: Operator) -> relax.Expr:
    mode = _BILINEAR[op.options["align_corners"], op.options["half_pixel_centers"]]
    value, size = cv.real(cv.graph.need(op, 0)), cv.graph.out(op).shape[1:3]
    value = cv.bb.emit(R.image.resize2d(value, size, layout="NHWC", method="linear", coordinate_transformation_mode=mode))
    return cv.rounded(value, cv.graph.out(op))


def _plain(function: Callable[[relax.Expr], relax.Expr]) -> Callable[[QdqConverter, Operator], relax.Expr]:
    return _unary(lambda _cv, x: function(x))


FUNCTIONS: dict[str, Callable[[QdqConverter, Operator], relax.Expr]] = {
    "ABS": _plain(R.abs),
    "ADD": _binary(R.add),
    "BATCH_MATMUL": _batch_matmul,
    "CEIL": _plain(R.ceil),
    "COS": _plain(R.cos),
    "DIV": _binary(R.divide),
    "ELU": _unary(_elu),
    "EXP": _plain(R.exp),
    "FLOOR": _plain(R.floor),
    "HARD_SWISH": _unary(_hard_swish),
    "LEAKY_RELU": _leaky_relu,
    "LOG": _plain(R.log),
    "LOGISTIC": _plain(R.sigmoid),
    "MEAN": _reduction(R.mean),
    "MUL": _binary(R.multiply),
    "NEG": _plain(R.negative),
    "PRELU": _prelu,
    "REDUCE_MAX": _reduction(R.max),
    "REDUCE_MIN": _reduction(R.min),
    "RELU": _activation,
    "RELU6": _activation,
    "RELU_N1_TO_1": _activation,
    "RESIZE_BILINEAR": _resize_bilinear,
    "RSQRT": _plain(R.rsqrt),
    "SIN": _plain(R.sin),
    "SOFTMAX": _softmax,
    "SQRT": _plain(R.sqrt),
    "SQUARE": _plain(R.square),
    "SQUARED_DIFFERENCE": _squared_difference,
    "SUB": _binary(R.subtract),
    "SUM": _reduction(R.sum),
    "TANH": _plain(R.tanh),
}
