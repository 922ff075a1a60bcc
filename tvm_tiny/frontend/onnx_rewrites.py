# SPDX-License-Identifier: Apache-2.0
"""ONNX operators that are others in disguise, replaced by those before the checks: each has the same result for every input.

A rewrite is given a node and the graph around it, and returns the name of its result, or None to leave the node as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper, numpy_helper, shape_inference


def rewrite_operators(model: Any) -> None:
    """Rewrite the graph in place until no rewrite answers; results keep their names."""
    for _ in range(len(RULES)):
        inferred = shape_inference.infer_shapes(model, data_prop=True)
        graph = Graph(model, inferred)
        nodes = []
        for node in model.graph.node:
            graph.made = []
            rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            result = rule(graph, node) if rule is not None and len(node.output) == 1 else None
            if result is None:
                nodes.append(node)
                continue
            _rename(graph.made, result, node.output[0])
            for made in graph.made:
                made.doc_string = node.doc_string
            nodes += graph.made
        if len(nodes) == len(model.graph.node) and all(a is b for a, b in zip(nodes, model.graph.node, strict=True)):
            return
        del model.graph.value_info[:]
        kept = [helper.make_node("Identity", ["x"], ["y"]) for _ in nodes]
        for copy, node in zip(kept, nodes, strict=True):
            copy.CopyFrom(node)
        del model.graph.node[:]
        model.graph.node.extend(kept)


def _rename(nodes: list[Any], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = new


class Graph:
    """What a rewrite sees and makes: shapes and constants of the model, and the nodes that take the place of one."""

    def __init__(self, model: Any, inferred: Any) -> None:
        self.model = model
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        self.constants = {t.name: t for t in model.graph.initializer}
        self.producer = {output: node for node in model.graph.node for output in node.output}
        self.shapes: dict[str, tuple[int, ...]] = {t.name: tuple(t.dims) for t in model.graph.initializer}
        for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
            kind = value.type.tensor_type
            dims = tuple(d.dim_value for d in kind.shape.dim)
            if kind.HasField("shape") and all(d > 0 for d in dims):
                self.shapes[value.name] = dims
        self.made: list[Any] = []

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The static shape of a tensor, None where it has none."""
        return self.shapes.get(name)

    def array(self, name: str) -> np.ndarray | None:
        """The data of a constant."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def real(self, name: str) -> np.ndarray | None:
        """The real values of a constant, or of one behind a DequantizeLinear with one scale or of one dimension."""
        data, maker = self.array(name), self.producer.get(name)
        if data is not None:
            return data.astype(np.float64)
        if maker is None or maker.op_type != "DequantizeLinear" or any(n not in self.constants for n in maker.input):
            return None
        data, scale, *zero = (np.asarray(self.array(n), np.float64) for n in maker.input)
        return (data - (zero[0] if zero else 0)) * scale if scale.size == 1 or data.ndim == 1 else None

    def constant(self, data: np.ndarray, name: str) -> str:
        """A new constant."""
        unique = name
        for number in itertools.count(1):
            if unique not in self.constants:
                break
            unique = f"{name}_{number}"
        self.constants[unique] = numpy_helper.from_array(np.array(data, order="C"), unique)
        self.model.graph.initializer.append(self.constants[unique])
        return unique

    def ints(self, values: Sequence[int], name: str) -> str:
        """A new constant of int64."""
        return self.constant(np.asarray(values, np.int64), name)

    def node(self, kind: str, inputs: Sequence[str], stem: str, outputs: int = 1, **attributes: Any) -> Any:
        """A new node; the name of its result, or their names."""
        names = [f"{stem}/{kind.lower()}_{len(self.made)}_{i}" for i in range(outputs)]
        self.made.append(helper.make_node(kind, list(inputs), names, name=stem, **attributes))
        return names[0] if outputs == 1 else names

    def squeeze(self, kind: str, x: str, axis: int, stem: str) -> str:
        """Squeeze or Unsqueeze, in the form of the model's opset."""
        if self.opset < 13:
            return str(self.node(kind, [x], stem, axes=[axis]))
        return str(self.node(kind, [x, self.ints([axis], f"{stem}/axis")], stem))

    def changed(
        self, name: str, change: Callable[[np.ndarray], np.ndarray], axis: int, channels: Callable[[np.ndarray], np.ndarray], to: int
    ) -> str | None:
        """A constant, or one behind a DequantizeLinear, with its data changed.

        Scales per channel lie along `axis`; `channels` gives them for the new data, where they lie along axis `to`. None where it is no
        constant.
        """
        data, maker = self.array(name), self.producer.get(name)
        if data is not None:
            return self.constant(change(data), f"{name}/rewritten")
        if maker is None or maker.op_type != "DequantizeLinear":
            return None
        data, scale = self.array(maker.input[0]), self.array(maker.input[1])
        if data is None or scale is None or any(n not in self.constants for n in maker.input):
            return None
        quantisation = [np.asarray(self.array(n)) for n in maker.input[1:]]
        per_channel = scale.size > 1
        if per_channel and _attribute(maker, "axis", 1) % data.ndim != axis:
            return None
        parts = [channels(q) if per_channel else q for q in quantisation]
        names = [self.constant(p, f"{name}/rewritten") for p in (change(data), *parts)]
        return str(self.node("DequantizeLinear", names, f"{name}/rewritten", **({"axis": to} if per_channel else {})))


