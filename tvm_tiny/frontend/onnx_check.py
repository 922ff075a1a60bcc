# SPDX-License-Identifier: Apache-2.0
"""Which ONNX models the compiler takes: int8 in QDQ form; every check, before TVM's importer sees the model."""

from __future__ import annotations

import math

from onnx import TensorProto

from tvm_tiny.errors import Problem
from tvm_tiny.frontend.onnx_operators import QDQ, RULES, Site, dtype_name
from tvm_tiny.frontend.onnx_reader import MAX_TENSOR_BYTES, OnnxGraph
from tvm_tiny.frontend.problems import QUANTISE, Report

MIN_OPSET, MAX_RANK = 10, 8
_TABLE = "`tvm-tiny check` lists the supported operators"
_QOPERATORS = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}


def check_onnx(graph: OnnxGraph) -> Report:
    """Everything that keeps the model from being compiled."""
    report = Report()
    _check_model(graph, report)
    for node in graph.model.graph.node:
        _check_node(Site(graph, node, report))
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
            model(f"an input of dtype {dtype_name(graph.dtypes.get(port))} (int8 or float32)", QDQ, port)
    computed = {o for n in nodes for o in n.output}
    for port in graph.outputs:
        if port not in computed:
            model("no operator computes this output (an input or a constant)", "remove the output", port)


def _qoperator(kind: str) -> bool:
    return kind in _QOPERATORS or kind.startswith(("QLinear", "QGemm"))


def _check_node(site: Site) -> None:
    node, graph = site.node, site.graph
    if _qoperator(node.op_type):
        site.problem("this form of a QOperator is not supported", QDQ)
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
            site.report.contradictions.append(f"{site.title}: {name!r} has shape {list(shape)}")
            return
    RULES[node.op_type][0](site)
