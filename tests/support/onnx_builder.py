# SPDX-License-Identifier: Apache-2.0
"""Small int8 QDQ ONNX models, built in the test that needs them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class OnnxBuilder:
    """Appends nodes; tensors are names. Scales are per tensor unless an array is given."""

    def __init__(self, opset: int = 13) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def input(self, name: str, shape: list[int | str], dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: list[int | str] | None = None, dtype: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def const(self, data: np.ndarray, name: str | None = None) -> str:
        name = name or f"const_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(data), name))
        return name

    def node(self, kind: str, *inputs: str, outputs: int = 1, name: str = "", domain: str = "", **attributes: Any) -> Any:
        made = [f"{name or kind.lower()}_{len(self.nodes)}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), made, name=name, domain=domain, **attributes))
        return made[0] if outputs == 1 else made

    def quantize(self, x: str, scale: float, zero: int, dtype: type = np.int8) -> str:
        return self.node("QuantizeLinear", x, self.const(np.float32(scale)), self.const(dtype(zero)))

    def dequantize(self, x: str, scale: Any, zero: Any = 0, dtype: type = np.int8, axis: int | None = None) -> str:
        scale = np.asarray(scale, np.float32)
        zeros = np.broadcast_to(np.asarray(zero, dtype), scale.shape)
        return self.node("DequantizeLinear", x, self.const(scale), self.const(zeros), **({} if axis is None else {"axis": axis}))

    def qdq(self, x: str, scale: float, zero: int, dtype: type = np.int8) -> str:
        return self.dequantize(self.quantize(x, scale, zero, dtype), scale, zero, dtype)

    def weights(self, data: np.ndarray, scale: Any, axis: int = 0) -> str:
        """int8 constant behind a DequantizeLinear; an array of scales is per channel along `axis`."""
        scale = np.asarray(scale, np.float32)
        return self.dequantize(self.const(data.astype(np.int8)), scale, 0, np.int8, axis if scale.ndim else None)

    def bias(self, data: np.ndarray, scale: Any) -> str:
        """int32 constant behind a DequantizeLinear."""
        scale = np.asarray(scale, np.float32)
        return self.dequantize(self.const(data.astype(np.int32)), scale, 0, np.int32, 0 if scale.ndim else None)

    def bytes(self) -> bytes:
        """The serialised model."""
        graph = helper.make_graph(self.nodes, "built", self.inputs, self.outputs, self.initializers)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
