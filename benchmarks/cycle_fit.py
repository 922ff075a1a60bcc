# SPDX-License-Identifier: Apache-2.0
"""Fit what estimates cost to random layers, and say how good estimates of layers are that were left out.

    python -m benchmarks.cycle_fit [--board mps2_an386] [--seeds 20] [--samples FOLDER] [--write]

Networks are left out a sixth at a time (a network's layers in both forms of their code together), and then kinds of layers one at a
time, which have only instructions and what other kinds share to go by. `--samples` keeps what was profiled in a folder and takes what is
there; `--write` writes `schedules/cycles.json`. Only random networks are fitted: `benchmarks.curve` prints how far others are off.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.cycle_samples import Sample, read, samples, write
from tvm_tiny.boards import find_board
from tvm_tiny.schedules.cycle_priors import counted_cost
from tvm_tiny.schedules.cycle_terms import COEFFICIENTS

BOARDS = ("mps2_an500", "mps2_an386")
FOLDS = 6
NEAR = 0.15  # of the profile: what an estimate of a layer should keep to
_PULL = 3e-3  # of the costs by instructions on the fit, against a sample's relative error
_SMALL = 60  # cycles beside which a relative error does not count in full
_TOLERANCE = 1e-9

Costs = Mapping[str, float]


def fit(found: Sequence[Sample], core: str) -> dict[str, float]:
    """Cycles of every term that has instructions: least squares of relative errors, none negative, drawn to the costs by instructions."""
    names = sorted(name for name in {name for s in found for name in s.terms} if counted_cost(name, core) > 0)
    by_instructions = np.array([counted_cost(name, core) for name in names])
    weights = 1 / (np.array([s.cycles for s in found]) + _SMALL)
    counts = np.array([[s.terms.get(name, 0.0) for name in names] for s in found]) * by_instructions * weights[:, None]
    wanted = np.array([s.cycles for s in found]) * weights
    pull = np.sqrt(_PULL) * np.eye(len(names))
    costs = nonnegative(np.vstack([counts, pull]), np.concatenate([wanted, pull.sum(axis=1)])) * by_instructions
    return {name: round(float(cost), 5) for name, cost in zip(names, costs, strict=True)}


def nonnegative(counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Solve min |counts x - wanted| for x >= 0 (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23).

    It begins with every x at one and free: few costs end at zero.
    """
    count = counts.shape[1]
    squares, products = counts.T @ counts, counts.T @ wanted
    x, free = np.ones(count), np.ones(count, dtype=bool)
    for _ in range(10 * count):
        while free.any():
            step = np.zeros(count)
            step[free] = np.linalg.lstsq(squares[np.ix_(free, free)], products[free], rcond=None)[0]
            if step[free].min() > 0:
                break
            low = free & (step <= 0)
            along = (x[low] / np.maximum(x[low] - step[low], 1e-30)).min()
            x += along * (step - x)
            free &= x > 1e-15
            x[~free] = 0
        x = step if free.any() else np.zeros(count)
        gradient = products - squares @ x
        gradient[free] = -np.inf
        if gradient.max() <= _TOLERANCE:
            break
        free[int(np.argmax(gradient))] = True
    return x


def estimate(terms: Mapping[str, float], costs: Costs, core: str) -> float:
    """Cycles of terms by these costs."""
    return sum((costs[name] if name in costs else counted_cost(name, core)) * count for name, count in terms.items())


def errors_left_out(found: Sequence[Sample], core: str, group: Callable[[Sample], str], folds: int) -> list[float]:
    """Relative errors of samples by a fit to those of other groups; groups share `folds` fits."""
    numbers = {name: i % folds for i, name in enumerate(dict.fromkeys(group(s) for s in found))}
    of = [numbers[group(s)] for s in found]
    made = {n: fit([s for s, other in zip(found, of, strict=True) if other != n] or found, core) for n in set(of)}
    return [estimate(s.terms, made[n], core) / s.cycles - 1 for s, n in zip(found, of, strict=True)]


def table(found: Sequence[Sample], networks: Sequence[float], kinds: Sequence[float], board: str) -> Table:
    """Errors by kind of layer: with networks left out, and with the kind itself left out."""
    out = Table(title=f"estimates of layers left out of the fit, {board}", title_justify="left")
    for column in ("kind", "layers", "mean", "median", "nine in ten", f"within {NEAR:.0%}", "kind left out: median"):
        out.add_column(column, justify="left" if column == "kind" else "right")
    for kind in (*sorted({s.kind for s in found}), "all"):
        chosen = [i for i, s in enumerate(found) if kind in (s.kind, "all")]
        e, k = np.array(networks)[chosen], np.array(kinds)[chosen]
        out.add_row(kind, str(len(e)), f"{e.mean():+.1%}", *_spread(e), f"{(abs(e) < NEAR).mean():.0%}", f"{np.median(abs(k)):.1%}")
    return out


def _spread(errors: np.ndarray) -> tuple[str, str]:
    return f"{np.median(abs(errors)):.1%}", f"{np.quantile(abs(errors), 0.9):.1%}"


def kept(folder: Path | None, board: str, seeds: int, console: Console) -> list[Sample]:
    """Samples of a board: those of the folder, or new ones, which are kept there."""
    path = folder / f"{board}.jsonl" if folder is not None else None
    if path is not None and path.is_file():
        return read(path)
    found = []
    for made in samples(board, range(seeds)):
        console.print(f"{made[0].network}: {len(made)} layers, {sum(s.cycles for s in made):,.0f} cycles", highlight=False)
        found += made
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, found)
    return found


def without_repeats(found: Iterable[Sample]) -> list[Sample]:
    """Layers of the same terms and cycles once: what has no shared code is the same in both forms of a network."""
    key = lambda s: (s.network, s.kind, round(s.cycles), sorted(s.terms.items()))  # noqa: E731
    return [next(same) for _, same in groupby(sorted(found, key=key), key)]


def main() -> None:
    """Profile, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", action="append", help="an emulated Cortex-M7 or Cortex-M4 (default: one of each)")
    parser.add_argument("--seeds", type=int, default=20, help="random networks of each sort")
    parser.add_argument("--samples", type=Path, help="folder of what was profiled")
    parser.add_argument("--write", action="store_true", help="write schedules/cycles.json")
    arguments = parser.parse_args()
    costs: dict[str, dict[str, float]] = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    for board in arguments.board or BOARDS:
        core = find_board(board).mcpu
        found = without_repeats(kept(arguments.samples, board, arguments.seeds, Console(stderr=True)))
        networks = errors_left_out(found, core, lambda s: s.network, FOLDS)
        kinds = errors_left_out(found, core, lambda s: s.kind, len(found))
        Console(width=140).print(table(found, networks, kinds, board))
        costs[core] = fit(found, core)
    if arguments.write:
        COEFFICIENTS.write_text(json.dumps(costs, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
