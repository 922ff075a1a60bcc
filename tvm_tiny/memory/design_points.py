# SPDX-License-Identifier: Apache-2.0
"""Designs as built, points of the memory / cycles curve: which of them suits the goal.

Bytes are those of real plans, cycles those of real kernels; what is compared with a limit leaves room for what estimates are off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm_tiny.memory.design import APART, Design
from tvm_tiny.memory.stream_choice import StreamOptions, pick

MOST_SPENT = 1.6
"""Times the least arena: what "sram" takes at most to keep streams within the work allowed."""
_SURE = 0.83  # of the extra cycles allowed, what the estimate may be: it is up to 1.7 % of a network's cycles off, seen over whole builds
_SURE_STREAMS = 0.92  # the same of what streams add to the same kernels, whose estimate layer by layer is less sure
_AGREED = 1.05  # of the extra cycles allowed, what may be added to the fastest kernels where all is used that may be added to the same


@dataclass(frozen=True)
class Point:
    """A design as built.

    Attributes
    ----------
    cycles : float
        Estimated for the target's core.
    overhead, extra_macs : float
        Cycles beyond those of layer by layer, and multiply-accumulates done again, as fractions.
    flash : int
        Bytes of code (estimated) and constants.
    streaming : float
        Cycles that streams add to those of the same kernels layer by layer, as a fraction.
    planned : int, optional
        The arena that streams were cut for, scratch estimated.
    """

    design: Design
    arena_bytes: int
    cycles: float
    overhead: float
    extra_macs: float
    flash: int
    streaming: float = 0.0
    planned: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        figures = {"arena_bytes": self.arena_bytes, "cycles": round(self.cycles), "flash_bytes": self.flash}
        fractions = {"extra_work": round(self.overhead, 4), "extra_macs": round(self.extra_macs, 4)}
        fractions["streaming"] = round(self.streaming, 4)
        return {**figures, **fractions, **self.design.to_dict(), "text": self.design.describe()}


def in_order(points: Sequence[Point]) -> list[Point]:
    """By bytes, then by work."""
    return sorted(points, key=lambda p: (p.arena_bytes, p.overhead))


def beaten(p: Point, points: Sequence[Point]) -> bool:
    """Another point is as good in both bytes and cycles, and better in one."""
    mine = (p.arena_bytes, p.cycles)
    return any(q.arena_bytes <= p.arena_bytes and q.cycles <= p.cycles and (q.arena_bytes, q.cycles) != mine for q in points)


def choose_point(points: Sequence[Point], options: StreamOptions, flash: int | None) -> tuple[Point, str]:
    """The point that suits the goal, and why; one that needs more than `flash` bytes of code and constants only where all do."""
    points = [p for p in points if not _for_nothing(p, points)]
    fits = [p for p in points if flash is None or p.flash <= flash]
    if not fits:  # what is asked of memory may still be met; without a budget of it, the least code
        fits = list(points) if options.budget is not None else [min(points, key=lambda p: p.flash)]
    if options.goal == "speed":
        return fits[0], "layer by layer: the goal is speed"
    if options.goal == "sram":
        return least_point(fits, options)
    if options.budget is None and options.goal == "balanced":
        options = replace(options, max_overhead=_SURE * options.max_overhead)
        sure = [p for p in fits if p.overhead <= options.max_overhead]
        fits = sure or [min(fits, key=lambda p: p.overhead)]
    return pick(in_order(fits), options)


def _for_nothing(p: Point, points: Sequence[Point]) -> bool:
    """The design repeats work, and one that does not needs no more bytes and about as many cycles."""
    plain = (q for q in points if not q.design.repeats)
    return p.design.repeats and any(q.arena_bytes <= p.arena_bytes and q.cycles <= (1 + APART) * p.cycles for q in plain)


def least_point(points: Sequence[Point], options: StreamOptions) -> tuple[Point, str]:
    """The least arena, and why: of those whose streams take no longer than allowed, if there are any of at most `MOST_SPENT` times the
    least of all; else of those of them that halve what the streams of the least take too long. Patches may take as long, where streams
    alone could do instead."""
    points = [p for p in points if options.budget is None or p.arena_bytes <= options.budget] or points
    points = [p for p in points if not beaten(p, points)]
    rivals = any(p.design.segments and p.design.patches is None for p in points)
    best, reason = pick(in_order(points), options)
    if _spends_little(best, options, rivals):
        return best, reason
    near = [p for p in points if p.arena_bytes <= MOST_SPENT * best.arena_bytes]
    longest = options.max_overhead
    within = [p for p in near if _spends_little(p, options, rivals)]
    if not within:
        longest += (_spent(best, rivals) - options.max_overhead) / 2
        within = [p for p in near if _spent(p, rivals) <= longest]
    if not within:
        return best, reason
    best, reason = pick(in_order(within), options)
    return best, f"{reason} at which streams take at most {longest:.0%} longer"


def _spent(p: Point, rivals: bool) -> float:
    """What streams add to the same kernels; what patches, whose kernels are others, add to the network, where streams are their rivals."""
    return max(p.streaming, p.overhead) if rivals and p.design.patches is not None else p.streaming


def _spends_little(p: Point, options: StreamOptions, rivals: bool) -> bool:
    """Streams take no more than `max_overhead` longer than their kernels layer by layer, or the network no more than layer by layer.

    The first is used up where the second says about the same; where they differ, room is left for what estimates are off.
    """
    allowed = options.max_overhead
    part = 1.0 if p.overhead <= _AGREED * allowed else _SURE_STREAMS
    return _spent(p, rivals) <= part * allowed or p.overhead <= allowed


def with_less_room(best: Point, options: StreamOptions) -> Design | None:
    """The chosen design with less room for scratch, where its arena came out larger than planned and memory is short.

    Room is counted step by step; a kernel that keeps to it may still push apart tensors that several steps hold in a row.
    """
    bound = best.design.arena_bytes
    if bound is None or not (options.goal == "sram" or _misses(best, options)):
        return None
    excess = best.arena_bytes - max(best.planned or 0, bound)
    return replace(best.design, room=max(0, bound - excess)) if excess > 0 else None


def _misses(p: Point, options: StreamOptions) -> bool:
    return options.budget is not None and p.arena_bytes > options.budget
