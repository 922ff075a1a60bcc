# SPDX-License-Identifier: Apache-2.0
"""Arena bytes of the benchmark networks for every goal and for patches alone, beside the published peers' and the limits the project holds
itself to.

    python -m benchmarks.memory FOLDER_OF_MODELS [model …] [--max-overhead 0.12]
    python -m benchmarks.memory FOLDER_OF_MODELS [model …] --combinations     # of passes: none, each alone, all but one, every pair, all

Arena: activations, kernel scratch, int8 input and output inside; a float input that is only quantised stays in the caller's memory, its
int8 image inside. "patches": the least arena without streamed rows; "camera": the least arena where the application hands over the image
row by row (`camera=True`), for networks that see. At most `--max-overhead` of the multiply-accumulates are done again.
Sizes are of the plan, which equal the linker's. Models that are not in the folder are listed as missing.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import tvm_tiny
from tvm_tiny.pipeline import PIPELINE

TARGET = "c -mcpu=cortex-m7"
GOALS = ("speed", "balanced", "sram")
OPTIONAL = tuple(phase.name for phase in PIPELINE if phase.optional)
PATCHES_ALONE = {"optimize": "sram", "disable": ("stream-rows",)}


@dataclass(frozen=True)
class Limit:
    """What a network may need at most under the goals "speed" and "sram", with patches alone and with its image fetched row by row, and the
    best measured peer."""

    speed: int
    sram: int
    peer: int | None
    patches: int | None = None
    camera: int | None = None


LIMITS = {
    "pretrainedResnet_quant": Limit(49_800, 16_000, 49_728, 34_500),
    "vww_96_int8": Limit(60_800, 33_000, 60_728, 40_000, 16_500),
    "kws_ref_model": Limit(16_000, 7_200, 16_000),
    "ad01_int8": Limit(3_300, 1_300, 768),
    "mcunet_vww_80": Limit(94_000, 30_000, 81_552, 36_000, 17_500),
    "mcunetv2_large": Limit(1_432_000, 232_000, 594_696, 256_000),
    "person_detect": Limit(60_000, 20_500, None, 36_000),
}

SEEING = ("vww_96_int8", "mcunet_vww_80", "person_detect")
"""Networks whose image a camera may hand over row by row."""


@dataclass(frozen=True)
class Row:
    """Arena bytes of one network by goal, with "patches" alone and by "camera", the estimated extra cycles, and what patches do again."""

    model: str
    arena: dict[str, int]
    extra_work: dict[str, float]
    extra_macs: float


def measure(path: Path, goals: Sequence[str] = GOALS, max_overhead: float = 0.1) -> Row:
    """Compile `path` for every goal; at most `max_overhead` of the work is done again, by patches or copies of operators."""
    arena, extra = {}, {}
    for goal in goals:
        model = tvm_tiny.build(path, TARGET, optimize=goal, max_overhead=max_overhead)
        arena[goal] = model.workspace_size
        extra[goal] = float(model.report.decisions["curve"]["chosen"]["extra_work"])
    alone = tvm_tiny.build(path, TARGET, max_overhead=max_overhead, **PATCHES_ALONE)
    arena["patches"] = alone.workspace_size
    if path.stem in SEEING:
        arena["camera"] = tvm_tiny.build(path, TARGET, optimize="sram", max_overhead=max_overhead, camera=True).workspace_size
    return Row(path.stem, arena, extra, float(alone.report.decisions["curve"]["chosen"]["extra_macs"]))


def combinations() -> Iterator[tuple[str, frozenset[str]]]:
    """What is on, in words, and the passes to leave out for it."""
    every = frozenset(OPTIONAL)
    yield "none", every
    yield from ((name, every - {name}) for name in OPTIONAL)
    yield from ((" + ".join(pair), every - set(pair)) for pair in itertools.combinations(OPTIONAL, 2))
    yield from ((f"all but {name}", frozenset({name})) for name in OPTIONAL)
    yield "all", frozenset()


def print_combinations(console: Console, paths: Sequence[Path], max_overhead: float) -> None:
    """Arena bytes under the goal "sram", a line a combination as soon as it is known, a column a network."""
    width = max(len(name) for name, _disabled in combinations())
    console.print(f"{'arena bytes, goal sram, with':{width}}", *(f"{p.stem:>24}" for p in paths), highlight=False)
    for name, disabled in combinations():
        built = (tvm_tiny.build(p, TARGET, optimize="sram", max_overhead=max_overhead, disable=disabled) for p in paths)
        console.print(f"{name:{width}}", *(f"{model.workspace_size:>24,}" for model in built), highlight=False)


def table(rows: Sequence[Row]) -> Table:
    """The figures beside their limits."""
    out = Table(title=f"arena bytes, {TARGET}", title_justify="left")
    kinds = ("speed", "limit", "balanced", "work", "patches", "limit", "MAC", "sram", "limit", "work", "camera", "limit", "best peer")
    for column in ("model", *kinds):
        out.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        limit = LIMITS[row.model]
        out.add_row(
            row.model,
            _judged(row.arena["speed"], limit.speed),
            f"{limit.speed:,}",
            f"{row.arena['balanced']:,}",
            f"{row.extra_work['balanced']:+.1%}",
            _judged(row.arena["patches"], limit.patches),
            f"{limit.patches:,}" if limit.patches else "",
            f"{row.extra_macs:+.1%}",
            _judged(row.arena["sram"], limit.sram),
            f"{limit.sram:,}",
            f"{row.extra_work['sram']:+.1%}",
            _judged(row.arena["camera"], limit.camera) if "camera" in row.arena else "",
            f"{limit.camera:,}" if limit.camera else "",
            f"{limit.peer:,}" if limit.peer else "",
        )
    return out


def _judged(found: int, limit: int | None) -> str:
    return f"{found:,}" if limit is None or found <= limit else f"{found:,} (+{found - limit:,})"


def main() -> None:
    """Print the table; what is missing last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", default=list(LIMITS), metavar="model")
    parser.add_argument("--max-overhead", type=float, default=0.1, help="work that may be done again, as a fraction (default 0.1)")
    parser.add_argument("--combinations", action="store_true", help="for every combination of passes, under the goal sram")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.models) - set(LIMITS))
    if unknown:
        parser.error(f"no limits for {', '.join(unknown)}; known: {', '.join(LIMITS)}")
    paths = [arguments.folder / f"{name}.tflite" for name in arguments.models]
    console = Console(width=160)
    there = [p for p in paths if p.is_file()]
    if arguments.combinations:
        print_combinations(Console(width=60 + 25 * len(there)), there, arguments.max_overhead)
    else:
        console.print(table([measure(p, max_overhead=arguments.max_overhead) for p in there]))
    for path in paths:
        if not path.is_file():
            console.print(f"missing: {path}")


if __name__ == "__main__":
    main()
