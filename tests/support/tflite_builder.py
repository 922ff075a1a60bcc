# SPDX-License-Identifier: Apache-2.0
"""Small .tflite models, written tensor by tensor and operator by operator with the flatbuffers of PyPI `tflite`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
import tflite

TYPES = {
    "int8": tflite.TensorType.INT8,
    "int32": tflite.TensorType.INT32,
    "float32": tflite.TensorType.FLOAT32,
    "uint8": tflite.TensorType.UINT8,
    "int16": tflite.TensorType.INT16,
}
ACTIVATIONS = {
    "none": tflite.ActivationFunctionType.NONE,
    "relu": tflite.ActivationFunctionType.RELU,
    "relu6": tflite.ActivationFunctionType.RELU6,
    "relu_n1_to_1": tflite.ActivationFunctionType.RELU_N1_TO_1,
}
PADDINGS = {"SAME": tflite.Padding.SAME, "VALID": tflite.Padding.VALID}


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return (before, after) of TensorFlow's SAME padding along one axis."""
    span = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + span - size, 0)
    return total // 2, total - total // 2


class ModelBuilder:
    """Builds one subgraph. Tensors and operators are kept in the order in which they are added.

    `tensor`, `constant` and `op` return or take tensor indices; `finish` gives the file's bytes.
    """

    def __init__(self) -> None:
        self.fbb = flatbuffers.Builder(1024)
        self.buffers: list[bytes] = [b""]
        self.tensors: list[dict[str, Any]] = []
        self.operators: list[tuple[str, list[int], list[int], tuple[str, dict[str, Any]] | None]] = []

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str = "int8",
        scale: float | Sequence[float] | None = None,
        zero_point: int = 0,
        *,
        axis: int = 0,
        name: str | None = None,
        buffer: int = 0,
    ) -> int:
        """Add a tensor; several scales quantise along `axis`."""
        index = len(self.tensors)
        scales = None if scale is None else np.atleast_1d(np.asarray(scale, np.float32))
        self.tensors.append(
            {
                "shape": list(shape),
                "dtype": dtype,
                "scales": scales,
                "zero_point": zero_point,
                "axis": axis,
                "name": name or f"tensor{index}",
                "buffer": buffer,
            }
        )
        return index

    def constant(self, data: np.ndarray, scale: float | Sequence[float] | None = None, zero_point: int = 0, **more: Any) -> int:
        """Add a constant tensor."""
        self.buffers.append(np.ascontiguousarray(data).tobytes())
        return self.tensor(data.shape, str(data.dtype), scale, zero_point, buffer=len(self.buffers) - 1, **more)

    def op(self, code: str, inputs: Sequence[int], outputs: Sequence[int], options: str | None = None, **fields: Any) -> None:
        """Add an operator: `code` of BuiltinOperator, `options` a table of the schema such as "Conv2DOptions", with its fields."""
        self.operators.append((code, list(inputs), list(outputs), (options, fields) if options else None))

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """Return the file."""
        codes = sorted({op[0] for op in self.operators})
        buffers = self._vector(tflite.ModelStartBuffersVector, [self._buffer(b) for b in self.buffers])
        tensors = self._vector(tflite.SubGraphStartTensorsVector, [self._tensor(t) for t in self.tensors])
        operators = self._vector(tflite.SubGraphStartOperatorsVector, [self._operator(op, codes) for op in self.operators])
        opcodes = self._vector(tflite.ModelStartOperatorCodesVector, [self._opcode(c) for c in codes])
        ins, outs = self._ints(inputs), self._ints(outputs)
        graph = self._table("SubGraph", Tensors=tensors, Inputs=ins, Outputs=outs, Operators=operators)
        graphs = self._vector(tflite.ModelStartSubgraphsVector, [graph])
        model = self._table("Model", Version=3, OperatorCodes=opcodes, Subgraphs=graphs, Buffers=buffers)
        self.fbb.Finish(model, b"TFL3")
        return bytes(self.fbb.Output())

    def _table(self, table: str, **fields: Any) -> int:
        getattr(tflite, f"{table}Start")(self.fbb)
        for key, value in fields.items():
            getattr(tflite, f"{table}Add{key}")(self.fbb, value)
        return getattr(tflite, f"{table}End")(self.fbb)

    def _vector(self, start: Any, offsets: Sequence[int]) -> int:
        start(self.fbb, len(offsets))
        for offset in reversed(offsets):
            self.fbb.PrependUOffsetTRelative(offset)
        return self.fbb.EndVector()

    def _ints(self, values: Sequence[int]) -> int:
        return self.fbb.CreateNumpyVector(np.asarray(values, np.int32))

    def _buffer(self, data: bytes) -> int:
        if not data:
            return self._table("Buffer")
        tflite.BufferStartDataVector(self.fbb, len(data))
        self.fbb.head -= len(data)
        self.fbb.Bytes[self.fbb.head : self.fbb.head + len(data)] = data
        return self._table("Buffer", Data=self.fbb.EndVector())

    def _tensor(self, spec: dict[str, Any]) -> int:
        name, shape = self.fbb.CreateString(spec["name"]), self._ints(spec["shape"])
        fields = {"Shape": shape, "Type": TYPES[spec["dtype"]], "Buffer": spec["buffer"], "Name": name}
        if spec["scales"] is not None:
            scales = self.fbb.CreateNumpyVector(spec["scales"])
            zero_points = self.fbb.CreateNumpyVector(np.full(len(spec["scales"]), spec["zero_point"], np.int64))
            fields["Quantization"] = self._table(
                "QuantizationParameters", Scale=scales, ZeroPoint=zero_points, QuantizedDimension=spec["axis"]
            )
        return self._table("Tensor", **fields)

    def _opcode(self, code: str) -> int:
        value = getattr(tflite.BuiltinOperator, code)
        return self._table("OperatorCode", DeprecatedBuiltinCode=min(value, 127), BuiltinCode=value, Version=1)

    def _operator(self, op: tuple[str, list[int], list[int], tuple[str, dict[str, Any]] | None], codes: list[str]) -> int:
        code, inputs, outputs, options = op
        fields: dict[str, Any] = {"OpcodeIndex": codes.index(code)}
        if options is not None:
            fields["BuiltinOptions"] = self._table(options[0], **{_camel(k): _encoded(k, v) for k, v in options[1].items()})
            fields["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, options[0])
        fields["Inputs"], fields["Outputs"] = self._ints(inputs), self._ints(outputs)
        return self._table("Operator", **fields)


def _camel(name: str) -> str:
    return re.sub(r"(?:^|_)(\w)", lambda m: m.group(1).upper(), name)


def _encoded(key: str, value: Any) -> Any:
    if key == "padding":
        return PADDINGS[value]
    return ACTIVATIONS[value] if key == "fused_activation_function" else value


def single_op(
    code: str,
    inputs: Sequence[dict[str, Any]],
    output: dict[str, Any],
    constants: Sequence[tuple[np.ndarray, dict[str, Any]]] = (),
    options: str | None = None,
    **fields: Any,
) -> bytes:
    """Return a model of one operator: model inputs first, then constants.

    Parameters
    ----------
    inputs, output : dicts of the arguments of `ModelBuilder.tensor`
    constants : (array, arguments of `ModelBuilder.constant`)
    options, fields : as in `ModelBuilder.op`
    """
    builder = ModelBuilder()
    ins = [builder.tensor(**spec) for spec in inputs]
    consts = [builder.constant(data, **spec) for data, spec in constants]
    out = builder.tensor(**output)
    builder.op(code, [*ins, *consts], [out], options, **fields)
    return builder.finish(ins, [out])
