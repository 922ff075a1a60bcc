# SPDX-License-Identifier: Apache-2.0
"""ONNX QDQ models with uint8 activations or weights as the same models in int8: every integer and every zero point 128 lower.

Exact, because quantised values count from their zero points, and between QuantizeLinear and DequantizeLinear integers are only moved or
compared. An input or output of the model that is uint8 stays uint8: the importer puts `tiny.flip_sign` behind (before) it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

_MOVES = frozenset({"Concat", "Flatten", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})


def to_int8(model: Any) -> frozenset[str]:
    """Rewrite a model without shapes inferred in place; return the inputs and outputs that were uint8.

    uint8 that is anything else than quantised, moved and dequantised stays, for the check to name.
    """
    graph = model.graph
    ports = [p for p in (*graph.input, *graph.output) if p.type.tensor_type.elem_type == TensorProto.UINT8]
    if not _only_moved(graph, {p.name for p in ports}):
        return frozenset()
    constants = {t.name: t for t in graph.initializer}
    unsigned = {t.name for t in graph.initializer if t.data_type == TensorProto.UINT8} | {p.name for p in ports}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _rewrite(graph, node, constants, unsigned)
        elif node.op_type in _MOVES and node.input[0] in unsigned:
            unsigned |= set(node.output)
    for value in (*graph.value_info, *ports):
        if value.type.tensor_type.elem_type == TensorProto.UINT8:
            value.type.tensor_type.elem_type = TensorProto.INT8
    return frozenset(p.name for p in ports)


def _only_moved(graph: Any, ports: set[str]) -> bool:
    """Nothing reads an integer that quantisation made, or a port holds, but what moves it or dequantises it."""
    integers = ports | {n.output[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    for node in graph.node:
        if integers & set(node.input[:1] if node.op_type in ("Reshape", "Slice", "Split", "Squeeze", "Unsqueeze") else node.input):
            if node.op_type == "DequantizeLinear":
                continue
            if node.op_type not in _MOVES:
                return False
            integers |= set(node.output)
    return True


def _rewrite(graph: Any, node: Any, constants: dict[str, Any], unsigned: set[str]) -> None:
    """The zero point, and a constant operand, of one node; `unsigned` are the tensors that were uint8 so far."""
    quantizes = node.op_type == "QuantizeLinear"
    if len(node.input) < 3 or not node.input[2]:
        given = next((a.i for a in node.attribute if a.name == "output_dtype"), 0) or TensorProto.UINT8
        if not (given == TensorProto.UINT8 if quantizes else node.input[0] in unsigned):
            return
        scale = constants.get(node.input[1])
        zeros = np.full(() if scale is None else numpy_helper.to_array(scale).shape, -128, np.int8)
        zero = _constant(graph, constants, f"{node.output[0]}_zero_point", zeros)
        del node.input[2:]
        node.input.append(zero)
    elif node.input[2] in unsigned:
        node.input[2] = _lowered(graph, constants, node.input[2])
    else:
        return
    if quantizes:
        unsigned.add(node.output[0])
        for attribute in [a for a in node.attribute if a.name == "output_dtype"]:
            node.attribute.remove(attribute)
    elif node.input[0] in constants:
        node.input[0] = _lowered(graph, constants, node.input[0])


def _lowered(graph: Any, constants: dict[str, Any], name: str) -> str:
    """A uint8 constant as int8, 128 lower."""
    return _constant(graph, constants, f"{name}_int8", (numpy_helper.to_array(constants[name]).astype(np.int16) - 128).astype(np.int8))


def _constant(graph: Any, constants: dict[str, Any], name: str, data: np.ndarray) -> str:
    """A constant of that name; made once."""
    if name not in constants:
        constants[name] = numpy_helper.from_array(data, name)
        graph.initializer.append(constants[name])
    return name
