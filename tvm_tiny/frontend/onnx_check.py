# SPDX-License-Identifier: Apache-2.0
"""Which ONNX models the compiler takes: int8 in QDQ form. Reading and every check, before TVM's importer sees the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tvm_tiny.errors import ModelFormatError, Problem
from tvm_tiny.frontend.naming import TensorInfo
from tvm_tiny.frontend.onnx_batch_norm import fold_batch_norms
from tvm_tiny.frontend.onnx_rewrites import rewrite_operators
from tvm_tiny.frontend.onnx_uint8 import to_int8
from tvm_tiny.frontend.problems import QUANTISE, Report

MIN_OPSET, MAX_RANK, MAX_TENSOR_BYTES = 10, 8, 1 << 30
_QDQ = "quantise in QDQ form instead: quantize_static(…, quant_format=QuantFormat.QDQ, activation_type=QInt8, weight_type=QInt8)"
_TABLE = "`tvm-tiny check` lists the supported operators"
_QOPERATORS = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}
_DTYPES = {TensorProto.FLOAT: "float32", TensorProto.INT8: "int8", TensorProto.UINT8: "uint8", TensorProto.INT32: "int32"}


@dataclass
class OnnxGraph:
    """A parsed ONNX model with inferred shapes and its constants; `unsigned` are the inputs and outputs that are uint8 in the file."""

    model: Any
    opset: int
    constants: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    unsigned: frozenset[str] = frozenset()

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
        _batch_of_one(model)
        _resolve(model)
        fold_batch_norms(model)
        unsigned = to_int8(model)
        rewrite_operators(model)
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model)  # After inference: writers may leave the shapes of outputs out.
        constants = _constants(model)
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        graph = OnnxGraph(model, opset, constants, unsigned=unsigned)
        _shapes(graph)
    except Exception as error:
        text = str(error).strip().splitlines()
        reason = text[0][:200] if text else type(error).__name__
        raise ModelFormatError(
            f"damaged ONNX file: {reason}", remedy="the file is truncated or damaged; export or copy it again"
        ) from error
    return graph


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


# --- checks -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """One node under check, and where findings go."""

    graph: OnnxGraph
    node: Any
    index: int
    report: Report

    @property
    def attributes(self) -> dict[str, Any]:
        """The node's attributes."""
        return attributes_of(self.node)

    def problem(self, reason: str, remedy: str = "", *tensors: str) -> None:
        """Something unsupported, about `tensors` (the outputs when none are given)."""
        name = f"node {self.index} {self.node.op_type}" + (f" {self.node.name!r}" if self.node.name else "")
        self.report.problems.append(Problem(name, tensors or tuple(self.node.output), reason, remedy))

    def constant(self, position: int, what: str) -> np.ndarray | None:
        """A constant operand; None when absent, or after reporting that it is computed."""
        if position >= len(self.node.input) or not self.node.input[position]:
            return None
        name = self.node.input[position]
        if name not in self.graph.constants:
            self.problem(f"{what} must be constant, but is computed at run time", "export with constant attributes", name)
            return None
        return self.graph.constants[name]

    def only(self, **allowed: object) -> None:
        """Attributes that may only have the given value."""
        for key, value in allowed.items():
            got = self.attributes.get(key, value)
            if got != value and not (isinstance(got, list) and all(g == value for g in got)):
                self.problem(f"{key}={got} is not supported (only {value})", "export the operator differently")

    def rank(self, position: int = 0) -> int:
        """The rank of an operand."""
        return len(self.graph.shape(self.node.input[position]))


def _fixed(site: Site) -> np.ndarray | None:
    """The weights behind a DequantizeLinear (or float weights), which must be constant."""
    name = site.node.input[1]
    producer = next((n for n in site.graph.model.graph.node if name in n.output), None)
    while producer is not None and producer.op_type in ("DequantizeLinear", "QuantizeLinear", "Transpose", "Reshape"):
        name = producer.input[0]
        producer = next((n for n in site.graph.model.graph.node if name in n.output), None)
    if name not in site.graph.constants:
        site.problem("weights must be constant, but are computed at run time", "export with constant weights", site.node.input[1])
        return None
    return site.graph.constants[name]


def _conv(site: Site) -> None:
    if site.rank() != 4:
        site.problem(f"a convolution over {site.rank() - 2} dimensions (only two)", "reshape to two spatial dimensions")
        return
    if site.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        site.problem("auto_pad is not supported", "export with explicit pads")
    groups = site.attributes.get("group", 1)
    channels = site.graph.shape(site.node.input[0])[1]
    if groups not in (1, channels):
        site.problem(f"grouped convolution ({groups} groups) is not supported", "use a depthwise or one convolution a group")
    _fixed(site)


def _gemm(site: Site) -> None:
    site.only(alpha=1.0, beta=1.0, transA=0)
    _fixed(site)


