# SPDX-License-Identifier: Apache-2.0
"""`tune`: find faster kernels for the layers of a network, and write down what was found."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import relax, tirx

from tvm_tiny.boards import Board, find_board
from tvm_tiny.device.fleet import Fleet
from tvm_tiny.device.rpc.tracker import parse_tracker
from tvm_tiny.errors import OptionError, TargetError
from tvm_tiny.memory.room import scratch_room
from tvm_tiny.ops import registry
from tvm_tiny.pipeline import PIPELINE, Options
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.residual import without_residual
from tvm_tiny.schedules.stream import inner_layers
from tvm_tiny.target import TinyTarget, parse_target
from tvm_tiny.tuning.bench import Bench
from tvm_tiny.tuning.records import Record, Records, read_records
from tvm_tiny.tuning.runner import Runner
from tvm_tiny.tuning.task import Limits, Task

DEFAULT_TERMS = {"cortex-m7": "stm32h7a3@280", "cortex-m4": "stm32l4r5@120"}
_EARLIER = 3  # candidates of earlier records measured again when kernels, compiler or conditions have changed
Progress = Callable[[Task, Record], None]


@dataclass(frozen=True)
class TunedLayer:
    """One distinct layer: what the rules chose by themselves, and the best that was found (the default itself where nothing beat it)."""

    workload: str
    layers: tuple[str, ...]
    macs: int
    default: Record | None
    best: Record | None
    tried: int
    refused: int

    @property
    def speedup(self) -> float:
        """Cycles of the default over those of the best; 1.0 where either is missing."""
        return self.default.cycles / self.best.cycles if self.default and self.best else 1.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = {
            name: {"choice": dict(r.choice), "cycles": r.cycles, "instructions": r.instructions, "flash": r.flash, "scratch": r.scratch}
            for name, r in (("default", self.default), ("best", self.best))
            if r is not None
        }
        return {
            "workload": self.workload,
            "layers": list(self.layers),
            "macs": self.macs,
            "tried": self.tried,
            "refused": self.refused,
            **figures,
        }


@dataclass(frozen=True)
class TuningResult:
    """What `tune` returns; `records` can be given to `build`."""

    layers: tuple[TunedLayer, ...]
    records: Records
    path: Path | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"records": str(self.path) if self.path else None, "layers": [layer.to_dict() for layer in self.layers]}


def tune(
    model: tvm.IRModule | str | Path | bytes,
    target: str | Mapping[str, Any] | TinyTarget | None = None,
    *,
    board: str | Board = "mps2_an500",
    trials: int = 64,
    records: str | Path | None = None,
    layers: Iterable[str] | None = None,
    board_term: str | None = None,
    scratch: int | None = None,
    flash: int | None = None,
    batch: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
    runner: str | Runner = "",
    tracker: str = "",
    key: str = "",
    jobs: int = 1,
    disable: Iterable[str] = (),
) -> TuningResult:
    """Tune the layers of a network; equal layers once.

    Every candidate is checked against the operator's meaning before it is timed. What is measured is written to `records` batch by batch;
    started again with the same file, the search repeats nothing it has a record of.

    Parameters
    ----------
    model : IRModule, path or bytes
        As for `build`.
    target : str, optional
        The board's by default; it must be the board's core.
    board : str or Board
        An emulated board; with `runner="rpc"` what the devices are, a real one or not.
    trials : int
        Candidates a layer; 0 measures only the default and what earlier records say was fast.
    records : path, optional
        A file of JSON lines, made if absent, continued if there.
    layers : iterable of str, optional
        Parts of the source model's tensor names; only layers that have one are tuned.
    board_term : str, optional
        Memory of a real board in the cycles; "stm32h7a3@280" for a Cortex-M7 and "stm32l4r5@120" for an M4 by default.
    scratch, flash : int, optional
        Bytes a kernel may take. By default scratch is bound by what is free beside the network's peak (and by the default kernel's own).
    batch : int
        Candidates an image: what is lost at most when the process is killed.
    progress : callable, optional
        Called after every candidate with its task and its record.
    runner : str or Runner
        "emulator", the default where the board is emulated: cycles estimated from executed instructions. "rpc", the default elsewhere:
        devices of an RPC tracker, timed by their own counters. Or an object with `measure` and `conditions` (`tvm_tiny.tuning.runner`).
    tracker, key : str
        "HOST:PORT" of TVM's RPC tracker, and the key of the devices (default: the board's name). Without, emulators of this machine.
    jobs : int
        Devices or emulators used at a time.
    disable : iterable of str
        Passes to leave out, as for `build`.

    Raises
    ------
    OptionError
        An option has no legal value, or no layer can be tuned.
    TargetError
        The board is not emulated, or of another core than `target`.
    DeviceError
        The tracker can't be reached, or has no such device.
    TinyError
        As for `build`; the toolchain is missing.
    """
    if trials < 0:
        raise OptionError(f"trials={trials} is below zero")
    _check_counts(batch=batch)
    found = find_board(board)
    chosen = _target_of(found, target)
    path = Path(records) if records is not None else None
    known = Records(read_records(path) if path is not None and path.exists() else ())
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_tune_") as temp:
        used = make_runner(runner, found, Path(temp), board_term, tracker, key, jobs) if isinstance(runner, str) else runner
        tasks = tasks_of(model, chosen, used, known, path, layers, disable)
        if not tasks:
            raise OptionError("no layer to tune", remedy="leave out `layers`, or name parts of the tensor names `tvm-tiny profile` prints")
        done = [
            tune_task(task, trials, batch, Path(temp) / "metaschedule" / task.workload.key, seed, progress, (scratch, flash))
            for task in tasks
        ]
    return TuningResult(tuple(done), known, path)


def _target_of(board: Board, target: str | Mapping[str, Any] | TinyTarget | None) -> TinyTarget:
    """The target asked for, by default the board's; it must be the board's core."""
    chosen = board.target if target is None else parse_target(target)
    if chosen.mcpu != board.mcpu:
        raise TargetError(f"{board.name} is a {board.mcpu}, not a {chosen.mcpu}", remedy="choose the board of the target's core")
    return chosen


def make_runner(kind: str, board: Board, directory: Path, board_term: str | None, tracker: str, key: str, jobs: int) -> Runner:
    """The runner called `kind`; see `tune`."""
    _check_counts(jobs=jobs)
    kind = kind or ("emulator" if board.emulated else "rpc")
    fleet = Fleet(*parse_tracker(tracker), key or board.name) if tracker else None
    if kind == "emulator":
        term = board_term if board_term is not None else DEFAULT_TERMS.get(board.mcpu, "none")
        return Bench(board, term, directory, jobs=jobs, fleet=fleet)
    if kind != "rpc":
        raise OptionError(f"runner={kind!r} is not known", remedy="say emulator or rpc")
    if fleet is None:
        remedy = "start `python -m tvm.exec.rpc_tracker` and `tvm-tiny device-server --run-code`; give tracker and key"
        raise OptionError(f"{board.name} is tuned on devices of a tracker", remedy=remedy)
    from tvm_tiny.tuning.rpc import RpcRunner

    return RpcRunner(board, fleet, directory, workers=jobs)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise OptionError(f"{name}={count} is not above zero")


def tasks_of(
    model: tvm.IRModule | str | Path | bytes,
    target: TinyTarget,
    runner: Runner,
    records: Records,
    path: Path | None,
    layers: Iterable[str] | None,
    disable: Iterable[str] = (),
) -> list[Task]:
    """One task for every distinct layer that has something to tune, most multiply-accumulates first."""
    wanted = None if layers is None else tuple(layers)
    tasks: dict[str, Task] = {}
    disable = {*disable, "skip-zeros"}  # random inputs would not tell what a layer takes whose time depends on them
    for func in [*lowered_layers(model, target, disable), *row_layers(model, target, disable)]:
        name = str(func.attrs.get("tiny.source", ""))
        if wanted is not None and not any(part in name for part in wanted):
            continue
        task = Task(func, target, runner, records, path)
        if task.spaces:
            tasks.setdefault(task.workload.key, task).layers.append(name)
    return sorted(tasks.values(), key=lambda t: -int(t.func.attrs["tiny.macs"]))


def row_layers(model: tvm.IRModule | str | Path | bytes, target: TinyTarget, disable: Iterable[str] = ()) -> list[tirx.PrimFunc]:
    """The convolutions that are streamed row by row where memory and speed are balanced, as layers by rows."""
    found = []
    for func in _lowered(model, Options(target, frozenset(disable)))[0].values():
        stage = Layer.of(func)
        if stage is None or stage.op != "tiny.stage" or "program" not in json.loads(stage.attrs["schedule"]):
            continue
        for layer in inner_layers(stage):
            if layer.op in ("tiny.conv2d", "tiny.depthwise_conv2d"):
                name = f"{layer.attrs.get('source', '')} (rows)"
                found.append(_function_of(without_residual(layer), name).with_attr("tiny.by_rows", True))
    return found


def _function_of(layer: Layer, source: str) -> tirx.PrimFunc:
    """The layer as `lower-ops` would make it."""
    op = registry.get(layer.op)
    infos = [registry.TensorInfo(s, d) for s, d in zip(layer.shapes, layer.dtypes, strict=True)][:-1]
    return op.primfunc(infos, layer.attrs).with_attr(
        {
            "tiny.op": layer.op,
            "tiny.attrs": json.dumps(layer.attrs),
            "tiny.macs": op.macs([i.shape for i in infos], layer.attrs),
            "tiny.constants": {str(i): tvm.runtime.tensor(a) for i, a in layer.constants.items()},
            "tiny.source": source,
        }
    )


def _alone(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """A convolution without the residual it adds: that is what is measured, and serves both."""
    layer = Layer.of(func)
    if layer is None or without_residual(layer) is layer:
        return func
    return _function_of(without_residual(layer), str(func.attrs["tiny.source"]))


def lowered_layers(model: tvm.IRModule | str | Path | bytes, target: TinyTarget, disable: Iterable[str] = ()) -> list[tirx.PrimFunc]:
    """The layers of a network as the schedule rules get them, in order, with the scratch that is free beside each."""
    funcs, room = _lowered(model, Options(target, frozenset(disable), optimize="speed"))  # every layer by itself
    return [_alone(func).with_attr("tiny.scratch_room", room.get(name, 0)) for name, func in funcs.items()]


def _lowered(model: tvm.IRModule | str | Path | bytes, options: Options) -> tuple[dict[str, tirx.PrimFunc], dict[str, int]]:
    """Every call's function before schedules are chosen, and the scratch that is free beside it, by the name of its result."""
    from tvm_tiny.api import load

    mod = model if isinstance(model, tvm.IRModule) else load(model)
    for phase in PIPELINE:
        if phase.name == "apply-schedules":
            break
        mod = mod if phase.name in options.disable else phase.make(options)(mod)
    found = {}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.Op) and call.op.name == "relax.call_tir":
                found[str(binding.var.name)] = mod[call.args[0]]
    return found, scratch_room(mod["main"])


def tune_task(
    task: Task,
    trials: int,
    batch: int,
    work_dir: Path,
    seed: int,
    progress: Progress | None,
    limits: tuple[int | None, int | None] = (None, None),
) -> TunedLayer:
    """Measure the default and what earlier records say was fast, then search."""
    from tvm_tiny.tuning.search import search

    default = task.measure_first(_EARLIER)
    scratch, flash = limits
    if scratch is None and default is not None and default.status == "ok":
        scratch = max(task.layer.scratch_room, default.scratch)
    task.limits = Limits(scratch, flash)
    work_dir.mkdir(parents=True)
    if trials:
        search(task, trials, batch, str(work_dir), seed, lambda record: progress(task, record) if progress else None)
    records = [r for r in task.records.of(task.workload) if r.choice]
    return TunedLayer(
        str(task.workload),
        tuple(task.layers),
        int(task.func.attrs["tiny.macs"]),
        default if default is not None and default.status == "ok" else None,
        task.best(),
        len(records),
        sum(r.status != "ok" for r in records),
    )
