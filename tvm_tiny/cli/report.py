# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny report`: what the compiler decides for a model, before anything is flashed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tvm_tiny.cli.build_options import DEFAULTS, BuildOptions, takes_build_options
from tvm_tiny.cli.building import BoardName, Camera, Explain, Model, Target, build_model, camera_of, explanation_of
from tvm_tiny.cli.guard import AsJson, Debug, emit
from tvm_tiny.errors import InputError


@takes_build_options
def report(
    model: Model,
    target: Target = None,
    board: BoardName = None,
    options: BuildOptions = DEFAULTS,
    camera: Camera = "no",
    memory_map: Annotated[Path | None, typer.Option("--memory-map", help="Draw the arena over time into this .svg.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write everything as one page, pictures included, into this .html.")] = None,
    explain: Explain = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print the layers of MODEL with their kernels, work, SRAM and flash."""
    compiled = build_model(model, target, board, options, camera=camera_of(camera))
    if memory_map is not None:
        from tvm_tiny.memory.chart import memory_svg

        _write(memory_map, memory_svg(compiled.plan), "--memory-map")
    if html is not None:
        from tvm_tiny.report.html import render_html

        _write(html, render_html(compiled.report, compiled.plan), "--html")

    def show(console: Console) -> None:
        from tvm_tiny.report.terminal import render

        console.print(render(compiled.report), markup=False)
        if explain:
            console.print(explanation_of(compiled), markup=False, highlight=False, soft_wrap=True)
        if memory_map is not None:
            console.print(f"memory map written to {memory_map}", markup=False, highlight=False)
        if html is not None:
            console.print(f"page written to {html}", markup=False, highlight=False)

    emit(as_json, _document(compiled), show)


def _document(compiled: Any) -> dict[str, Any]:
    from tvm_tiny.memory.chart import memory_map

    return {**compiled.report.to_dict(), "memory_map": memory_map(compiled.plan)}


def _write(path: Path, text: str, option: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"can't write {path}: {error.strerror}", remedy=f"choose another file with {option}") from None
