# SPDX-License-Identifier: Apache-2.0
"""Candidates a minute on one emulator of a tracker and on several: `python -m benchmarks.fleet [--emulators 1,2] [--candidates N]`.

Kernels of one layer of the demo network, drawn from its tuning space and compiled beforehand, are linked, checked and profiled by as many
emulators as device servers offer. Take a machine with a core for each that does nothing else.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from tvm_tiny.boards import find_board
from tvm_tiny.device.fleet import running_fleet
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels import RegisterPressureError
from tvm_tiny.schedules.rules import realise, spaces
from tvm_tiny.tuning.bench import Bench
from tvm_tiny.tuning.candidate import Candidate, Case
from tvm_tiny.tuning.emulator import EmulatorSpec
from tvm_tiny.tuning.network import lowered_layers

MODEL = Path(__file__).resolve().parents[1] / "examples/fashion_mnist/fashion_mnist_int8.tflite"
BOARD = find_board("mps2_an500")


def draw(count: int, seed: int = 0) -> tuple[Case, list[Candidate]]:
    """The layer with most to choose, and different kernels for it."""
    rng = random.Random(seed)
    layers = [f for f in lowered_layers(MODEL, BOARD.target) if spaces(f, BOARD.target)]
    func = max(layers, key=lambda f: int(f.attrs["tiny.macs"]))
    found: dict[str, Candidate] = {}
    for _ in range(100 * count):
        name, space = rng.choice(list(spaces(func, BOARD.target).items()))
        choice = {"rule": name, **{decision: rng.choice(list(values)) for decision, values in space.decisions.items()}}
        if len(found) == count:
            break
        if not space.legal(choice):
            continue
        try:
            candidate = Candidate.of(realise(func, BOARD.target, choice).mod["main"])  # type: ignore[union-attr]
        except RegisterPressureError:
            continue
        if candidate is not None:
            found[candidate.digest] = candidate
    layer = Layer.of(func)
    assert layer is not None
    return Case.of(layer), list(found.values())


def measure(case: Case, candidates: list[Candidate], emulators: int, folder: Path) -> tuple[float, int]:
    """Seconds for all candidates, and how many were exact."""
    with running_fleet([EmulatorSpec(BOARD.name)] * emulators, "bench", start_timeout=60.0) as fleet:
        bench = Bench(BOARD, "stm32h7a3@280", folder, jobs=emulators, fleet=fleet)
        bench.objects.compile(candidates)
        start = time.monotonic()
        found = bench.measure(case, candidates)
        return time.monotonic() - start, sum(m.status == "ok" for m in found)


def main() -> None:
    """Print a row for each number of emulators."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--emulators", default="1,2", help="numbers of emulators, one row each")
    parser.add_argument("--candidates", type=int, default=48)
    given = parser.parse_args()
    case, candidates = draw(given.candidates)
    print("emulators  candidates  exact  seconds  a minute  times the first")
    first = 0.0
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_fleet_") as folder:
        for emulators in map(int, given.emulators.split(",")):
            seconds, exact = measure(case, candidates, emulators, Path(folder))
            rate = 60 * len(candidates) / seconds
            first = first or rate
            print(f"{emulators:9d}  {len(candidates):10d}  {exact:5d}  {seconds:7.1f}  {rate:8.0f}  {rate / first:15.2f}", flush=True)


if __name__ == "__main__":
    main()
