# SPDX-License-Identifier: Apache-2.0
"""Arena bytes of the benchmark networks for every goal, beside the published peers' and the limits the project holds itself to.

    python -m benchmarks.memory FOLDER_OF_MODELS [model …]

Arena: activations, kernel scratch, int8 input and output inside; a float input that is only quantised stays in the caller's memory, its
int8 image inside. Sizes are of the plan, which equal the linker's. Models that are not in the folder are listed as missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import tvm_tiny

TARGET = "c -mcpu=cortex-m7"
GOALS = ("speed", "balanced", "sram")


@dataclass(frozen=True)
class Limit:
    """What a network may need at most under the goals "speed" and "sram", and the best measured peer."""

    speed: int
    sram: int
    peer: int | None


LIMITS = {
    "pretrainedResnet_quant": Limit(49_800, 16_000, 49_728),
    "vww_96_int8": Limit(60_800, 33_000, 60_728),
    "kws_ref_model": Limit(16_000, 7_200, 16_000),
    "ad01_int8": Limit(3_300, 1_300, 768),
    "mcunet_vww_80": Limit(94_000, 30_000, 81_552),
    "mcunetv2_large": Limit(1_432_000, 232_000, 594_696),
    "person_detect": Limit(60_000, 20_500, None),
}


@dataclass(frozen=True)
class Row:
    """Arena bytes of one network by goal, and the estimated extra work of what was streamed."""

    model: str
    arena: dict[str, int]
    extra_work: dict[str, float]


def measure(path: Path, goals: Sequence[str] = GOALS) -> Row:
    """Compile `path` for every goal."""
    arena, extra = {}, {}
    for goal in goals:
        model = tvm_tiny.build(path, TARGET, optimize=goal)
        arena[goal] = model.workspace_size
        extra[goal] = float(model.report.decisions.get("stream", {}).get("chosen", {}).get("extra_work", 0.0))
    return Row(path.stem, arena, extra)


def table(rows: Sequence[Row]) -> Table:
    """The figures beside their limits."""
    out = Table(title=f"arena bytes, {TARGET}", title_justify="left")
    for column in ("model", "speed", "limit", "balanced", "work", "sram", "limit", "work", "best peer"):
        out.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        limit = LIMITS[row.model]
        out.add_row(
            row.model,
            _judged(row.arena["speed"], limit.speed),
            f"{limit.speed:,}",
            f"{row.arena['balanced']:,}",
            f"{row.extra_work['balanced']:+.1%}",
            _judged(row.arena["sram"], limit.sram),
            f"{limit.sram:,}",
            f"{row.extra_work['sram']:+.1%}",
            f"{limit.peer:,}" if limit.peer else "",
        )
    return out


def _judged(found: int, limit: int) -> str:
    return f"{found:,}" if found <= limit else f"{found:,} (+{found - limit:,})"


def main() -> None:
    """Print the table; what is missing last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", default=list(LIMITS), metavar="model")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.models) - set(LIMITS))
    if unknown:
        parser.error(f"no limits for {', '.join(unknown)}; known: {', '.join(LIMITS)}")
    paths = [arguments.folder / f"{name}.tflite" for name in arguments.models]
    console = Console(width=130)
    console.print(table([measure(p) for p in paths if p.is_file()]))
    for path in paths:
        if not path.is_file():
            console.print(f"missing: {path}")


if __name__ == "__main__":
    main()
