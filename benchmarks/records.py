# SPDX-License-Identifier: Apache-2.0
"""Makes the tuning records that ship with the package, from the layers of the models in a folder.

    python -m benchmarks.records FOLDER [model …] [--board mps2_an500] [--trials 16] [--work DIR] [--minutes M]
    python -m benchmarks.records --ship [--work DIR]
    python -m benchmarks.records FOLDER --check

Everything measured is kept in the work folder, a file a board, and of each layer what is to be shipped in a file of its own: the default,
and candidates that take at least 1 % fewer cycles and no more flash. Run again, only what has changed is measured: a candidate whose C is
generated as before keeps its figures, and a layer that was searched is not searched again; its default and its best candidates are
measured. `--ship` writes schedules/records/ from these files. `--check` says of how many shipped records the C is still what was measured.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tvm_tiny
from tvm_tiny.boards import Board, find_board
from tvm_tiny.tuning import Record, Records, read_records
from tvm_tiny.tuning.network import make_runner, tasks_of, tune_task
from tvm_tiny.tuning.records import append_records, shipped_records
from tvm_tiny.tuning.task import Task

BOARDS = ("mps2_an500", "mps2_an386", "mps2_an505")
CHANNELS = "remove-constant-channels"
MODELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ad01_int8", ()), ("kws_ref_model", ()), ("pretrainedResnet_quant", ()), ("vww_96_int8", ()), ("vww_96_int8", (CHANNELS,)),
    ("mcunet_vww_80", ()), ("mcunetv2_large", ()),
)  # fmt: skip
SHIPPED = Path(__file__).resolve().parent.parent / "schedules" / "records"
WORK = Path("build/records")
GAIN = 0.99
BATCH = 16


def make(folder: Path, board: str, work: Path, trials: int, models: Sequence[str], deadline: float) -> None:
    """Measure the layers of the models on one board until `deadline` (`time.monotonic`)."""
    path, chosen = work / f"{board}.jsonl", work / board
    known = Records(read_records(path) if path.exists() else ())
    met: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_records_") as temp:
        for model, task in _tasks(folder, find_board(board), Path(temp), known, path, models):
            if time.monotonic() > deadline:
                return
            met.add(f"{task.workload.key}.jsonl")
            print(f"{board} {model} {_line(task, trials, Path(temp) / 'metaschedule' / task.workload.key)}", flush=True)
            (chosen / f"{task.workload.key}.jsonl").unlink(missing_ok=True)
            append_records(chosen / f"{task.workload.key}.jsonl", list(select(task.current())))
    if not models:
        for left in (p for p in chosen.glob("*.jsonl") if p.name not in met):
            left.unlink()  # of a layer that the models no longer have


def check(folder: Path, board: str, models: Sequence[str]) -> str:
    """Of how many shipped records the C is the one that was measured."""
    found = find_board(board)
    shipped = [r for r in shipped_records() if r.workload.mcpu == found.mcpu]
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_records_") as temp:
        tasks = [task for _model, task in _tasks(folder, found, Path(temp), Records(shipped), None, models)]
        current = sum(1 for task in tasks for _record in task.current())
    met = {task.workload.key for task in tasks}
    lost = sum(r.workload.key not in met for r in shipped)
    return f"{_file(board)}: {len(shipped)} records, {current} of the C that was measured, {lost} of layers that no model here has"


def _tasks(folder: Path, board: Board, temp: Path, known: Records, path: Path | None, models: Sequence[str]) -> Iterator[tuple[str, Task]]:
    """Every distinct layer of the models, with the first model that has it."""
    runner, met = make_runner("emulator", board, temp, None, "", "", 1), set[str]()
    for model, disable in MODELS:
        source = folder / f"{model}.tflite"
        if not source.is_file() or (models and model not in models):
            continue
        for task in tasks_of(tvm_tiny.load(source), board.target, runner, known, path, None, disable):
            if task.workload.key not in met:
                met.add(task.workload.key)
                yield model, task


def _line(task: Task, trials: int, work_dir: Path) -> str:
    """Tune one layer; what came of it in a line."""
    tried = sum(1 for r in task.records.of(task.workload) if r.choice)
    begin = time.monotonic()
    found = tune_task(task, 0 if tried >= trials else trials, BATCH, work_dir, 0, None)
    best = f"{found.best.cycles:,.0f} {dict(found.best.choice) or 'default'}" if found.best else "–"
    default = f"{found.default.cycles:,.0f}" if found.default else "–"
    return f"{task.workload}: {default} → {best}, {time.monotonic() - begin:.0f} s"


def select(current: Iterable[Record]) -> Iterator[Record]:
    """Of a layer's records, fewest cycles first, those to ship: the default's and what beats it, each slower one needing less scratch."""
    ranked = list(_to_the_next_best(current))
    default = next((r for r in ranked if not r.choice), None)
    if default is None:
        return
    least = None
    for record in ranked:
        better = record.cycles <= default.cycles * GAIN and record.flash <= default.flash
        wins = better and (least is None or record.scratch < least)
        if record is default or wins:
            least = record.scratch
            yield replace(record, runner_up=_runner_up(record, ranked))
        if record is default:
            return


def _to_the_next_best(current: Iterable[Record]) -> Iterator[Record]:
    """Records up to the first that is slower than the default and of other code."""
    default = None
    for record in current:
        yield record
        if default is not None and record.code != default.code:
            return
        default = record if not record.choice else default


def _runner_up(record: Record, ranked: Sequence[Record]) -> dict[str, Any] | None:
    """The next best of other code."""
    others = [r for r in ranked if r.code != record.code and r.cycles >= record.cycles]
    return {"choice": dict(others[0].choice), "cycles": others[0].cycles} if others else None


def ship(work: Path) -> None:
    """Write the shipped records anew, and say how many."""
    SHIPPED.mkdir(exist_ok=True)
    for board in (b for b in BOARDS if (work / b).is_dir()):
        layers = [read_records(path) for path in sorted((work / board).glob("*.jsonl"))]
        chosen = list(itertools.chain.from_iterable(layers))
        (SHIPPED / _file(board)).unlink(missing_ok=True)
        append_records(SHIPPED / _file(board), chosen)
        faster = sum(bool(r.choice) for r in chosen)
        print(f"{_file(board)}: {len(chosen)} records of {len(layers)} layers, {faster} faster than the default")


def _file(board: str) -> str:
    return f"{find_board(board).mcpu.replace('-', '_')}.jsonl"


def main() -> None:
    """Measure, or write what is shipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--board", action="append", choices=BOARDS)
    parser.add_argument("--trials", type=int, default=16, help="candidates a layer")
    parser.add_argument("--work", type=Path, default=WORK, help="where everything measured is kept")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no layer later than this")
    parser.add_argument("--ship", action="store_true", help="write schedules/records/ from the work folder")
    parser.add_argument("--check", action="store_true", help="measure nothing; say how many shipped records are current")
    given = parser.parse_intermixed_args()
    if given.folder is not None and given.check:
        for board in given.board or BOARDS:
            print(check(given.folder, board, given.models))
    elif given.folder is not None:
        deadline = time.monotonic() + 60 * given.minutes
        for board in given.board or BOARDS:
            make(given.folder, board, given.work, given.trials, given.models, deadline)
    if given.ship:
        ship(given.work)


if __name__ == "__main__":
    main()
