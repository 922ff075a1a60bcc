# SPDX-License-Identifier: Apache-2.0
"""Tuning records: one JSON line a measured candidate, in a file that may be cut short at any moment and still be read.

A record says what was measured (workload and choice), how (core, board term, compiler and flags, digest of the C) and what came out:
`status` "ok" with cycles, instructions, flash and scratch, or "inexact", "illegal", "build", "crash" or "timeout" with a message.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tvm_tiny.errors import InputError
from tvm_tiny.tuning.workload import Workload

FORMAT = 2
SHIPPED, YOURS = "shipped record", "your tuning"
STATUSES = ("ok", "inexact", "illegal", "build", "crash", "timeout")


@dataclass(frozen=True)
class Record:
    """One measured, or refused, candidate.

    Attributes
    ----------
    workload : Workload
    choice : dict
        The candidate: rule and decisions; empty for the default of the rules.
    status : str
        One of `STATUSES`; the figures mean nothing unless it is "ok".
    cycles : float
        Estimated core cycles of the layer, board term included.
    instructions, flash, scratch : int
        Executed instructions (exact); bytes of code and packed constants; bytes of scratch.
    board_term, compiler, flags : str
        What it was measured with.
    code : str
        Digest of the candidate's C (`Candidate.code`): while its decisions give the same C, the figures hold, whatever else has changed.
    message : str
        Why it was refused.
    runner_up : dict or None
        Of shipped records: choice and cycles of the next best candidate.
    source : str
        Where the record was read from (not stored).
    """

    workload: Workload
    choice: Mapping[str, int | str]
    status: str = "ok"
    cycles: float = 0.0
    instructions: int = 0
    flash: int = 0
    scratch: int = 0
    board_term: str = "none"
    compiler: str = ""
    flags: str = ""
    code: str = ""
    message: str = ""
    runner_up: Mapping[str, Any] | None = None
    source: str = field(default=YOURS, compare=False)

    @property
    def candidate(self) -> str:
        """Canonical text of the choice."""
        return json.dumps(dict(self.choice), sort_keys=True)

    def to_json(self) -> str:
        """One line."""
        data = {k: v for k, v in asdict(replace(self, choice=dict(self.choice))).items() if k not in ("source", "workload")}
        data = {k: v for k, v in data.items() if k in ("choice", "status", "cycles") or v not in ("", None)}
        return json.dumps({"format": FORMAT, "workload": self.workload.to_dict(), **data}, separators=(",", ":"))

    @staticmethod
    def from_json(line: str, source: str = YOURS) -> Record:
        """Read a line. Raises ValueError, KeyError or TypeError for what is no record."""
        data = json.loads(line)
        if data.pop("format") != FORMAT:
            raise ValueError("written by another version of tvm_tiny")
        if data["status"] not in STATUSES:
            raise ValueError(f"status {data['status']!r}")
        return Record(**{**data, "workload": Workload.from_dict(data["workload"]), "source": source})


class Records:
    """Records by workload.

    Parameters
    ----------
    records : iterable of Record
        Where two describe the same candidate under the same conditions, the later counts.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._by_workload: dict[str, dict[tuple[str, ...], Record]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Add one."""
        conditions = (record.candidate, record.board_term, record.compiler, record.flags, record.code, record.source)
        self._by_workload.setdefault(record.workload.key, {})[conditions] = record

    def __iter__(self) -> Iterator[Record]:
        return (r for group in self._by_workload.values() for r in group.values())

    def __len__(self) -> int:
        return sum(map(len, self._by_workload.values()))

    def of(self, workload: Workload) -> list[Record]:
        """Every record of a workload, refused candidates included."""
        return list(self._by_workload.get(workload.key, {}).values())

    def candidates(self, workload: Workload, *, scratch: int | None = None, flash: int | None = None) -> list[Record]:
        """Exact candidates within the limits, best first: your own before shipped ones, then fewest cycles, scratch and flash.

        Cycles are compared within one set of conditions only (board term, compiler, flags); the set measured last comes first.

        Parameters
        ----------
        scratch, flash : int, optional
            Bytes.
        """
        fitting = [
            r
            for r in self.of(workload)
            if r.status == "ok" and (scratch is None or r.scratch <= scratch) and (flash is None or r.flash <= flash)
        ]
        latest = {_conditions(r): i for i, r in enumerate(fitting)}
        return sorted(fitting, key=lambda r: (r.source != YOURS, -latest[_conditions(r)], r.cycles, r.scratch, r.flash))


def _conditions(record: Record) -> tuple[str, str, str]:
    return record.board_term, record.compiler, record.flags


def read_records(path: str | Path, source: str = YOURS) -> list[Record]:
    """Read a file of records. A last line without its end is left out: the process that wrote it was killed there.

    Raises
    ------
    InputError
        The file can't be read, or a line is no record.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"records {path} can't be read: {error}") from None
    records = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        if not line.strip():
            continue
        try:
            records.append(Record.from_json(line, source))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = "tune again into a new file, or remove the line"
            raise InputError(f"{path}, line {number} is no tuning record: {error}", remedy=remedy) from None
    return records


def append_records(path: str | Path, records: Sequence[Record]) -> None:
    """Append whole lines to a file, made if absent, and see them to the disk.

    Raises
    ------
    InputError
        The file can't be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_partial_line(path)
        with path.open("a", encoding="utf-8") as out:
            out.write("".join(r.to_json() + "\n" for r in records))
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise InputError(f"records {path} can't be written: {error}") from None


def _drop_partial_line(path: Path) -> None:
    data = path.read_bytes() if path.is_file() else b""
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        with path.open("r+b") as out:
            out.truncate(whole)


@lru_cache(maxsize=1)
def shipped_records() -> tuple[Record, ...]:
    """The records that came with the package."""
    import tvm_tiny.schedules

    folder = Path(tvm_tiny.schedules.__file__).parent / "records"
    return tuple(r for path in sorted(folder.glob("*.jsonl")) for r in read_records(path, SHIPPED))


def load_records(records: str | Path | Records | bool | None = True) -> Records:
    """The records `build` works with.

    Parameters
    ----------
    records
        True: those shipped. False or None: none. A path: its records besides the shipped ones. `Records`: just these.
    """
    if isinstance(records, Records):
        return records
    if not records:
        return Records()
    own = [] if records is True else read_records(records)
    return Records([*shipped_records(), *own])
