# SPDX-License-Identifier: Apache-2.0
"""One layer being tuned: its spaces, the candidates asked for so far, and the records of what came of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels import RegisterPressureError
from tvm_tiny.schedules.rules import default_schedule, realise, spaces
from tvm_tiny.schedules.space import Choice, Space
from tvm_tiny.target import TinyTarget
from tvm_tiny.tuning.candidate import Candidate, Case, Measurement
from tvm_tiny.tuning.records import Record, Records, append_records
from tvm_tiny.tuning.runner import Runner
from tvm_tiny.tuning.workload import Workload

DEFAULT: Choice = {}  # the candidate that stands for what the rules choose without records


@dataclass(frozen=True)
class Limits:
    """What a candidate may take, bytes; None for anything."""

    scratch: int | None = None
    flash: int | None = None


@dataclass(eq=False)
class Task:
    """A distinct layer.

    Attributes
    ----------
    func : PrimFunc
        As `lower-ops` made it, with its constants; `tiny.scratch_room` says what scratch is free.
    layers : list of str
        Names of the layers of the network that it stands for.
    path : Path or None
        Where records are appended as they come.
    """

    func: tirx.PrimFunc
    target: TinyTarget
    runner: Runner
    records: Records
    path: Path | None = None
    limits: Limits = field(default_factory=Limits)
    layers: list[str] = field(default_factory=list)
    make: Callable[[tirx.PrimFunc, TinyTarget, Choice], object] = realise

    def __post_init__(self) -> None:
        layer = Layer.of(self.func)
        assert layer is not None
        self.layer = layer
        self.workload = Workload.of(layer, self.target)
        self.spaces: dict[str, Space] = spaces(self.func, self.target)
        self._ready: dict[str, Candidate] = {}
        self._refused: dict[str, str] = {}
        self._unwritten: list[Record] = []

    @cached_property
    def case(self) -> Case:
        """What candidates are checked with."""
        return Case.of(self.layer)

    @property
    def outline(self) -> tirx.PrimFunc:
        """What MetaSchedule gets to see of the function: the form its spaces schedule."""
        from tvm_tiny.tuning.search import outline

        return outline(next(iter(self.spaces.values())).form(self.func))

    @staticmethod
    def name(choice: Choice) -> str:
        """Canonical text of a choice."""
        return json.dumps(dict(choice), sort_keys=True)

    def known(self, choice: Choice) -> Record | None:
        """The record of a prepared choice: measured under the same conditions as the C it gives now."""
        name, code = self.name(choice), self._code(choice)
        same = (r for r in self.records.of(self.workload) if r.candidate == name and r.code == code)
        return next(filter(self._comparable, same), None)

    def prepare(self, choice: Choice) -> str | None:
        """Generate a candidate. Returns why it can't be had, and records that; None when it is ready."""
        name = self.name(choice)
        if name not in self._ready and name not in self._refused:
            self._generate(choice)
        if name in self._refused:
            return self._refused[name]
        known = self.known(choice)
        return known.message if known is not None and known.status == "build" else None

    def _generate(self, choice: Choice) -> None:
        try:
            schedule = self.make(self.func, self.target, choice) if choice else default_schedule(self.func, self.target)
        except RegisterPressureError as error:
            self._refuse(choice, str(error))
            return
        except (KeyError, ValueError):  # of an earlier record
            self._refuse(choice, "the rule no longer has these decisions")
            return
        candidate = Candidate.of(schedule.mod["main"]) if isinstance(schedule, Schedule) else None
        if candidate is None:
            self._refuse(choice, "the rule has no kernel for it")
        else:
            self._ready[self.name(choice)] = candidate

    def measure(self, names: Sequence[str]) -> list[Record]:
        """Measure prepared candidates, those without a record in one image, and write their records at once."""
        choices = [json.loads(name) for name in names]
        fresh = [c for c in choices if self.known(c) is None]
        for choice, result in zip(fresh, self.runner.measure(self.case, [self._ready[self.name(c)] for c in fresh]), strict=True):
            self._note(self._record(choice, result))
        self.flush()
        found = [self.known(choice) for choice in choices]
        return [r for r in found if r is not None]

    def measure_first(self, others: int) -> Record | None:
        """Measure what the rules choose by themselves and, beside it, the `others` fastest candidates of earlier records, in one image.

        Returns
        -------
        Record or None
            Of the default; None when that is no microkernel.
        """
        earlier = sorted((r for r in self.records.of(self.workload) if r.status == "ok" and r.choice), key=lambda r: r.cycles)
        names = list(dict.fromkeys([self.name(DEFAULT), *(r.candidate for r in earlier)]))[: 1 + others]
        ready = [name for name in names if self.prepare(json.loads(name)) is None]
        found = self.measure(ready) if ready else []
        self.flush()
        return found[0] if ready[:1] == names[:1] else None

    def current(self) -> Iterator[Record]:
        """Exact candidates measured under the same conditions as the C they give now, fewest cycles first."""
        measured = [r for r in self.records.of(self.workload) if r.status == "ok" and self._comparable(r)]
        for record in sorted(measured, key=lambda r: (r.cycles, r.scratch, r.flash, r.candidate)):
            if self.is_current(record):
                yield record

    def is_current(self, record: Record) -> bool:
        """Whether a candidate gives the C that was measured, and would be measured under the same conditions."""
        if not self._comparable(record):
            return False
        self.prepare(record.choice)
        made = self._ready.get(record.candidate)
        return made is not None and made.code == record.code

    def best(self) -> Record | None:
        """The fastest candidate within the limits, the default included."""
        return next((r for r in self.current() if not self.objection(r)), None)

    def objection(self, record: Record) -> str:
        """Why the search must not settle on a candidate; empty when it may."""
        if record.status != "ok":
            return f"{record.status}: {record.message}"
        for what, value, limit in (("scratch", record.scratch, self.limits.scratch), ("flash", record.flash, self.limits.flash)):
            if limit is not None and value > limit:
                return f"{value:,} bytes of {what} are over the limit of {limit:,}"
        return ""

    def flush(self) -> None:
        """Write what was recorded since the last time."""
        if self.path is not None and self._unwritten:
            append_records(self.path, self._unwritten)
        self._unwritten.clear()

    def _comparable(self, record: Record) -> bool:
        known = self.runner.conditions
        return (record.board_term, record.compiler, record.flags) == (known.board_term, known.compiler, known.flags)

    def _refuse(self, choice: Choice, why: str) -> None:
        self._refused[self.name(choice)] = why
        if self.known(choice) is None:
            self._note(self._record(choice, Measurement("illegal", message=why)))

    def _code(self, choice: Choice) -> str:
        candidate = self._ready.get(self.name(choice))
        return candidate.code if candidate is not None else ""

    def _note(self, record: Record) -> None:
        self.records.add(record)
        self._unwritten.append(record)

    def _record(self, choice: Choice, m: Measurement) -> Record:
        known = self.runner.conditions
        return Record(
            self.workload, dict(choice), m.status, m.cycles, m.instructions, m.flash, m.scratch,
            known.board_term, known.compiler, known.flags, self._code(choice), m.message,
        )  # fmt: skip