def _attribute(node: Any, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _attributes(node: Any, *without: str) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in without}


# --- convolutions and pools -------------------------------------------------------------------------------------------------------------


def _window(graph: Graph, node: Any) -> str | None:
    """One dimension as two; automatic padding as a number; an average that counts its padding as one over a padded image."""
    shape = graph.shape(node.input[0])
    if shape is not None and len(shape) == 3:
        return _two_dimensions(graph, node)
    if shape is None or len(shape) != 4:
        return None
    if _attribute(node, "auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        return _explicit(graph, node, shape)
    pads = _attribute(node, "pads", [0] * 4)
    if node.op_type == "AveragePool" and _attribute(node, "count_include_pad", 0) and any(pads) and not _attribute(node, "ceil_mode", 0):
        return _padded_first(graph, node, pads)
    return _groups(graph, node, shape) if node.op_type == "Conv" else None


def _two_dimensions(graph: Graph, node: Any) -> str | None:
    stem = node.output[0]
    inputs = [graph.squeeze("Unsqueeze", node.input[0], 2, stem), *node.input[1:]]
    if node.op_type == "Conv":
        weight = graph.changed(node.input[1], lambda w: w[:, :, None], 0, lambda s: s, 0)
        if weight is None:
            return None
        inputs[1] = weight
    attributes = _attributes(node)
    for name in ("kernel_shape", "strides", "dilations"):
        if name in attributes:
            attributes[name] = [1, *attributes[name]]
    if "pads" in attributes:
        attributes["pads"] = [0, attributes["pads"][0], 0, attributes["pads"][1]]
    return graph.squeeze("Squeeze", graph.node(node.op_type, inputs, stem, **attributes), 2, stem)


def _explicit(graph: Graph, node: Any, shape: tuple[int, ...]) -> str | None:
    kernel = _attribute(node, "kernel_shape", None) or (graph.shape(node.input[1]) or ())[2:]
    if len(kernel) != 2 or _attribute(node, "ceil_mode", 0):
        return None
    strides, dilations = _attribute(node, "strides", [1, 1]), _attribute(node, "dilations", [1, 1])
    upper = _attribute(node, "auto_pad", b"") == b"SAME_UPPER"
    before, after = [], []
    for extent, k, s, d in zip(shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-extent // s) - 1) * s + (k - 1) * d + 1 - extent, 0)
        before.append(total // 2 if upper else total - total // 2)
        after.append(total - before[-1])
    attributes = {**_attributes(node, "auto_pad"), "pads": [*before, *after]}
    return str(graph.node(node.op_type, node.input, node.output[0], **attributes))


def _padded_first(graph: Graph, node: Any, pads: Sequence[int]) -> str | None:
    if graph.opset < 11:
        return None
    stem = node.output[0]
    widths = graph.ints([0, 0, *pads[:2], 0, 0, *pads[2:]], f"{stem}/pads")
    x = graph.node("Pad", [node.input[0], widths], stem)
    return str(graph.node("AveragePool", [x], stem, **_attributes(node, "pads", "count_include_pad")))


@dataclass(frozen=True)
class _Part:
    """Some of the first axis."""

    begin: int
    end: int

    def of(self, array: np.ndarray) -> np.ndarray:
        return array[self.begin : self.end]


def _groups(graph: Graph, node: Any, shape: tuple[int, ...]) -> str | None:
    """A convolution in groups: one each, side by side; depthwise ones stay."""
    groups, weights = _attribute(node, "group", 1), graph.shape(node.input[1])
    if groups in (1, shape[1]) or graph.opset < 13 or weights is None or shape[1] % groups or weights[0] % groups or groups > 64:
        return None
    stem, share = node.output[0], weights[0] // groups
    parts = graph.node("Split", [node.input[0], graph.ints([shape[1] // groups] * groups, f"{stem}/parts")], stem, groups, axis=1)
    results = []
    for group, part in enumerate(parts):
        taken = _Part(group * share, (group + 1) * share)
        changed = [graph.changed(n, taken.of, 0, taken.of, 0) for n in node.input[1:] if n]
        operands = [n for n in changed if n is not None]
        if len(operands) != len(changed):
            return None
        results.append(graph.node("Conv", [part, *operands], stem, **_attributes(node, "group")))
    return str(graph.node("Concat", results, stem, axis=1))


def _transposed(graph: Graph, node: Any) -> str | None:
    """ConvTranspose: a convolution with an output channel for each phase, laid out as blocks (`tflite_converters.transposed_conv`)."""
    shape, weights, out = (graph.shape(n) for n in (node.input[0], node.input[1], node.output[0]))
    plain = shape is not None and weights is not None and out is not None and len(shape) == 4 and graph.opset >= 13
    if not plain or _attribute(node, "group", 1) != 1 or any(d != 1 for d in _attribute(node, "dilations", [1, 1])):
        return None
    if _attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or "output_shape" in _attributes(node):
        return None
    assert shape is not None
    assert weights is not None
    assert out is not None
    strides, pads, stem = _attribute(node, "strides", [1, 1]), _attribute(node, "pads", [0] * 4), node.output[0]
    phases = strides[0] * strides[1]
    taps = [-(-k // s) for k, s in zip(weights[2:], strides, strict=True)]
    first = [p // s for p, s in zip(pads, strides, strict=False)]
    last = [(p + e - 1) // s for p, e, s in zip(pads, out[2:], strides, strict=False)]
    before = [t - 1 - f for t, f in zip(taps, first, strict=True)]
    after = [max(e - (n - 1), 0) for e, n in zip(last, shape[2:], strict=True)]
    if min(before) < 0:
        return None
    kernel = graph.changed(node.input[1], lambda w: _by_phase(w, strides), 1, lambda s: np.tile(s, phases), 0)
    changed = [graph.changed(n, lambda a: np.tile(a, phases), 0, lambda s: np.tile(s, phases), 0) for n in node.input[2:] if n]
    bias = [n for n in changed if n is not None]
    if kernel is None or len(bias) != len(changed):
        return None
    y = graph.node("Conv", [node.input[0], kernel, *bias], stem, pads=[*before, *after], kernel_shape=taps)
    rows, columns = (shape[i + 2] + before[i] + after[i] - taps[i] + 1 for i in (0, 1))
    y = graph.node("Reshape", [y, graph.ints([shape[0], *strides, out[1], rows, columns], f"{stem}/blocks")], stem)
    y = graph.node("Transpose", [y], stem, perm=[0, 3, 4, 1, 5, 2])
    y = graph.node("Reshape", [y, graph.ints([shape[0], out[1], rows * strides[0], columns * strides[1]], f"{stem}/image")], stem)
    begin = [p - f * s for p, f, s in zip(pads, first, strides, strict=False)]
    if not any(begin) and (rows * strides[0], columns * strides[1]) == out[2:]:
        return str(y)
    ends = [b + e for b, e in zip(begin, out[2:], strict=True)]
    bounds = [graph.ints(v, f"{stem}/cut") for v in (begin, ends, [2, 3])]
    return str(graph.node("Slice", [y, *bounds], stem))


def _by_phase(weights: np.ndarray, strides: Sequence[int]) -> np.ndarray:
    """IOHW weights of a transposed convolution as OIHW ones of a convolution: (phases * O, I, h, w)."""
    inputs, outputs, height, width = weights.shape
    full = np.zeros((inputs, outputs, -(-height // strides[0]) * strides[0], -(-width // strides[1]) * strides[1]), weights.dtype)
    full[:, :, :height, :width] = weights
    every = itertools.product(range(strides[0]), range(strides[1]))
    return np.concatenate([full[:, :, a :: strides[0], b :: strides[1]][:, :, ::-1, ::-1].transpose(1, 0, 2, 3) for a, b in every])


def _global_max(graph: Graph, node: Any) -> str | None:
    shape = graph.shape(node.input[0])
    if shape is not None and len(shape) == 3:
        return _two_dimensions(graph, node)
    if shape is None or len(shape) != 4:
        return None
    return str(graph.node("MaxPool", node.input, node.output[0], kernel_shape=list(shape[2:])))


def _batch_norm(graph: Graph, node: Any) -> str | None:
    """BatchNormalization that is no part of a convolution: a depthwise convolution of one pixel, its factor in the scales."""
    shape, given = graph.shape(node.input[0]), [graph.real(n) for n in node.input[1:5]]
    if shape is None or len(shape) != 4 or graph.opset < 13 or any(g is None for g in given) or _attribute(node, "training_mode", 0):
        return None
    gamma, beta, mean, variance = (np.asarray(g, np.float64) for g in given)
    factor, stem = gamma / np.sqrt(variance + _attribute(node, "epsilon", 1e-5)), node.output[0]
    scale = np.where(factor == 0, 1, np.abs(factor) / 127).astype(np.float32)
    parts = (127 * np.sign(factor)).astype(np.int8).reshape(-1, 1, 1, 1), scale, np.zeros(len(scale), np.int8)
    weights = graph.node("DequantizeLinear", [graph.constant(p, f"{stem}/weights") for p in parts], stem, axis=0)
    bias = graph.constant((beta - mean * factor).astype(np.float32), f"{stem}/bias")
    return str(graph.node("Conv", [node.input[0], weights, bias], stem, group=shape[1], kernel_shape=[1, 1]))


# --- others -----------------------------------------------------------------------------------------------------------------------------


def _blocks(graph: Graph, node: Any) -> str | None:
    """DepthToSpace, SpaceToDepth."""
    shape, block, stem = graph.shape(node.input[0]), _attribute(node, "blocksize", 0), node.output[0]
    if shape is None or len(shape) != 4 or block < 1:
        return None
    n, c, h, w = shape
    if node.op_type == "SpaceToDepth":
        split, order, joined = [n, c, h // block, block, w // block, block], [0, 3, 5, 1, 2, 4], [n, c * block**2, h // block, w // block]
    else:
        inner = c // block**2
        first = _attribute(node, "mode", b"DCR") == b"DCR"
        split = [n, block, block, inner, h, w] if first else [n, inner, block, block, h, w]
        order, joined = [0, 3, 4, 1, 5, 2] if first else [0, 1, 4, 2, 5, 3], [n, inner, h * block, w * block]
    y = graph.node("Reshape", [node.input[0], graph.ints(split, f"{stem}/blocks")], stem)
    y = graph.node("Transpose", [y], stem, perm=order)
    return str(graph.node("Reshape", [y, graph.ints(joined, f"{stem}/image")], stem))


def _hard_sigmoid(graph: Graph, node: Any) -> str | None:
    """max(0, min(1, alpha x + beta))."""
    if graph.opset < 11:
        return None
    stem = node.output[0]
    alpha, beta, low, high = (
        graph.constant(np.float32(v), f"{stem}/number") for v in (_attribute(node, "alpha", 0.2), _attribute(node, "beta", 0.5), 0.0, 1.0)
    )
    sum_ = graph.node("Add", [graph.node("Mul", [node.input[0], alpha], stem), beta], stem)
    return str(graph.node("Clip", [sum_, low, high], stem))


def _prelu(graph: Graph, node: Any) -> str | None:
    """max(x, 0) + slope min(x, 0)."""
    if graph.opset < 11:
        return None
    stem = node.output[0]
    least, zero = (graph.constant(np.float32(v), f"{stem}/number") for v in (np.finfo(np.float32).min, 0.0))
    below = graph.node("Mul", [graph.node("Clip", [node.input[0], least, zero], stem), node.input[1]], stem)
    return str(graph.node("Add", [graph.node("Relu", [node.input[0]], stem), below], stem))


RULES: dict[str, Callable[[Graph, Any], str | None]] = {
    "AveragePool": _window,
    "BatchNormalization": _batch_norm,
    "Conv": _window,
    "ConvTranspose": _transposed,
    "DepthToSpace": _blocks,
    "GlobalAveragePool": lambda graph, node: _two_dimensions(graph, node) if len(graph.shape(node.input[0]) or ()) == 3 else None,
    "GlobalMaxPool": _global_max,
    "HardSigmoid": _hard_sigmoid,
    "MaxPool": _window,
    "PRelu": _prelu,
    "SpaceToDepth": _blocks,
}
