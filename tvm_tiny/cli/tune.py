# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny tune`: find faster kernels for the layers of a network on emulators or boards, and write records that `compile` can use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tvm_tiny.cli.building import EMULATED_M7, Model, Target
from tvm_tiny.cli.guard import AsJson, Debug, emit, progress_console

if TYPE_CHECKING:
    from tvm_tiny.tuning.network import TuningResult


def tune(
    model: Model,
    records: Annotated[Path, typer.Option("--records", "-o", help="File of records; continued where it exists.")] = Path("tuning.jsonl"),
    board: Annotated[str, typer.Option("--board", "-b", help="What is tuned for: a board of `tvm-tiny boards`.")] = EMULATED_M7,
    target: Target = None,
    trials: Annotated[int, typer.Option("--trials", "-n", help="Candidates a layer.")] = 64,
    layer: Annotated[
        list[str] | None, typer.Option("--layer", help="Part of a tensor's name; may be repeated. Default: all layers.")
    ] = None,
    board_term: Annotated[str | None, typer.Option("--board-term", help='Memory of a real board, such as "stm32f746@216".')] = None,
    scratch: Annotated[int | None, typer.Option("--scratch", help="Bytes of scratch a kernel may take.")] = None,
    flash: Annotated[int | None, typer.Option("--flash", help="Bytes of code and weights a kernel may take.")] = None,
    runner: Annotated[str, typer.Option("--runner", help="emulator (estimated cycles) or rpc (devices time themselves).")] = "",
    tracker: Annotated[str, typer.Option("--tracker", help="HOST:PORT of TVM's RPC tracker: draw emulators or boards from it.")] = "",
    key: Annotated[str, typer.Option("--key", help="Of the devices in the tracker; by default the board's name.")] = "",
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Devices or emulators used at a time.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Of the search.")] = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Tune the layers of MODEL; what is measured goes to --records batch by batch and is never measured twice."""
    from tvm_tiny.tuning.network import tune as tune_network

    with _live(trials) as advance:
        result = tune_network(
            model, target, board=board, trials=trials, records=records, layers=layer, board_term=board_term, scratch=scratch, flash=flash,
            seed=seed, progress=advance, runner=runner, tracker=tracker, key=key, jobs=jobs,
        )  # fmt: skip
    emit(as_json, result.to_dict(), lambda console: show_result(console, result))


@contextmanager
def _live(trials: int) -> Iterator[Any]:
    """One bar a layer on a terminal's standard error, with the best so far; nothing elsewhere."""
    console = progress_console()
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[best]}"), TimeElapsedColumn())
    bars: dict[str, Any] = {}
    with Progress(*columns, console=console) as shown:

        def advance(task: Any, _record: Any) -> None:
            if task.workload.key not in bars:
                bars[task.workload.key] = shown.add_task(str(task.workload), total=trials, best="")
            best = task.best()
            shown.update(bars[task.workload.key], advance=1, best=f"best {best.cycles:,.0f} cycles" if best else "")

        yield advance


def show_result(console: Console, result: TuningResult) -> None:
    """Print default and best of every distinct layer, and how to use the records."""
    table = Table("layer", "times")
    for column in ("tried", "refused", "default", "best", "cycles/MAC", "gain"):
        table.add_column(column, justify="right")
    table.add_column("choice")
    for layer in result.layers:
        default, best = layer.default, layer.best
        cycles = [f"{r.cycles:,.0f}" if r else "–" for r in (default, best)]
        ratio = f"{best.cycles / layer.macs:.3f}" if best and layer.macs else "–"
        choice = " ".join(f"{k}={v}" for k, v in best.choice.items()) if best and best.choice else "default"
        row = (layer.workload, str(len(layer.layers)), str(layer.tried), str(layer.refused), *cycles, ratio, f"{layer.speedup - 1:.1%}")
        table.add_row(*row, choice)
    console.print(table, highlight=False)
    if result.path is not None:
        console.print(f"records: {result.path}; use them with `tvm_tiny.build(…, records=…)`", markup=False, highlight=False)
