# SPDX-License-Identifier: Apache-2.0
"""Schedules from tuning records: the fastest recorded candidate that costs no memory, made again by the rule that was tuned.

A record says what was fast, never what is right: the kernel is generated for the layer at hand, so an old record can cost speed only.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.errors import ToolchainError
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels import RegisterPressureError
from tvm_tiny.schedules.rules import realise
from tvm_tiny.target import TinyTarget
from tvm_tiny.tuning.records import Record, Records, kernel_version
from tvm_tiny.tuning.workload import Workload


def recorded_schedule(func: tirx.PrimFunc, target: TinyTarget, records: Records, default: tirx.PrimFunc) -> Schedule | None:
    """Return the schedule of the best record for `func`; None when there is none or the default is the best.

    Parameters
    ----------
    default : PrimFunc
        What the rules choose without records: a recorded kernel may take as much scratch as that one, or as is free beside it.
    """
    layer = Layer.of(func)
    if layer is None:
        return None
    taken = sum(int(n) for n in default.attrs.get("tiny.scratch", []))
    candidates = records.candidates(Workload.of(layer, target), scratch=max(layer.scratch_room, taken))
    for i, record in enumerate(candidates):
        if not record.choice:
            return None
        try:
            schedule = realise(func, target, record.choice)
        except (RegisterPressureError, KeyError, ValueError):  # the rule has changed since
            continue
        if schedule is not None and _scratch(schedule) <= max(layer.scratch_room, taken):
            return _tell(schedule, record, candidates[i + 1 :], int(func.attrs.get("tiny.macs", 0)))
    return None


def _scratch(schedule: Schedule) -> int:
    return sum(int(n) for n in schedule.mod["main"].attrs.get("tiny.scratch", []))


def _tell(schedule: Schedule, record: Record, others: list[Record], macs: int) -> Schedule:
    """Add to `tiny.kernel` where the choice comes from, what was measured, and the next best."""
    func = schedule.mod["main"]
    told: dict[str, Any] = {**json.loads(str(func.attrs["tiny.kernel"])), "source": record.source, **_figures(record, macs)}
    notes = [
        f"measured with {record.compiler}, compiled with {compiler()}" if compiler() and compiler() != record.compiler else "",
        "measured with another version of the kernels" if record.kernels != kernel_version() else "",
    ]
    if any(notes):
        told["note"] = "; ".join(n for n in notes if n)
    if others:
        told["next_best"] = {**_figures(others[0], macs), **(dict(others[0].choice) or {"rule": "default"})}
    return Schedule(tvm.IRModule({"main": func.with_attr("tiny.kernel", json.dumps(told))}))


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
