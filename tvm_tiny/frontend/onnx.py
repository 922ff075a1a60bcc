# SPDX-License-Identifier: Apache-2.0
"""ONNX (int8 QDQ) → Relax in QDQ form, through TVM's own importer; then `qdq_rules` brings it into the same form as TFLite.

What comes out is the form in `tvm_tiny.frontend.tflite`, with these differences, all of them allowed there:

    Conv, Gemm, MatMul         as CONV_2D, DEPTHWISE_CONV_2D (group = channels), FULLY_CONNECTED; a bias in float or in another scale is
                               rounded to input scale times weight scale, in which the integer kernels add it
    BatchNormalization         behind Conv: into its scales and bias (`onnx_batch_norm`)
    Relu, Clip                 the integer clip behind `quantize` (never TVM's isnan/where chain)
    GlobalAveragePool          mean over H and W
    Concat                     operands of another scale than the result's are requantised first: concat(q(d(x)), …)
    AveragePool, MaxPool       input and output may differ in scale
    Softmax, Sigmoid, Tanh     any output scale; without a QuantizeLinear behind they stay in float (an island)
    Transpose                  vanishes where the layout NHWC makes it superfluous; what remains is permute_dims on the integers

Model inputs and outputs keep the file's own shape and order of axes. A quantised value carries the name of the tensor its operator
computes (the one before QuantizeLinear); a model output keeps its own name.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax import op as R
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from tvm_tiny.errors import ModelFormatError, TinyError
from tvm_tiny.frontend.naming import Sheet, TensorInfo, finish
from tvm_tiny.frontend.onnx_check import check_onnx
from tvm_tiny.frontend.onnx_reader import OnnxGraph, as_unsigned, attributes_of, number_of, read_onnx
from tvm_tiny.frontend.qdq import Emitter, Origin, Scale, Value, identity
from tvm_tiny.frontend.qdq_rewriter import Rewriter
from tvm_tiny.frontend.qdq_rules import RULES
from tvm_tiny.ops import registry


def load_onnx(data: bytes, name: str) -> tvm.IRModule:
    """Import an int8 QDQ ONNX model into QDQ form.

    Errors
    ------
    ModelFormatError
        The file is truncated or damaged.
    UnsupportedModelError
        Every reason at once why the model can't be compiled.
    """
    graph = read_onnx(data)
    check_onnx(graph).raise_if_any()
    try:
        # The importer warns of every input it renames and prints what it fails on; both reach the user through us.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            importer = Importer(graph)
            mod = importer.from_onnx(graph.model.graph, graph.opset)
        return _to_qdq(mod, importer, graph, name)
    except TinyError:
        raise
    except Exception as error:
        raise ModelFormatError(
            f"damaged model file: the importer stumbled over it ({error})",
            remedy="export the model again; if another runtime runs it as it is, report it with the file",
        ) from error


class Importer(ONNXGraphImporter):
    """TVM's ONNX importer that remembers which tensor each variable stands for and keeps operators whole that TVM takes apart."""

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__({}, {}, keep_params_in_input=False)
        self.graph = graph
        self.origins: dict[relax.Var, Origin] = {}
        self._pending: Iterator[Any] = iter(())

    def _construct_nodes(self, graph: Any) -> None:
        self._pending = iter(graph.node)
        super()._construct_nodes(graph)

    def _convert_operator(self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int) -> relax.Expr:
        node = next(self._pending)
        value = self._whole(node, inputs)
        if value is None:
            value = super()._convert_operator(op_name, inputs, attrs, opset)
        origins = [Origin(output, op_name, number_of(node)) for output in node.output]
        if isinstance(value, relax.Call) and not isinstance(value.ty, relax.TupleType):
            value = self.bb.emit(value)
        if isinstance(value, relax.Var) and value not in self.origins and op_name not in ("Identity", "Dropout"):
            self.origins[value] = origins[0]
        return value

    def _whole(self, node: Any, inputs: Any) -> relax.Expr | None:
        """Operators whose TVM conversion loses what the form needs: clamps, reshapes by computed shapes, pools over everything."""
        x = inputs[0] if len(inputs) else None
        if node.op_type == "Clip":
            low, high = self.graph.clip_bounds(node)
            return self.bb.normalize(R.clip(x, low, high))
        if node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze") and x is not None:
            return self.bb.normalize(R.reshape(x, self.graph.shape(node.output[0])))
        if node.op_type == "Pad":
            widths, fill = self.graph.padding(node)
            return self.bb.normalize(R.nn.pad(x, widths, "constant", fill))
        if node.op_type == "GlobalAveragePool":
            return self.bb.normalize(R.mean(x, [2, 3], keepdims=True))
        if node.op_type == "Gather":
            axis = attributes_of(node).get("axis", 0) % len(self.graph.shape(node.input[0]))
            places = self.graph.constants[node.input[1]] % self.graph.shape(node.input[0])[axis]
            return self.bb.normalize(R.take(x, relax.const(places.astype(np.int32)), axis, mode="fast"))
        if node.op_type in ("Max", "Min"):
            function = R.maximum if node.op_type == "Max" else R.minimum
            for other in list(inputs)[1:]:
                x = self.bb.normalize(function(self.bb.emit(x) if isinstance(x, relax.Call) else x, other))
            return x
        if node.op_type == "HardSwish":
            gate = self.bb.emit(R.clip(self.bb.emit(R.add(x, relax.const(np.float32(3)))), 0, 6))
            return self.bb.normalize(R.multiply(x, self.bb.emit(R.divide(gate, relax.const(np.float32(6))))))
        return None


