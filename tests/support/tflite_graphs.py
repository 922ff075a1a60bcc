# SPDX-License-Identifier: Apache-2.0
"""Small TFLite models as `Graph`s, and their FlatBuffer: the inverse of `tvm_tiny.frontend.tflite_reader`, from the same tables."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
import tflite

from tvm_tiny.frontend.graph import Graph, Operator, Quantization, Tensor
from tvm_tiny.frontend.tflite_reader import _DTYPES, OPTIONS

_CODES = {name: code for code, name in _DTYPES.items()}
_SLOTS = {"i8": "PrependInt8Slot", "i32": "PrependInt32Slot", "bool": "PrependBoolSlot", "f32": "PrependFloat32Slot"}


class GraphBuilder:
    """Collects tensors and operators; tensors are referred to by the number `tensor` and friends return."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []

    def tensor(
        self, shape: Any, scale: Any = None, zero: int = 0, dtype: str = "int8", data: Any = None, axis: int = 0, **rest: Any
    ) -> int:
        """A tensor; `scale` None means not quantised, an array per channel along `axis`."""
        quant = None
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            quant = Quantization(scales, np.full(scales.size, zero, np.int64), axis)
        index = len(self.tensors)
        array = None if data is None else np.asarray(data, dtype).reshape(shape)
        self.tensors.append(Tensor(index, rest.pop("name", f"t{index}"), tuple(shape), dtype, array, quant, **rest))
        return index

    def input(self, shape: Any, scale: Any = 0.05, zero: int = 3, dtype: str = "int8", **rest: Any) -> int:
        """A model input."""
        self.inputs.append(self.tensor(shape, scale, zero, dtype, **rest))
        return self.inputs[-1]

    def ints(self, *values: int, shape: Any = None) -> int:
        """A constant int32 vector."""
        return self.tensor((len(values),) if shape is None else shape, dtype="int32", data=values)

    def op(self, kind: str, inputs: Any, outputs: Any, **options: Any) -> int:
        """An operator; options not given keep the schema's defaults."""
        outputs = [outputs] if isinstance(outputs, int) else list(outputs)
        defaults = {key: default for key, _, _, default in OPTIONS[kind][1]} if kind in OPTIONS else {}
        self.operators.append(Operator(len(self.operators), kind, tuple(inputs), tuple(outputs), {**defaults, **options}))
        return outputs[0]

    def output(self, *tensors: int) -> GraphBuilder:
        """Mark model outputs."""
        self.outputs.extend(tensors)
        return self

    def graph(self) -> Graph:
        """The model as plain data."""
        return Graph(tuple(self.tensors), tuple(self.operators), tuple(self.inputs), tuple(self.outputs))

    def bytes(self) -> bytes:
        """The model as a TFLite file."""
        return write_graph(self.graph())


def write_graph(graph: Graph) -> bytes:
    """The FlatBuffer of a graph."""
    fbb = flatbuffers.Builder(1024)
    kinds = sorted({op.kind for op in graph.operators})
    codes = _offsets(fbb, [_code(fbb, kind) for kind in kinds])
    # Buffer 0 is empty by convention; every constant has its own.
    blobs = [b"", *(t.data.tobytes() for t in graph.tensors if t.data is not None)]
    buffers = _offsets(fbb, [_buffer(fbb, blob) for blob in blobs])
    constants = iter(range(1, len(blobs)))
    tensors = _offsets(fbb, [_tensor(fbb, t, next(constants) if t.data is not None else 0) for t in graph.tensors])
    operators = _offsets(fbb, [_operator(fbb, op, kinds.index(op.kind)) for op in graph.operators])
    inputs, outputs = _vector(fbb, graph.inputs, "<i4"), _vector(fbb, graph.outputs, "<i4")
    subgraph = _table(fbb, 5, {0: tensors, 1: inputs, 2: outputs, 3: operators})
    subgraphs = _offsets(fbb, [subgraph] * graph.subgraphs)
    fbb.StartObject(5)
    fbb.PrependUint32Slot(0, 3, 0)
    for slot, offset in ((1, codes), (2, subgraphs), (4, buffers)):
        fbb.PrependUOffsetTRelativeSlot(slot, offset, 0)
    fbb.Finish(fbb.EndObject(), b"TFL3")
    return bytes(fbb.Output())


