# SPDX-License-Identifier: Apache-2.0
"""Which design a network is built in: estimated for all, built for those that may win, chosen by what the builds need.

Operators computed twice, a head in patches and streams after it are searched together: every variant with copies, with and without
patches, is cut into streams. Each design worth it then runs through the rest of the pipeline, so that its bytes are those of its real
plan and its cycles those of its real kernels (`tvm_tiny.schedules.cycles`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import tvm

from tvm_tiny.explain import Decision, Explainer, adopt, collecting
from tvm_tiny.memory.design import Design, Estimate, worth_building
from tvm_tiny.memory.design_points import MOST_SPENT, Point, beaten, choose_point, in_order, with_less_room
from tvm_tiny.memory.fit import MemoryDoesNotFitError
from tvm_tiny.memory.partitions import least_peak
from tvm_tiny.memory.patch_choice import PatchCosts, patch_candidates, patch_heads, tile_bytes
from tvm_tiny.memory.stream_choice import Candidate, Costs, StreamOptions, cutter_of, layer_by_layer, stream_candidates, with_rights
from tvm_tiny.memory.streams import StreamedSegment
from tvm_tiny.memory.tiny_rows import TinyRows, tiny_rows
from tvm_tiny.ops.graph import Node, TinyGraph
from tvm_tiny.passes.apply_schedules import CODE_ATTR, CYCLES_ATTR
from tvm_tiny.passes.patch_inference import PATCH_ATTR, in_patches
from tvm_tiny.passes.plan_memory import plan_of
from tvm_tiny.passes.recompute import RECOMPUTE_ATTR, Variant, variants
from tvm_tiny.passes.stream_rows import STREAM_ATTR

CURVE_ATTR = "tiny.curve"
"""Module attribute: JSON of the points of the memory / cycles curve and the choice, for the report."""

MOST_BUILT = 8
_TOLD = {name: Explainer(name) for name in ("recompute", "patch-inference", "stream-rows")}
_OFF = 1.05  # of its estimate, what a built arena may take
_HEADS = 4  # in patches, each with streams after it
_FEWER = (2, 1)  # pixels that layers compute together where scratch is dear
_LOWER = 0.98  # of the least peak, what fewer pixels must make of it
_MAY_BE = 1.5  # of the work allowed, estimates that may turn out within
_TALL = "tall"
_FLOOR = 0.7  # of the least arena that streams alone reach: a head below need not be smaller


@dataclass(frozen=True)
class Allowed:
    """Passes that may be used, and what kernels cost."""

    recompute: bool
    patches: bool
    rows: bool
    costs: Costs
    patched: PatchCosts


def designs(mod: tvm.IRModule, options: StreamOptions, allowed: Allowed) -> list[Design]:
    """The designs to build, layer by layer first, the others by estimated bytes."""
    tiny = TinyGraph(mod["main"])
    rows = tiny_rows(tiny)
    if options.goal == "speed" or rows is None or len(rows.graph.ops) < 2:
        return [Design()]
    ways = (_estimates, _with_fewer)
    found = [[e for v in _variants(tiny, rows, options, allowed) for e in way(v, options, allowed)] for way in ways]
    # Fewer pixels may turn out to be in no kernel's choice, so under "sram" they replace nothing that is as small without.
    groups = found if options.goal == "sram" else [[e for way in found for e in way]]
    kept = [e for group in groups for e in worth_building(group, options.goal, options.budget, options.max_overhead, MOST_BUILT)]
    if options.goal == "sram":
        kept += _of_balanced(tiny, options, allowed, kept)
    return [Design(), *dict.fromkeys(e.design for e in sorted(kept, key=lambda e: e.arena_bytes))]


def _of_balanced(tiny: TinyGraph, options: StreamOptions, allowed: Allowed, kept: Sequence[Estimate]) -> list[Estimate]:
    """The smallest stream that the goal "balanced" may choose: "sram" takes no more memory than it. Built as that goal builds it."""
    other = replace(options, goal="balanced")
    found = list(_estimates(Variant(tiny.func, (), (), 0.0), other, replace(allowed, patches=False))) if allowed.rows else []
    worth = worth_building(found, other.goal, other.budget, other.max_overhead, MOST_BUILT)
    most, known = MOST_SPENT * min((e.arena_bytes for e in kept), default=0), {e.design for e in kept}
    fit = (e for e in worth if e.overhead <= _MAY_BE * options.max_overhead and e.arena_bytes <= most)
    smallest = next((e for e in fit if e.design.segments and e.design not in known), None)
    return [replace(smallest, design=replace(smallest.design, strips=_TALL))] if smallest is not None else []


def _variants(tiny: TinyGraph, rows: TinyRows, options: StreamOptions, allowed: Allowed) -> list[Variant]:
    plain = Variant(tiny.func, (), (), 0.0)
    return (variants(tiny, rows, options) if allowed.recompute and allowed.rows else []) or [plain]


def _estimates(variant: Variant, options: StreamOptions, allowed: Allowed) -> Iterator[Estimate]:
    """Every design of one variant."""
    tiny = TinyGraph(variant.func)
    rows = tiny_rows(tiny)
    assert rows is not None
    rows = with_rights(rows, allowed.costs)

    def estimate(design: Design, arena: int, overhead: float, patched: float = 0.0) -> Estimate:
        again = variant.extra_macs + patched
        work = variant.extra_macs + overhead * (1 + variant.extra_macs)
        return Estimate(replace(design, copies=variant.readers, arena_bytes=arena), arena, work, again)

    streams = _streams(rows, options, allowed)
    for c in streams:
        yield estimate(Design(segments=_segments(c), pairs=_in_pairs(c)), c.arena_bytes, c.overhead)
    if not allowed.patches:
        return
    left = max(0.0, options.max_overhead - variant.extra_macs)
    if not allowed.rows:
        for p in patch_candidates(rows, cutter_of(rows, allowed.costs), replace(options, max_overhead=left), allowed.patched, fetch=True):
            design = Design(patches=(p.stage.first, p.stage.last, p.stage.grid))
            yield estimate(design, p.arena_bytes, p.overhead, p.extra_macs)
        return
    cutter = cutter_of(rows, allowed.costs)
    least = least_peak(cutter) or 0
    total = sum(op.macs for op in rows.graph.ops) or 1
    heads = patch_heads(rows, cutter, left, allowed.patched, lambda last: int(_FLOOR * least))
    for _, work, stage in [h for h in heads if _may_win(h[0], h[1], streams)][-_HEADS:]:
        func = in_patches(tiny, rows, stage, tile_bytes(rows, stage, allowed.patched))
        after = tiny_rows(TinyGraph(func))
        assert after is not None
        for c in _streams(with_rights(after, allowed.costs), options, allowed):
            design = Design((), (stage.first, stage.last, stage.grid), _segments(c), _in_pairs(c))
            yield estimate(design, c.arena_bytes, work + c.overhead * (1 + work), (stage.macs - stage.whole_macs) / total)


def _with_fewer(variant: Variant, options: StreamOptions, allowed: Allowed) -> Iterator[Estimate]:
    """Designs without patches whose layers compute fewer pixels together, where their scratch decides the least peak."""
    rows = tiny_rows(TinyGraph(variant.func))
    assert rows is not None
    rows = with_rights(rows, allowed.costs)
    least = _peaks(rows, allowed)
    for pixels in _FEWER:
        costs = replace(allowed.costs, scratch=partial(_scratch_of_fewer, allowed.costs, pixels), roomy=lambda node: 0)
        tight = replace(allowed, costs=costs)
        peaks = _peaks(rows, tight)
        if all(peak > before * _LOWER for peak, before in zip(peaks, least, strict=True)):
            continue
        least = peaks
        for c in _streams(rows, options, tight):
            work = variant.extra_macs + (c.overhead + _slower(rows, c, allowed.costs, pixels)) * (1 + variant.extra_macs)
            design = Design(variant.readers, None, _segments(c), _in_pairs(c), arena_bytes=c.arena_bytes)
            yield Estimate(design, c.arena_bytes, work, variant.extra_macs)


def _peaks(rows: TinyRows, allowed: Allowed) -> tuple[int, int]:
    """The least peak layer by layer, and with streams where they are allowed."""
    cutter = cutter_of(rows, allowed.costs)
    layers = least_peak(cutter, lambda first, last: last == first + 1) or 0
    return layers, (least_peak(cutter) or 0) if allowed.rows else layers


def _scratch_of_fewer(costs: Costs, pixels: int, node: Node, streamed: bool) -> int:
    usual, fewer = costs.scratch(node, streamed), costs.fewer(node, pixels)
    return usual if streamed or fewer is None else min(usual, fewer[0])


def _slower(rows: TinyRows, candidate: Candidate, costs: Costs, pixels: int) -> float:
    """Estimated extra work, as a fraction, of layers that do not fit the candidate's arena otherwise."""
    graph, cutter = rows.graph, cutter_of(rows, costs)
    whole = [costs.work(graph, op, node)[0] for op, node in zip(graph.ops, rows.nodes, strict=True)]
    extra = 0.0
    for i in (r.first for r in candidate.partition.ranges if not r.streamed):
        usual, fewer = cutter.range(i, i + 1), costs.fewer(rows.nodes[i], pixels)
        if fewer is not None and usual is not None and usual.bytes > candidate.arena_bytes:
            extra += whole[i] * (fewer[1] - 1)
    return extra / (sum(whole) or 1.0)