def _matmul(site: Site) -> None:
    if site.rank(1) != 2:
        site.problem(f"the second operand has {site.rank(1)} dimensions (only two)", "export as Gemm with constant weights")
    _fixed(site)


def _pool(site: Site) -> None:
    site.only(ceil_mode=0, dilations=1, storage_order=0)
    if len(site.node.output) > 1:
        site.problem("indices as a second output", "export without return_indices")
    if site.rank() != 4:
        site.problem(f"a pool over {site.rank() - 2} dimensions (only two)", "reshape to two spatial dimensions")
    if site.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        site.problem("auto_pad is not supported", "export with explicit pads")
    if site.attributes.get("count_include_pad", 0) and any(site.attributes.get("pads", [])):
        site.problem("an average over padding (count_include_pad) is not supported", "export with count_include_pad = 0")


def _global_pool(site: Site) -> None:
    if site.rank() != 4:
        site.problem(f"a pool over {site.rank() - 2} dimensions (only two)", "reshape to two spatial dimensions")


def _quantise(site: Site) -> None:
    site.only(block_size=0)
    scale, zero = site.constant(1, "the scale"), site.constant(2, "the zero point")
    x, dtype = site.node.input[0], site.graph.dtypes.get(site.node.input[2]) if len(site.node.input) > 2 else TensorProto.UINT8
    integers = site.graph.dtypes.get(site.node.output[0] if site.node.op_type == "QuantizeLinear" else x, dtype)
    if integers not in (TensorProto.INT8, TensorProto.INT32):
        site.problem(f"{_name(integers)} is not supported (only int8)", _QDQ)
    elif integers == TensorProto.INT32 and x not in site.graph.constants:
        site.problem("int32 activations are not supported (only int8)", _QDQ)
    if scale is not None and (not np.all(np.isfinite(scale)) or np.any(scale <= 0)):
        site.report.contradictions.append(f"node {site.index} {site.node.op_type}: a scale that is not a positive number")
    if scale is not None and scale.size > 1:
        if x not in site.graph.constants:
            site.problem("activations are quantised per channel; only weights may be", _QDQ)
        elif zero is not None and np.any(zero != 0):
            site.problem("weights with a zero point other than 0", _QDQ)


def _name(dtype: int | None) -> str:
    return "an unknown dtype" if dtype is None else TensorProto.DataType.Name(dtype).lower()


def _clip(site: Site) -> None:
    for position, what in ((1, "the lower bound"), (2, "the upper bound")):
        site.constant(position, what)


def _second(what: str) -> Callable[[Site], None]:
    def check(site: Site) -> None:
        site.constant(1, what)

    return check


def _slice(site: Site) -> None:
    for position, what in ((1, "starts"), (2, "ends"), (3, "axes")):
        site.constant(position, what)
    steps = site.constant(4, "steps")
    if steps is not None and np.any(steps < 1):
        site.problem("negative steps are not supported", "slice forwards")


def _pad(site: Site) -> None:
    site.only(mode=b"constant")
    for position, what in ((1, "the padding"), (2, "the padding value"), (3, "axes")):
        site.constant(position, what)
    if all(not n or n in site.graph.constants for n in site.node.input[1:]) and min(site.graph.padding(site.node)[0], default=0) < 0:
        site.problem("negative padding is not supported", "use Slice")


def _resize(site: Site) -> None:
    if site.attributes.get("mode", b"nearest") == b"linear":
        modes = (b"half_pixel", b"asymmetric", b"align_corners")
        if (mode := site.attributes.get("coordinate_transformation_mode", b"half_pixel")) not in modes:
            site.problem(f"coordinate_transformation_mode={mode!r} is not supported", f"one of {b', '.join(modes).decode()}")
        site.only(antialias=0)
    else:
        site.only(mode=b"nearest")
    for position, what in ((2, "scales"), (3, "sizes")):
        site.constant(position, what)
    shapes = [site.graph.shape(n) for n in (site.node.input[0], site.node.output[0])]
    if site.rank() != 4 or shapes[0][:2] != shapes[1][:2]:
        site.problem("a resize of anything but height and width", "resize the last two of four dimensions")


def _reduce(site: Site) -> None:
    site.constant(1, "the axes")
    if len(site.graph.shape(site.node.output[0])) == 0:
        site.problem("reducing to a single number is not supported", "keep at least one dimension")


def _batch_norm(site: Site) -> None:
    """What `fold_batch_norms` and `rewrite_operators` have left."""
    site.problem("it is not constant, or not over an image", "fold batch normalisation into the weights before quantising")


def _left(site: Site) -> None:
    """What `rewrite_operators` has left: a form that it does not take."""
    site.problem("this form of it is not supported", f"supported: {RULES[site.node.op_type][1]}")


def _any(site: Site) -> None:
    """No restriction."""


