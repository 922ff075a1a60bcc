# SPDX-License-Identifier: Apache-2.0
"""The memory / cycles curve of networks, every point built and profiled: is it what the report says?

    python -m benchmarks.curve FOLDER_OF_MODELS [model …] [--board mps2_an386] [--optimize sram] [--patches]

Printed beside each other: arena and cycles as the report has them, and the arena and the profiled cycles of the point built alone.
`--patches` compares heads in patches with layer by layer: bytes, multiply-accumulates done again, cycles estimated and profiled.
Profiles include the flash of a real board (`BOARD_TERMS`). Estimates are fitted to random layers (`benchmarks.cycle_fit`): the errors are
those of networks left out, layers apart that a tuning record has measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import tvm_tiny
from tvm_tiny.boards import find_board
from tvm_tiny.cli.inputs import make_samples
from tvm_tiny.profiler import profile_model
from tvm_tiny.schedules.cycles import BOARD_TERMS

GOALS: tuple[dict[str, Any], ...] = ({"optimize": "speed"}, {"optimize": "balanced"}, {"optimize": "sram"})
# "speed" too: layer by layer is no point of a curve where an estimate says that less memory takes less time, and is fitted all the more.
PATCHES_ALONE: dict[str, Any] = {"optimize": "balanced", "disable": ("stream-rows",)}


@dataclass(frozen=True)
class Built:
    """One point of a curve as the report has it, and as built and profiled alone."""

    model: str
    text: str
    reported: tuple[int, float]
    arena_bytes: int
    cycles: float
    extra_macs: float


def points(path: Path, board: str, **options: Any) -> list[dict[str, Any]]:
    """The points of the curve that the report prints."""
    return list(tvm_tiny.build(path, board=board, **options).report.decisions["curve"]["curve"])


def measure(path: Path, board: str, point: dict[str, Any], **options: Any) -> Built:
    """Build a point alone and profile it."""
    core = find_board(board).mcpu
    model = tvm_tiny.build(path, board=board, design=point, **options)
    (sample,) = make_samples(None, model.inputs, 1, 0)
    profile = profile_model(model, board, sample, board_term=BOARD_TERMS[core])
    reported = point["arena_bytes"], float(point["cycles"])
    total = profile.total.cycles[core]
    return Built(path.stem, point["text"], reported, model.workspace_size, total, point["extra_macs"])


def table(found: Sequence[Built], board: str) -> Table:
    """The points beside what was built."""
    out = Table(title=f"the memory / cycles curve, {board}, {BOARD_TERMS[find_board(board).mcpu]}", title_justify="left")
    for column in ("network", "design", "arena", "built", "M cycles", "profiled", "error", "MAC"):
        out.add_column(column, justify="left" if column in ("network", "design") else "right")
    for b in found:
        arena, cycles = b.reported
        figures = f"{arena:,}", f"{b.arena_bytes:,}", f"{cycles / 1e6:.3f}", f"{b.cycles / 1e6:.3f}", f"{cycles / b.cycles - 1:+.1%}"
        out.add_row(b.model, b.text, *figures, f"{b.extra_macs:+.1%}")
    return out


def patches(found: Sequence[Built], board: str) -> Table:
    """What patches cost against layer by layer: estimated and profiled."""
    out = Table(title=f"patches alone, {board}, {BOARD_TERMS[find_board(board).mcpu]}", title_justify="left")
    for column in ("network", "design", "arena", "MAC", "cycles estimated", "cycles profiled"):
        out.add_column(column, justify="left" if column in ("network", "design") else "right")
    layers = {b.model: b for b in found if b.text == "layer by layer"}
    for b in found:
        base = layers[b.model]
        extra = f"{b.reported[1] / base.reported[1] - 1:+.1%}", f"{b.cycles / base.cycles - 1:+.1%}"
        out.add_row(b.model, b.text, f"{b.arena_bytes:,}", f"{b.extra_macs:+.1%}", *extra)
    return out


def _measured(arguments: argparse.Namespace, board: str, console: Console) -> Iterator[Built]:
    for path in _paths(arguments):
        for options in (PATCHES_ALONE,) if arguments.patches else GOALS:
            if arguments.patches or options["optimize"] in (arguments.optimize or ("speed", "balanced", "sram")):
                for point in points(path, board, **options):
                    built = measure(path, board, point, **options)
                    console.print(f"{built.model}: {built.text}: {built.arena_bytes:,} bytes, {built.cycles:,.0f} cycles", highlight=False)
                    yield built


def _paths(arguments: argparse.Namespace) -> list[Path]:
    if arguments.models:
        return [arguments.folder / f"{name}.tflite" for name in arguments.models]
    return sorted(arguments.folder.glob("*.tflite"))


def main() -> None:
    """Measure, print, and fit if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", metavar="model")
    parser.add_argument("--board", action="append", help="an emulated Cortex-M7 or Cortex-M4 (default: mps2_an500)")
    parser.add_argument("--optimize", action="append", choices=("speed", "balanced", "sram"), help="points of a goal (default: of all)")
    parser.add_argument("--patches", action="store_true", help="heads in patches against layer by layer")
    arguments = parser.parse_intermixed_args()
    console = Console(width=200)
    for board in arguments.board or ["mps2_an500"]:
        found = list(_measured(arguments, board, Console(stderr=True)))
        console.print(patches(found, board) if arguments.patches else table(found, board))


if __name__ == "__main__":
    main()
