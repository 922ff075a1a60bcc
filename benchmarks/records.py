# SPDX-License-Identifier: Apache-2.0
"""Makes the tuning records that ship with the package, from the layers of the models in a folder.

    python -m benchmarks.records FOLDER [model …] [--board mps2_an500] [--trials 16] [--work DIR] [--minutes M]
    python -m benchmarks.records --ship [--work DIR]

Everything measured is kept in the work folder, a file a board. Run again, only what has changed is measured: a candidate whose code and
data are generated as before keeps its figures, and a layer that was searched is not searched again; its default and its best candidates
are measured. `--ship` writes schedules/records/ from the work folder: of each layer the default, and candidates that take at least 1 %
fewer cycles, nothing slower than the default.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tvm_tiny
from tvm_tiny.boards import find_board
from tvm_tiny.tuning import Record, Records, read_records
from tvm_tiny.tuning.network import make_runner, tasks_of, tune_task
from tvm_tiny.tuning.records import append_records, kernel_version
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
    path, found = work / f"{board}.jsonl", find_board(board)
    known = Records(read_records(path) if path.exists() else ())
    done: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_records_") as temp:
        runner = make_runner("emulator", found, Path(temp), None, "", "", 1)
        for model, disable in MODELS:
            source = folder / f"{model}.tflite"
            if not source.is_file() or (models and model not in models):
                continue
            for task in tasks_of(tvm_tiny.load(source), found.target, runner, known, path, None, disable):
                if task.workload.key in done or time.monotonic() > deadline:
                    continue
                done.add(task.workload.key)
                print(f"{board} {model} {_line(task, trials, Path(temp) / 'metaschedule' / task.workload.key)}", flush=True)


def _line(task: Task, trials: int, work_dir: Path) -> str:
    """Tune one layer; what came of it in a line."""
    tried = sum(1 for r in task.records.of(task.workload) if r.choice)
    begin = time.monotonic()
    found = tune_task(task, 0 if tried >= trials else trials, BATCH, work_dir, 0, None)
    best = f"{found.best.cycles:,.0f} {dict(found.best.choice) or 'default'}" if found.best else "–"
    default = f"{found.default.cycles:,.0f}" if found.default else "–"
    return f"{task.workload}: {default} → {best}, {time.monotonic() - begin:.0f} s"


def select(records: Sequence[Record]) -> Iterator[Record]:
    """Of one layer the records to ship: the default's, and what beats it, fastest first, each slower one needing less scratch."""
    current = [r for r in records if r.status == "ok" and r.kernels == kernel_version()]
    default = next((r for r in current if not r.choice), None)
    if default is None:
        return
    ranked = sorted(current, key=lambda r: (r.cycles, r.scratch, r.flash, r.candidate))
    least = None
    for record in ranked:
        wins = record.cycles <= default.cycles * GAIN and (least is None or record.scratch < least)
        if record is default or wins:
            least = record.scratch
            yield replace(record, runner_up=_runner_up(record, ranked))
        if record is default:
            return


def _runner_up(record: Record, ranked: Sequence[Record]) -> dict[str, Any] | None:
    """The next best of other code."""
    others = [r for r in ranked if r.code != record.code and r.cycles >= record.cycles]
    return {"choice": dict(others[0].choice), "cycles": others[0].cycles} if others else None


def ship(work: Path) -> None:
    """Write the shipped records anew, and say how many."""
    SHIPPED.mkdir(exist_ok=True)
    for board in BOARDS:
        path, target = work / f"{board}.jsonl", SHIPPED / f"{find_board(board).mcpu.replace('-', '_')}.jsonl"
        if not path.is_file():
            continue
        groups: dict[str, list[Record]] = {}
        for record in Records(read_records(path)):
            groups.setdefault(record.workload.key, []).append(record)
        chosen = [r for key in sorted(groups) for r in select(groups[key])]
        target.unlink(missing_ok=True)
        append_records(target, chosen)
        faster = sum(bool(r.choice) for r in chosen)
        print(f"{target.name}: {len(chosen)} records of {len(groups)} layers, {faster} faster than the default")


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
    given = parser.parse_intermixed_args()
    if given.folder is not None:
        deadline = time.monotonic() + 60 * given.minutes
        for board in given.board or BOARDS:
            make(given.folder, board, given.work, given.trials, given.models, deadline)
    if given.ship:
        ship(given.work)


if __name__ == "__main__":
    main()
