# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny run`: a model, or what `compile` wrote, on a board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from tvm_tiny.cli.build_options import DEFAULTS, BuildOptions, takes_build_options
from tvm_tiny.cli.building import ModelOrArtifact, Target, artifact_of, progress
from tvm_tiny.cli.guard import AsJson, Debug, emit
from tvm_tiny.cli.inputs import Count, InputFile, Seed, make_samples
from tvm_tiny.errors import DeviceError, InputError, OptionError

if TYPE_CHECKING:
    from tvm_tiny.device import RunResult

SHOWN_SAMPLES = 10


@takes_build_options
def run(
    model: ModelOrArtifact,
    board: Annotated[str, typer.Option("--board", "-b", help="A board of `tvm-tiny boards`.")] = "native",
    inputs: InputFile = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the outputs to this .npz, by their names.")] = None,
    samples: Count = 1,
    seed: Seed = 0,
    target: Target = None,
    options: BuildOptions = DEFAULTS,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds one sample may take.")] = 60.0,
    transport: Annotated[str, typer.Option("--transport", help="frames, or rpc: through TVM's RPC client.")] = "frames",
    compare: Annotated[bool, typer.Option("--compare", help="Run the samples on this machine too; a difference is an error.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run MODEL on a board and print its outputs."""
    from tvm_tiny.device import run as run_on_device
    from tvm_tiny.device.artifact import open_artifact

    with artifact_of(model, target, board, options) as directory:
        with open_artifact(directory) as artifact:
            drawn = make_samples(inputs, artifact.inputs, samples, seed)
        with progress(f"running {len(drawn)} samples on {board}"):
            result = run_on_device(directory, board, drawn, timeout=timeout, transport=transport)
    if output is not None:
        _write(output, result)
    if compare:
        _compare(model, board, drawn, result)
    emit(as_json, _to_dict(result) | {"compared": compare}, lambda console: show_result(console, result, compare))


def _compare(model: Path, board: str, samples: Sequence[Mapping[str, np.ndarray]], result: RunResult) -> None:
    """Run what was compiled for this machine on the same samples."""
    from tvm_tiny.device import run as run_on_device

    if model.is_dir() or model.suffix == ".tar":
        raise OptionError("--compare takes the model file: what is compiled for a board does not run here", remedy="give the model file")
    with artifact_of(model, "c", "native", DEFAULTS) as directory, progress("running the same on this machine"):
        wanted = run_on_device(directory, "native", samples).outputs
    pairs = zip(result.outputs, wanted, strict=True)
    different = [i for i, (ours, host) in enumerate(pairs) if any(not np.array_equal(ours[name], host[name]) for name in host)]
    if different:
        raise DeviceError(f"{board}: {len(different)} of {len(samples)} samples differ from this machine's, the first is {different[0]}")


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
        "latency_seconds": result.latency,
        "samples_per_second": result.throughput,
        "image": {"flash": result.image.flash, "sram": result.image.sram},
    }


def show_result(console: Console, result: RunResult, compared: bool = False) -> None:
    """Print outputs, times and sizes of a run."""
    table = Table("sample", "output", "shape", "largest at", "values")
    for number, sample in enumerate(result.outputs[:SHOWN_SAMPLES]):
        for name, array in sample.items():
            values = np.array2string(array.ravel(), threshold=12, edgeitems=5, max_line_width=60)
            table.add_row(str(number), name, "x".join(map(str, array.shape)), str(int(array.argmax())), values)
    console.print(table)
    if len(result.outputs) > SHOWN_SAMPLES:
        console.print(f"… and {len(result.outputs) - SHOWN_SAMPLES} samples more (all of them: --output or --json)")
    times = f"{1000 * result.latency:,.1f} ms a sample, {result.throughput:,.1f} samples a second, transfers included"
    console.print(times + (", all equal to this machine's" if compared else ""), highlight=False)
    sizes = f"flash {result.image.flash:,} bytes, SRAM {result.image.sram:,} bytes"
    stack = f", stack used {result.stack_used:,} bytes" if result.stack_used else ""
    console.print(f"{result.board.title}: image {sizes}{stack}", highlight=False)
