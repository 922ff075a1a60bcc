# SPDX-License-Identifier: Apache-2.0
"""How long a build takes: processor time and time on the clock, with the cache of scheduled blocks empty and full.

    python -m benchmarks.compile_time FOLDER_OF_MODELS [model …] [--board mps2_an386] [--goal sram] [--max-overhead 0.12] [--most SECONDS]

Every build is a process of its own, from its start to the C text; "cold" begins without cached blocks, "warm" finds those it made.
Processor time (user and system, all threads) says little of what else the machine does. The digest is that of the generated C: a change
that only makes builds faster keeps it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

BOARDS = ("mps2_an500", "mps2_an386")
GOALS = ("balanced", "sram")
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Build:
    """One build: seconds of the processor and on the clock, and the digest of the C it gave."""

    model: str
    board: str
    goal: str
    cache: str
    processor: float
    clock: float
    digest: str


def builds(path: Path, board: str, goal: str, max_overhead: float) -> Iterator[Build]:
    """A build without cached blocks, then one with them."""
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_blocks_") as folder:
        for cache in ("cold", "warm"):
            yield build(path, board, goal, max_overhead, cache, Path(folder))


def build(path: Path, board: str, goal: str, max_overhead: float, cache: str, blocks: Path) -> Build:
    """One build in a process of its own; cached blocks lie in the folder `blocks`.

    Raises
    ------
    subprocess.CalledProcessError
        It failed.
    """
    command = [sys.executable, "-m", "benchmarks.compile_time", "--one", str(path), "--board", board, "--goal", goal]
    command += ["--max-overhead", str(max_overhead)]
    began = time.monotonic()
    env = {**os.environ, "TVM_TINY_CACHE": str(blocks)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return Build(path.stem, board, goal, cache, found["processor"], time.monotonic() - began, found["digest"])


def _one(path: Path, board: str, goal: str, max_overhead: float) -> None:
    """Build here, and print processor time and digest."""
    import tvm_tiny

    files = tvm_tiny.build(path, board=board, optimize=goal, max_overhead=max_overhead).files
    digest = hashlib.sha256(b"".join(text for name, text in sorted(files.items()) if name.endswith((".c", ".h")))).hexdigest()[:12]
    sys.stdout.write(json.dumps({"processor": time.process_time(), "digest": digest}) + "\n")


def table(found: list[Build]) -> Table:
    """The builds."""
    out = Table(title="seconds of a build", title_justify="left")
    for column in ("network", "board", "goal", "blocks", "processor", "clock", "C"):
        out.add_column(column, justify="right" if column in ("processor", "clock") else "left")
    for b in found:
        out.add_row(b.model, b.board, b.goal, b.cache, f"{b.processor:.1f}", f"{b.clock:.1f}", b.digest)
    return out


def main() -> None:
    """Build and print; the exit code is 1 where one took longer than `--most`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", metavar="model")
    parser.add_argument("--board", action="append", help="default: an emulated Cortex-M7 and a Cortex-M4")
    parser.add_argument("--goal", action="append", choices=("speed", *GOALS), help="default: balanced and sram")
    parser.add_argument("--max-overhead", type=float, default=0.1)
    parser.add_argument("--most", type=float, help="seconds of the processor that no build may exceed")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    if arguments.one:
        _one(arguments.folder, arguments.board[0], arguments.goal[0], arguments.max_overhead)
        return
    models = [arguments.folder / f"{name}.tflite" for name in arguments.models] or sorted(arguments.folder.glob("*.tflite"))
    console, found = Console(stderr=True), list[Build]()
    for path in models:
        for board in arguments.board or BOARDS:
            for goal in arguments.goal or GOALS:
                for made in builds(path, board, goal, arguments.max_overhead):
                    console.print(f"{made.model}, {board}, {goal}, {made.cache}: {made.processor:.1f} s", highlight=False)
                    found.append(made)
    Console(width=120).print(table(found))
    if arguments.most is not None and max(b.processor for b in found) > arguments.most:
        sys.exit(1)


if __name__ == "__main__":
    main()
