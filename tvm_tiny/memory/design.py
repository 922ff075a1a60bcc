# SPDX-License-Identifier: Apache-2.0
"""A design: what of a network is computed twice, in patches and in streams; and points of the memory / cycles curve that designs make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm_tiny.errors import OptionError

Patches = tuple[int, int, tuple[int, int]]
"""First operator, one past the last, and the grid (down, across)."""


@dataclass(frozen=True)
class Design:
    """What runs otherwise than layer by layer.

    Attributes
    ----------
    copies : tuple of str
        Names of the operators whose input is computed a second time for them (`tvm_tiny.memory.recompute`).
    patches : (first, last, (down, across)) or None
        Operators in patches, counted with the copies.
    segments : tuple of (first, last)
        Operators that are streamed, counted with the copies, all of `patches` as one.
    pairs : bool
        Streams use kernels of two rows at once where there are some.
    strips : str
        Whether streams make several rows at once, of `tvm_tiny.memory.stream_strips.STRIPS`.
    planar : bool
        Tensors between layers may lie in planes, which in-place rights that whole rows have may not survive.
    arena_bytes : int or None
        What no kernel's scratch may make the arena exceed: the estimate. None: nothing is saved that could be spent.
    room : int or None
        The same, less than `arena_bytes`: where kernels that kept to that made the arena larger by how tensors then lie.
    forms : tuple of (int, bool) or None
        Kernels in the forms that another build took (`report.decisions["code"]["forms"]`) instead of those the budgets ask for.
    """

    copies: tuple[str, ...] = ()
    patches: Patches | None = None
    segments: tuple[tuple[int, int], ...] = ()
    pairs: bool = False
    strips: str = "none"
    planar: bool = True
    arena_bytes: int | None = field(default=None, compare=False)
    room: int | None = None
    forms: tuple[tuple[int, bool], ...] | None = None

    @property
    def layerwise(self) -> bool:
        """Every operator is run by itself, once."""
        return not (self.copies or self.patches or self.segments)

    @property
    def scratch_arena(self) -> int | None:
        """What kernels' scratch may make the arena."""
        return self.arena_bytes if self.room is None else self.room

    @property
    def repeats(self) -> bool:
        """Something is computed twice, or may be."""
        return bool(self.copies or self.patches)

    def describe(self) -> str:
        """In words."""
        parts = [f"computed twice for {', '.join(self.copies)}"] if self.copies else []
        if self.patches is not None:
            first, last, (down, across) = self.patches
            parts.append(f"operators {first}..{last - 1} in {down}x{across} patches")
        if self.segments:
            after = " (patches counted as one)" if self.patches is not None else ""
            parts.append(f"operators {', '.join(f'{a}..{b - 1}' for a, b in self.segments)} streamed{after}")
        return ", ".join(parts) or "layer by layer"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        patches = None
        if self.patches is not None:
            first, last, grid = self.patches
            patches = {"operators": [first, last], "grid": list(grid)}
        segments = [list(s) for s in self.segments]
        how = {"pairs": self.pairs, "strips": self.strips, "planar": self.planar, "bound": self.arena_bytes, "room": self.room}
        return {"copies": list(self.copies), "patches": patches, "segments": segments, **how}

    @staticmethod
    def of(data: Mapping[str, Any]) -> Design:
        """Read back what `to_dict` wrote.

        Raises
        ------
        OptionError
            Something is missing.
        """
        try:
            patches = data["patches"]
            grid = None if patches is None else (*patches["operators"], (patches["grid"][0], patches["grid"][1]))
            segments = tuple((int(a), int(b)) for a, b in data["segments"])
            pairs, planar = (bool(data[name]) for name in ("pairs", "planar"))
            forms = None if data.get("forms") is None else tuple((int(form), bool(by_winograd)) for form, by_winograd in data["forms"])
            return Design(tuple(data["copies"]), grid, segments, pairs, data["strips"], planar, data["bound"], data.get("room"), forms)
        except (KeyError, TypeError, ValueError, IndexError):
            raise OptionError("design is no point of a curve", remedy="give an entry of report.decisions['curve']['curve']") from None


@dataclass(frozen=True)
class Estimate:
    """A design before anything is generated: arena bytes, extra work and multiply-accumulates done again, as fractions."""

    design: Design
    arena_bytes: int
    overhead: float
    extra_macs: float = 0.0


def worth_building(found: Sequence[Estimate], goal: str, budget: int | None, max_overhead: float, most: int) -> list[Estimate]:
    """The estimates that may turn out to be the choice, at most `most`, smallest arena first.

    Estimates are some per cent off, so one is left out only where another is clearly better in bytes and no worse in work, or the
    other way round; under "sram" also where it is clearly larger than the smallest, but for the smallest within the work allowed. The
    work of single layers is known best: no other design comes before them; nor one that repeats work before one that does not, unless it is
    clearly less.
    """
    kept: list[Estimate] = []
    for e in sorted(found, key=lambda e: (e.arena_bytes, e.design.repeats, e.overhead)):
        rivals = [k for k in kept if k.design.layerwise] if e.design.layerwise else kept
        if any(k.arena_bytes <= e.arena_bytes and k.overhead <= e.overhead + _apart(e.design, k.design) for k in rivals):
            continue
        kept.append(e)
    if not kept:
        return []
    if goal == "sram":
        few = (e for e in kept if e.overhead <= _MAY_BE * max_overhead and e.arena_bytes <= _TWICE * kept[0].arena_bytes)
        cheap = next(few, kept[0])
        kept = [e for e in kept if e.arena_bytes <= kept[0].arena_bytes * _NEAR or e is cheap]
    elif budget is not None:
        fits = sorted((e for e in kept if e.arena_bytes <= budget * _NEAR), key=lambda e: e.overhead)
        kept = sorted({id(e): e for e in (*kept[:2], *fits)}.values(), key=lambda e: e.arena_bytes)
    else:
        kept = [e for e in kept if e is kept[0] or e.overhead <= max_overhead + _DEAR]
    return kept[:most]


def _apart(design: Design, rival: Design) -> float:
    """What the rival may take more and still come before the design, as a fraction of the network's work."""
    return APART * (design.repeats - rival.repeats)


APART = 0.02
"""Of a network's work: what estimates must differ by where one design repeats work and another does not."""
_NEAR = 1.1
_MAY_BE = 1.5  # of `max_overhead`, estimates of work that may turn out within
_TWICE = 2  # times the smallest arena: what little work may take under "sram"
_DEAR = 0.15  # estimates of work beyond `max_overhead` that may still turn out within
