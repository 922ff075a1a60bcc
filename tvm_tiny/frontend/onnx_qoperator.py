# SPDX-License-Identifier: Apache-2.0
"""ONNX models in QOperator form as the same models in QDQ form: QLinearConv as QuantizeLinear(Conv(DequantizeLinear(…), …)), and so on.

The same within the rounding that ONNX leaves open: both forms mean the real operator between the same quantisations. An operator whose
scales are computed, or whose form the table does not know, stays, for the checks to name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

_PER_CHANNEL = 13  # the opset from which a DequantizeLinear has a scale a channel


def to_qdq(model: Any) -> None:
    """Rewrite the graph of an ONNX `model` in place."""
    graph = model.graph
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    constants = {t.name: t for t in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        rule = RULES.get(node.op_type)
        parts = _Parts(graph, constants, node, opset)
        nodes += parts.made if rule is not None and rule(parts) else [node]
    copies = [type(n).FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)


class _Parts:
    """One operator and what takes its place."""

    def __init__(self, graph: Any, constants: dict[str, Any], node: Any, opset: int) -> None:
        self.graph, self.constants, self.node, self.opset = graph, constants, node, opset
        self.made: list[Any] = []

    def real(self, first: int, axis: int = 0) -> str | None:
        """The operand whose integers, scale and zero point stand at `first`, behind a DequantizeLinear; None where that can't be."""
        names = [n for n in self.node.input[first : first + 3] if n]
        scale = self.array(names[1]) if len(names) > 1 else None
        if scale is None or (scale.size > 1 and self.opset < _PER_CHANNEL):
            return None
        return self.dequantized(names, axis if scale.size > 1 else None)

    def dequantized(self, names: list[str], axis: int | None) -> str:
        """DequantizeLinear over named tensors."""
        result = f"{self.node.output[0]}/real_{len(self.made)}"
        self.add("DequantizeLinear", names, result, **({} if axis is None else {"axis": axis}))
        return result

    def bias(self, position: int, x: int, w: int) -> list[str] | None:
        """The int32 bias at `position` in the product of the scales of two operands, as a list; an empty one where there is no bias."""
        if position >= len(self.node.input) or not self.node.input[position]:
            return []
        scales = [self.array(self.node.input[first + 1]) for first in (x, w)]
        if any(s is None for s in scales):
            return None
        product = np.asarray(np.asarray(scales[0], np.float32) * np.asarray(scales[1], np.float32), np.float32)
        product = product.reshape(-1) if product.size > 1 else product.reshape(())
        name = f"{self.node.output[0]}/bias_scale"
        self.graph.initializer.append(numpy_helper.from_array(product, name))
        return [self.dequantized([self.node.input[position], name], 0 if product.size > 1 else None)]

    def array(self, name: str) -> np.ndarray | None:
        """The data of a constant."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """A node that stands for the operator."""
        self.made.append(helper.make_node(kind, inputs, [output], name=self.node.name, doc_string=self.node.doc_string, **attributes))

    def finish(self, kind: str, operands: list[str | None], scale: int, without: tuple[str, ...] = ()) -> bool:
        """The operator over real operands, quantised with the scale at `scale` and the zero point behind; False where one is missing."""
        if any(o is None for o in operands) or self.array(self.node.input[scale]) is None:
            return False
        attributes = {a.name: helper.get_attribute_value(a) for a in self.node.attribute if a.name not in without}
        if attributes.pop("channels_last", 0):
            return False
        result = self.node.output[0]
        self.add(kind, [o for o in operands if o is not None], f"{result}/real", **attributes)
        self.add("QuantizeLinear", [f"{result}/real", *(n for n in self.node.input[scale : scale + 2] if n)], result)
        return True


def _conv(parts: _Parts) -> bool:
    bias = parts.bias(8, 0, 3)
    return bias is not None and parts.finish("Conv", [parts.real(0), parts.real(3), *bias], 6)


def _gemm(parts: _Parts) -> bool:
    attributes = {a.name: helper.get_attribute_value(a) for a in parts.node.attribute}
    bias = parts.bias(6, 0, 3) if attributes.get("alpha", 1.0) == 1.0 and len(parts.node.input) > 8 else None
    return bias is not None and parts.finish("Gemm", [parts.real(0), parts.real(3, 0 if attributes.get("transB") else 1), *bias], 7)


def _of_two(kind: str) -> Callable[[_Parts], bool]:
    return lambda parts: parts.finish(kind, [parts.real(0), parts.real(3, 1)], 6)


def _of_one(kind: str, *without: str) -> Callable[[_Parts], bool]:
    return lambda parts: parts.finish(kind, [parts.real(0)], 3, without)


def _concat(parts: _Parts) -> bool:
    return parts.finish("Concat", [parts.real(first) for first in range(2, len(parts.node.input), 3)], 0)


RULES: dict[str, Callable[[_Parts], bool]] = {
    "QGemm": _gemm,
    "QLinearAdd": _of_two("Add"),
    "QLinearAveragePool": _of_one("AveragePool"),
    "QLinearConcat": _concat,
    "QLinearConv": _conv,
    "QLinearGlobalAveragePool": _of_one("GlobalAveragePool"),
    "QLinearLeakyRelu": _of_one("LeakyRelu"),
    "QLinearMatMul": _of_two("MatMul"),
    "QLinearMul": _of_two("Mul"),
    "QLinearSigmoid": _of_one("Sigmoid"),
    "QLinearSoftmax": _of_one("Softmax", "opset"),
}
