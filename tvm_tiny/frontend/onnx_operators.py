# SPDX-License-Identifier: Apache-2.0
"""The supported ONNX operators: for each the check of its attributes and operands, and its restrictions for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from tvm_tiny.errors import Problem
from tvm_tiny.frontend.onnx_qoperator import RULES as QOPERATORS
from tvm_tiny.frontend.onnx_reader import OnnxGraph, attributes_of, number_of
from tvm_tiny.frontend.problems import Report

QDQ = "quantise in QDQ form instead: quantize_static(…, quant_format=QuantFormat.QDQ, activation_type=QInt8, weight_type=QInt8)"


@dataclass(frozen=True)
class Site:
    """One node under check, and where findings go."""

    graph: OnnxGraph
    node: Any
    report: Report

    @property
    def title(self) -> str:
        """Number, operator and name of the file's node, and what became of it if that is checked."""
        number = number_of(self.node)
        kind, name = self.graph.source[number] if 0 <= number < len(self.graph.source) else (self.node.op_type, self.node.name)
        became = "" if kind == self.node.op_type else f" (as {self.node.op_type})"
        return f"node {number} {kind}" + (f" {name!r}" if name else "") + became

    @property
    def attributes(self) -> dict[str, Any]:
        """The node's attributes."""
        return attributes_of(self.node)

    def problem(self, reason: str, remedy: str = "", *tensors: str) -> None:
        """Something unsupported, about `tensors` (the outputs when none are given)."""
        self.report.problems.append(Problem(self.title, tensors or tuple(self.node.output), reason, remedy))

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
    if min(site.rank(0), site.rank(1)) < 2:
        site.problem(f"operands of {site.rank(0)} and {site.rank(1)} dimensions (two at least)", "reshape them, or export as Gemm")


def _gather(site: Site) -> None:
    site.constant(1, "the indices")


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
        site.problem(f"{dtype_name(integers)} is not supported (only int8)", QDQ)
    elif integers == TensorProto.INT32 and x not in site.graph.constants:
        site.problem("int32 activations are not supported (only int8)", QDQ)
    if scale is not None and (not np.all(np.isfinite(scale)) or np.any(scale <= 0)):
        site.report.contradictions.append(f"{site.title}: a scale that is not a positive number")
    if scale is not None and scale.size > 1:
        if x not in site.graph.constants:
            site.problem("activations are quantised per channel; only weights may be", QDQ)
        elif zero is not None and np.any(zero != 0):
            site.problem("weights with a zero point other than 0", QDQ)


def dtype_name(dtype: int | None) -> str:
    """A dtype of ONNX in words."""
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


REPLACED = frozenset({"Constant", "Identity", "Dropout", *QOPERATORS})
"""Operators that others take the place of before the checks."""


def _any(site: Site) -> None:
    """No restriction."""


_FLOAT = "computed in float unless one operand is one number"

RULES: dict[str, tuple[Callable[[Site], None], str]] = {
    **{kind: (_any, "") for kind in ("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "Log", "Neg", "Reciprocal", "Sin", "Sqrt")},
    **{kind: (_any, _FLOAT) for kind in ("Div", "Max", "Min", "Pow")},
    **{kind: (_reduce, "constant axes") for kind in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")},
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
    "Gather": (_gather, "constant indices"),
    "Gemm": (_gemm, "constant weights, alpha = beta = 1"),
    "GlobalAveragePool": (_global_pool, "one or two dimensions"),
    "GlobalMaxPool": (_left, "one or two dimensions"),
    "HardSigmoid": (_left, "opset 11"),
    "HardSwish": (_any, ""),
    "LeakyRelu": (_any, ""),
    "MatMul": (_matmul, "constant weights, or two computed operands"),
    "MaxPool": (_pool, "one or two dimensions, no ceil_mode, no indices"),
    "Mul": (_any, "broadcasting"),
    "PRelu": (_left, "opset 11, constant slopes"),
    "Pad": (_pad, "constant padding and value"),
    "QuantizeLinear": (_quantise, "to int8, per tensor"),
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
