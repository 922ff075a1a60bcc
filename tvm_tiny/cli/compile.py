# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny compile`: a trained model to plain C, in Model Library Format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tvm_tiny.cli.build_options import DEFAULTS, BuildOptions, takes_build_options
from tvm_tiny.cli.building import BoardName, Camera, Explain, Model, Name, Target, build_model, camera_of, explanation_of
from tvm_tiny.cli.guard import AsJson, Debug, emit


@takes_build_options
def compile_model(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="New directory, or a file ending in .tar.")],
    target: Target = None,
    board: BoardName = None,
    options: BuildOptions = DEFAULTS,
    name: Name = None,
    camera: Camera = "no",
    dump_ir: Annotated[Path | None, typer.Option("--dump-ir", help="Write the IR after each phase to this directory.")] = None,
    explain: Explain = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compile MODEL to C and print the plan."""
    from tvm_tiny.report.terminal import render

    compiled = build_model(model, target, board, options, name=name, camera=camera_of(camera), dump_dir=dump_ir)
    where = compiled.save(output)

    def show(console: Console) -> None:
        console.print(render(compiled.report), highlight=False)
        if explain:
            console.print(explanation_of(compiled), markup=False, highlight=False, soft_wrap=True)
        console.print(f"written to {where}", markup=False, highlight=False)

    emit(as_json, {"output": where, "metadata": compiled.metadata(), "report": compiled.report.to_dict()}, show)
