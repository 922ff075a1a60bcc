# SPDX-License-Identifier: Apache-2.0
"""The figures of README.md and docs/: measured, kept in benchmarks/figures.json, written into the pages, drawn.

    python -m benchmarks.figures FOLDER_OF_MODELS [--only speed|memory|streaming]     # measure, keep, write
    python -m benchmarks.figures                                           # write the pages from what is kept

A page holds a table between `<!-- figures: NAME -->` and `<!-- end of figures -->`; everything between is replaced. A test compares the
pages with what is kept, so that neither changes alone.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import memory, speed, streaming
from benchmarks.measure import ROOT
from benchmarks.pictures import bars

KEPT = Path(__file__).with_name("figures.json")
MISSING = "–"
STREAMED = ("pretrainedResnet_quant", "kws_ref_model", "vww_96_int8", "ad01_int8", "mcunet_vww_80", "mcunetv2_large", "person_detect")
NAMES = {
    "pretrainedResnet_quant": "ResNet-8",
    "vww_96_int8": "VWW",
    "vww_96_int8 (all channels)": "VWW, all channels computed",
    "kws_ref_model": "KWS",
    "ad01_int8": "AD",
    "mcunet_vww_80": "MCUNet, 80×80",
    "mcunetv2_large": "MCUNetV2, large",
    "person_detect": "person_detect",
}


def speed_table(rows: Sequence[speed.Row], goal: str) -> str:
    """Markdown: every network of `goal` on both cores beside the best published result."""
    head = ("network", "core", "million cycles", "best published", "of it", "million instructions", "code, bytes", "arena, bytes")
    return _markdown(head, (_speed_cells(row) for row in rows if row.goal == goal), text_columns=2)


def _speed_cells(row: speed.Row) -> tuple[str, ...]:
    best = speed.PUBLISHED[row.model, row.board].cycles
    return (
        NAMES[row.model],
        _core(row),
        f"{row.cycles / 1e6:.3f}",
        f"{best / 1e6:.3f}" if best else MISSING,
        f"{row.cycles / best:.0%}" if best else MISSING,
        f"{row.instructions / 1e6:.3f}",
        f"{row.code:,}",
        f"{row.arena:,}",
    )


def memory_table(rows: Sequence[memory.Row]) -> str:
    """Markdown: arena bytes of every goal, of patches alone and with a fetched image, beside the best measured peer."""
    head = ("network", "speed", "balanced", "patches alone", "sram", "sram, image fetched", "best peer")
    kinds = ("speed", "balanced", "patches", "sram", "camera")
    cells = ((NAMES[r.model], *(_bytes(r.arena[k]) if k in r.arena else MISSING for k in kinds), _peer(r)) for r in rows)
    return _markdown(head, cells, text_columns=1)


@dataclass(frozen=True)
class Streamed:
    """What the streams of a network cost at the goal "sram": bytes of the arena, cycles with the flash of a board; with a `camera` the
    application fetches the image row by row."""

    model: str
    board: str
    arena: int
    streamed: float
    layers: float
    camera: bool = False


def streaming_table(rows: Sequence[Streamed]) -> str:
    """Markdown: networks streamed, beside the same kernels layer by layer."""
    head = ("network", "core", "arena", "streamed", "layer by layer", "more")
    cells = (
        (
            f"{NAMES[r.model]}{', image fetched' if r.camera else ''}",
            _core(r),
            _bytes(r.arena),
            f"{r.streamed / 1e6:.3f}",
            f"{r.layers / 1e6:.3f}",
            f"{r.streamed / r.layers - 1:.1%}",
        )
        for r in rows
    )
    return _markdown(head, cells, text_columns=2)


def summary_table(speeds: Sequence[speed.Row], memories: Sequence[memory.Row]) -> str:
    """Markdown: one line a network, by default settings: arena and cycles, each beside the best known elsewhere."""
    head = (
        "network",
        "arena, bytes",
        "least arena",
        "best peer",
        "M7, million cycles",
        "best published",
        "M4, million cycles",
        "best published",
    )
    by_key = {(row.model, _core(row)): row for row in speeds if row.goal == "balanced"}
    lines = []
    for row in memories:
        cycles = [_pair(by_key.get((row.model, core))) for core in ("M7", "M4")]
        lines.append((NAMES[row.model], _bytes(row.arena["balanced"]), _bytes(row.arena["sram"]), _peer(row), *cycles[0], *cycles[1]))
    return _markdown(head, lines, text_columns=1)


def _pair(row: speed.Row | None) -> tuple[str, str]:
    if row is None:
        return MISSING, MISSING
    cells = _speed_cells(row)
    return cells[2], cells[3]


def _core(row: speed.Row | Streamed) -> str:
    return "M7" if row.board == "mps2_an500" else "M4"


def _bytes(count: int) -> str:
    return f"{count:,}"


def _peer(row: memory.Row) -> str:
    peer = memory.LIMITS[row.model].peer
    return f"{peer:,}" if peer else MISSING


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int) -> str:
    rule = ["---"] * text_columns + ["---:"] * (len(head) - text_columns)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)) + "\n"


def render(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """`text` with every marked table replaced.

    Raises
    ------
    KeyError
        A marker names a table that does not exist.
    """

    def replace(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n{tables[match[2]]()}\n{match[3]}"

    return re.sub(r"(<!-- figures: ([\w-]+) -->)\n.*?(<!-- end of figures -->)", replace, text, flags=re.DOTALL)


def read() -> tuple[list[speed.Row], list[memory.Row], list[Streamed]]:
    """What is kept, in the order of the tables."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    speeds, memories = [speed.Row(**row) for row in kept["speed"]], [memory.Row(**row) for row in kept["memory"]]
    return speeds, memories, [Streamed(**row) for row in kept["streaming"]]