def _may_win(need: int, work: float, streams: Sequence[Candidate]) -> bool:
    """No stream is as small for as little work."""
    return not any(c.arena_bytes <= need and c.overhead <= work for c in streams)


def _streams(rows: TinyRows, options: StreamOptions, allowed: Allowed) -> tuple[Candidate, ...]:
    return stream_candidates(rows, options, allowed.costs) if allowed.rows else (layer_by_layer(rows, allowed.costs),)


def _segments(c: Candidate) -> tuple[tuple[int, int], ...]:
    return tuple((r.first, r.last) for r in c.partition.ranges if r.streamed)


def _in_pairs(c: Candidate) -> bool:
    """Whether a stream of the candidate makes two rows at once."""
    segments = [r.segment for r in c.partition.ranges if isinstance(r.segment, StreamedSegment)]
    return any(op.group > 1 for s in segments for stage in s.stages for op in stage.ops)


Trail = list[tuple[str, tvm.IRModule]]
Finish = Callable[[Design], tuple[tvm.IRModule, Trail]]


def search(mod: tvm.IRModule, options: StreamOptions, allowed: Allowed, finish: Finish, flash: int | None) -> tuple[tvm.IRModule, Trail]:
    """The network in the design that suits the goal, and what `finish` made on the way.

    Parameters
    ----------
    mod : IRModule
        Operators final, in order.
    finish : callable
        Runs the rest of the pipeline for a design.
    flash : int, optional
        Bytes of code and constants; designs that need more are taken only where none does with less.

    Raises
    ------
    MemoryDoesNotFitError
        No design fits the memories of the board; the one that lacks least tells.
    """
    builds = _Builds(finish)
    for design in [d for each in designs(mod, options, allowed) for d in heights(each, options.goal)]:
        if _met(design, builds.points):
            continue
        for variant in (design, replace(design, planar=False)):
            point = builds.add(variant)
            if point is not None and (design.arena_bytes is None or point.arena_bytes <= _OFF * design.arena_bytes):
                break  # else planes between layers may be to blame: once more without
    if not builds.points:
        raise min(builds.failed, key=lambda error: error.excess)
    closer = with_less_room(choose_point(builds.compared(), options, flash)[0], options)
    if closer is not None:
        builds.add(closer)
    points = builds.compared()
    best, reason = choose_point(points, options, flash)
    module, trail, told = builds.made[points.index(best)]
    adopt(told)
    _tell(points, best, reason)
    curve = [p for p in in_order(points) if p is best or not beaten(p, points)]
    text = {"goal": options.goal, "reason": reason, "chosen": best.to_dict(), "curve": [p.to_dict() for p in curve]}
    return module.with_attr(CURVE_ATTR, json.dumps(text)), trail


