# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny check`: what a model uses, what of it is supported, and the table of everything supported."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tvm_tiny.errors import ModelFormatError, Problem, ToolchainError
from tvm_tiny.frontend import read_source
from tvm_tiny.frontend.problems import Report
from tvm_tiny.frontend.tflite_check import check_graph
from tvm_tiny.frontend.tflite_operators import RULES as TFLITE_RULES
from tvm_tiny.frontend.tflite_reader import is_tflite, read_graph
from tvm_tiny.frontend.tflite_shapes import fold_shapes


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
    if sniff(data, name) == "tflite":
        graph = fold_shapes(read_graph(data))
        report, kinds, known = check_graph(graph), [op.kind for op in graph.operators], set(TFLITE_RULES)
        return _result(name, "tflite", report, kinds, known)
    require_onnx(name)
    from tvm_tiny.frontend.onnx_check import check_onnx
    from tvm_tiny.frontend.onnx_operators import REPLACED
    from tvm_tiny.frontend.onnx_operators import RULES as ONNX_RULES
    from tvm_tiny.frontend.onnx_reader import read_onnx

    model = read_onnx(data)
    return _result(name, "onnx", check_onnx(model), [kind for kind, _ in model.source], {*ONNX_RULES, *REPLACED})


def _result(name: str, source: str, report: Report, kinds: list[str], known: set[str]) -> CheckResult:
    if not report.problems:
        report.raise_if_any()
    uses = tuple(OperatorUse(kind, count, kind in known) for kind, count in sorted(Counter(kinds).items()))
    return CheckResult(name, source, uses, tuple(report.problems))


def supported_operators() -> list[SupportedOperator]:
    """Every supported operator, by format and name (ONNX's only where `onnx` is installed)."""
    rows = [SupportedOperator("tflite", kind, _dtypes(kind), rule.notes) for kind, rule in sorted(TFLITE_RULES.items())]
    try:
        from tvm_tiny.frontend.onnx_operators import RULES as ONNX_RULES
    except ImportError:
        return rows
    return rows + [SupportedOperator("onnx", kind, _dtypes(kind), notes) for kind, (_, notes) in sorted(ONNX_RULES.items())]


def _dtypes(kind: str) -> str:
    special = {"QUANTIZE": "float32, int8 → int8", "DEQUANTIZE": "int8 → float32"}
    special |= {"QuantizeLinear": special["QUANTIZE"], "DequantizeLinear": special["DEQUANTIZE"]}
    return special.get(kind, "int8 (float32 as an island)")


_LFS_POINTER = b"version https://git-lfs"


def sniff(data: bytes, name: str) -> str:
    """ "tflite" or "onnx", by content.

    Errors
    ------
    ModelFormatError
        It is neither.
    """
    if is_tflite(data):
        return "tflite"
    # Field 1 of an ONNX ModelProto is ir_version, a small number, and every writer puts it first.
    if len(data) > 16 and data[0] == 0x08 and 3 <= data[1] <= 32:
        return "onnx"
    if data.startswith(_LFS_POINTER):
        raise ModelFormatError(f"{name}: a Git LFS pointer, not the model itself", remedy="run `git lfs pull` where it was cloned")
    raise ModelFormatError(
        f"{name}: not a model (neither a TFLite FlatBuffer nor an ONNX protobuf)", remedy="give a .tflite or .onnx file, whole and unpacked"
    )


def require_onnx(name: str) -> None:
    """Raise `ToolchainError` with the remedy where the optional package `onnx` is not installed."""
    if find_spec("onnx") is None:
        raise ToolchainError(f"{name} is an ONNX model, but the package onnx is not installed", remedy="pip install 'tvm_tiny[onnx]'")
