# SPDX-License-Identifier: Apache-2.0
"""One network on one emulated board: instructions, estimated cycles, arena, constants and code; deterministic, so a record can be exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tvm_tiny
from tvm_tiny.cli.inputs import make_samples

ROOT = Path(__file__).resolve().parent.parent
DEMO_MODEL = ROOT / "examples" / "fashion_mnist" / "fashion_mnist_int8.tflite"
RECORD = Path(__file__).with_name("record.json")
SEED = 0  # of the one random sample; the counts depend on data only where a kernel branches on it

# Figures of which less is better, in the order they are printed.
COUNTED = ("instructions", "arena", "constants")


def measure(model: Path, board: str) -> dict[str, Any]:
    """Figures of one inference; sizes in bytes, cycles by core.

    Raises
    ------
    TinyError
        The model can't be compiled, or the emulator or the compiler is missing.
    """
    compiled = tvm_tiny.build(model, board=board)
    (sample,) = make_samples(None, compiled.inputs, 1, SEED)
    profile = compiled.profile(board, sample)
    return {
        "macs": profile.macs,
        "instructions": profile.total.instructions,
        "cycles": {core: round(cycles) for core, cycles in profile.total.cycles.items()},
        "arena": compiled.workspace_size,
        "constants": compiled.report.constants_bytes,
    }


def read_record() -> dict[str, dict[str, Any]]:
    """Recorded figures by "<model> <board>"."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}


def write_record(figures: dict[str, dict[str, Any]]) -> None:
    """Replace the entries of `figures` in the record, keep the others."""
    merged = dict(sorted({**read_record(), **figures}.items()))
    RECORD.write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")
