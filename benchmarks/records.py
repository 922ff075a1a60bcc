# SPDX-License-Identifier: Apache-2.0
"""Makes the tuning records that ship with the package, from the layers of the models in a folder.

    python -m benchmarks.records FOLDER [model …] [--board mps2_an500] [--trials 16] [--work DIR] [--minutes M]
    python -m benchmarks.records --ship [--work DIR]
    python -m benchmarks.records FOLDER --check

The work folder has a file for every layer of a board: the default and what one search came upon, in its order. A search begins with
nothing and at the same seed, so a folder that was filled step by step, over many versions of the kernels, ends with the same files as an
empty one: a layer whose candidates all give the C that was measured is left alone, any other is searched from the start. `--ship` writes
schedules/records/ from these files alone: the default, and candidates that take at least 1 % fewer cycles, unless a faster one needs
neither more scratch nor more flash. `--check` says of how many shipped records the C is still what was measured.
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
SEED = 0


def make(folder: Path, board: str, work: Path, trials: int, models: Sequence[str], deadline: float) -> None:
    """Search the layers of the models on one board until `deadline` (`time.monotonic`)."""
    layers, met = work / board, set[str]()
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_records_") as temp:
        for model, task in _tasks(folder, find_board(board), Path(temp), Records(), models):
            if time.monotonic() > deadline:
                return
            file = layers / f"{task.workload.key}-{trials}.jsonl"
            met.add(file.name)
            begin = time.monotonic()
            if bring_up_to_date(file, task, trials, Path(temp) / "metaschedule" / task.workload.key):
                print(f"{board} {model} {task.workload}: {_line(read_records(file))}, {time.monotonic() - begin:.0f} s", flush=True)
    if not models:
        for left in (p for p in layers.glob("*.jsonl") if p.name not in met):
            left.unlink()  # of a layer that the models no longer have, or of other trials


def bring_up_to_date(file: Path, task: Task, trials: int, work_dir: Path) -> bool:
    """Search a layer unless its file has what every candidate gives now; whether it was searched."""
    if file.exists() and all(map(task.is_current, read_records(file))):
        return False
    _write(file, search_layer(task, trials, work_dir))
    return True


def search_layer(task: Task, trials: int, work_dir: Path) -> list[Record]:
    """The default's record, then those of the candidates that a search comes upon, in the order in which it does."""
    found: dict[str, Record] = {}
    tuned = tune_task(task, trials, BATCH, work_dir, SEED, lambda _task, record: found.setdefault(record.candidate, record))
    return [*([tuned.default] if tuned.default is not None else []), *(r for r in found.values() if r.choice)]


def _write(path: Path, records: Sequence[Record]) -> None:
    """All or nothing: a process that is killed leaves the file that was there."""
    whole = path.with_suffix(".new")
    whole.unlink(missing_ok=True)
    append_records(whole, records)
    whole.replace(path)


def check(folder: Path, board: str, models: Sequence[str]) -> str:
    """Of how many shipped records the C is the one that was measured."""
    found = find_board(board)
    shipped = [r for r in shipped_records() if r.workload.mcpu == found.mcpu]
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_records_") as temp:
        tasks = [task for _model, task in _tasks(folder, found, Path(temp), Records(shipped), models)]
        current = sum(task.is_current(record) for task in tasks for record in task.records.of(task.workload))
    met = {task.workload.key for task in tasks}
    lost = sum(r.workload.key not in met for r in shipped)
    return f"{_file(board)}: {len(shipped)} records, {current} of the C that was measured, {lost} of layers that no model here has"


def _tasks(folder: Path, board: Board, temp: Path, known: Records, models: Sequence[str]) -> Iterator[tuple[str, Task]]:
    """Every distinct layer of the models, with the first model that has it."""
    runner, met = make_runner("emulator", board, temp, None, "", "", 1), set[str]()
    for model, disable in MODELS:
        source = folder / f"{model}.tflite"
        if not source.is_file() or (models and model not in models):
            continue
        for task in tasks_of(tvm_tiny.load(source), board.target, runner, known, None, None, disable):
            if task.workload.key not in met:
                met.add(task.workload.key)
                yield model, task


def _line(found: Sequence[Record]) -> str:
    """What came of a layer."""
    ranked = ranking(found)
    default = next((f"{r.cycles:,.0f}" for r in ranked if not r.choice), "–")
    return f"{default} → {ranked[0].cycles:,.0f} {dict(ranked[0].choice) or 'default'}" if ranked else default


def ranking(found: Iterable[Record]) -> list[Record]:
    """Exact candidates, fewest cycles first."""
    return sorted((r for r in found if r.status == "ok"), key=lambda r: (r.cycles, r.scratch, r.flash, r.candidate))


def select(current: Iterable[Record]) -> Iterator[Record]:
    """Of a layer's records, fewest cycles first, those to ship: the default's, and what beats it where nothing faster takes as little."""
    ranked = list(_to_the_next_best(current))
    default = next((r for r in ranked if not r.choice), None)
    if default is None:
        return
    chosen: list[Record] = []
    for record in ranked:
        better = record.cycles <= default.cycles * GAIN
        if record is default or (better and not any(c.scratch <= record.scratch and c.flash <= record.flash for c in chosen)):
            chosen.append(record)
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
        layers = [list(select(ranking(read_records(path)))) for path in sorted((work / board).glob("*.jsonl"))]
        chosen = list(itertools.chain.from_iterable(layers))
        (SHIPPED / _file(board)).unlink(missing_ok=True)
        append_records(SHIPPED / _file(board), chosen)
        faster = [r for layer in layers for r in layer if r.choice]
        larger = sum(r.flash > next(d.flash for d in layer if not d.choice) for layer in layers for r in layer if r.choice)
        told = f"{len(chosen)} records of {len(layers)} layers, {len(faster)} faster than the default, {larger} of these with more flash"
        print(f"{_file(board)}: {told}")


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
