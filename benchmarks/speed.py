# SPDX-License-Identifier: Apache-2.0
"""Estimated cycles, instructions and code of the benchmark networks, softmax and all, beside the best published results.

    python -m benchmarks.speed FOLDER_OF_MODELS [model …] [--goal speed] [--board mps2_an500] [--records FILE | --no-records] [--json]

Cycles are of one inference on an emulated core with the memory of a real board added (STM32H7A3 at 280 MHz for the Cortex-M7, STM32L4R5
at 120 MHz for the Cortex-M4; docs/profiling.md says how good the estimate is). "exact" compares every output byte of the emulated core
with TensorFlow Lite Micro's interpreter. Models that are not in the folder are listed as missing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import tvm_tiny
from tvm_tiny.cli.inputs import make_samples
from tvm_tiny.compiled import CompiledModel
from tvm_tiny.device import run
from tvm_tiny.reference import Reference

BOARD_TERMS = {"mps2_an500": "stm32h7a3@280", "mps2_an386": "stm32l4r5@120"}
GOALS = ("speed", "balanced")
SEED = 0  # of the one random sample
TIMEOUT = 600.0  # seconds of one emulated inference


@dataclass(frozen=True)
class Published:
    """The best result of any engine on hardware, in cycles of one inference (clock over throughput), and what this project wants."""

    cycles: float | None
    wanted: float
    source: str


H7A3, L4R5 = "MLPerf Tiny, NUCLEO-H7A3ZI-Q", "MLPerf Tiny, NUCLEO-L4R5ZI"
ST, NONE = "ST Edge AI, round v1.2", "nothing published"
ALL = " (all channels)"
PUBLISHED = {
    ("pretrainedResnet_quant", "mps2_an500"): Published(11.437e6, 6.4e6, f"{H7A3}, {ST}"),
    ("vww_96_int8", "mps2_an500"): Published(6.665e6, 3.4e6, f"{H7A3}, {ST}"),
    ("vww_96_int8" + ALL, "mps2_an500"): Published(12.2e6, 6.0e6, "MLPerf Tiny v1.1, Bosch HALE"),
    ("kws_ref_model", "mps2_an500"): Published(3.169e6, 2.05e6, f"{H7A3}, {ST}"),
    ("ad01_int8", "mps2_an500"): Published(0.303e6, 0.29e6, f"{H7A3}, Bosch HALE, round v1.2"),
    ("mcunet_vww_80", "mps2_an500"): Published(None, 9.5e6, NONE),
    ("mcunetv2_large", "mps2_an500"): Published(None, 175e6, NONE),
    ("pretrainedResnet_quant", "mps2_an386"): Published(19.815e6, 13.0e6, L4R5),
    ("vww_96_int8", "mps2_an386"): Published(10.671e6, 7.2e6, L4R5),
    ("vww_96_int8" + ALL, "mps2_an386"): Published(21.7e6, 11.8e6, "MLPerf Tiny v1.1, Bosch HALE"),
    ("kws_ref_model", "mps2_an386"): Published(5.182e6, 4.1e6, L4R5),
    ("ad01_int8", "mps2_an386"): Published(0.486e6, 0.44e6, L4R5),
    ("mcunet_vww_80", "mps2_an386"): Published(None, 19e6, NONE),
    ("mcunetv2_large", "mps2_an386"): Published(None, 340e6, NONE),
}
MODELS = tuple(dict.fromkeys(model for model, _board in PUBLISHED))


@dataclass(frozen=True)
class Row:
    """One network on one board under one goal; `code` is bytes of kernels and entry in the linked image."""

    model: str
    board: str
    goal: str
    cycles: int
    instructions: int
    code: int
    arena: int
    constants: int
    exact: bool


def measure(path: Path, model: str, board: str, goal: str, records: Any = True) -> Row:
    """Compile, profile, run and compare one network. `model` is its name in `PUBLISHED`."""
    disable = ("remove-constant-channels",) if model.endswith(ALL) else ()
    compiled = tvm_tiny.build(path, board=board, optimize=goal, disable=disable, records=records, name="net")
    (sample,) = make_samples(None, compiled.inputs, 1, SEED)
    profile = compiled.profile(board, sample, board_term=BOARD_TERMS[board], timeout=TIMEOUT)
    code, exact = _run(compiled, path, board, sample)
    cycles, instructions = round(profile.total.cycles[profile.cores[0]]), profile.total.instructions
    return Row(model, board, goal, cycles, instructions, code, compiled.workspace_size, compiled.report.constants_bytes, exact)


def _run(compiled: CompiledModel, path: Path, board: str, sample: dict[str, np.ndarray]) -> tuple[int, bool]:
    """Bytes of the model's code in the image, and whether its outputs are the interpreter's."""
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_speed_") as folder:
        result = run(compiled.save(Path(folder) / "model"), board, [sample], timeout=TIMEOUT)
    code = sum(s.size for s in result.image.symbols if s.name.startswith("tvmgen_") and s.section.startswith(".text"))
    wanted = Reference(path.read_bytes()).run([sample[t.name] for t in compiled.inputs])
    found = [result.outputs[0][t.name] for t in compiled.outputs]
    return code, all(np.array_equal(a.reshape(-1), b.reshape(-1)) for a, b in zip(found, wanted, strict=True))


def table(rows: Iterable[Row]) -> Table:
    """The figures beside the published ones; "of best" is the share of the cycles of the best engine."""
    out = Table(title="cycles of one inference, estimated, in millions", title_justify="left")
    for column in ("model", "core", "goal"):
        out.add_column(column)
    for column in ("cycles", "wanted", "best published", "of best", "instructions", "code", "arena", "constants", "exact"):
        out.add_column(column, justify="right")
    for row in rows:
        known = PUBLISHED[row.model, row.board]
        best, share = (f"{known.cycles / 1e6:.3f}", f"{row.cycles / known.cycles:.0%}") if known.cycles else ("–", "–")
        core = "M7" if row.board == "mps2_an500" else "M4"
        mark = "" if row.cycles <= known.wanted else " !"
        sizes = (f"{row.code:,}", f"{row.arena:,}", f"{row.constants:,}")
        figures = (f"{row.cycles / 1e6:.3f}{mark}", f"{known.wanted / 1e6:g}", best, share, f"{row.instructions / 1e6:.3f}")
        out.add_row(row.model, core, row.goal, *figures, *sizes, "yes" if row.exact else "NO")
    return out


def measure_all(arguments: argparse.Namespace) -> Iterator[Row]:
    """Every model of the folder on every board for every goal."""
    for model in arguments.models:
        path = _path(arguments.folder, model)
        for board in arguments.board or BOARD_TERMS:
            for goal in arguments.goal or GOALS:
                if path.is_file():
                    yield measure(path, model, board, goal, arguments.records)


def _path(folder: Path, model: str) -> Path:
    return folder / f"{model.removesuffix(ALL)}.tflite"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="model", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--goal", action="append", choices=GOALS)
    parser.add_argument("--board", action="append", choices=list(BOARD_TERMS))
    parser.add_argument("--json", action="store_true", help="print JSON")
    records = parser.add_mutually_exclusive_group()
    records.add_argument("--records", default=True, help="tuning records besides the shipped ones")
    records.add_argument("--no-records", dest="records", action="store_false", help="what the rules choose by themselves")
    found = parser.parse_args()
    unknown = sorted(set(found.models) - set(MODELS))
    if unknown:
        parser.error(f"no figures for {', '.join(unknown)}; known: {', '.join(MODELS)}")
    return found


def main() -> None:
    """Print the table, where the published figures come from, and what is missing."""
    arguments = _arguments()
    rows = list(measure_all(arguments))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    console = Console(width=150)
    console.print(table(rows))
    cited = [(p.source, model) for (model, _board), p in PUBLISHED.items() if p.cycles and model in arguments.models]
    for source in dict.fromkeys(source for source, _model in cited):
        console.print(f"{source}: {', '.join(dict.fromkeys(model for text, model in cited if text == source))}", highlight=False)
    for model in arguments.models:
        if not _path(arguments.folder, model).is_file():
            console.print(f"missing: {_path(arguments.folder, model)}")


if __name__ == "__main__":
    main()
