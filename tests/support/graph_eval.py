# SPDX-License-Identifier: Apache-2.0
"""Evaluates a TFLite graph with the numpy semantics of the tiny operators, one source operator at a time.

Independent of the importer and of every pass: what it shows is that the operators and their `quantize_params` mean what the reference does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support.op_cases import window_padding
from tvm_tiny import ops
from tvm_tiny.frontend.graph import Graph, Operator, Tensor
from tvm_tiny.ops.scales import ACTIVATIONS, activation_range

# ActivationFunctionType of the schema, in its order.
_FUSED = dict(zip((0, 1, 3, 2), ACTIVATIONS, strict=True))


def evaluate(graph: Graph, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of `graph` for `inputs`, in the file's order."""
    values = {t.index: t.values for t in graph.tensors if t.data is not None}
    values.update(zip(graph.inputs, inputs, strict=True))
    for op in graph.operators:
        values[op.outputs[0]] = EVALUATORS[op.kind](graph, op, [values.get(i) for i in op.inputs]).reshape(graph.out(op).shape)
    return [values[i] for i in graph.outputs]


def _clamp(op: Operator, y: Tensor) -> dict[str, int]:
    low, high = activation_range(_FUSED[op.options.get("activation", 0)], y.scale, y.zero_point)
    return {"clamp_min": low, "clamp_max": high}


def _window(op: Operator, hw: tuple[int, int], kernel: tuple[int, int]) -> dict[str, Any]:
    strides = (op.options["stride_h"], op.options["stride_w"])
    dilation = (op.options.get("dilation_h", 1), op.options.get("dilation_w", 1))
    padding = window_padding("VALID" if op.options["padding"] else "SAME", hw, kernel, strides, dilation)
    return {"strides": strides, "padding": padding, "dilation": dilation}


def _linear(name: str, graph: Graph, op: Operator, args: list[Any], weight: np.ndarray, **attrs: Any) -> np.ndarray:
    x, w, y = graph.need(op, 0), graph.need(op, 1), graph.out(op)
    channels = weight.shape[-1] if name == "depthwise_conv2d" else weight.shape[0]
    params = getattr(ops, name).quantize_params(x.scale, w.quantization.scale, y.scale, channels)
    bias = args[2] if len(args) > 2 and args[2] is not None else np.zeros(channels, np.int32)
    zero_points = {"x_zp": x.zero_point, "y_zp": y.zero_point}
    return ops.get(name).numpy(args[0], weight, bias, params["multiplier"], params["shift"], **zero_points, **_clamp(op, y), **attrs)


def _conv2d(graph: Graph, op: Operator, args: list[Any]) -> np.ndarray:
    return _linear("conv2d", graph, op, args, args[1], **_window(op, args[0].shape[1:3], args[1].shape[1:3]))


def _depthwise(graph: Graph, op: Operator, args: list[Any]) -> np.ndarray:
    return _linear("depthwise_conv2d", graph, op, args, args[1][0], **_window(op, args[0].shape[1:3], args[1].shape[1:3]))


def _dense(graph: Graph, op: Operator, args: list[Any]) -> np.ndarray:
    return _linear("dense", graph, op, [args[0].reshape(-1, args[1].shape[1]), *args[1:]], args[1])


def _binary(name: str) -> Callable[[Graph, Operator, list[Any]], np.ndarray]:
    def run(graph: Graph, op: Operator, args: list[Any]) -> np.ndarray:
        a, b, y = graph.need(op, 0), graph.need(op, 1), graph.out(op)
        params = getattr(ops, name).quantize_params(a.scale, b.scale, y.scale)
        zero_points = {"a_zp": a.zero_point, "b_zp": b.zero_point, "y_zp": y.zero_point}
        return ops.get(name).numpy(*args, **zero_points, **params, **_clamp(op, y))

    return run


def _pool(name: str) -> Callable[[Graph, Operator, list[Any]], np.ndarray]:
    def run(graph: Graph, op: Operator, args: list[Any]) -> np.ndarray:
        kernel = (op.options["filter_h"], op.options["filter_w"])
        window = _window(op, args[0].shape[1:3], kernel)
        del window["dilation"]
        return ops.get(name).numpy(args[0], kernel=kernel, **window, **_clamp(op, graph.out(op)))

    return run


def _mean(graph: Graph, op: Operator, args: list[Any]) -> np.ndarray:
    x, y = graph.need(op, 0), graph.out(op)
    axes = [int(a) % len(x.shape) for a in np.atleast_1d(args[1])]
    params = ops.mean.quantize_params(x.scale, y.scale, int(np.prod([x.shape[a] for a in axes])))
    return ops.get("mean").numpy(args[0], axes=axes, keepdims=op.options["keep_dims"], x_zp=x.zero_point, y_zp=y.zero_point, **params)


def _softmax(graph: Graph, op: Operator, args: list[Any]) -> np.ndarray:
    return ops.get("softmax").numpy(args[0], ops.softmax.quantize_params(graph.need(op, 0).scale, op.options["beta"])["table"])


def _pad(graph: Graph, op: Operator, args: list[Any]) -> np.ndarray:
    return ops.get("pad").numpy(args[0], before=args[1][:, 0], after=args[1][:, 1], value=graph.out(op).zero_point)


def _quantize(graph: Graph, op: Operator, args: list[Any]) -> np.ndarray:
    x, y = graph.need(op, 0), graph.out(op)
    if x.dtype == "float32":
        return ops.get("quantize").numpy(args[0], scale=y.scale, zp=y.zero_point)
    params = ops.requantize.quantize_params(x.scale, y.scale)
    return ops.get("requantize").numpy(args[0], x_zp=x.zero_point, y_zp=y.zero_point, **params)


def _dequantize(graph: Graph, op: Operator, args: list[Any]) -> np.ndarray:
    x = graph.need(op, 0)
    return ops.get("dequantize").numpy(args[0], scale=x.scale, zp=x.zero_point)


EVALUATORS: dict[str, Callable[[Graph, Operator, list[Any]], np.ndarray]] = {
    "CONV_2D": _conv2d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "ADD": _binary("add"),
    "SUB": _binary("sub"),
    "MUL": _binary("mul"),
    "AVERAGE_POOL_2D": _pool("avg_pool2d"),
    "MAX_POOL_2D": _pool("max_pool2d"),
    "MEAN": _mean,
    "SOFTMAX": _softmax,
    "PAD": _pad,
    "RESHAPE": lambda graph, op, args: ops.get("reshape").numpy(args[0], shape=list(graph.out(op).shape)),
    "TRANSPOSE": lambda _graph, _op, args: ops.get("transpose").numpy(args[0], axes=args[1]),
    "QUANTIZE": _quantize,
    "DEQUANTIZE": _dequantize,
}