class _Builds:
    """Designs built to the end: those that differ, what was made of each, and the errors of those that do not fit."""

    def __init__(self, finish: Finish) -> None:
        self.finish = finish
        self.points: list[Point] = []
        self.made: list[tuple[tvm.IRModule, Trail, dict[Decision, None]]] = []
        self.failed: list[MemoryDoesNotFitError] = []

    def add(self, design: Design) -> Point | None:
        """Build it; None where it does not fit, or comes out as another did."""
        try:
            with collecting() as told:
                module, trail = self.finish(design)
        except MemoryDoesNotFitError as error:
            self.failed.append(error)
            return None
        point = _point(design, module)
        if any((p.arena_bytes, p.cycles) == (point.arena_bytes, point.cycles) for p in self.points):
            return None
        self.points.append(point)
        self.made.append((module, trail, told))
        return point

    def compared(self) -> list[Point]:
        """The points beside layer by layer."""
        layers = next((p.cycles for p in self.points if p.design.layerwise), min(p.cycles for p in self.points))
        return [replace(p, overhead=p.cycles / layers - 1 if layers else 0.0) for p in self.points]


def _met(design: Design, points: Sequence[Point]) -> bool:
    """Layer by layer within an arena that the kernels of the least work have met."""
    bound = design.arena_bytes
    return design.layerwise and bound is not None and any(p.design.layerwise and p.arena_bytes <= bound for p in points)


