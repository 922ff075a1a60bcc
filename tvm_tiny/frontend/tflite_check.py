# SPDX-License-Identifier: Apache-2.0
"""Which TFLite models the compiler takes: every operator, dtype, attribute and shape, checked before TVM sees any of it.

`check_graph` walks the whole graph and never stops at the first finding. Operators are looked up in `RULES` (`tflite_operators`); what
holds for all of them (operands defined before use, dtypes, quantisation, static shapes) is checked here.
"""

from __future__ import annotations

from collections.abc import Iterable

from tvm_tiny.errors import Problem
from tvm_tiny.frontend.graph import Graph, Operator, Tensor
from tvm_tiny.frontend.problems import QUANTISE, Report
from tvm_tiny.frontend.tflite_operators import RULES
from tvm_tiny.frontend.tflite_site import Rule, Site

_TABLE = "`tvm-tiny check` lists the supported operators"
_STATE = "it keeps state between runs: use convolutions over a window of time instead"
# Operators people bring that have no place here, and what to do instead.
_INSTEAD = {
    ("LSTM", "RNN", "SVDF", "UNIDIRECTIONAL_", "BIDIRECTIONAL_", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"): _STATE,
    ("IF", "WHILE", "CALL_ONCE"): "control flow: export the branch that runs by itself",
    ("CUSTOM 'TFLite_Detection_PostProcess", "NON_MAX_SUPPRESSION"): "end the model before it, and choose boxes in the application",
    ("CUSTOM 'ethos-u'", "CUSTOM 'edgetpu"): "the model was compiled for an accelerator: give the file from before that",
    ("CUSTOM 'Signal",): "compute the features in the application; compile the network behind them",
    ("CUSTOM 'Flex",): "convert again without SELECT_TF_OPS",
    ("LOG_SOFTMAX",): "end the model with SOFTMAX, or before it: the order of the classes is the same",
    ("L2_NORMALIZATION",): "end the model before it, and normalise in the application",
    ("CAST",): "keep one dtype from the input to the output",
}
_DTYPE_REMEDY = {
    "uint8": "convert again with int8 quantisation (only inputs and outputs of the model may be uint8)",
    "int16": "convert again with 8-bit activations",
    "float16": "convert from the float32 model, without float16 quantisation",
    "int4": "convert again with 8-bit weights",
}


def check_graph(graph: Graph) -> Report:
    """Everything that keeps `graph` from being compiled; an empty report means the converter can take it."""
    report = Report()
    _check_ports(graph, report)
    defined = {*graph.inputs}
    for op in graph.operators:
        _check_operator(graph, op, defined, report)
        defined.update(op.outputs)
    _check_outputs(graph, report)
    _check_quantised(graph, report)
    return report


def _model(report: Report, reason: str, remedy: str = "", tensors: Iterable[str] = ()) -> None:
    report.problems.append(Problem("model", tuple(tensors), reason, remedy))


def _check_ports(graph: Graph, report: Report) -> None:
    if graph.subgraphs > 1:
        _model(report, f"{graph.subgraphs} subgraphs (control flow or several signatures); one is supported", "export a single signature")
    if not graph.operators or not graph.inputs or not graph.outputs:
        lacking = [n for n, v in (("operators", graph.operators), ("inputs", graph.inputs), ("outputs", graph.outputs)) if not v]
        _model(report, f"it has no {' and no '.join(lacking)}", "export the model with its inputs and outputs")
    if len(set(graph.inputs)) != len(graph.inputs) or len(set(graph.outputs)) != len(graph.outputs):
        report.contradictions.append("a tensor occurs twice among the inputs or outputs")
    names = [graph.tensors[i].name for i in graph.inputs]
    for name in sorted({n for n in names if names.count(n) > 1}):
        _model(report, "several inputs have this name", "give every input its own name", [name])
    for index in graph.inputs:
        _check_input(graph.tensors[index], report)


def _check_input(tensor: Tensor, report: Report) -> None:
    def problem(reason: str, remedy: str) -> None:
        report.problems.append(Problem("input", (tensor.name,), reason, remedy))

    if tensor.data is not None:
        report.contradictions.append(f"input {tensor.name!r} holds constant data")
    fixed = "convert with a fixed input shape; only the batch (first) dimension may be unknown, and is then 1"
    if -1 in tensor.shape or any(extent == -1 for extent in tensor.signature[1:]):
        problem(f"dynamic shape {list(tensor.signature or tensor.shape)}", fixed)
    elif 0 in tensor.shape or not tensor.shape:
        problem(f"shape {list(tensor.shape)} holds nothing to compute on", fixed)


def _check_outputs(graph: Graph, report: Report) -> None:
    produced = {index for op in graph.operators for index in op.outputs}
    for index in graph.outputs:
        if index not in produced:
            name = graph.tensors[index].name
            report.problems.append(Problem("output", (name,), "no operator computes it (an input or a constant)", "remove this output"))


def _check_quantised(graph: Graph, report: Report) -> None:
    used = [graph.tensors[i] for op in graph.operators for i in (*op.inputs, *op.outputs) if i >= 0]
    # int8 weights alone are dynamic-range quantisation, which is reported at the operators that use them.
    if used and all(t.quant is None for t in used):
        _model(report, "no tensor is quantised: this is a float model", QUANTISE)


def _check_operator(graph: Graph, op: Operator, defined: set[int], report: Report) -> None:
    site = Site(graph, op, report)
    rule = RULES.get(op.kind)
    if rule is None:
        custom = op.kind.startswith("CUSTOM")
        remedy = next((text for kinds, text in _INSTEAD.items() if op.kind.startswith(kinds)), _TABLE)
        site.problem("custom operators are not supported" if custom else "the operator is not supported", remedy)
        return
    before = len(report.problems), len(report.contradictions)
    _check_operands(site, rule, defined)
    if (len(report.problems), len(report.contradictions)) != before:
        return
    _check_dtypes(site, rule)
    if (len(report.problems), len(report.contradictions)) == before:
        rule.check(site)


def _check_operands(site: Site, rule: Rule, defined: set[int]) -> None:
    graph, op = site.graph, site.op
    low, high = rule.inputs
    if not low <= len(op.inputs) <= high or (not op.outputs if rule.outputs == 0 else len(op.outputs) != rule.outputs):
        site.contradiction(f"it has {len(op.inputs)} inputs and {len(op.outputs)} outputs")
        return
    if any(index < 0 for index in op.inputs[:low]):
        site.contradiction("an input it can't do without is absent")
    for index in (i for i in op.inputs if i >= 0):
        tensor = graph.tensors[index]
        if tensor.data is None and index not in defined:
            site.contradiction(f"input {tensor.name!r} is used before it is computed")
    for index in op.outputs:
        if index in defined or graph.tensors[index].data is not None or op.outputs.count(index) > 1:
            site.contradiction(f"output {graph.tensors[index].name!r} is already an input, a constant or another operator's output")
    for tensor in site.tensors():
        _check_tensor(site, tensor)


def _check_tensor(site: Site, tensor: Tensor) -> None:
    if tensor.variable:
        site.problem("variable tensors (state between runs) are not supported", "export a stateless model", tensor)
    if tensor.sparse:
        site.problem("sparse tensors are not supported", "export with dense weights", tensor)
    if -1 in tensor.shape:
        site.problem(f"dynamic shape {list(tensor.shape)}", "convert with a fixed input shape", tensor)
    elif 0 in tensor.shape and tensor.data is None:
        site.problem(f"shape {list(tensor.shape)} holds no elements", "remove the operator", tensor)
    lowest = {"int8": -128, "uint8": 0}.get(tensor.dtype)
    if lowest is not None and tensor.quant is not None and not all(lowest <= z < lowest + 256 for z in tensor.quant.zero_point):
        site.contradiction(f"the zero point of {tensor.name!r} is no {tensor.dtype}")


def _check_dtypes(site: Site, rule: Rule) -> None:
    operands = [site.arg(i) for i in rule.data]
    outputs = [site.graph.tensors[i] for i in site.op.outputs]
    data = [t for t in operands if t is not None] + ([] if rule.results else outputs)
    for tensor in outputs if rule.results else ():
        if tensor.dtype != rule.results:
            site.problem(f"dtype {tensor.dtype} is not supported here ({rule.results})", f"export with {rule.results}", tensor)
    for tensor in data:
        _check_data(site, tensor, ("int8", "uint8", "float32") if rule.mixed else ("int8", "float32"))
    kinds = {t.dtype for t in data}
    if rule.mixed or not kinds <= {"int8", "float32"}:
        return
    if len(kinds) > 1:
        site.problem("int8 and float32 tensors are mixed in one operator", QUANTISE)


def _check_data(site: Site, tensor: Tensor, allowed: tuple[str, ...]) -> None:
    if tensor.dtype not in allowed:
        remedy = _DTYPE_REMEDY.get(tensor.dtype, "convert with int8 quantisation")
        site.problem(f"dtype {tensor.dtype} is not supported here ({', '.join(allowed[:-1])} or {allowed[-1]})", remedy, tensor)
    elif tensor.dtype != "float32" and tensor.quant is None:
        site.problem(f"an {tensor.dtype} tensor without scale and zero point", "convert again with full-integer quantisation", tensor)
    elif tensor.dtype == "float32" and tensor.quant is not None:
        site.contradiction(f"float32 tensor {tensor.name!r} has a scale")
    elif tensor.quant is not None and tensor.quant.per_channel:
        site.problem("activations are quantised per channel; only weights may be", "convert again with per-tensor activations", tensor)
