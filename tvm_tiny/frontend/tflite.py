# SPDX-License-Identifier: Apache-2.0
"""TFLite → Relax in QDQ form, through TVM's own importer with every converter made exact about quantisation.

The QDQ form (the contract between every frontend and the pass to integers)
----------------------------------------------------------------------------
`main` takes the model's inputs only; weights are constants. Activations are NHWC. Bindings stand in A-normal form in one dataflow block.
With `q(v, s, z)` for `R.quantize(v, s, z, axis=-1, out_dtype="int8")` and `d(v, s, z)` for `R.dequantize(v, s, z, axis=-1)`; scales are
float32 constants and zero points int32 constants, scalar per tensor, one-dimensional (zero points 0) per channel:

    CONV_2D            clip?(q(add?(nn.conv2d(d(x), d(W, sw, 0, axis=0), NHWC, OHWI), d(b, sx*sw, 0, axis=0))))   W int8 OHWI, b int32 (O)
    DEPTHWISE_CONV_2D  the same with kernel_layout HWOI, groups = C_in, W int8 (KH, KW, C_out, 1), d(W, axis=2)
    FULLY_CONNECTED    reshape?(clip?(q(add?(matmul(d(reshape?(x)), d(W, sw, 0, axis=1)), d(b)))))   W int8 (K, N), x as (M, K)
    ADD, SUB, MUL      clip?(q(add | subtract | multiply(d(a), d(b))))          a or b may be a constant, shapes may broadcast
    AVERAGE_POOL_2D    clip?(q(nn.avg_pool2d(d(x), NHWC, count_include_pad=False)))     MAX_POOL_2D with nn.max_pool2d
    MEAN, SUM, REDUCE_MAX, REDUCE_MIN   q(mean | sum | max | min(d(x), axes, keepdims))
    SOFTMAX            q(nn.softmax(d(x), axis=-1));  with beta != 1: nn.softmax(multiply(d(x), beta))
    LOGISTIC, TANH, ABS, EXP, LOG, RSQRT   q(sigmoid | tanh | abs | exp | log | rsqrt(d(x)))
    HARD_SWISH         q(multiply(d(x), divide(clip(add(d(x), 3), 0, 6), 6)))
    ELU                q(add(nn.relu(d(x)), subtract(exp(minimum(d(x), 0)), 1)))
    LEAKY_RELU         q(nn.leakyrelu(d(x), alpha))      PRELU   q(add(clip(d(x), 0, ∞), multiply(clip(d(x), -∞, 0), d(slope))))
    SQUARED_DIFFERENCE q(square(subtract(d(a), d(b))))
    BATCH_MATMUL       q(matmul(d(permute_dims?(a)), d(permute_dims?(b))))
    RELU, RELU6, RELU_N1_TO_1      clip(q(d(x)))        (a requantise and an integer clamp)
    QUANTIZE           q(x) of a float x, q(d(x)) of an int8 x (requantise); a uint8 x or result is tiny.flip_sign of an int8 one
    DEQUANTIZE         d(x)
    RESHAPE, SQUEEZE, EXPAND_DIMS  reshape(x)                PAD, PADV2   nn.pad(x, pad_value = zero point of x, or the given integer)
    TRANSPOSE          permute_dims(x)                       CONCATENATION   concat((x, …))
    STRIDED_SLICE      reshape?(strided_slice(x))            SPLIT   split(x)[i]
    PACK, UNPACK       concat of reshapes; reshapes of split(x)[i]    SLICE, SPLIT_V   strided_slice(x), split(x)[i]
    DEPTH_TO_SPACE, SPACE_TO_DEPTH  reshape(permute_dims(reshape(x)))
    MAXIMUM, MINIMUM   maximum | minimum(a, b) of integers   ARG_MAX, ARG_MIN  astype(argmax | argmin(x), int32)
    GATHER, MIRROR_PAD, BROADCAST_TO   reshape(take(x, constant int32, axis, fast)), one take an axis
    REVERSE_V2         reshape(flip(x)); a STRIDED_SLICE backwards is flip(strided_slice(x))
    SPACE_TO_BATCH_ND, a convolution and BATCH_TO_SPACE_ND: the form of one dilated convolution (`tflite_dilation`); by themselves
    SPACE_TO_BATCH_ND  reshape(permute_dims(reshape(nn.pad(x))))   BATCH_TO_SPACE_ND  strided_slice?(reshape(permute_dims(reshape(x))))
    RESIZE_BILINEAR    q(image.resize2d(d(x), NHWC, linear)) with asymmetric, align_corners or half_pixel
    TRANSPOSE_CONV     strided_slice?(depth to space of CONV_2D's form): `tflite_converters`
    CONV_2D in groups  concat of CONV_2D's form of split(x)[i]
    RESIZE_NEAREST_NEIGHBOR   image.resize2d(x, NHWC, nearest_neighbor) with asymmetric/floor, align_corners/round_prefer_ceil or
                              tf_half_pixel_for_nn/floor

Data movement (the last block) stays on the integers: its operands share scale and zero point, which `tflite_check` ensures. A fused or
separate activation is always an integer `clip` behind `quantize`, absent when its bounds are the whole of int8; its bounds are those of
TFLite's CalculateActivationRangeQuantized. The bias scale is always input scale times weight scale, as the reference kernels take it.
Where an operand is float32 in the file, `d` or `q` is left out and the operator stays in float (an island).

Every operator's last value is bound to a variable named after its output tensor; see `naming` for the table in `tiny.model`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import tvm
from tvm import relax
from tvm.relax import op as R
from tvm.relax.frontend.tflite import from_tflite
from tvm.relax.frontend.tflite.tflite_frontend import OperatorConverter

from tvm_tiny.errors import ModelFormatError, TinyError
from tvm_tiny.frontend import tflite_converters as converters
from tvm_tiny.frontend.graph import Graph, Operator, Tensor
from tvm_tiny.frontend.naming import Names, Sheet, TensorInfo, finish
from tvm_tiny.frontend.tflite_check import check_graph
from tvm_tiny.frontend.tflite_dilation import fold_batches
from tvm_tiny.frontend.tflite_functions import FUNCTIONS
from tvm_tiny.frontend.tflite_movement import MOVEMENT
from tvm_tiny.frontend.tflite_reader import read_graph
from tvm_tiny.frontend.tflite_rules import activation_range, output_padding
from tvm_tiny.frontend.tflite_shapes import fold_shapes
from tvm_tiny.ops import registry


def load_tflite(data: bytes, name: str) -> tvm.IRModule:
    """Import a TFLite model into QDQ form.

    Errors
    ------
    ModelFormatError
        The file is truncated or damaged.
    UnsupportedModelError
        Every reason at once why the model can't be compiled.
    """
    import tflite

    graph = fold_shapes(read_graph(data))
    check_graph(graph).raise_if_any()
    graph = fold_batches(graph)
    created: list[QdqConverter] = []

    def converter(*args: object) -> QdqConverter:
        created.append(QdqConverter(*args, graph=graph))
        return created[-1]

    try:
        mod = from_tflite(tflite.Model.GetRootAs(data, 0), op_converter=converter)
        return created[-1].finish(mod, name)
    except TinyError:
        raise
    except Exception as error:
        raise ModelFormatError(
            f"damaged model file: the importer stumbled over it ({error})",
            remedy="export the model again; if another runtime runs it as it is, report it with the file",
        ) from error


def _scale(value: float | np.ndarray) -> relax.Expr:
    return relax.const(np.asarray(value, np.float32))


def _integer(value: int | np.ndarray) -> relax.Expr:
    return relax.const(np.asarray(value, np.int32))


Channels = slice | np.ndarray
ALL: Channels = slice(None)


class QdqConverter(OperatorConverter):
    """TVM's TFLite converter with every conversion of a supported operator replaced by the form in the module docstring.

    TVM's own converters work on the FlatBuffer; these work on the verified `Graph`, find tensors by index (names need not be unique in
    TFLite) and bind every result under its tensor's name.
    """

    def __init__(self, model: object, subgraph: object, exp_tab: object, ctx: relax.BlockBuilder, *, graph: Graph) -> None:
        super().__init__(model, subgraph, exp_tab, ctx)
        self.graph = graph
        self.names = Names()
        self.values: dict[int, relax.Expr] = {}
        self.hints: dict[relax.Var, str] = {}
        self.table: dict[str, TensorInfo] = {}
        self.params: list[str] = []
        self.convert_map: dict[str, Callable[[Operator], relax.Expr | list[relax.Expr]]] = {
            "CONV_2D": self.convert_conv2d,
            "DEPTHWISE_CONV_2D": self.convert_depthwise,
            "FULLY_CONNECTED": self.convert_fully_connected,
            "AVERAGE_POOL_2D": partial(self.convert_pool, pool=partial(R.nn.avg_pool2d, count_include_pad=False)),
            "MAX_POOL_2D": partial(self.convert_pool, pool=R.nn.max_pool2d),
            "QUANTIZE": self.convert_cast,
            "DEQUANTIZE": self.convert_cast,
            "TRANSPOSE_CONV": partial(converters.transposed_conv, self),
            **{kind: partial(function, self) for kind, function in {**MOVEMENT, **FUNCTIONS}.items()},
        }

    # --- what from_tflite calls -----------------------------------------------------------------------------------------------------

    def check_unsupported_ops(self) -> None:
        """Nothing: `tflite_check` has looked at every operator before, more closely than the importer's allow-list."""

    def convert_op_to_relax(self) -> None:
        """Bind the model's inputs, then every operator in order."""
        for index in self.graph.inputs:
            tensor = self.graph.tensors[index]
            self.values[index] = super().get_expr(index)
            hint = self.names.unique(tensor.name)
            self.params.append(hint)
            self.hints[self.values[index]] = hint
            self.table[hint] = _info(tensor)
        for op in self.graph.operators:
            result = self.convert_map[op.kind](op)
            results = result if isinstance(result, list) else [result]
            for index, value in zip(op.outputs, results, strict=True):
                self.bind(self.graph.tensors[index], value, op)

    def get_tensors(self, tensors_idx_list: object) -> list[Tensor]:
        """The model's outputs, as our tensors rather than the importer's wrappers."""
        return [self.graph.tensors[int(i)] for i in tensors_idx_list]  # type: ignore[attr-defined]

    def get_tensor_expr(self, tensor: Tensor, is_sparse: bool = False) -> relax.Expr:
        """The value bound to an output tensor."""
        return self.values[tensor.index]

    def finish(self, mod: tvm.IRModule, name: str) -> tvm.IRModule:
        """The imported module with its names and its `tiny.model`."""
        inputs, outputs = ([_info(self.graph.tensors[i]) for i in ports] for ports in (self.graph.inputs, self.graph.outputs))
        return finish(mod, self.hints, self.params, Sheet(name, "tflite", inputs, outputs, self.table))

    # --- pieces of the form ---------------------------------------------------------------------------------------------------------

    def bind(self, tensor: Tensor, value: relax.Expr, op: Operator) -> None:
        """Bind an operator's final value under its tensor's name."""
        hint = self.names.unique(tensor.name)
        fresh = isinstance(value, relax.Var) and value not in self.hints
        var = value if fresh else self.bb.emit(value, name_hint=hint)
        self.values[tensor.index], self.hints[var] = var, hint
        self.table[hint] = _info(tensor, op)

    def raw(self, tensor: Tensor) -> relax.Expr:
        """The tensor as the file holds it: integers stay integers."""
        return self.values[tensor.index] if tensor.data is None else relax.const(tensor.data)

    def real(self, tensor: Tensor, value: relax.Expr | None = None) -> relax.Expr:
        """The tensor's real values: `d(x)`, or x itself when the file holds float32. `value` replaces x (a reshaped one)."""
        value = self.raw(tensor) if value is None else value
        if tensor.quant is None:
            return value
        if tensor.dtype == "uint8":
            value = self.bb.emit(registry.call("tiny.flip_sign", value), name_hint=self.names.unique(f"{tensor.name}_int8"))
        return self.bb.emit(R.dequantize(value, _scale(tensor.scale), _integer(_int8_zero(tensor)), axis=-1))

    def rounded(self, value: relax.Expr, tensor: Tensor, activation: int = 0) -> relax.Expr:
        """`clip?(q(value))` in the tensor's quantisation; a float tensor gets the activation in float."""
        bounds = activation_range(activation, tensor)
        if tensor.quant is not None:
            value = R.quantize(value, _scale(tensor.scale), _integer(_int8_zero(tensor)), axis=-1, out_dtype="int8")
        if tensor.dtype == "uint8":
            return registry.call("tiny.flip_sign", self.bb.emit(value, name_hint=self.names.unique(f"{tensor.name}_int8")))
        return value if bounds is None else R.clip(self.bb.emit(value), *bounds)

    def biased(self, op: Operator, value: relax.Expr, channels: Channels = ALL) -> relax.Expr:
        """`add(value, d(bias))` when the operator has a bias; of the given output channels."""
        position = 2 if op.kind == "TRANSPOSE_CONV" else 0
        x, weight, bias = self.graph.need(op, position), self.graph.need(op, 1), self.graph.arg(op, 3 if position else 2)
        if bias is None:
            return value
        integers = np.ascontiguousarray(bias.values[channels])
        real = relax.const(integers)
        if x.quant is not None:
            scale = (np.float64(x.scale) * weight.quantization.scale.astype(np.float64)).astype(np.float32)
            real = self.dequantized(integers, scale[channels] if scale.size > 1 else scale, 0)
        return R.add(value, self.bb.emit(real))

    def dequantized(self, data: np.ndarray, scale: np.ndarray, axis: int) -> relax.Expr:
        """`d` of a constant with zero point 0; one scale becomes a scalar."""
        scale = scale if scale.size > 1 else scale[0]
        return R.dequantize(relax.const(data), _scale(scale), _integer(np.zeros_like(scale, np.int32)), axis=axis)

    def weights(self, weight: Tensor, data: np.ndarray, axis: int, channels: Channels = ALL) -> relax.Expr:
        """Weights in the layout of `data`, whose output channels, the given ones of the file's, lie along `axis`."""
        data = np.ascontiguousarray(data)
        if weight.quant is None:
            return relax.const(data)
        scale = weight.quant.scale
        return self.bb.emit(self.dequantized(data, scale[channels] if scale.size > 1 else scale, axis))

    # --- operators: each returns the value (SPLIT: values) to bind under its output's name; the forms are in the module docstring ---

    def convert_conv2d(self, op: Operator) -> relax.Expr:
        """CONV_2D."""
        x, weight = self.graph.need(op, 0), self.graph.need(op, 1)
        if x.shape[3] != weight.shape[3]:
            return converters.grouped_conv2d(self, op)
        return self.convolve(op, self.weights(weight, weight.values, 0), groups=1, kernel_layout="OHWI")

    def convert_depthwise(self, op: Operator) -> relax.Expr:
        """DEPTHWISE_CONV_2D."""
        x, weight = self.graph.need(op, 0), self.graph.need(op, 1)
        kernel = self.weights(weight, weight.values.reshape(*weight.shape[1:], 1), 2)
        return self.convolve(op, kernel, groups=x.shape[3], kernel_layout="HWOI")

    def convolve(
        self, op: Operator, kernel: relax.Expr, *, groups: int, kernel_layout: str, part: relax.Expr | None = None, channels: Channels = ALL
    ) -> relax.Expr:
        """The convolution both kinds share; of `part` of the input instead, for the given output channels."""
        options = op.options
        value = R.nn.conv2d(
            self.real(self.graph.need(op, 0), part),
            kernel,
            strides=[options["stride_h"], options["stride_w"]],
            padding=output_padding(self.graph, op),
            dilation=[options["dilation_h"], options["dilation_w"]],
            groups=groups,
            data_layout="NHWC",
            kernel_layout=kernel_layout,
        )
        return self.rounded(self.biased(op, self.bb.emit(value), channels), self.graph.out(op), options["activation"])

    def convert_fully_connected(self, op: Operator) -> relax.Expr:
        """FULLY_CONNECTED."""
        x, weight, y = self.graph.need(op, 0), self.graph.need(op, 1), self.graph.out(op)
        units, depth = weight.shape
        rows = math.prod(x.shape) // depth
        value = self.raw(x)
        if x.shape != (rows, depth):
            value = self.bb.emit(R.reshape(value, (rows, depth)))
        product = R.matmul(self.real(x, value), self.weights(weight, weight.values.T, 1))
        out = self.rounded(self.biased(op, self.bb.emit(product)), y, op.options["activation"])
        return out if y.shape == (rows, units) else R.reshape(self.bb.emit(out), y.shape)

    def convert_pool(self, op: Operator, pool: Callable[..., relax.Expr]) -> relax.Expr:
        """AVERAGE_POOL_2D, MAX_POOL_2D."""
        options = op.options
        value = pool(
            self.real(self.graph.need(op, 0)),
            pool_size=[options["filter_h"], options["filter_w"]],
            strides=[options["stride_h"], options["stride_w"]],
            padding=output_padding(self.graph, op),
            layout="NHWC",
        )
        return self.rounded(value, self.graph.out(op), options["activation"])

    def convert_cast(self, op: Operator) -> relax.Expr:
        """QUANTIZE, DEQUANTIZE."""
        return self.rounded(self.real(self.graph.need(op, 0)), self.graph.out(op))


def _int8_zero(tensor: Tensor) -> int:
    """The zero point of a quantised tensor's int8 form: uint8 counts from 128 less."""
    return tensor.zero_point - 128 if tensor.dtype == "uint8" else tensor.zero_point


def _info(tensor: Tensor, op: Operator | None = None) -> TensorInfo:
    scale, zero_point = (None, None) if tensor.quant is None else (tensor.scale, tensor.zero_point)
    kind, node = ("INPUT", -1) if op is None else (op.kind, op.index)
    return TensorInfo(tensor.name, tensor.shape, tensor.dtype, scale, zero_point, kind, node)
