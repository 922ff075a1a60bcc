# SPDX-License-Identifier: Apache-2.0
"""What users call: `load`, `build`, and the `CompiledModel` that comes out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tvm

from tvm_tiny import explain as explanation
from tvm_tiny.boards import Board, find_board
from tvm_tiny.compiled import CompiledModel
from tvm_tiny.errors import OptionError
from tvm_tiny.fitting import Limits
from tvm_tiny.frontend import load as _load
from tvm_tiny.memory.design import Design
from tvm_tiny.memory.plan import Region
from tvm_tiny.memory.program import extract, model_info
from tvm_tiny.passes.plan_memory import plan_of
from tvm_tiny.pins import check_pair
from tvm_tiny.pipeline import Options, run_pipeline, write_dump
from tvm_tiny.schedules.memo import remembering
from tvm_tiny.target import TinyTarget, parse_target
from tvm_tiny.tuning.records import Records, load_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tvm_tiny.passes.fetch_rows import Camera


def load(source: str | Path | bytes) -> tvm.IRModule:
    """Import a trained int8 model (.tflite, or .onnx in QDQ or QOperator form) as Relax in QDQ form.

    Raises
    ------
    ModelFormatError
        It is no model, or damaged.
    UnsupportedModelError
        It asks for what the compiler does not do; every problem is listed.
    """
    check_pair()
    return _load(source)


def build(
    model: tvm.IRModule | str | Path | bytes,
    target: str | Mapping[str, Any] | TinyTarget | tvm.target.Target | None = None,
    *,
    name: str | None = None,
    board: str | Board | None = None,
    optimize: str = "balanced",
    sram: int | str | None = None,
    flash: int | str | None = None,
    max_overhead: float = 0.1,
    camera: Camera = False,
    pins: Mapping[str, str] | None = None,
    constant_time: bool = False,
    disable: Iterable[str] = (),
    records: str | Path | Records | bool | None = True,
    design: Mapping[str, Any] | None = None,
    dump_dir: str | Path | None = None,
    explain: str | Path | None = None,
) -> CompiledModel:
    """Compile a trained int8 network to plain C.

    Parameters
    ----------
    model : IRModule, path or bytes
        What `load` returns, or what it takes.
    target : str, optional
        For example "c -mcpu=cortex-m7"; "c" is the host. Taken from `board` when left out, else the host.
    name : str, optional
        C identifier that every symbol carries (`tvmgen_<name>_run`); the file's stem by default.
    board : str, optional
        A board of `tvm-tiny boards`: its memories are limits, and `run` and `profile` use it by default.
    optimize : str
        "speed": every layer by itself, the fastest. "sram": the least arena. "balanced" (default): streamed row by row, or computed in
        patches, where that makes the arena smaller with at most `max_overhead` extra work, estimated; with `sram` given, the least work
        that fits it.
    sram : int or str, optional
        Budget of the arena: bytes, a size such as "64KB" (1024 bytes a KB), or "board" for what the board has. Exceeding it is an error.
    flash : int or str, optional
        Budget of code (estimated) and constants together. Layers share kernels for it, so that the network loses the fewest cycles.
        Exceeding it is an error.
    max_overhead : float
        Extra work that "balanced" may spend, as a fraction: 0.1 is 10 %. With any goal, no more multiply-accumulates are done twice.
    camera : bool, str or dict
        Which inputs the application hands over row by row through a function, so that the image never lies in memory whole: True, every
        image in the type the model takes; "int8", every image, already quantised; or one of these by input name.
    pins : dict, optional
        By name of an input or output the memory of the board it lies in, on boards with several memories for the arena: where a DMA
        controller can reach it.
    constant_time : bool
        No kernel whose loops depend on the values of its input (the pass "skip-zeros" is left out).
    disable : iterable of str
        Optional passes to leave out: "fuse-ops", "remove-constant-channels", "order-ops", "recompute", "patch-inference", "stream-rows",
        "select-layout", "in-place", "skip-zeros", "overlap".
    records : bool, path or Records
        Tuning records that choose kernels: those shipped with the package (default), a file that `tune` wrote besides them, just the given
        ones, or none (False). A record made with another compiler is used, and the report says so.
    design : mapping, optional
        A point of the memory / cycles curve, `report.decisions["curve"]["curve"]`, to be built instead of the one the goal prefers. With
        "forms", `report.decisions["code"]["forms"]` of another build, kernels have the forms they had there.
    dump_dir : path, optional
        The IR after each phase is written there.
    explain : path, optional
        What every pass considered, took and left, and why, is written there: JSON when the name ends in .json, else text. The same is in
        `explanation` of the result.

    Returns
    -------
    CompiledModel

    Raises
    ------
    TinyError
        A subclass for each kind of problem; see `tvm_tiny.errors`.
    """
    check_pair()
    chosen_board = find_board(board) if board is not None else None
    chosen = parse_target(target) if target is not None else chosen_board.target if chosen_board else parse_target("c")
    mod = model if isinstance(model, tvm.IRModule) else load(model)
    c_name = _c_name(name, model_info(mod).get("name", "model"))
    dump: dict[str, str] = {}
    budget = _budget(sram, chosen_board)
    regions = _regions(chosen_board) if chosen_board else ()
    most = parse_size("flash", flash) if flash is not None else None
    left_out = frozenset(disable) | ({"skip-zeros"} if constant_time else frozenset())
    options = Options(
        chosen, left_out, optimize, budget, most, max_overhead, camera, regions, pins or {}, load_records(records),
        Design.of(design) if design is not None else None,
    )  # fmt: skip
    limits = Limits(budget, most, chosen_board)
    with remembering():  # changes that an error names share most kernels with what does not fit
        with explanation.collecting() as decisions, limits.told(mod, options):
            lowered = run_pipeline(mod, options, dump)
        if dump_dir is not None:
            write_dump(dump, Path(dump_dir))
        program, plan = extract(lowered, c_name), plan_of(lowered)
        if explain is not None:
            explanation.write(explain, decisions, program.model.get("tensors"))
        limits.check(program, plan, mod, options)
    return CompiledModel(program, plan, chosen, chosen_board, dump, tuple(decisions))


def _c_name(name: str | None, default: str) -> str:
    if name is None:
        ident = re.sub(r"\W", "_", default, flags=re.ASCII).strip("_").lower() or "model"
        return f"m_{ident}" if ident[0].isdigit() else ident
    if not re.fullmatch(r"[A-Za-z_]\w*", name, flags=re.ASCII):
        raise OptionError(f"name {name!r} is no C identifier", remedy="use letters, digits and underscores, and do not start with a digit")
    return name


_UNITS = {"": 1, "B": 1, "KB": 1024, "KIB": 1024, "MB": 1024**2, "MIB": 1024**2}


def parse_size(option: str, value: int | str) -> int:
    """Bytes of a size given as a number or as text such as "64KB" (1024 bytes a KB).

    Raises
    ------
    OptionError
        It is no positive size.
    """
    match = re.fullmatch(r"\s*(\d+)\s*([A-Za-z]*)\s*", str(value))
    unit = _UNITS.get(match.group(2).upper()) if match else None
    if match is None or unit is None or isinstance(value, (bool, float)) or int(match.group(1)) == 0:
        raise OptionError(f"{option}={value!r} is no size", remedy="give bytes as a number, or text such as '64KB' or '1MB'")
    return int(match.group(1)) * unit


def _regions(board: Board) -> tuple[Region, ...]:
    """The memories of a board that share the arena; none where there is but one, whose size `tvm_tiny.fitting` compares."""
    several = board.arena_regions if len(board.arena_regions) > 1 else ()
    return tuple(Region(r.name, r.arena_bytes, r.access_cost) for r in several)


def _budget(sram: int | str | None, board: Board | None) -> int | None:
    """The budget of the arena in bytes; None for none."""
    if sram != "board":
        return parse_size("sram", sram) if sram is not None else None
    if board is None or board.limits.arena is None:
        which = "no board is given" if board is None else f"{board.name} says nothing of its SRAM"
        raise OptionError(f'sram="board": {which}', remedy='give board=, or a size such as sram="64KB"')
    return board.limits.arena
