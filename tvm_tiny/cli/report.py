# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny report`: what the compiler decides for a model, before anything is flashed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
from tvm_tiny.errors import InputError


def report(
    model: Model,
    target: Target = None,
    board: BoardName = None,
    optimize: Optimize = "balanced",
    sram: Sram = None,
    flash: Flash = None,
    camera: Camera = "no",
    max_overhead: MaxOverhead = 0.1,
    constant_time: ConstantTime = False,
    disable: Disable = None,
    records: RecordsFile = None,
    memory_map: Annotated[Path | None, typer.Option("--memory-map", help="Draw the arena over time into this .svg.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write everything as one page, pictures included, into this .html.")] = None,
    explain: Explain = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print the layers of MODEL with their kernels, work, SRAM and flash."""
    memory = {
        "optimize": optimize,
        "sram": sram,
        "flash": flash,
        "max_overhead": max_overhead,
        "constant_time": constant_time,
        "disable": disable or (),
        "camera": camera_of(camera),
    }
    compiled = build_model(model, target, board, None, records=records_of(records), **memory)
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
