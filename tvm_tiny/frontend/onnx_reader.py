# SPDX-License-Identifier: Apache-2.0
"""ONNX file → `OnnxGraph`: parsed, brought into the forms that the checks and the importer know, with shapes inferred."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tvm_tiny.errors import ModelFormatError
from tvm_tiny.frontend.naming import TensorInfo
from tvm_tiny.frontend.onnx_batch_norm import fold_batch_norms
from tvm_tiny.frontend.onnx_qoperator import to_qdq
from tvm_tiny.frontend.onnx_rewrites import rewrite_operators
from tvm_tiny.frontend.onnx_uint8 import to_int8

MAX_TENSOR_BYTES = 1 << 30
_DTYPES = {TensorProto.FLOAT: "float32", TensorProto.INT8: "int8", TensorProto.UINT8: "uint8", TensorProto.INT32: "int32"}


@dataclass
class OnnxGraph:
    """A parsed ONNX model with inferred shapes and its constants.

    `unsigned` are the inputs and outputs that are uint8 in the file, `source` its nodes before anything was rewritten: (operator, name).
    """

    model: Any
    opset: int
    constants: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    unsigned: frozenset[str] = frozenset()
    source: tuple[tuple[str, str], ...] = ()

    @property
    def inputs(self) -> list[str]:
        """Model inputs that are not constants."""
        return [i.name for i in self.model.graph.input if i.name not in self.constants]

    @property
    def outputs(self) -> list[str]:
        """Model outputs."""
        return [o.name for o in self.model.graph.output]

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The static shape of a tensor whose shape is known (checked)."""
        shape = self.shapes[tensor]
        assert shape is not None
        return shape

    def info(self, port: str) -> TensorInfo:
        """A model input as `tiny.model` shows it; an int8 input has the scale of the DequantizeLinear that reads it."""
        scale, zero_point = None, None
        for node in self.model.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] == port:
                scale = float(self.constants[node.input[1]].ravel()[0])
                zero_point = int(self.constants[node.input[2]].ravel()[0]) if len(node.input) > 2 else 0
        return as_unsigned(TensorInfo(port, self.shape(port), _DTYPES[self.dtypes[port]], scale, zero_point), port in self.unsigned)

    def clip_bounds(self, node: Any) -> tuple[float, float]:
        """The constant bounds of a Clip (attributes before opset 11, inputs since)."""
        attributes = attributes_of(node)
        bounds = [attributes.get("min", -math.inf), attributes.get("max", math.inf)]
        for position in (1, 2):
            if position < len(node.input) and node.input[position]:
                bounds[position - 1] = float(self.constants[node.input[position]])
        low, high = (float(np.clip(b, np.finfo(np.float32).min, np.finfo(np.float32).max)) for b in bounds)
        return low, high

    def padding(self, node: Any) -> tuple[list[int], float]:
        """Widths (before, after an axis) and value of a Pad (attributes before opset 11, inputs since; `axes` since 18)."""
        rank = len(self.shape(node.input[0]))
        operands = [self.constants.get(name) if name else None for name in (*node.input[1:4], "", "", "")][:3]
        pads = operands[0].ravel().tolist() if operands[0] is not None else attributes_of(node)["pads"]
        axes = [int(a) % rank for a in operands[2].ravel()] if operands[2] is not None else list(range(rank))
        widths = [0] * (2 * rank)
        for position, axis in enumerate(axes):
            widths[2 * axis], widths[2 * axis + 1] = int(pads[position]), int(pads[position + len(axes)])
        value = float(operands[1].item()) if operands[1] is not None else float(attributes_of(node).get("value", 0.0))
        return widths, value


def as_unsigned(port: TensorInfo, unsigned: bool) -> TensorInfo:
    """An input or output as the file has it: uint8 where that is what it was."""
    zero = None if port.zero_point is None else port.zero_point + 128
    return replace(port, dtype="uint8", zero_point=zero) if unsigned else port


