# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny profile`: instructions and estimated cycles of one inference, layer by layer, on an emulated board."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from tvm_tiny.cli.build_options import DEFAULTS, BuildOptions, takes_build_options
from tvm_tiny.cli.building import EMULATED_M7, ModelOrArtifact, Target, artifact_of, progress
from tvm_tiny.cli.guard import AsJson, Debug, emit
from tvm_tiny.cli.inputs import InputFile, Seed, make_samples

if TYPE_CHECKING:
    from tvm_tiny.profiler.layers import ModelProfile


@takes_build_options
def profile(
    model: ModelOrArtifact,
    board: Annotated[str, typer.Option("--board", "-b", help="An emulated board of `tvm-tiny boards`.")] = EMULATED_M7,
    inputs: InputFile = None,
    seed: Seed = 0,
    target: Target = None,
    options: BuildOptions = DEFAULTS,
    board_term: Annotated[str, typer.Option("--board-term", help='Add the flash of a real board, such as "stm32f746@216".')] = "none",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Count the instructions of one inference of MODEL and estimate its cycles, layer by layer."""
    from tvm_tiny.device.artifact import open_artifact
    from tvm_tiny.profiler import profile_model

    with artifact_of(model, target, board, options) as directory:
        with open_artifact(directory) as artifact:
            (sample,) = make_samples(inputs, artifact.inputs, 1, seed)
        with progress(f"profiling on {board}"):
            result = profile_model(directory, board, sample, board_term=board_term)
    emit(as_json, result.to_dict(), lambda console: show_profile(console, result))


def show_profile(console: Console, result: ModelProfile) -> None:
    """Print the layers, their sum, and what the cycles are."""
    table = Table("#", "layer", "op")
    for column in ("MAC", "instructions", "per MAC", *(f"cycles {core}" for core in result.cores)):
        table.add_column(column, justify="right")
    for layer in result.layers:
        ratio = layer.instructions_per_mac
        cycles = [f"{layer.cycles[core]:,.0f}" for core in result.cores]
        counts = (f"{layer.macs:,}", f"{layer.instructions:,}", "–" if ratio is None else f"{ratio:.2f}")
        table.add_row(str(layer.index), layer.source[0] if layer.source else layer.name, layer.op, *counts, *cycles)
    total = result.total
    ratio = total.instructions / result.macs if result.macs else None
    sums = (f"{result.macs:,}", f"{total.instructions:,}", "–" if ratio is None else f"{ratio:.2f}")
    table.add_section()
    table.add_row("", "total", "", *sums, *(f"{total.cycles[core]:,.0f}" for core in result.cores))
    console.print(table)
    console.print("instructions are exact; cycles are estimated from a model of the core", highlight=False)
