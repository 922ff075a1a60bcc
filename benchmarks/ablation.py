# SPDX-License-Identifier: Apache-2.0
"""What each optimisation brings: a network built and measured again and again, from one generic loop up, one optimisation more each time.

    python -m benchmarks.ablation [MODEL] [--board mps2_an500] [--picture docs/ablation.svg] [--json]

Every step is compiled, run on the emulated core and compared, byte for byte, with the step before. Cycles are with the memory of a real
board, as in `benchmarks.speed`. The default is the demo network.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table
from tvm import tirx
from tvm.s_tir import Schedule

import tvm_tiny
from benchmarks.generic_loops import generic_schedule
from benchmarks.measure import DEMO_MODEL
from benchmarks.pictures import OURS, new_figure, save
from benchmarks.speed import BOARD_TERMS
from tvm_tiny.boards import Board, find_board
from tvm_tiny.cli.inputs import make_samples
from tvm_tiny.device import ProjectOptions, build_image, qemu_command, run
from tvm_tiny.device.artifact import open_artifact
from tvm_tiny.passes import apply_schedules
from tvm_tiny.profiler.layers import profile_layers
from tvm_tiny.schedules import conv2d, depthwise, fallback, winograd
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.rules import RULES, default_schedule
from tvm_tiny.target import TinyTarget

PORTABLE = ("-DTINY_PORTABLE_KERNELS",)
# The same C with the DSP instructions as the compiler's intrinsics, registers and order left to it.
INTRINSICS = {
    "tiny_sxtb16": "__sxtb16(v)",
    "tiny_smlad": "(uint32_t)__smlad((int16x2_t)a, (int16x2_t)b, (int32_t)acc)",
}


@dataclass(frozen=True)
class Step:
    """One more optimisation than the step before.

    Attributes
    ----------
    kernels : str
        How layers are scheduled: "generic", "loops", "columns" (a pixel and a channel at a time), "blocks" (several, rolled up), "direct"
        (the defaults without Winograd) or "all".
    disable : tuple of str
        Passes left out.
    form : str
        Of the kernels: "portable" C, C with "intrinsics", or "assembly".
    records : bool
        Whether the shipped tuning records are used.
    """

    name: str
    kernels: str
    disable: tuple[str, ...] = ()
    form: str = "assembly"
    records: bool = False


REST = ("remove-constant-channels", "stream-rows", "select-layout")
PLAIN = ("fuse-ops", *REST)
STEPS = (
    Step("generic loops, extents at run time", "generic", PLAIN, "portable"),
    Step("code generated for each layer", "loops", PLAIN, "portable"),
    Step("fusion", "loops", REST, "portable"),
    Step("columns (im2col), packed weights", "columns", REST, "portable"),
    Step("SIMD (intrinsics)", "columns", REST, "intrinsics"),
    Step("tiling into blocks", "blocks", REST, "intrinsics"),
    Step("unrolling", "direct", REST, "intrinsics"),
    Step("microkernels (registers and order)", "direct", REST),
    Step("Winograd", "all", REST),
    Step("layout of tensors (select-layout)", "all", ("remove-constant-channels", "stream-rows")),
    Step("constant channels removed", "all", ("stream-rows",)),
    Step("tuning (shipped records)", "all", ("stream-rows",), records=True),
)


@dataclass(frozen=True)
class Row:
    """Figures of one step, and the cycles of the step before over its own."""

    step: str
    cycles: int
    instructions: int
    gain: float


def schedule(kernels: str, func: tirx.PrimFunc, target: TinyTarget) -> Schedule:
    """The schedule of a layer with the optimisations `kernels` stands for (see `Step`)."""
    layer = Layer.of(func)
    linear = layer is not None and layer.op in ("tiny.conv2d", "tiny.dense", "tiny.depthwise_conv2d")
    if kernels == "generic":
        found = generic_schedule(func)
        if found is not None:
            return found
    if kernels == "loops" or (kernels == "generic" and linear):
        loops = fallback.apply(func, target, False)
        assert isinstance(loops, Schedule)
        return loops
    if kernels in ("columns", "blocks") and linear:
        one = kernels == "columns"
        found = _columns(func, target, one)
        if found is not None:
            return found
    if kernels != "all":
        rules = [rule for _name, rule in RULES if rule is not winograd.apply]
        made = next(s for s in (rule(func, target, False) for rule in rules) if s is not None)
        return made[0] if isinstance(made, list) else made
    return default_schedule(func, target)


def _columns(func: tirx.PrimFunc, target: TinyTarget, one: bool) -> Schedule | None:
    """A GEMM over columns, or planes of a depthwise layer: the narrowest block, or the usual one; in either case rolled up."""
    layer = Layer.of(func)
    assert layer is not None
    if layer.op == "tiny.depthwise_conv2d":
        return depthwise.realise(func, target, {"pixels": 2 if one else 4, "strip": 1})
    shape = conv2d.shape_of(layer)
    if shape is None:
        return None
    pixels = 1 if one or shape.out_height * shape.out_width < 3 else 3
    channels = 1 if one else min(2, shape.outputs)
    return conv2d.realise(func, target, {"channels": channels, "pixels": pixels, "operand": "w8", "unroll": 1, "tile": 1})


def measure(step: Step, model: Path, board: Board) -> tuple[int, int, dict[str, np.ndarray]]:
    """Cycles, instructions and outputs of the network as far as `step`."""
    with patch.object(apply_schedules, "default_schedule", lambda func, target: schedule(step.kernels, func, target)):
        compiled = tvm_tiny.build(model, board=board, optimize="speed", disable=step.disable, records=step.records, name="net")
    (sample,) = make_samples(None, compiled.inputs, 1, 0)
    options = ProjectOptions(extra_flags=PORTABLE if step.form != "assembly" else ())
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_ablation_") as folder:
        saved = compiled.save(Path(folder) / "model")
        if step.form == "intrinsics":
            _use_intrinsics(saved / "codegen/host/src/tvmgen_net_kernels.c")
        elf = build_image(saved, board, Path(folder) / "project", inputs=sample, options=options)
        with open_artifact(saved) as artifact:
            about = {"model": "net", "board": board.name, "mcpu": board.mcpu, "board_term": BOARD_TERMS[board.name]}
            profile = profile_layers(elf, qemu_command(board, elf), artifact.layers, timeout=1800, **about)
        outputs = run(saved, board, [sample], options=options, timeout=1800).outputs[0]
    return round(profile.total.cycles[board.mcpu]), profile.total.instructions, outputs


def _use_intrinsics(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name, body in INTRINSICS.items():
        head = rf"(inline \w+ \w*{name.removeprefix('tiny_')}\([^)]*\))"
        text, count = re.subn(rf"{head} \{{.*?\}}", rf"\1 {{ return {body}; }}", text, flags=re.DOTALL)
        if not count:
            raise AssertionError(f"{path.name} has no {name}")
    path.write_text("#include <arm_acle.h>\n" + text, encoding="utf-8")


def rows(model: Path, board: Board, steps: Sequence[Step] = STEPS) -> Iterator[Row]:
    """Measure every step; an output that differs from the step before is an error."""
    before: tuple[int, dict[str, np.ndarray]] | None = None
    for step in steps:
        cycles, instructions, outputs = measure(step, model, board)
        if before is not None and not all(np.array_equal(outputs[name], before[1][name]) for name in outputs):
            raise AssertionError(f"{step.name}: other outputs than the step before")
        yield Row(step.name, cycles, instructions, before[0] / cycles if before else 1.0)
        before = cycles, outputs


def table(found: Sequence[Row], title: str) -> Table:
    """The steps, each beside what it brought."""
    out = Table(title=title, title_justify="left")
    for column in ("with", "cycles", "instructions", "gain", "in all"):
        out.add_column(column, justify="left" if column == "with" else "right")
    for row in found:
        out.add_row(row.step, f"{row.cycles:,}", f"{row.instructions:,}", f"{row.gain:.2f}×", f"{found[0].cycles / row.cycles:.1f}×")
    return out


def draw(found: Sequence[Row], title: str, path: Path) -> None:
    """Bars of cycles, logarithmic, with the gain of each step."""
    figure, axes = new_figure(8, 4)
    names = [row.step if i == 0 else f"+ {row.step}" for i, row in enumerate(found)]
    bars = axes.barh(names, [row.cycles / 1e6 for row in found], color=OURS)
    axes.bar_label(bars, [f"{row.cycles / 1e6:.2f} M  ({row.gain:.2f}×)" for row in found], padding=3, fontsize="small")
    axes.set(xscale="log", xlabel="million cycles of one inference, estimated", title=title, xlim=(None, found[0].cycles / 1e6 * 3))
    axes.invert_yaxis()
    save(figure, path)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=DEMO_MODEL)
    parser.add_argument("--board", choices=list(BOARD_TERMS), default="mps2_an500")
    parser.add_argument("--picture", type=Path, help="draw into this .svg or .png (needs matplotlib)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    board = find_board(given.board)
    found = list(rows(given.model, board))
    title = f"{given.model.stem} on a {board.mcpu}, {BOARD_TERMS[board.name]}"
    if given.json:
        print(json.dumps([asdict(row) for row in found], indent=2))
    else:
        Console(width=110).print(table(found, title))
    if given.picture is not None:
        draw(found, title, given.picture)


if __name__ == "__main__":
    main()