def heights(design: Design, goal: str) -> list[Design]:
    """Streams as tall as the arena allows, rings where those are better; for the least arena also strips of the fewest bytes, and of those
    that keep within the work allowed."""
    if not design.segments or design.strips != "none":
        return [design]
    return [replace(design, strips=strips) for strips in (("within", "least", _TALL) if goal == "sram" else (_TALL,))]


def _point(design: Design, module: tvm.IRModule) -> Point:
    attrs = module.attrs
    code, cycles = json.loads(str(attrs[CODE_ATTR])), json.loads(str(attrs[CYCLES_ATTR]))
    again = [json.loads(str(attrs[name]))["chosen"].get("extra_macs", 0.0) for name in (RECOMPUTE_ATTR, PATCH_ATTR) if name in attrs]
    flash = int(code["code_bytes"]) + int(code["constants_bytes"])
    planned = json.loads(str(attrs[STREAM_ATTR]))["chosen"].get("arena_bytes") if STREAM_ATTR in attrs else None
    return Point(design, plan_of(module).arena_bytes, float(cycles["total"]), 0.0, sum(again), flash, float(cycles["streaming"]), planned)


def _tell(points: Sequence[Point], best: Point, reason: str) -> None:
    """Every built design, whether it is the choice, and why."""
    layers = next((p for p in points if p.design.layerwise), None)
    untold = dict.fromkeys(_TOLD)
    for p in in_order(points):
        name = "patch-inference" if p.design.patches else "recompute" if p.design.copies else "stream-rows"
        untold.pop(name, None)
        figures = f"{p.arena_bytes:,} bytes, {p.overhead:+.1%} cycles"
        other = f"{best.arena_bytes:,} bytes, {best.overhead:+.1%} cycles"
        tell, why = (_TOLD[name].accepted, reason) if p is best else (_TOLD[name].rejected, f"not {reason}: that is {other}")
        less = {"bytes": p.arena_bytes - layers.arena_bytes, "cycles": round(p.cycles - layers.cycles)} if layers is not None else {}
        tell("", p.design.describe(), f"{figures}: {why}", **less)
    for name in untold:
        _TOLD[name].rejected(
            "", "every design with it", "left out, does not apply, or is estimated to need more bytes and cycles than others"
        )
