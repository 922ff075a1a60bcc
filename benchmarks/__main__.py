# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks [MODEL…]`` (``make bench``): print the figures of networks and how they differ from the record.

Without a model: the demo network. ``--update`` writes what was measured into benchmarks/record.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import COUNTED, DEMO_MODEL, measure, read_record, write_record
from tvm_tiny.errors import TinyError

BOARDS = ("mps2_an500", "mps2_an386")


def main() -> int:
    """Measure, print, and record if asked; the exit code of the first error."""
    args = _arguments()
    figures: dict[str, dict[str, Any]] = {}
    try:
        for model in args.models:
            for board in args.board or BOARDS:
                figures[f"{model.stem} {board}"] = measure(model, board)
    except TinyError as error:
        print(f"error {error.code}: {error}", file=sys.stderr)
        return error.exit_code
    if args.json:
        print(json.dumps(figures, indent=2))
    else:
        _show(figures, read_record())
    if args.update:
        write_record(figures)
    return 0


def _show(figures: dict[str, dict[str, Any]], record: dict[str, dict[str, Any]]) -> None:
    table = Table("network and board", "MAC", *COUNTED, "per MAC", "estimated cycles")
    for key, found in figures.items():
        old = record.get(key, {})
        counts = [_with_change(found[name], old.get(name)) for name in COUNTED]
        cycles = ", ".join(f"{core.removeprefix('cortex-')} {count:,}" for core, count in found["cycles"].items())
        table.add_row(key, f"{found['macs']:,}", *counts, f"{found['instructions'] / max(found['macs'], 1):.2f}", cycles)
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


def _with_change(value: int, old: int | None) -> str:
    """The value, and where a record differs, by how much."""
    if old is None or old == value:
        return f"{value:,}"
    return f"{value:,} ({(value - old) / max(old, 1):+.1%})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=[DEMO_MODEL], help="model files (default: the demo network)")
    parser.add_argument("--board", action="append", help=f"an emulated board, may be repeated (default: {', '.join(BOARDS)})")
    parser.add_argument("--update", action="store_true", help="write the figures into benchmarks/record.json")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