def attributes_of(node: Any) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def read_onnx(data: bytes) -> OnnxGraph:
    """Parse, validate and infer shapes.

    Errors
    ------
    ModelFormatError
        The file is truncated or damaged.
    """
    try:
        model = onnx.load_model_from_string(data)
        source = _number(model)
        _batch_of_one(model)
        _resolve(model)
        to_qdq(model)
        fold_batch_norms(model)
        unsigned = to_int8(model)
        rewrite_operators(model)
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model)  # After inference: writers may leave the shapes of outputs out.
        constants = _constants(model)
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        graph = OnnxGraph(model, opset, constants, unsigned=unsigned, source=source)
        _shapes(graph)
    except Exception as error:
        text = str(error).strip().splitlines()
        reason = text[0][:200] if text else type(error).__name__
        raise ModelFormatError(
            f"damaged ONNX file: {reason}", remedy="the file is truncated or damaged; export or copy it again"
        ) from error
    return graph


def _number(model: Any) -> tuple[tuple[str, str], ...]:
    """Give every node its number in the file, which those that take its place inherit; return the nodes as (operator, name)."""
    for number, node in enumerate(model.graph.node):
        node.doc_string = str(number)
    return tuple((n.op_type, n.name) for n in model.graph.node)


def number_of(node: Any) -> int:
    """The number in the file of a node, or of the one whose place it took."""
    return int(node.doc_string) if node.doc_string.isdigit() else -1


def _batch_of_one(model: Any) -> None:
    """An unknown batch dimension is 1."""
    for port in model.graph.input:
        dims = port.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            name = dims[0].dim_param
            dims[0].dim_value = 1
            for value in (*model.graph.output, *model.graph.value_info):
                for dim in value.type.tensor_type.shape.dim:
                    if name and dim.dim_param == name:
                        dim.dim_value = 1


def _resolve(model: Any) -> None:
    """Constant nodes become initializers; Identity nodes vanish: their consumers read, or their producers write, the other name."""
    graph = model.graph
    outputs = {o.name for o in graph.output}
    computed = {o for n in graph.node for o in n.output} - outputs
    same: dict[str, str] = {}
    kept = []
    for node in graph.node:
        own = node.domain in ("", "ai.onnx")
        if own and node.op_type == "Constant" and node.output[0] not in outputs:
            graph.initializer.append(_constant(node))
        elif own and node.op_type in ("Identity", "Dropout") and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
        elif own and node.op_type == "Identity" and node.input[0] in computed and node.input[0] not in same:
            same[node.input[0]] = node.output[0]
        else:
            kept.append(node)
    for node in kept:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = _final(name, same)
    del graph.node[:]
    graph.node.extend(kept)


def _final(name: str, same: dict[str, str]) -> str:
    for _ in range(len(same)):  # Chains end; a damaged file may hold a cycle.
        if name not in same:
            return name
        name = same[name]
    return name


def _constant(node: Any) -> Any:
    attributes = attributes_of(node)
    if "value" in attributes:
        tensor = TensorProto()
        tensor.CopyFrom(attributes["value"])
    else:
        (value,) = attributes.values()
        dtype = (
            np.int64 if isinstance(value, int) or (isinstance(value, list | tuple) and value and isinstance(value[0], int)) else np.float32
        )
        tensor = numpy_helper.from_array(np.asarray(value, dtype))
    tensor.name = node.output[0]
    return tensor


def _constants(model: Any) -> dict[str, np.ndarray]:
    constants = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ValueError(f"constant {tensor.name!r} lies in another file; save the model as one file")
        if math.prod(tensor.dims) > MAX_TENSOR_BYTES or any(d < 0 for d in tensor.dims):
            raise ValueError(f"constant {tensor.name!r} has shape {list(tensor.dims)}")
        constants[tensor.name] = numpy_helper.to_array(tensor)
    return constants


def _shapes(graph: OnnxGraph) -> None:
    proto = graph.model.graph
    for value in (*proto.input, *proto.value_info, *proto.output):
        tensor = value.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        graph.dtypes[value.name] = tensor.elem_type
        graph.shapes[value.name] = tuple(dims) if tensor.HasField("shape") and all(d > 0 for d in dims) else None
    for name, data in graph.constants.items():
        graph.shapes[name] = data.shape
        graph.dtypes[name] = helper.np_dtype_to_tensor_dtype(data.dtype)
