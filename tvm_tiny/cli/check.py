# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny check`: can this model be compiled, and if not, every reason; without a model, the table of supported operators."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from tvm_tiny.cli.guard import AsJson, Debug, emit
from tvm_tiny.errors import UnsupportedModelError

if TYPE_CHECKING:
    from tvm_tiny.frontend.check import CheckResult, SupportedOperator


def check(
    model: Annotated[Path | None, typer.Argument(help="A .tflite or .onnx file; none: print the supported operators.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say whether MODEL can be compiled, with every reason why not."""
    from tvm_tiny.frontend import check as frontend

    if model is None:
        known = frontend.supported_operators()
        emit(as_json, {"operators": [asdict(o) for o in known]}, lambda console: _show_operators(console, known))
        return
    result = frontend.check(model)
    emit(as_json, {**asdict(result), "ok": result.ok}, lambda console: _show_result(console, result))
    if not result.ok:
        raise typer.Exit(UnsupportedModelError.exit_code)


def _show_operators(console: Console, known: list[SupportedOperator]) -> None:
    table = Table("format", "operator", "activations", "limits")
    for operator in known:
        table.add_row(operator.format, operator.name, operator.dtypes, operator.notes)
    console.print(table)


def _show_result(console: Console, result: CheckResult) -> None:
    table = Table("operator", "times", "supported", title=f"{result.name} ({result.format})", title_justify="left")
    for use in result.operators:
        table.add_row(use.name, str(use.count), "yes" if use.supported else "[red]no[/]")
    console.print(table)
    for number, problem in enumerate(result.problems, 1):
        console.print(f"{number}. {problem}", markup=False, highlight=False, soft_wrap=True)
    verdict = "it can be compiled" if result.ok else f"{len(result.problems)} reasons why it can't be compiled"
    console.print(f"{result.name}: {verdict}", markup=False)
