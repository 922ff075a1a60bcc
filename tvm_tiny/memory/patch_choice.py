# SPDX-License-Identifier: Apache-2.0
"""Which head of a network runs in patches, on which grid: the candidates on the memory / work curve, and the choice among them.

For every depth the grids are tried from the least estimated work on, until the head needs no more than the layers after it; what another
candidate beats in both bytes and work is left out, and the rest is planned for real (offsets, kernel scratch estimated). The choice
follows the goals of `tvm_tiny.memory.stream_choice`, among patches, layers, and, where rows may be streamed too, streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tvm_tiny.errors import OptionError
from tvm_tiny.memory.partitions import partition_steps
from tvm_tiny.memory.patches import (
    PatchStage,
    TileKernels,
    can_patch,
    has_empty_tiles,
    patch_stage,
    patch_stages,
    stage_distance,
    tile_plan,
)
from tvm_tiny.memory.plan import Buffer, Right, Step
from tvm_tiny.memory.planner import plan_memory
from tvm_tiny.memory.rows import RowGraph, RowOp
from tvm_tiny.memory.segments import Cutter, Options, Partition, Range, tensor_buffer
from tvm_tiny.memory.stream_choice import Candidate, Costs, StreamOptions, cutter_of, layer_by_layer, pick, stream_candidates, with_rights
from tvm_tiny.memory.tiny_rows import TinyRows
from tvm_tiny.ops.graph import Node

_MOST_TILES = 8  # down, and across
_MOST_PLANNED = 12
_EFFORT = 2.0
_ALIGN = 4


@dataclass(frozen=True)
class PatchCosts:
    """What kernels cost in patches, by operator of a stage.

    Attributes
    ----------
    scratch : callable
        Bytes.
    together : callable
        Output rows of one call.
    work : callable
        Estimated instructions (as a whole layer, in patches).
    layers : Costs
        Of everything else.
    """

    scratch: Callable[[RowGraph, PatchStage, RowOp, Node], int]
    together: Callable[[RowGraph, PatchStage, RowOp, Node], int]
    work: Callable[[RowGraph, PatchStage, RowOp, Node], tuple[float, float]]
    layers: Costs


@dataclass(frozen=True)
class PatchCandidate:
    """A head in patches, layers after it: arena as planned; estimated extra work and recomputed multiply-accumulates as fractions."""

    stage: PatchStage
    arena_bytes: int
    overhead: float
    extra_macs: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        fractions = {"extra_work": round(self.overhead, 4), "extra_macs": round(self.extra_macs, 4)}
        operators = [self.stage.first, self.stage.last]
        return {"arena_bytes": self.arena_bytes, **fractions, "operators": operators, "grid": list(self.stage.grid)}


@dataclass(frozen=True)
class PatchVerdict:
    """What became of a candidate: its figures and why, and its arena less that of layer by layer."""

    stage: PatchStage
    chosen: bool
    reason: str
    bytes: int


@dataclass(frozen=True)
class PatchChoice:
    """What was chosen (`stage` None: no patches), why, and what else there was; `scratch` is the bytes it is estimated to take."""

    stage: PatchStage | None
    goal: str
    reason: str
    chosen: dict[str, Any] = field(default_factory=dict)
    curve: tuple[dict[str, Any], ...] = ()
    log: tuple[PatchVerdict, ...] = ()
    scratch: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For the report."""
        return {"goal": self.goal, "reason": self.reason, "chosen": self.chosen, "curve": list(self.curve)}


