# SPDX-License-Identifier: Apache-2.0
"""The memory plan as data: buffers, the steps that use them, the rights a kernel grants, and where everything lies.

All sizes and offsets are bytes, all times are step indices (inclusive), all arithmetic is exact integers. Nothing here
knows TVM: passes build these objects from the IR, the planner places them, the code generator and the report read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

KINDS = ("input", "output", "intermediate", "scratch", "constant")
ORDERS = ("ascending", "descending", "in-place")
ARENA = "arena"


@dataclass(frozen=True)
class Buffer:
    """A run of bytes with one lifetime.

    Attributes
    ----------
    kind : str
        One of `KINDS`. A "constant" is written before the first step and lives as long as the plan.
    first_use, last_use : int
        Inclusive step indices between which the bytes must not change hands; `lifetimes.with_lifetimes` fills them.
        `last_use` equal to the number of steps means that the application reads the bytes after the run.
    align : int
        The offset is a multiple of this power of two.
    region : str or None
        The only region it may lie in; None leaves the choice to the planner.
    offset : int or None
        Pinned at exactly this offset (of `region`, or of the first region).
    keep : bool
        The contents must survive to the end of the run (a pinned model input).
    accesses : int
        Bytes read and written of it in the whole run, where that is more than its size for every step that touches it: scratch.
    """

    name: str
    nbytes: int
    kind: str = "intermediate"
    first_use: int = -1
    last_use: int = -1
    align: int = 1
    region: str | None = None
    offset: int | None = None
    keep: bool = False
    accesses: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"buffer {self.name}: kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.nbytes < 1:
            raise ValueError(f"buffer {self.name}: {self.nbytes} bytes; a buffer has at least one")
        if self.align < 1 or self.align & (self.align - 1):
            raise ValueError(f"buffer {self.name}: alignment {self.align} is not a power of two")

    def lives_with(self, other: Buffer) -> bool:
        """Both hold bytes that matter during at least one common step."""
        return self.first_use <= other.last_use and other.first_use <= self.last_use


@dataclass(frozen=True)
class Right:
    """What a step's kernel allows: its `output` may share bytes with its `input`, under one condition on their addresses.

    order     condition                                            the kernel promises
    ascending   out_base + distance <= in_base                       rows first to last; each store stays below what is still to be read
    descending  in_end + distance <= out_end                         the mirror image, rows last to first
    in-place    out_base == in_base                                  no byte is stored before its last read at equal bases

    `distance` may be negative: a streamed segment has read several input rows before it stores the first output row.
    """

    output: str
    input: str
    order: str
    distance: int = 0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"right {self.output} over {self.input}: order {self.order!r} is not one of {', '.join(ORDERS)}")

    def holds(self, out_base: int, out_nbytes: int, in_base: int, in_nbytes: int) -> bool:
        """Whether the two placements satisfy this right's condition."""
        if self.order == "ascending":
            return out_base + self.distance <= in_base
        if self.order == "descending":
            return in_base + in_nbytes + self.distance <= out_base + out_nbytes
        return out_base == in_base


@dataclass(frozen=True)
class Step:
    """One kernel call (or one patch or streamed stage): what it reads, writes and scribbles on, and the rights it grants."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    scratch: tuple[str, ...] = ()
    rights: tuple[Right, ...] = ()

    def touches(self) -> tuple[str, ...]:
        """Every buffer the step reads, writes or scribbles on."""
        return self.reads + self.writes + self.scratch


@dataclass(frozen=True)
class Region:
    """A memory of the board. `nbytes` None means unbounded; `cost` is the relative price of one byte accessed (0 = free)."""

    name: str = ARENA
    nbytes: int | None = None
    cost: int = 1


@dataclass(frozen=True)
class Placement:
    """Where a buffer lies: `offset` bytes into `region`."""

    region: str
    offset: int


@dataclass(frozen=True)
class SolverInfo:
    """How the plan was found. Deterministic: the same problem gives the same record (wall time is not part of it)."""

    name: str
    status: str
    seed: int = 0
    note: str = ""


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets of every buffer, and how good they are.

    Attributes
    ----------
    used : dict
        Bytes of each region up to the highest byte any buffer occupies.
    lower_bound : int
        No plan under the same rights needs fewer bytes in total (with several regions: none of equal access cost).
    optimal : bool
        `arena_bytes == lower_bound` was proved.
    orders : dict
        For each step whose output shares bytes with an input, the row order its kernel must run in (a value of `ORDERS`).
    """

    steps: tuple[Step, ...]
    buffers: tuple[Buffer, ...]
    placements: Mapping[str, Placement]
    regions: tuple[Region, ...]
    used: Mapping[str, int]
    lower_bound: int
    optimal: bool
    solver: SolverInfo
    orders: Mapping[str, str] = field(default_factory=dict)

    @property
    def arena_bytes(self) -> int:
        """Bytes of all regions together."""
        return sum(self.used.values())

    def buffer(self, name: str) -> Buffer:
        """The buffer called `name`; KeyError when there is none."""
        for candidate in self.buffers:
            if candidate.name == name:
                return candidate
        raise KeyError(name)

    def offset(self, name: str) -> int:
        """Offset of buffer `name` in its region."""
        return self.placements[name].offset

    def live_bytes(self, step: int) -> int:
        """Sum of the sizes of all buffers live in `step`; shared bytes count twice."""
        return sum(b.nbytes for b in self.buffers if b.first_use <= step <= b.last_use)

    def occupied_bytes(self, step: int, region: str | None = None) -> int:
        """Bytes (of `region`, or of all) that at least one buffer holds in `step`; shared bytes count once."""
        spans: dict[str, list[tuple[int, int]]] = {}
        for b in self.buffers:
            where = self.placements[b.name]
            if b.first_use <= step <= b.last_use and region in (None, where.region):
                spans.setdefault(where.region, []).append((where.offset, where.offset + b.nbytes))
        return sum(_union(s) for s in spans.values())

    def peak_step(self, region: str | None = None) -> int:
        """The step that decides the size of the arena: the one that occupies most bytes (the first of equals)."""
        return max(range(len(self.steps)), key=lambda s: (self.occupied_bytes(s, region), -s), default=0)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; `from_dict` restores an equal plan."""
        return {**asdict(self), "arena_bytes": self.arena_bytes, "version": 1}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MemoryPlan:
        """The inverse of `to_dict`."""
        return cls(
            steps=tuple(_step(s) for s in data["steps"]),
            buffers=tuple(Buffer(**b) for b in data["buffers"]),
            placements={k: Placement(**p) for k, p in data["placements"].items()},
            regions=tuple(Region(**r) for r in data["regions"]),
            used=dict(data["used"]),
            lower_bound=data["lower_bound"],
            optimal=data["optimal"],
            solver=SolverInfo(**data["solver"]),
            orders=dict(data["orders"]),
        )

    def to_json(self) -> str:
        """`to_dict` as text, keys sorted so that equal plans are equal text."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> MemoryPlan:
        """The inverse of `to_json`."""
        return cls.from_dict(json.loads(text))


def _step(data: Mapping[str, Any]) -> Step:
    lists = {key: tuple(data[key]) for key in ("reads", "writes", "scratch")}
    return Step(data["name"], **lists, rights=tuple(Right(**r) for r in data["rights"]))


def _union(spans: list[tuple[int, int]]) -> int:
    total, reach = 0, 0
    for low, high in sorted(spans):
        total += max(0, high - max(low, reach))
        reach = max(reach, high)
    return total
