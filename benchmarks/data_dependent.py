# SPDX-License-Identifier: Apache-2.0
"""Layers whose time depends on the input: what they take on random inputs, beside the most the report says they can take.

    python -m benchmarks.data_dependent MODEL [--board mps2_an386] [--samples 5]

Cycles of the core, estimated, without waits for flash. Ends with an error when a layer takes more than the report says.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
from rich.console import Console
from rich.table import Table

import tvm_tiny
from tvm_tiny.cli.inputs import make_samples
from tvm_tiny.profiler import profile_model


@dataclass(frozen=True)
class Row:
    """One layer: estimated cycles of each run, and the report's figures for half of the inputs at zero and for none."""

    index: int
    name: str
    taken: tuple[float, ...]
    half: int
    most: int


def measure(model: Path | tvm.IRModule, board: str, samples: int) -> list[Row]:
    """Compile `model` for `board` and run it on random inputs."""
    compiled = tvm_tiny.build(model, board=board, name="net")
    rows = [row for row in compiled.report.layers if "most_cycles" in row.kernel]
    profiles = [profile_model(compiled, board, s) for s in make_samples(None, compiled.inputs, samples, 0)] if rows else []
    taken = {row.index: tuple(float(p.layers[row.index].cycles[p.cores[0]]) for p in profiles) for row in rows}
    return [Row(r.index, r.source[0], taken[r.index], r.kernel["half_cycles"], r.kernel["most_cycles"]) for r in rows]


def table(rows: list[Row]) -> Table:
    """The figures; the last line is their sum."""
    out = Table(title="cycles of layers whose time depends on the input", title_justify="left")
    out.add_column("#")
    out.add_column("layer")
    for column in ("least", "mean", "most", "half at zero", "no zero"):
        out.add_column(column, justify="right")
    for row in rows:
        out.add_row(str(row.index), row.name[-40:], *_figures(np.array(row.taken), row.half, row.most))
    if rows:
        out.add_section()
        together = np.sum([row.taken for row in rows], axis=0)
        out.add_row("", "together", *_figures(together, sum(r.half for r in rows), sum(r.most for r in rows)))
    return out


def _figures(taken: np.ndarray, half: int, most: int) -> list[str]:
    return [f"{value:,.0f}" for value in (taken.min(), taken.mean(), taken.max(), half, most)]


def main() -> None:
    """Print the table; an error where the report is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--board", default="mps2_an386")
    parser.add_argument("--samples", type=int, default=5)
    given = parser.parse_args()
    rows = measure(given.model, given.board, given.samples)
    Console(width=140).print(table(rows))
    late = [str(row.index) for row in rows if max(row.taken) > row.most]
    if late:
        sys.exit(f"more than the report says: layers {', '.join(late)}")


if __name__ == "__main__":
    main()