def _vector(fbb: flatbuffers.Builder, values: Any, dtype: str) -> int:
    return fbb.CreateNumpyVector(np.asarray(values, dtype))


def _offsets(fbb: flatbuffers.Builder, offsets: list[int]) -> int:
    fbb.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        fbb.PrependUOffsetTRelative(offset)
    return fbb.EndVector()


def _table(fbb: flatbuffers.Builder, size: int, fields: dict[int, int]) -> int:
    fbb.StartObject(size)
    for slot, offset in fields.items():
        fbb.PrependUOffsetTRelativeSlot(slot, offset, 0)
    return fbb.EndObject()


def _code(fbb: flatbuffers.Builder, kind: str) -> int:
    custom = fbb.CreateString(kind.split("'")[1]) if kind.startswith("CUSTOM") else 0
    number = getattr(tflite.BuiltinOperator, kind.split(" ")[0])
    fbb.StartObject(4)
    fbb.PrependInt8Slot(0, min(number, 127), 0)
    fbb.PrependUOffsetTRelativeSlot(1, custom, 0)
    fbb.PrependInt32Slot(2, 1, 0)
    fbb.PrependInt32Slot(3, number, 0)
    return fbb.EndObject()


def _buffer(fbb: flatbuffers.Builder, blob: bytes) -> int:
    if not blob:
        return _table(fbb, 1, {})
    fbb.StartVector(1, len(blob), 16)
    fbb.head -= len(blob)
    fbb.Bytes[fbb.head : fbb.head + len(blob)] = blob
    return _table(fbb, 1, {0: fbb.EndVector()})


def _tensor(fbb: flatbuffers.Builder, tensor: Tensor, buffer: int) -> int:
    name = fbb.CreateString(tensor.name)
    shape, signature = _vector(fbb, tensor.shape, "<i4"), _vector(fbb, tensor.signature, "<i4") if tensor.signature else 0
    quant = 0
    if tensor.quant is not None:
        scale, zero = _vector(fbb, tensor.quant.scale, "<f4"), _vector(fbb, tensor.quant.zero_point, "<i8")
        fbb.StartObject(7)
        fbb.PrependUOffsetTRelativeSlot(2, scale, 0)
        fbb.PrependUOffsetTRelativeSlot(3, zero, 0)
        fbb.PrependInt32Slot(6, tensor.quant.axis, 0)
        quant = fbb.EndObject()
    sparsity = _table(fbb, 1, {}) if tensor.sparse else 0
    fbb.StartObject(8)
    fbb.PrependUOffsetTRelativeSlot(0, shape, 0)
    fbb.PrependInt8Slot(1, _CODES[tensor.dtype], 0)
    fbb.PrependUint32Slot(2, buffer, 0)
    for slot, offset in ((3, name), (4, quant), (6, sparsity), (7, signature)):
        fbb.PrependUOffsetTRelativeSlot(slot, offset, 0)
    fbb.PrependBoolSlot(5, tensor.variable, False)
    return fbb.EndObject()


def _operator(fbb: flatbuffers.Builder, op: Operator, code: int) -> int:
    inputs, outputs = _vector(fbb, op.inputs, "<i4"), _vector(fbb, op.outputs, "<i4")
    options, number = 0, 0
    if op.kind in OPTIONS:
        name, fields = OPTIONS[op.kind]
        number = getattr(tflite.BuiltinOptions, name)
        vectors = {key: _vector(fbb, op.options[key], "<i4") for key, _, kind, _ in fields if kind == "ints"}
        fbb.StartObject(10)
        for key, slot, kind, default in fields:
            if kind == "ints":
                fbb.PrependUOffsetTRelativeSlot(slot, vectors[key], 0)
            else:
                getattr(fbb, _SLOTS[kind])(slot, op.options[key], default)
        options = fbb.EndObject()
    fbb.StartObject(5)
    fbb.PrependUint32Slot(0, code, 0)
    fbb.PrependUOffsetTRelativeSlot(1, inputs, 0)
    fbb.PrependUOffsetTRelativeSlot(2, outputs, 0)
    fbb.PrependUint8Slot(3, number, 0)
    fbb.PrependUOffsetTRelativeSlot(4, options, 0)
    return fbb.EndObject()
