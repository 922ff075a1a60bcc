# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny kernel`: how one layer becomes loops, building blocks and calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tvm_tiny.cli.building import EMULATED_M7, Model, Target, progress
from tvm_tiny.cli.guard import AsJson, Debug, emit
from tvm_tiny.errors import OptionError


def kernel(
    model: Model,
    layer: Annotated[int, typer.Option("--layer", "-l", help="Number of the layer, from 0 in the order of execution.")] = 0,
    board: Annotated[str, typer.Option("--board", "-b", help="A board of `tvm-tiny boards`.")] = EMULATED_M7,
    target: Target = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print a layer of MODEL as TIR, the schedule that tiles it, the loops that come of it, and its building blocks."""
    with progress(f"scheduling {model.name}"):
        found = _explained(model, layer, board, target)
    emit(as_json, found, lambda console: _show(console, found))


def _explained(model: Path, number: int, board: str, target: str | None) -> dict[str, Any]:
    from tvm.s_tir import TensorIntrin

    from tvm_tiny.boards import find_board
    from tvm_tiny.schedules.nests.base import nest_of
    from tvm_tiny.schedules.rules import default_schedule
    from tvm_tiny.target import parse_target
    from tvm_tiny.tuning.network import lowered_layers

    chosen = parse_target(target or find_board(board).target)
    layers = lowered_layers(model, chosen)
    if not 0 <= number < len(layers):
        raise OptionError(f"--layer {number}: the network has layers 0 to {len(layers) - 1}", remedy="give one of them")
    func = layers[number]
    scheduled = default_schedule(func, chosen).mod["main"]
    intrinsics = [str(n) for n in scheduled.attrs.get("tiny.intrinsics", [])]
    nest = nest_of(intrinsics[0]) if intrinsics else None
    blocks = [(name, TensorIntrin.get(name)) for name in (intrinsics if nest is None else nest.intrinsics)]
    return {
        "layer": number,
        "source": str(func.attrs.get("tiny.source", "")),
        "kernel": json.loads(str(scheduled.attrs["tiny.kernel"])),
        "tir": _bare(func).script(),
        "nests": [] if nest is None else [f.script() for f in nest.scheduled],
        "schedules": [] if nest is None else list(nest.traces),
        "loops": _bare(scheduled).script(),
        "blocks": [{"intrinsic": n, "description": i.desc.script(), "implementation": i.impl.script()} for n, i in blocks],
    }


def _bare(func: Any) -> Any:
    """Without its attributes: constants alone would fill pages."""
    for key in list(func.attrs.keys()):
        func = func.without_attr(key)
    return func


def _show(console: Console, found: dict[str, Any]) -> None:
    chosen = ", ".join(f"{k} {v}" for k, v in found["kernel"].items())
    parts = [(f"layer {found['layer']} ({chosen}): what it computes", found["tir"])]
    for i, (schedule, nest) in enumerate(zip(found["schedules"], found["nests"], strict=True)):
        parts += [(f"nest {i}: its schedule", schedule), (f"nest {i}: scheduled, over packed operands", nest)]
    parts += [("what is generated: loops and calls", found["loops"])]
    for block in found["blocks"]:
        parts += [(f"{block['intrinsic']}: description", block["description"]), ("its implementation", block["implementation"])]
    for title, text in parts:
        console.print(f"# ---- {title}", markup=False, highlight=False, soft_wrap=True)
        console.print(text.strip() + "\n", markup=False, highlight=False, soft_wrap=True)