def _to_qdq(mod: tvm.IRModule, importer: Importer, graph: OnnxGraph, name: str) -> tvm.IRModule:
    function = mod["main"]
    builder = relax.BlockBuilder()
    emitter = Emitter(builder)
    outputs = graph.outputs
    rewriter = Rewriter(emitter, importer.origins, frozenset(outputs), RULES)
    params = []
    inputs = []
    variables = []
    for param, port in zip(function.params, graph.inputs, strict=True):
        info = graph.info(port)
        hint = emitter.names.unique(port)
        params.append(hint)
        inputs.append(info)
        variables.append(relax.Var(param.name, relax.TensorType(info.shape, "uint8")) if port in graph.unsigned else param)
        emitter.hints[variables[-1]], emitter.table[hint] = hint, info
    with builder.function("main", variables):
        with builder.dataflow():
            for param, variable, info in zip(function.params, variables, inputs, strict=True):
                rewriter.values[param] = _input(emitter, variable, info)
            for block in function.body.blocks:
                for binding in block.bindings:
                    rewriter.bind(binding.var, binding.value)
            results = rewriter.values[function.body.body]
            listed = results if isinstance(results, list) else [results]
            final = [_output(emitter, value, port, port in graph.unsigned) for value, port in zip(listed, outputs, strict=True)]
            result = builder.emit_output(final[0] if len(final) == 1 else relax.Tuple(final))
        builder.emit_func_output(result)
    ports = [emitter.table[emitter.hints[var]] for var in final]
    return finish(builder.get(), emitter.hints, params, Sheet(name, "onnx", inputs, ports, emitter.table))


def _input(emitter: Emitter, variable: relax.Var, info: TensorInfo) -> Value:
    """A model input; of a uint8 one its int8 form."""
    unsigned = info.dtype == "uint8"
    var = emitter.emit(registry.call("tiny.flip_sign", variable)) if unsigned else variable
    zero = None if info.zero_point is None else info.zero_point - 128 * unsigned
    scale = None if info.scale is None or zero is None else Scale(info.scale, zero)
    return Value(info.shape, identity(len(info.shape)), var=var, raw=info.dtype != "float32", quant=scale)


def _output(emitter: Emitter, value: Value, port: str, unsigned: bool) -> relax.Expr:
    """A model output: in the file's own layout and type, under its own name."""
    if not unsigned:
        return _named(emitter, value, port)
    value = emitter.laid(value, identity(len(value.shape)))
    info = TensorInfo(port, value.shape, "int8", *((None, None) if value.quant is None else (value.quant.scale, value.quant.zero_point)))
    var = emitter.builder.emit(registry.call("tiny.flip_sign", emitter.stored(value)))
    emitter.hints[var] = hint = emitter.names.unique(port)
    emitter.table[hint] = as_unsigned(info, True)
    return var


def _named(emitter: Emitter, value: Value, port: str) -> relax.Expr:
    value = emitter.laid(value, identity(len(value.shape)))
    origin = value.origin if value.origin is not None else Origin(port, "OUTPUT", -1)
    named = Origin(port, origin.op, origin.node)
    if value.var is not None and (value.raw or value.quant is None):
        if value.var not in emitter.hints:
            return emitter.emit(value.var, named, value.quant)
        old = emitter.table[emitter.hints[value.var]]
        hint = emitter.hints[value.var]
        emitter.table[hint] = TensorInfo(port, old.shape, old.dtype, old.scale, old.zero_point, old.op, old.node)
        return value.var
    return emitter.real(value, None, named)
