# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny compare`: layer by layer against the reference interpreter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from tvm_tiny.cli.build_options import DEFAULTS, BuildOptions, takes_build_options
from tvm_tiny.cli.building import Model, build_model, progress
from tvm_tiny.cli.guard import AsJson, Debug, emit
from tvm_tiny.cli.inputs import Count, InputFile, Seed, make_samples
from tvm_tiny.errors import OptionError

if TYPE_CHECKING:
    from tvm_tiny.compare import LayerDifference
    from tvm_tiny.compiled import CompiledModel

EXIT_DIFFERENT = 1


@takes_build_options
def compare(
    model: Model,
    inputs: InputFile = None,
    samples: Count = 5,
    seed: Seed = 0,
    options: BuildOptions = DEFAULTS,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare every layer of MODEL with the reference interpreter; exit 1 at a difference."""
    from tvm_tiny.compare import compare as compare_layers
    from tvm_tiny.compare import first_difference
    from tvm_tiny.frontend import read_source

    data = read_source(model)[0]
    compiled = build_model(model, None, None, options)
    if _model_format(compiled) == "onnx":
        raise OptionError(
            f"{model.name} is no .tflite model, and only those can be compared layer by layer",
            remedy="run it with `tvm-tiny run` and compare the outputs with ONNX Runtime's",
        )
    drawn = make_samples(inputs, compiled.inputs, samples, seed)
    with progress(f"comparing {len(drawn)} samples"):
        rows = compare_layers(compiled, data, [[sample[t.name] for t in compiled.inputs] for sample in drawn])
    first = first_difference(rows)
    document = {
        "samples": len(drawn),
        "equal": first is None,
        "first_difference": None if first is None else first.to_dict(),
        "layers": [row.to_dict() for row in rows],
    }
    emit(as_json, document, lambda console: _show(console, rows, first, len(drawn)))
    if first is not None:
        raise typer.Exit(EXIT_DIFFERENT)


def _model_format(compiled: CompiledModel) -> str:
    """tflite or onnx."""
    return str(compiled.program.model.get("format", ""))


def _show(console: Console, rows: list[LayerDifference], first: LayerDifference | None, samples: int) -> None:
    table = Table("#", "layer", "op", "elements", "different", "largest")
    for row in rows:
        verdict = (f"{row.elements:,}", f"{row.different:,}", f"{row.largest:g}") if row.compared else ("–", "–", "–")
        table.add_row(str(row.index), row.layer, row.op, *verdict, style="red" if row.different else None)
    console.print(table)
    if any(not row.compared for row in rows):
        console.print("–: the reference has no such tensor (the layer was made, fused or moved by a pass)")
    if first is None:
        console.print(f"equal to the reference in every compared element of {samples} samples", highlight=False)
    else:
        console.print(f"first difference: layer {first.index} ({first.op}: {first.layer}), by {first.largest:g} at most", markup=False)