def tables() -> dict[str, Callable[[], str]]:
    """The tables that pages can ask for, by the name in their marker."""
    speeds, memories, streams = read()
    return {
        "speed": lambda: speed_table(speeds, "speed"),
        "speed-balanced": lambda: speed_table(speeds, "balanced"),
        "memory": lambda: memory_table(memories),
        "streaming": lambda: streaming_table(streams),
        "summary": lambda: summary_table(speeds, memories),
    }


def pages() -> list[Path]:
    """The pages with figures."""
    return [p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if "<!-- figures: " in p.read_text(encoding="utf-8")]


def draw(folder: Path) -> None:
    """The two pictures of README.md, as .svg files of `folder`."""
    speeds, memories, _ = read()
    published = [r for r in speeds if r.goal == "speed" and speed.PUBLISHED[r.model, r.board].cycles]
    cycles = [(f"{NAMES[r.model]}, {_core(r)}", r.cycles / 1e6, (speed.PUBLISHED[r.model, r.board].cycles or 0) / 1e6) for r in published]
    bars(cycles, ("tvm_tiny", "best published"), "million cycles of one inference", folder / "speed.svg")
    peers = [(NAMES[r.model], r.arena["sram"] / 1024, (memory.LIMITS[r.model].peer or 0) / 1024) for r in memories]
    bars([line for line in peers if line[2]], ("tvm_tiny", "best peer"), "arena, KiB", folder / "memory.svg")


def _measure(folder: Path, only: str | None) -> None:
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
    if only in (None, "speed"):
        given = argparse.Namespace(folder=folder, models=speed.MODELS, board=None, goal=None, records=True)
        kept["speed"] = [asdict(row) for row in speed.measure_all(given)]
    if only in (None, "memory"):
        kept["memory"] = [asdict(memory.measure(p)) for p in (folder / f"{name}.tflite" for name in memory.LIMITS) if p.is_file()]
    if only in (None, "streaming"):
        given = argparse.Namespace(folder=folder, board=None, goal="sram")
        kinds = [{"models": STREAMED, "camera": False}, {"models": streaming.FETCHED, "camera": True}]
        rows = (row for kind in kinds for row in streaming.measure_all(argparse.Namespace(**vars(given), **kind)))
        kept["streaming"] = [asdict(Streamed(r.model, r.board, r.arena, r.streamed.board, r.layers.board, r.camera)) for r in rows]
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure if a folder is given; write pages and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--only", choices=("speed", "memory", "streaming"))
    given = parser.parse_args()
    if given.folder is not None:
        _measure(given.folder, given.only)
    for page in pages():
        page.write_text(render(page.read_text(encoding="utf-8"), tables()), encoding="utf-8")
        print(f"wrote {page.relative_to(ROOT)}")
    draw(ROOT / "docs")


if __name__ == "__main__":
    main()
