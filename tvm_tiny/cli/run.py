# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny run`: a model, or what `compile` wrote, on a board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from tvm_tiny.cli.building import ModelOrArtifact, Target, artifact_of, progress
from tvm_tiny.cli.guard import AsJson, Debug, emit
from tvm_tiny.cli.inputs import Count, InputFile, Seed, make_samples
from tvm_tiny.errors import InputError

if TYPE_CHECKING:
    from tvm_tiny.device import RunResult

SHOWN_SAMPLES = 10


def run(
    model: ModelOrArtifact,
    board: Annotated[str, typer.Option("--board", "-b", help="A board of `tvm-tiny boards`.")] = "native",
    inputs: InputFile = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the outputs to this .npz, by their names.")] = None,
    samples: Count = 1,
    seed: Seed = 0,
    target: Target = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds one sample may take.")] = 60.0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run MODEL on a board and print its outputs."""
    from tvm_tiny.device import run as run_on_device
    from tvm_tiny.device.artifact import open_artifact

    with artifact_of(model, target, board) as directory:
        with open_artifact(directory) as artifact:
            drawn = make_samples(inputs, artifact.inputs, samples, seed)
        with progress(f"running {len(drawn)} samples on {board}"):
            result = run_on_device(directory, board, drawn, timeout=timeout)
    if output is not None:
        _write(output, result)
    emit(as_json, _to_dict(result), lambda console: show_result(console, result))


def _write(path: Path, result: RunResult) -> None:
    names = result.outputs[0]
    arrays: dict[str, Any] = {name: np.stack([sample[name] for sample in result.outputs]) for name in names}
    try:
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
    except OSError as error:
        raise InputError(f"can't write {path}: {error.strerror}", remedy="choose another file with --output") from None


def _to_dict(result: RunResult) -> dict[str, Any]:
    return {
        "board": result.board.name,
        "samples": len(result.outputs),
        "outputs": result.outputs,
        "stack_used": result.stack_used,
        "image": {"flash": result.image.flash, "sram": result.image.sram},
    }


def show_result(console: Console, result: RunResult) -> None:
    """Print outputs and sizes of a run."""
    table = Table("sample", "output", "shape", "largest at", "values")
    for number, sample in enumerate(result.outputs[:SHOWN_SAMPLES]):
        for name, array in sample.items():
            values = np.array2string(array.ravel(), threshold=12, edgeitems=5, max_line_width=60)
            table.add_row(str(number), name, "x".join(map(str, array.shape)), str(int(array.argmax())), values)
    console.print(table)
    if len(result.outputs) > SHOWN_SAMPLES:
        console.print(f"… and {len(result.outputs) - SHOWN_SAMPLES} samples more (all of them: --output or --json)")
    sizes = f"flash {result.image.flash:,} bytes, SRAM {result.image.sram:,} bytes"
    stack = f", stack used {result.stack_used:,} bytes" if result.stack_used else ""
    console.print(f"{result.board.title}: image {sizes}{stack}", highlight=False)
