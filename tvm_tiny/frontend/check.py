# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny check`: what a model uses, what of it is supported, and the table of everything supported."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tvm_tiny.errors import ModelFormatError, Problem
from tvm_tiny.frontend import read_source
from tvm_tiny.frontend.tflite_check import check_graph
from tvm_tiny.frontend.tflite_operators import RULES
from tvm_tiny.frontend.tflite_reader import is_tflite, read_graph


@dataclass(frozen=True)
class SupportedOperator:
    """One row of the table of supported operators. `dtypes` are those of its activations."""

    format: str
    name: str
    dtypes: str
    notes: str


@dataclass(frozen=True)
class OperatorUse:
    """How often a model uses an operator, and whether the operator as such is supported."""

    name: str
    count: int
    supported: bool


@dataclass(frozen=True)
class CheckResult:
    """What `check` found out about one model file."""

    name: str
    format: str
    operators: tuple[OperatorUse, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether the model can be compiled."""
        return not self.problems


def check(source: str | Path | bytes) -> CheckResult:
    """Look at a model without compiling it.

    Errors
    ------
    InputError
        The file can't be read.
    ModelFormatError
        Not a model, truncated, damaged, or contradicting itself. (What is merely unsupported is in the result.)
    """
    data, name = read_source(source)
    if not is_tflite(data):
        raise not_a_model(name)
    graph = read_graph(data)
    report = check_graph(graph)
    if not report.problems:
        report.raise_if_any()
    counts = Counter(op.kind for op in graph.operators)
    uses = tuple(OperatorUse(kind, count, kind in RULES) for kind, count in sorted(counts.items()))
    return CheckResult(name, "tflite", uses, tuple(report.problems))


def supported_operators() -> list[SupportedOperator]:
    """Every supported operator, by format and name."""
    return [SupportedOperator("tflite", kind, _dtypes(kind), rule.notes) for kind, rule in sorted(RULES.items())]


def _dtypes(kind: str) -> str:
    return {"QUANTIZE": "float32, int8 → int8", "DEQUANTIZE": "int8 → float32"}.get(kind, "int8 (float32 as an island)")


def not_a_model(name: str) -> ModelFormatError:
    """The error for a file that is neither TFLite nor ONNX."""
    return ModelFormatError(
        f"{name}: not a model (neither a TFLite FlatBuffer nor an ONNX protobuf)", remedy="give a .tflite or .onnx file, whole and unpacked"
    )