def forced_patches(rows: TinyRows, stage: tuple[int, int, tuple[int, int]], costs: PatchCosts, arena: int | None = None) -> PatchChoice:
    """Exactly these operators on this grid; `arena` is what the network may take with them.

    Raises
    ------
    OptionError
        They can't be computed in patches, or some patch of the grid would be empty.
    """
    first, last, grid = stage
    where = f"operators {first}..{last - 1}"
    if not can_patch(rows.graph, first, last):
        raise OptionError(f"{where} can't be computed in patches", remedy="choose operators on windows or elements that leave one tensor")
    asked = patch_stage(rows.graph, first, last, grid)
    if has_empty_tiles(rows.graph, asked):
        raise OptionError(f"{where}: a grid of {grid[0]}×{grid[1]} has patches that lie wholly in the padding", remedy="choose fewer")
    total = sum(op.macs for op in rows.graph.ops) or 1
    chosen: dict[str, Any] = {"operators": [first, last], "grid": list(asked.grid)}
    chosen["extra_macs"] = round((asked.macs - asked.whole_macs) / total, 4)
    chosen |= {"arena_bytes": arena} if arena is not None else {}
    return PatchChoice(asked, "forced", "asked for", chosen, scratch=tile_bytes(rows, asked, costs))


def choose_patches(rows: TinyRows, options: StreamOptions, costs: PatchCosts, *, against_rows: bool) -> PatchChoice:
    """Decide what runs in patches. `against_rows`: rows may be streamed instead."""
    if options.goal == "speed" or len(rows.graph.ops) < 2:
        return PatchChoice(None, options.goal, "the goal is speed" if options.goal == "speed" else "a single operator")
    rows = with_rights(rows, costs.layers)
    cutter = cutter_of(rows, costs.layers)
    patches = patch_candidates(rows, cutter, options, costs, fetch=not against_rows)
    if not patches:
        return PatchChoice(None, options.goal, "patches make nothing smaller")
    layers = layer_by_layer(rows, costs.layers)
    others = stream_candidates(rows, options, costs.layers) if against_rows else (layers,)
    found: list[Candidate | PatchCandidate] = sorted([*patches, *others], key=lambda c: (c.arena_bytes, c.overhead))
    best, reason = pick(found, options)
    log = tuple(_verdict(c, best, reason, layers.arena_bytes) for c in patches)
    curve = tuple(c.to_dict() for c in reversed(patches))
    if not isinstance(best, PatchCandidate):
        return PatchChoice(None, options.goal, f"{reason} is {describe(best.to_dict())}", curve=curve, log=log)
    scratch = tile_bytes(rows, best.stage, costs)
    return PatchChoice(best.stage, options.goal, reason, best.to_dict(), curve, log, scratch)


def _verdict(candidate: PatchCandidate, best: Candidate | PatchCandidate, reason: str, layers: int) -> PatchVerdict:
    """Why a candidate is or is not the choice."""
    why = reason if candidate is best else f"not {reason}: that is {describe(best.to_dict())}"
    figures = f"{candidate.arena_bytes:,} bytes, {candidate.overhead:+.1%} work, {candidate.extra_macs:+.1%} MACs"
    return PatchVerdict(candidate.stage, candidate is best, f"{figures}: {why}", candidate.arena_bytes - layers)


def patch_candidates(
    rows: TinyRows, cutter: Cutter, options: StreamOptions, costs: PatchCosts, *, fetch: bool = False
) -> list[PatchCandidate]:
    """Candidates none of which another beats in bytes and work, least work first; all smaller than layer by layer.

    `fetch`: the application may be asked for an image patch by patch, for some pixels more than once.
    """
    graph = rows.graph
    peaks = _layer_peaks(cutter)
    whole = max(peaks)
    best: list[PatchCandidate] = []
    heads = patch_heads(rows, cutter, options.max_overhead, costs, lambda last: max(peaks[last:], default=0), fetch=fetch)
    kept = [p for p in heads if p[0] < whole]
    layers = layer_by_layer(rows, costs.layers).arena_bytes if kept else 0
    for _, work, stage in kept[-_MOST_PLANNED:]:
        arena = plan_memory(*patch_steps(rows, stage, cutter.options, costs), effort=_EFFORT).arena_bytes
        total = sum(op.macs for op in graph.ops) or 1
        candidate = PatchCandidate(stage, arena, work, (stage.macs - stage.whole_macs) / total)
        if arena < min([layers, *(c.arena_bytes for c in best)]):
            best.append(candidate)
    return best


