# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny compile`: a trained model to plain C, in Model Library Format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tvm_tiny.cli.building import (
    BoardName,
    Camera,
    ConstantTime,
    Disable,
    Explain,
    Flash,
    MaxOverhead,
    Model,
    Name,
    Optimize,
    RecordsFile,
    Sram,
    Target,
    build_model,
    camera_of,
    explanation_of,
    records_of,
)
from tvm_tiny.cli.guard import AsJson, Debug, emit


def compile_model(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="New directory, or a file ending in .tar.")],
    target: Target = None,
    board: BoardName = None,
    name: Name = None,
    optimize: Optimize = "balanced",
    sram: Sram = None,
    flash: Flash = None,
    camera: Camera = "no",
    max_overhead: MaxOverhead = 0.1,
    constant_time: ConstantTime = False,
    disable: Disable = None,
    records: RecordsFile = None,
    dump_ir: Annotated[Path | None, typer.Option("--dump-ir", help="Write the IR after each phase to this directory.")] = None,
    explain: Explain = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compile MODEL to C and print the plan."""
    from tvm_tiny.report.terminal import render

    memory = {
        "optimize": optimize,
        "sram": sram,
        "flash": flash,
        "max_overhead": max_overhead,
        "constant_time": constant_time,
        "disable": disable or (),
        "camera": camera_of(camera),
    }
    compiled = build_model(model, target, board, name, dump_dir=dump_ir, records=records_of(records), **memory)
    where = compiled.save(output)

    def show(console: Console) -> None:
        console.print(render(compiled.report), highlight=False)
        if explain:
            console.print(explanation_of(compiled), markup=False, highlight=False, soft_wrap=True)
        console.print(f"written to {where}", markup=False, highlight=False)

    emit(as_json, {"output": where, "metadata": compiled.metadata(), "report": compiled.report.to_dict()}, show)
