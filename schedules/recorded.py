# SPDX-License-Identifier: Apache-2.0
"""Schedules from tuning records: the fastest recorded candidate that costs no memory, made again by the rule that was tuned.

A record says what was fast, never what is right: the kernel is generated for the layer at hand, so an old record can cost speed only.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

from tvm import tirx

from tvm_tiny.errors import ToolchainError
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels import RegisterPressureError
from tvm_tiny.schedules.residual import addition_of
from tvm_tiny.schedules.rules import realise
from tvm_tiny.schedules.space import Choice
from tvm_tiny.target import TinyTarget
from tvm_tiny.tuning.candidate import Candidate
from tvm_tiny.tuning.records import SHIPPED, Record, Records
from tvm_tiny.tuning.workload import Workload

_SLACK = 512  # bytes: blocks of other shapes read a few pixels further ahead


def recorded_schedule(
    func: tirx.PrimFunc, target: TinyTarget, records: Records, default: tirx.PrimFunc, *, more_flash: bool = False
) -> tirx.PrimFunc:
    """Return the scheduled function of the best record for `func`, or `default` where there is none or the default is the best.

    What was measured, and the next best, is added to `tiny.kernel` of either. Records whose decisions the rules no longer have are passed
    over, and counted in a note.

    Parameters
    ----------
    default : PrimFunc
        What the rules choose without records: a recorded kernel may take as much scratch as that one, or as is free beside it.
    more_flash : bool
        Take shipped records of kernels that need more flash than the default; the report says how much.
    """
    layer = Layer.of(func)
    if layer is None or "most_cycles" in json.loads(str(default.attrs.get("tiny.kernel", "{}"))):
        return default  # its time depends on the input: no measurement is its like
    taken, macs = _scratch(default), int(func.attrs.get("tiny.macs", 0))
    workload = Workload.of(layer, target)
    flash = _default_flash(records, workload)
    candidates = records.candidates(workload, scratch=max(layer.scratch_room, taken))
    candidates = [r for r in candidates if more_flash or not _needs_more(r, flash)]
    passed_over = 0
    for i, record in enumerate(candidates):
        if not record.choice and record.scratch != taken:
            break  # another default than was measured: how fast it is nobody knows
        made = _realised(func, target, record, default)
        if made is not None and _costs_no_memory(layer, default, made):
            return _tell(made, record, candidates[i + 1 :], macs, [_stale(passed_over), _larger(record, flash)])
        passed_over += made is None
    return _with_notes(default, {}, [_stale(passed_over)])


def row_choices(records: Records, target: TinyTarget) -> dict[str, list[Choice]]:
    """Recorded candidates of row kernels for a target, by the workload's key, those that beat the default, best first.

    None of shipped records that needs more flash than the default: streams are chosen where flash is bound.
    """
    found: dict[str, list[Choice]] = {}
    for workload in {r.workload for r in records if r.workload.mcpu == target.mcpu and '"by_rows"' in r.workload.attrs}:
        flash = _default_flash(records, workload)
        better = itertools.takewhile(lambda r: r.choice, (r for r in records.candidates(workload) if not _needs_more(r, flash)))
        if choices := [r.choice for r in better]:
            found[workload.key] = [dict(choice) for choice in choices]
    return found


def _default_flash(records: Records, workload: Workload) -> int | None:
    """Bytes of flash of the shipped record of what the rules choose; None where there is none."""
    return next((r.flash for r in records.of(workload) if r.source == SHIPPED and not r.choice), None)


def _needs_more(record: Record, flash: int | None) -> bool:
    return record.source == SHIPPED and flash is not None and record.flash > flash


def rights_kept(default: tirx.PrimFunc, made: tirx.PrimFunc, slack: int = 0) -> bool:
    """Whether the output may lie as near to every input as the default's may, or up to `slack` bytes further: planning counts on it."""
    theirs, ours = _nearest(default), _nearest(made)
    return all(key in ours and ours[key] <= distance + slack for key, distance in theirs.items())


def _nearest(func: tirx.PrimFunc) -> dict[str, int]:
    rights = json.loads(str(func.attrs.get("tiny.overlap", "{}")))
    return {key: min(int(distance) for _order, distance in alternatives) for key, alternatives in rights.items() if alternatives}


def _costs_no_memory(layer: Layer, default: tirx.PrimFunc, made: tirx.PrimFunc) -> bool:
    """Its scratch is free or no more than the default's, and it keeps the default's rights; nearly, where nobody chose the peak."""
    chosen = layer.step_room is not None
    room = 0 if chosen else layer.scratch_room
    return _scratch(made) <= max(room, _scratch(default)) and rights_kept(default, made, slack=0 if chosen else _SLACK)


def _realised(func: tirx.PrimFunc, target: TinyTarget, record: Record, default: tirx.PrimFunc) -> tirx.PrimFunc | None:
    """The function a record stands for; None when the rules no longer make it."""
    if not record.choice:
        return default
    try:
        schedule = realise(func, target, record.choice)
    except (RegisterPressureError, KeyError, ValueError):
        return None
    return None if schedule is None else schedule.mod["main"]


def _scratch(func: tirx.PrimFunc) -> int:
    return sum(int(n) for n in func.attrs.get("tiny.scratch", []))


def _stale(count: int) -> str:
    return f"records the kernels no longer have: {count}" if count else ""


def _larger(record: Record, flash: int | None) -> str:
    return f"{record.flash - flash:,} bytes of flash more than by default" if flash is not None and _needs_more(record, flash) else ""


def _tell(func: tirx.PrimFunc, record: Record, others: list[Record], macs: int, notes: list[str]) -> tirx.PrimFunc:
    """Add to `tiny.kernel` where the choice comes from, what was measured, and the next best."""
    told = _figures(record, macs)
    if record.choice:
        told["source"] = record.source
    if others:
        told["next_best"] = {**_figures(others[0], macs), **(dict(others[0].choice) or {"rule": "default"})}
    elif record.runner_up is not None:
        cycles, choice = float(record.runner_up["cycles"]), record.runner_up["choice"]
        told["next_best"] = {**_figures(replace(record, cycles=cycles), macs), **(dict(choice) or {"rule": "default"})}
    return _with_notes(func, told, [_other_compiler(record), _other_code(func, record), *notes])


def _other_compiler(record: Record) -> str:
    known = compiler()
    return f"measured with {record.compiler}, compiled with {known}" if known and known != record.compiler else ""


def _other_code(func: tirx.PrimFunc, record: Record) -> str:
    """Unless the code is the one that was measured."""
    layer = Layer.of(func)
    if layer is not None and addition_of(layer) is not None:
        return "measured without the residual it adds"
    made = Candidate.of(func)
    return "" if made is not None and made.code == record.code else "measured with other code"


def _with_notes(func: tirx.PrimFunc, told: dict[str, Any], notes: list[str]) -> tirx.PrimFunc:
    if any(notes):
        told["note"] = "; ".join(n for n in notes if n)
    if not told or "tiny.kernel" not in func.attrs:
        return func
    return func.with_attr("tiny.kernel", json.dumps({**json.loads(str(func.attrs["tiny.kernel"])), **told}))


def _figures(record: Record, macs: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"cycles": round(record.cycles), "board_term": record.board_term}
    return {**figures, "cycles_per_mac": round(record.cycles / macs, 3)} if macs else figures


@lru_cache(maxsize=1)
def compiler() -> str:
    """The cross compiler of this machine in its own words; empty where there is none."""
    from tvm_tiny.device.toolchain import find_tool, tool_version

    try:
        return tool_version(find_tool("arm-gcc"))
    except ToolchainError:
        return ""