def _layer_peaks(cutter: Cutter) -> list[int]:
    return [r.bytes if (r := cutter.range(i, i + 1)) is not None else 0 for i in range(len(cutter.graph.ops))]


def patch_heads(
    rows: TinyRows, cutter: Cutter, max_overhead: float, costs: PatchCosts, enough: Callable[[int], int], *, fetch: bool = False
) -> list[tuple[int, float, PatchStage]]:
    """(bytes, work, stage) of heads in patches none of which another beats in both, least work first.

    Parameters
    ----------
    enough : callable
        By the operator that follows the head: bytes below which a smaller head makes nothing smaller; bytes are at least these.
    """
    whole = max(_layer_peaks(cutter))
    promising = []
    done = set()  # depths whose head is small enough already, for less work
    figures = _LayerWork(rows, costs)
    for work, stage in sorted(((figures.extra(s), s) for s in _stages(rows, max_overhead, fetch=fetch)), key=lambda e: e[0]):
        tail = enough(stage.last)
        if tail < whole and stage.last not in done:
            need = max(tail, _head_bytes(rows, stage, cutter.options, costs))
            if need <= tail:
                done.add(stage.last)
            promising.append((need, work, stage))
    return _frontier(promising)


def _frontier(found: Sequence[tuple[int, float, PatchStage]]) -> list[tuple[int, float, PatchStage]]:
    """Of (bytes, work, stage), sorted by work, those with fewer bytes than all before."""
    kept: list[tuple[int, float, PatchStage]] = []
    for entry in sorted(found, key=lambda e: (e[1], e[0])):
        if not kept or entry[0] < kept[-1][0]:
            kept.append(entry)
    return kept


def _stages(rows: TinyRows, max_overhead: float, *, fetch: bool) -> Iterator[PatchStage]:
    """Every depth and grid that recomputes no more than allowed, from the first operator that can be computed in patches."""
    graph = rows.graph
    kinds = [op.kind if fetch or node is None or node.op != "fetch" else "" for op, node in zip(graph.ops, rows.nodes, strict=True)]
    first = next((i for i, kind in enumerate(kinds) if kind in ("window", "rows")), len(kinds))
    total = sum(op.macs for op in graph.ops)
    for last in range(first + 1, len(graph.ops) + 1):
        if graph.ops[last - 1].kind not in ("window", "rows"):
            return
        for stage in patch_stages(graph, first, last, _MOST_TILES):
            if stage.grid != (1, 1) and stage.macs - stage.whole_macs <= max_overhead * total and not has_empty_tiles(graph, stage):
                yield stage


class _LayerWork:
    """Estimated work of stages, what does not depend on the stage computed once."""

    def __init__(self, rows: TinyRows, costs: PatchCosts) -> None:
        self.rows, self.costs = rows, costs
        pairs = zip(rows.graph.ops, rows.nodes, strict=True)
        self.whole = [costs.layers.work(rows.graph, op, node)[0] for op, node in pairs]
        self.constants = [costs.layers.constants(node) for node in rows.nodes]

    def extra(self, stage: PatchStage) -> float:
        """Extra work as a fraction of the whole network's."""
        graph, nodes, costs = self.rows.graph, self.rows.nodes, self.costs
        inside = range(stage.first, stage.last)
        both = [costs.work(graph, stage, graph.ops[i], nodes[i]) for i in inside]
        rest = sum(work for i, work in enumerate(self.whole) if i not in inside)
        calls = [_calls(stage, graph.ops[i], costs.together(graph, stage, graph.ops[i], nodes[i])) for i in inside]
        again = costs.layers.again([(count, self.constants[i]) for count, i in zip(calls, inside, strict=True)])
        extra = sum(tiled - whole for whole, tiled in both) + again
        return extra / (rest + sum(whole for whole, _ in both) or 1.0)


