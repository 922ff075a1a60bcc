# SPDX-License-Identifier: Apache-2.0
"""The demo: compile the network to C, run it on an emulated Cortex-M7 over 200 labelled samples, print what a user asks before flashing.

Accuracy, agreement with TensorFlow Lite Micro bit for bit, and per layer instructions, estimated cycles, SRAM and flash. Without the ARM
compiler or the emulator it runs on the board `native` (this machine) and leaves instructions and cycles out. Exit code 1 if any output
differs from the reference.

    python examples/fashion_mnist/demo.py [--board mps2_an386] [--samples 20] [--json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import dataset
import numpy as np
from evaluate import classify
from rich.console import Console
from rich.table import Table

import tvm_tiny
from tvm_tiny import device
from tvm_tiny.compiled import CompiledModel
from tvm_tiny.errors import TinyError
from tvm_tiny.profiler.layers import ModelProfile

BOARD, FALLBACK = "mps2_an500", "native"
ARM_TOOLS = ("arm-none-eabi-gcc", "qemu-system-arm")


def main() -> int:
    """Run the demo; 0 when every output equals the reference's."""
    args = _arguments()
    say = _console(to_stderr=args.json)
    board = args.board or _best_board(say)
    images, labels = (part[: args.samples] for part in dataset.load_samples())
    try:
        figures = measure(board, args.optimize, images, labels, say)
    except TinyError as error:
        print(f"error {error.code}: {error}", file=sys.stderr)
        return error.exit_code
    if args.json:
        print(json.dumps(figures, indent=2))
    else:
        show(say, figures)
    return 0 if figures["bit_exact"] == figures["samples"] else 1


def measure(board: str, optimize: str, images: np.ndarray, labels: np.ndarray, say: Console) -> dict[str, Any]:
    """Compile, run, compare and profile; the figures as plain data, sizes in bytes."""
    say.print(f"compiling {dataset.MODEL.name} for {board}")
    model = tvm_tiny.build(dataset.MODEL, name="fashion_mnist", board=board, optimize=optimize)
    (image_input,), (probabilities,) = model.inputs, model.outputs
    inputs = [{image_input.name: image[None]} for image in dataset.quantize(images)]
    say.print(f"running {len(inputs)} samples on {board}")
    with tempfile.TemporaryDirectory() as folder:
        result = device.run(model.save(Path(folder) / "model"), board, inputs)
    outputs = np.concatenate([sample[probabilities.name] for sample in result.outputs])
    say.print("running the same samples on TensorFlow Lite Micro")
    reference = classify(dataset.MODEL, images)
    profile = model.profile(board, inputs[0]) if result.board.emulated else None
    return {
        "board": board,
        "title": result.board.title,
        "samples": len(labels),
        "correct": int(np.sum(outputs.argmax(1) == labels)),
        "reference_correct": int(np.sum(reference.argmax(1) == labels)),
        "bit_exact": int(np.sum((outputs == reference).all(1))),
        "largest_difference": int(np.abs(outputs.astype(int) - reference.astype(int)).max()),
        "arena": model.workspace_size,
        "constants": model.report.constants_bytes,
        "image": {"flash": result.image.flash, "sram": result.image.sram, "text": result.image.text},
        "stack_used": result.stack_used,
        "layers": layer_rows(model, profile),
        "total": None if profile is None else {"instructions": profile.total.instructions, "cycles": profile.total.cycles},
    }


def layer_rows(model: CompiledModel, profile: ModelProfile | None) -> list[dict[str, Any]]:
    """One row a layer: the plan's bytes and, where the board is emulated, the profile's counts."""
    counts = {} if profile is None else {layer.index: layer for layer in profile.layers}
    rows = []
    for layer in model.report.layers:
        row = {"layer": layer.index, "op": layer.op, "shape": layer.shape, "macs": layer.macs, "sram": layer.sram, "flash": layer.flash}
        if layer.index in counts:
            row |= {"instructions": counts[layer.index].instructions, "cycles": counts[layer.index].cycles}
        rows.append(row)
    return rows


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print the figures."""
    cores = list((figures["total"] or {"cycles": {}})["cycles"])
    table = Table(title=f"one inference on {figures['title']}", title_justify="left")
    for column in ("layer", "output"):
        table.add_column(column)
    for column in ("MAC", "SRAM live", "weights", "instructions", *(f"est. cycles {core.removeprefix('cortex-')}" for core in cores)):
        table.add_column(column, justify="right")
    for row in figures["layers"]:
        cycles = [f"{row['cycles'][core]:,.0f}" for core in cores]
        instructions = f"{row['instructions']:,}" if "instructions" in row else "–"
        numbers = (f"{row['macs']:,}", f"{row['sram']:,}", f"{row['flash']:,}", instructions)
        table.add_row(f"{row['layer']} {row['op']}", "×".join(map(str, row["shape"][1:])), *numbers, *cycles)
    if figures["total"] is not None:
        table.add_section()
        sums = (f"{sum(row['macs'] for row in figures['layers']):,}", "", "", f"{figures['total']['instructions']:,}")
        table.add_row("total", "", *sums, *(f"{figures['total']['cycles'][core]:,.0f}" for core in cores))
    console.print(table)
    show_totals(console, figures)


def show_totals(console: Console, figures: dict[str, Any]) -> None:
    """Print sizes, accuracy and agreement."""
    samples, image = figures["samples"], figures["image"]
    if figures["total"] is not None:
        console.print("instructions are exact, cycles an estimate from a model of the core", highlight=False)
    else:
        console.print("no instructions or cycles: this machine is not emulated", highlight=False)
    lines = (
        f"SRAM       arena {figures['arena']:,} bytes (input and output too), image {image['sram']:,}, stack {figures['stack_used']:,}",
        f"flash      constants {figures['constants']:,} bytes, code {image['text']:,}; whole image {image['flash']:,}",
        f"accuracy   {figures['correct']} of {samples} ({figures['correct'] / samples:.1%}); reference {figures['reference_correct']}",
        f"agreement  {figures['bit_exact']} of {samples} samples bit for bit equal to TensorFlow Lite Micro",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _console(to_stderr: bool) -> Console:
    """A pipe has no width of its own: wide enough for the table."""
    console = Console(stderr=to_stderr)
    return console if console.is_terminal else Console(stderr=to_stderr, width=140)


def _best_board(say: Console) -> str:
    missing = [tool for tool in ARM_TOOLS if shutil.which(tool) is None]
    if not missing:
        return BOARD
    say.print(f"{' and '.join(missing)} not found: running on the board {FALLBACK}; `tvm-tiny doctor` says how to get them")
    return FALLBACK


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", help=f"a board of `tvm-tiny boards` (default: {BOARD} where the ARM tools are, else {FALLBACK})")
    parser.add_argument("--optimize", default="balanced", help="balanced, speed or sram, as in tvm_tiny.build")
    parser.add_argument("--samples", type=int, default=200, help="how many of the 200")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
