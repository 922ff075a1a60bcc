# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation behind a quantised convolution becomes part of it, in the float form.

With k = scale / sqrt(variance + epsilon), BN(conv(x, w) + b) = conv(x, k w) + (b - mean) k + beta. The integer weights stay: k goes into
their scales, its sign into the integers. Left as it is where another operator reads the convolution, where a constant is not one, or where
-128 would have to change its sign, and before opset 13; the checks then refuse the operator by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper

_PER_CHANNEL = 13  # the opset from which a DequantizeLinear has a scale a channel


def fold_batch_norms(model: Any) -> None:
    """Rewrite the graph of an ONNX `model` in place."""
    graph = model.graph
    if next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0) < _PER_CHANNEL:
        return
    for node in [n for n in graph.node if n.op_type == "BatchNormalization"]:
        _fold(graph, node)


def _fold(graph: Any, norm: Any) -> None:
    made = {output: node for node in graph.node for output in node.output}
    constants = {t.name: t for t in graph.initializer}
    conv = made.get(norm.input[0])
    if conv is None or conv.op_type != "Conv" or len(norm.output) != 1 or _attribute(norm, "training_mode", 0):
        return
    readers = [n for n in graph.node if conv.output[0] in n.input]
    weights, scales = _dequantised(made, constants, conv.input[1])
    if len(readers) != 1 or any(o.name == conv.output[0] for o in graph.output) or weights is None or scales is None:
        return
    if any(name not in constants for name in norm.input[1:5]):
        return
    gamma, beta, mean, variance = (numpy_helper.to_array(constants[n]).astype(np.float64) for n in norm.input[1:5])
    bias = np.zeros(len(gamma))
    if len(conv.input) > 2 and conv.input[2]:
        found = _bias(made, constants, conv.input[2])
        if found is None:
            return
        bias = found
    k = gamma / np.sqrt(variance + _attribute(norm, "epsilon", 1e-5))
    if np.any(weights[k < 0] == -128):
        return
    folded = np.where((k > 0)[:, None, None, None], weights, -weights) * (k != 0)[:, None, None, None]
    new_scales = np.where(k == 0, scales, scales * np.abs(k))
    _replace(graph, conv, norm, folded.astype(np.int8), new_scales.astype(np.float32), ((bias - mean) * k + beta).astype(np.float32))


def _replace(graph: Any, conv: Any, norm: Any, weights: np.ndarray, scales: np.ndarray, bias: np.ndarray) -> None:
    """The convolution over new constants, under the name of the normalisation's result."""
    stem = norm.output[0]
    names = {part: f"{stem}/folded_{part}" for part in ("weights", "scales", "zeros", "bias", "real")}
    arrays = {"weights": weights, "scales": scales, "zeros": np.zeros(len(scales), np.int8), "bias": bias}
    graph.initializer.extend(numpy_helper.from_array(array, names[part]) for part, array in arrays.items())
    inputs = [names[part] for part in ("weights", "scales", "zeros")]
    widen = helper.make_node("DequantizeLinear", inputs, [names["real"]], name=f"{stem}/folded", axis=0)
    new = helper.make_node("Conv", [conv.input[0], names["real"], names["bias"]], [stem], name=conv.name)
    widen.doc_string = new.doc_string = conv.doc_string
    new.attribute.extend(conv.attribute)
    gone = {id(conv), id(norm)}
    kept = [n for n in graph.node if id(n) not in gone]
    at = next(i for i, n in enumerate(graph.node) if n is conv)
    nodes = [*kept[:at], widen, new, *kept[at:]]
    read = {name for n in nodes for name in n.input} | {o.name for o in graph.output}
    nodes = [n for n in nodes if n.op_type != "DequantizeLinear" or n.output[0] in read]
    copies = [type(n).FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _dequantised(made: Any, constants: Any, name: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(int16 weights, a scale for each output channel) of int8 constants behind a DequantizeLinear without zero point; else None."""
    node = made.get(name)
    if node is None or node.op_type != "DequantizeLinear" or any(i and i not in constants for i in node.input):
        return None, None
    arrays = [numpy_helper.to_array(constants[i]) for i in node.input if i]
    weights, scales = arrays[0], np.atleast_1d(arrays[1].astype(np.float64))
    symmetric = len(arrays) < 3 or not np.any(arrays[2])
    along = scales.size == 1 or (scales.size == len(weights) and _attribute(node, "axis", 1) in (0, -weights.ndim))
    if weights.dtype != np.int8 or weights.ndim != 4 or not symmetric or not along:
        return None, None
    return weights.astype(np.int16), np.broadcast_to(scales, len(weights))


def _bias(made: Any, constants: Any, name: str) -> np.ndarray | None:
    """A constant bias in real values, float or behind a DequantizeLinear."""
    if name in constants:
        return numpy_helper.to_array(constants[name]).astype(np.float64)
    node = made.get(name)
    if node is None or node.op_type != "DequantizeLinear" or any(i and i not in constants for i in node.input):
        return None
    arrays = [numpy_helper.to_array(constants[i]).astype(np.float64) for i in node.input if i]
    return (arrays[0] - (arrays[2] if len(arrays) > 2 else 0.0)) * arrays[1]


def _attribute(node: Any, name: str, default: float) -> float:
    found = next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
    return float(found)