def _calls(stage: PatchStage, op: RowOp, together: int) -> int:
    """How often an operator's kernel is called in all tiles."""
    return len(stage.columns) * sum(-(-(s[op.output][1] - s[op.output][0]) // together) for s in stage.rows)


def _head_bytes(rows: TinyRows, stage: PatchStage, options: Options, costs: PatchCosts) -> int:
    """What the stage needs while it runs."""
    buffers, step = _stage_step(rows, stage, options, _tile_bytes(rows, stage, costs))
    alone = [replace(b, kind="input") if b.name in step.reads else b for b in buffers]
    return plan_memory(alone, [step], effort=0).arena_bytes


def tile_bytes(rows: TinyRows, stage: PatchStage, costs: PatchCosts) -> int:
    """Bytes that tiles and kernels of a stage take, estimated."""
    return _tile_bytes(rows, stage, costs, _EFFORT)


def _tile_bytes(rows: TinyRows, stage: PatchStage, costs: PatchCosts, effort: float = 0) -> int:
    nodes = {rows.graph.ops[i].name: rows.nodes[i] for i in range(stage.first, stage.last)}
    kernels = TileKernels(
        lambda op: costs.scratch(rows.graph, stage, op, nodes[op.name]),
        lambda op: costs.together(rows.graph, stage, op, nodes[op.name]),
    )
    return tile_plan(rows.graph, stage, kernels, align=_ALIGN, effort=effort).arena_bytes


def _stage_step(rows: TinyRows, stage: PatchStage, options: Options, tile_bytes: int) -> tuple[list[Buffer], Step]:
    """The tensors a stage touches, its scratch, and its step."""
    graph = rows.graph
    reads = tuple(t for t in stage.inputs(graph) if t not in options.external)
    buffers = [tensor_buffer(graph, t, options) for t in (*reads, stage.output)]
    scratch = [Buffer("patches.scratch", tile_bytes, "scratch", align=options.align)] if tile_bytes else []
    rights = tuple(Right(stage.output, t, "ascending", stage_distance(graph, stage, t)) for t in reads)
    name = f"{graph.ops[stage.first].name} … {graph.ops[stage.last - 1].name} in patches"
    return [*buffers, *scratch], Step(name, reads, (stage.output,), tuple(b.name for b in scratch), rights)


def patch_steps(rows: TinyRows, stage: PatchStage, options: Options, costs: PatchCosts) -> tuple[list[Buffer], list[Step]]:
    """Buffers and steps of the network with one stage in patches and the other operators layer by layer."""

    def layers(first: int, last: int) -> tuple[list[Buffer], list[Step]]:
        return partition_steps(rows.graph, Partition(tuple(Range(i, i + 1, 0, None) for i in range(first, last)), 0, options))

    before, after = layers(0, stage.first), layers(stage.last, len(rows.graph.ops))
    touched, step = _stage_step(rows, stage, options, _tile_bytes(rows, stage, costs, _EFFORT))
    buffers = {b.name: b for b in (*before[0], *touched, *after[0])}
    return list(buffers.values()), [*before[1], step, *after[1]]


def describe(point: dict[str, Any]) -> str:
    """A point of the curve in words."""
    figures = f"{point['arena_bytes']:,} bytes, {point['extra_work']:+.1%} work"
    if "grid" in point:
        (first, last), (down, across) = point["operators"], point["grid"]
        return f"operators {first}..{last - 1} in {down}×{across} patches: {figures}, {point['extra_macs']:+.1%} MACs"
    segments = ", ".join(f"{first}..{last - 1}" for first, last in point["segments"])
    return f"{f'operators {segments} streamed' if segments else 'layer by layer'}: {figures}"
