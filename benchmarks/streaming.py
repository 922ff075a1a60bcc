# SPDX-License-Identifier: Apache-2.0
"""What streaming costs in cycles: networks row by row, and the same kernels layer by layer.

    python -m benchmarks.streaming FOLDER_OF_MODELS [model …] [--goal balanced] [--board mps2_an386] [--camera] [--json]

Three builds of each network: for the goal ("sram" unless asked otherwise); the same with every streamed operator as a layer of its own, by
the same algorithm (direct where its rows are direct, though Winograd were faster) and in the same form of code (shared or its own), with
the blocks and the scratch whole layers take; and for the goal "speed". "core" is cycles with memory that never waits, "board" with the
flash of a real board (`benchmarks.speed.BOARD_TERMS`). `--camera` builds networks that see as the application fetches their image row by
row. Below each network its stages, each beside the layers it stands for.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import tvm_tiny
from benchmarks.speed import BOARD_TERMS, TIMEOUT
from tvm_tiny.cli.inputs import make_samples
from tvm_tiny.compiled import CompiledModel

FETCHED = ("vww_96_int8", "mcunet_vww_80")
"""Networks whose image is fetched row by row, too."""
MODELS = ("pretrainedResnet_quant", "kws_ref_model", "vww_96_int8", "person_detect", "mcunet_vww_80", "mcunetv2_large")


@dataclass(frozen=True)
class Cycles:
    """Estimated cycles with memory that never waits, and with a board's flash."""

    core: float
    board: float

    def over(self, other: Cycles) -> tuple[float, float]:
        """What this takes beyond `other`, as fractions."""
        return self.core / other.core - 1, self.board / other.board - 1


@dataclass(frozen=True)
class Stage:
    """A streamed stage, named after its last operator, and the same kernels layer by layer."""

    name: str
    operators: int
    streamed: Cycles
    layers: Cycles


@dataclass(frozen=True)
class Row:
    """One network on one board, its image fetched or not: arena bytes for the goal and for "speed", cycles of the builds, the stages."""

    model: str
    board: str
    goal: str
    arena: int
    speed_arena: int
    streamed: Cycles
    layers: Cycles
    speed: Cycles
    stages: tuple[Stage, ...]
    camera: bool = False


def build(path: Path, board: str, goal: str, *, camera: bool = False) -> tuple[CompiledModel, CompiledModel]:
    """The network for its goal, and with every streamed operator as a layer by the same kernel."""
    given = {"board": board, "optimize": goal, "name": "net", "camera": camera}
    streamed = tvm_tiny.build(path, **given)
    chosen, forms = streamed.report.decisions["curve"]["chosen"], streamed.report.decisions["code"]["forms"]
    whole = {**chosen, "segments": [], "planar": False, "bound": None, "forms": forms}
    return streamed, tvm_tiny.build(path, **given, design=whole)


def measure(path: Path, board: str, goal: str = "sram", *, camera: bool = False) -> Row:
    """Build the network three times and profile each with and without the board's flash."""
    streamed, layers = build(path, board, goal, camera=camera)
    by_row, by_layer = cycles(streamed, board), cycles(layers, board)
    speed = tvm_tiny.build(path, board=board, optimize="speed", name="net", camera=camera)
    ends = {call.layer: i + 1 for i, call in enumerate(layers.program.calls)}
    stages = []
    for call, taken in zip(streamed.program.calls, by_row, strict=True):
        kernel = json.loads(str(streamed.program.kernels[call.kernel].attrs["tiny.kernel"]))
        if kernel["rule"] in ("stream", "strips"):
            end, count = ends[call.layer], int(kernel["operators"])
            stages.append(Stage(call.layer, count, taken, total(by_layer[end - count : end])))
    arenas = streamed.workspace_size, speed.workspace_size
    return Row(path.stem, board, goal, *arenas, total(by_row), total(by_layer), total(cycles(speed, board)), tuple(stages), camera)


def cycles(compiled: CompiledModel, board: str) -> list[Cycles]:
    """Of every call of one inference."""
    (sample,) = make_samples(None, compiled.inputs, 1, 0)
    profiles = [compiled.profile(board, sample, board_term=term, timeout=TIMEOUT) for term in ("none", BOARD_TERMS[board])]
    return [Cycles(*(p.cycles[profiles[0].cores[0]] for p in pair)) for pair in zip(*(p.layers for p in profiles), strict=True)]


def total(parts: Sequence[Cycles]) -> Cycles:
    """The sum."""
    return Cycles(sum(p.core for p in parts), sum(p.board for p in parts))


def table(rows: Sequence[Row]) -> Table:
    """Networks, and their stages below them."""
    out = Table(title="million cycles of one inference, estimated", title_justify="left")
    for column in ("network or stage", "core", "arena"):
        out.add_column(column, justify="right" if column == "arena" else "left")
    for head in ("by rows", "same by layers", "streaming", "speed"):
        out.add_column(f"{head}, core", justify="right")
        out.add_column("board", justify="right")
    out.add_column("arena", justify="right")
    for row in rows:
        core = "M7" if row.board == "mps2_an500" else "M4"
        speed = _figures(row.speed)
        how = f"{row.goal}{', image fetched' if row.camera else ''}"
        out.add_row(f"{row.model} ({how})", core, f"{row.arena:,}", *_compared(row), *speed, f"{row.speed_arena:,}")
        for stage in row.stages:
            out.add_row(f"  {stage.operators} operators", "", "", *_compared(stage))
    return out


def _compared(part: Row | Stage) -> tuple[str, ...]:
    return *_figures(part.streamed), *_figures(part.layers), *(f"{more:+.1%}" for more in part.streamed.over(part.layers))


def _figures(found: Cycles) -> tuple[str, str]:
    return f"{found.core / 1e6:.3f}", f"{found.board / 1e6:.3f}"


def measure_all(arguments: argparse.Namespace) -> Iterator[Row]:
    """Every model of the folder on every board."""
    for model in arguments.models:
        path = arguments.folder / f"{model}.tflite"
        for board in arguments.board or BOARD_TERMS:
            if path.is_file():
                yield measure(path, board, arguments.goal, camera=arguments.camera)


def main() -> None:
    """Print the table; what is missing last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    known = f"by default {', '.join(MODELS)}, of those with a camera {', '.join(FETCHED)}"
    parser.add_argument("models", nargs="*", metavar="model", help=known)
    parser.add_argument("--goal", choices=("balanced", "sram"), default="sram")
    parser.add_argument("--board", action="append", choices=list(BOARD_TERMS))
    parser.add_argument("--camera", action="store_true", help="the application fetches the image row by row")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    arguments.models = arguments.models or (FETCHED if arguments.camera else MODELS)
    found = list(measure_all(arguments))
    if arguments.json:
        print(json.dumps([asdict(row) for row in found], indent=2))
        return
    console = Console(width=160)
    console.print(table(found))
    for model in arguments.models:
        if not (arguments.folder / f"{model}.tflite").is_file():
            console.print(f"missing: {arguments.folder / model}.tflite")


if __name__ == "__main__":
    main()