RULES: dict[str, tuple[Callable[[Site], None], str]] = {
    "Add": (_any, "broadcasting"),
    "AveragePool": (_pool, "one or two dimensions, no ceil_mode"),
    "BatchNormalization": (_batch_norm, "four dimensions, constant, opset 13"),
    "Clip": (_clip, "constant bounds"),
    "Concat": (_any, ""),
    "Conv": (_conv, "one or two dimensions, constant weights, at most 64 groups"),
    "ConvTranspose": (_left, "two dimensions, constant weights, one group, no dilation, opset 13"),
    "DepthToSpace": (_left, "four dimensions"),
    "DequantizeLinear": (_quantise, "int8 activations per tensor; int8 weights and int32 biases per tensor or channel"),
    "Flatten": (_any, ""),
    "Gemm": (_gemm, "constant weights, alpha = beta = 1"),
    "GlobalAveragePool": (_global_pool, "one or two dimensions"),
    "GlobalMaxPool": (_left, "one or two dimensions"),
    "HardSigmoid": (_left, "opset 11"),
    "HardSwish": (_any, ""),
    "LeakyRelu": (_any, ""),
    "MatMul": (_matmul, "constant two-dimensional weights"),
    "MaxPool": (_pool, "one or two dimensions, no ceil_mode, no indices"),
    "Mul": (_any, "broadcasting"),
    "PRelu": (_left, "opset 11; computed in float unless the slope is one number"),
    "Pad": (_pad, "constant padding and value"),
    "QuantizeLinear": (_quantise, "to int8, per tensor"),
    "ReduceMean": (_reduce, "constant axes"),
    "Relu": (_any, ""),
    "Reshape": (_second("the new shape"), "constant shape"),
    "Resize": (_resize, "nearest or linear, height and width, constant size"),
    "Sigmoid": (_any, ""),
    "Slice": (_slice, "constant bounds, positive steps"),
    "Softmax": (_any, "along one axis"),
    "SpaceToDepth": (_left, "four dimensions"),
    "Split": (_second("the sizes"), "constant sizes"),
    "Squeeze": (_second("the axes"), "constant axes"),
    "Sub": (_any, "broadcasting"),
    "Tanh": (_any, ""),
    "Transpose": (_any, ""),
    "Unsqueeze": (_second("the axes"), "constant axes"),
}


def check_onnx(graph: OnnxGraph) -> Report:
    """Everything that keeps the model from being compiled."""
    report = Report()
    _check_model(graph, report)
    for index, node in enumerate(graph.model.graph.node):
        _check_node(Site(graph, node, index, report))
    return report


def _check_model(graph: OnnxGraph, report: Report) -> None:
    def model(reason: str, remedy: str, *tensors: str) -> None:
        report.problems.append(Problem("model", tensors, reason, remedy))

    nodes = graph.model.graph.node
    if graph.opset < MIN_OPSET:
        model(f"opset {graph.opset} (QDQ needs {MIN_OPSET}, per-channel weights 13)", "export with a newer opset")
    if not nodes or not graph.inputs or not graph.outputs:
        model("it has no nodes, inputs or outputs", "export the model with its inputs and outputs")
    kinds = {n.op_type for n in nodes}
    if nodes and "DequantizeLinear" not in kinds and not any(_qoperator(k) for k in kinds):
        model("no tensor is quantised: this is a float model", QUANTISE)
    for port in graph.inputs:
        if graph.shapes.get(port) is None:
            model("dynamic shape", "export with a fixed input shape; only the batch (first) dimension may be unknown, and is then 1", port)
        if graph.dtypes.get(port) not in (TensorProto.FLOAT, TensorProto.INT8):
            model(f"an input of dtype {_name(graph.dtypes.get(port))} (int8 or float32)", _QDQ, port)
    computed = {o for n in nodes for o in n.output}
    for port in graph.outputs:
        if port not in computed:
            model("no operator computes this output (an input or a constant)", "remove the output", port)


def _qoperator(kind: str) -> bool:
    return kind in _QOPERATORS or kind.startswith(("QLinear", "QGemm"))


def _check_node(site: Site) -> None:
    node, graph = site.node, site.graph
    if _qoperator(node.op_type):
        site.problem("the QOperator form is not supported", _QDQ)
        return
    if node.domain not in ("", "ai.onnx") or node.op_type not in RULES:
        site.problem("the operator is not supported", _TABLE)
        return
    for name in (*node.input, *node.output):
        shape = graph.shapes.get(name) if name else ()
        if shape is None:
            site.problem("dynamic shape", "export with a fixed input shape", name)
            return
        if len(shape) > MAX_RANK or math.prod(shape) * 4 > MAX_TENSOR_BYTES:
            site.report.contradictions.append(f"node {site.index} {node.op_type}: {name!r} has shape {list(shape)}")
            return
    RULES[node.op_type][0](site)
