# SPDX-License-Identifier: Apache-2.0
"""Patch-based inference (MCUNetV2, Lin et al., NeurIPS 2021): a head of the network computed tile by tile of its output.

For each tile the exact region of every tensor it depends on is known: walking back through any mix of windows, residual
sums and upsamplings, rows and columns apart, clipped at the true borders. Inside a tile the operators run one after the
other on compact buffers; the halo between tiles is computed again. Padding with the zero point happens only where a window
crosses a true border, so every output pixel is the same integer as without patches.

    arena of the head  =  input (if it lies inside)  +  whole output of the head  +  buffers of the largest tile

The first operators read the input tensor itself at its own row stride (or, when patches are fetched by a callback of the
application, a compact input patch), the last one writes into the whole output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tvm_tiny.memory.check import IllegalPlanError, Violation
from tvm_tiny.memory.plan import Buffer, MemoryPlan, Right, Step
from tvm_tiny.memory.planner import DEFAULT_EFFORT, plan_memory
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, union
from tvm_tiny.memory.segments import Options, Partition, Range, leaving, plan_partition, range_step, tensor_buffer

Interval = tuple[int, int]
Spans = Mapping[str, Interval]

REASONS = ("halo-too-small", "patch-gap", "outside-tensor")


@dataclass(frozen=True)
class PatchStage:
    """The first `depth` operators computed on a grid of tiles.

    Attributes
    ----------
    output : str
        The only tensor that leaves the head.
    rows, columns : tuple of dict
        For each row (column) of tiles: the interval of every tensor's rows (columns) it needs. The tile (i, j) of tensor t
        is ``rows[i][t] × columns[j][t]``.
    macs, whole_macs : int
        Multiply-accumulates with patches, and of the same operators without.
    """

    depth: int
    output: str
    rows: tuple[Spans, ...]
    columns: tuple[Spans, ...]
    macs: int
    whole_macs: int

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles down and across."""
        return len(self.rows), len(self.columns)

    def tile_shape(self, tensor: str) -> tuple[int, int]:
        """Rows and columns of the largest tile of `tensor`."""
        sizes = [max((s[tensor][1] - s[tensor][0] for s in spans if tensor in s), default=0) for spans in (self.rows, self.columns)]
        return sizes[0], sizes[1]

    def tile_bytes(self, graph: RowGraph, tensor: str) -> int:
        """Bytes of the largest tile of `tensor`, stored compactly."""
        height, width = self.tile_shape(tensor)
        return height * width * graph.tensors[tensor].pixel_bytes


def can_patch(graph: RowGraph, depth: int) -> bool:
    """A head can be patched when one tensor leaves it and every operator in it works on windows."""
    ops = graph.ops[:depth]
    plain = all(op.kind in ("window", "rows") for op in ops) and not any(_broadcasts(graph, op) for op in ops)
    return plain and len(leaving(graph, 0, depth)) == 1 and ops[-1].output == leaving(graph, 0, depth)[0]


def _broadcasts(graph: RowGraph, op: RowOp) -> bool:
    out = graph.tensors[op.output]
    return any(graph.tensors[t].height < out.height // op.repeat for t in op.inputs[1:])


def patch_stage(graph: RowGraph, depth: int, grid: tuple[int, int]) -> PatchStage:
    """The head of `depth` operators cut into about `grid` equal tiles (fewer where tiles of that size cover the output).

    Raises
    ------
    ValueError
        When the head can't be patched (`can_patch`).
    """
    if not can_patch(graph, depth):
        raise ValueError(f"the first {depth} operators can't be computed in patches")
    ops = graph.ops[:depth]
    out = graph.tensors[ops[-1].output]
    rows = tuple(_spans(graph, ops, tile, True) for tile in _tiles(out.height, grid[0]))
    columns = tuple(_spans(graph, ops, tile, False) for tile in _tiles(out.width, grid[1]))
    macs = sum(_patched_macs(graph, op, rows, columns) for op in ops)
    return PatchStage(depth, out.name, rows, columns, macs, sum(op.macs for op in ops))


def _tiles(size: int, count: int) -> list[Interval]:
    step = -(-size // count)
    return [(low, min(size, low + step)) for low in range(0, size, step)]


def _spans(graph: RowGraph, ops: Sequence[RowOp], tile: Interval, along_rows: bool) -> dict[str, Interval]:
    """The interval of every tensor along one axis that `tile` of the last operator's output depends on."""
    needed: dict[str, Interval] = {ops[-1].output: tile}
    for op in reversed(ops):
        if op.output in needed:
            for position, name in enumerate(op.inputs):
                needed[name] = union(needed.get(name), axis_reads(graph, op, position, needed[op.output], along_rows))
    return needed


def axis_reads(graph: RowGraph, op: RowOp, position: int, interval: Interval, along_rows: bool) -> Interval:
    """Indices of input `position` along one axis that output indices `interval` read, inside the tensor."""
    data = graph.tensors[op.inputs[position]]
    size = data.height if along_rows else data.width
    low, high = interval
    if op.kind == "window" and position == 0:
        return (op.rows if along_rows else op.columns).reads(low, high, size)
    if along_rows and op.repeat > 1:
        return low // op.repeat, -(-high // op.repeat)
    return Axis().reads(low, high, size)


def _patched_macs(graph: RowGraph, op: RowOp, rows: Sequence[Spans], columns: Sequence[Spans]) -> int:
    out = graph.tensors[op.output]
    covered = [sum(s[op.output][1] - s[op.output][0] for s in spans if op.output in s) for spans in (rows, columns)]
    return op.macs * covered[0] * covered[1] // (out.height * out.width)


def check_patch_stage(graph: RowGraph, stage: PatchStage) -> None:
    """Raise `IllegalPlanError` when a tile lacks halo, tiles leave a gap in the output, or a region leaves its tensor."""
    found = _axis_violations(graph, stage, True) + _axis_violations(graph, stage, False)
    if found:
        raise IllegalPlanError(found)


def _axis_violations(graph: RowGraph, stage: PatchStage, along_rows: bool) -> list[Violation]:
    what = "rows" if along_rows else "columns"
    spans = stage.rows if along_rows else stage.columns
    sizes = {name: t.height if along_rows else t.width for name, t in graph.tensors.items()}
    found = []
    for number, tile in enumerate(spans):
        for name, (low, high) in tile.items():
            if low < 0 or high > sizes[name]:
                found.append(Violation("outside-tensor", "", (name,), f"tile {number}: {what} {low}..{high} of {sizes[name]}"))
        for op in graph.ops[: stage.depth]:
            found += _halo(graph, op, tile, along_rows, f"tile {number}: {what}")
    done = 0
    for low, high in sorted(tile[stage.output] for tile in spans):
        if low > done:
            found.append(Violation("patch-gap", "", (stage.output,), f"no tile computes {what} {done}..{low}"))
        done = max(done, high)
    if done < sizes[stage.output]:
        found.append(Violation("patch-gap", "", (stage.output,), f"no tile computes {what} {done}..{sizes[stage.output]}"))
    return found


def _halo(graph: RowGraph, op: RowOp, tile: Spans, along_rows: bool, where: str) -> list[Violation]:
    """Every index an operator reads, one output index at a time, must lie in the tile's region of its input."""
    found = []
    low, high = tile.get(op.output, (0, 0))
    for position, name in enumerate(op.inputs):
        have = tile.get(name, (0, 0))
        for index in range(low, high):
            a, b = axis_reads(graph, op, position, (index, index + 1), along_rows)
            if a < b and (a < have[0] or b > have[1]):
                detail = f"{where} {a}..{b} are read for output {index}, the tile holds {have[0]}..{have[1]}"
                found.append(Violation("halo-too-small", op.name, (name,), detail))
                break
    return found


def tile_plan(graph: RowGraph, stage: PatchStage, options: Options, effort: float = 2.0) -> MemoryPlan:
    """Offsets of the tile buffers inside the head's scratch (largest tiles, one operator after the other, in place where granted).

    The head's input and output are not part of it, unless the input is fetched tile by tile.
    """
    ops = graph.ops[: stage.depth]
    resident = {t for t in graph.inputs if t not in options.fetched} | {stage.output}
    names = dict.fromkeys(t for op in ops for t in (*op.inputs, op.output) if t not in resident)
    kinds = {t: "input" if t in graph.inputs else "intermediate" for t in names}
    buffers = [Buffer(t, max(1, stage.tile_bytes(graph, t)), kinds[t], align=options.align) for t in names]
    steps = []
    for op in ops:
        scratch = options.scratch(op, False)
        if scratch:
            buffers.append(Buffer(f"{op.name}.scratch", scratch, "scratch", align=options.align))
        reads = tuple(t for t in dict.fromkeys(op.inputs) if t in names)
        writes = tuple(t for t in (op.output,) if t in names)
        rights = _tile_rights(graph, stage, op, options) if writes else ()
        scratches = (f"{op.name}.scratch",) if scratch else ()
        steps.append(Step(op.name, reads, writes, scratches, tuple(r for r in rights if r.input in reads)))
    return plan_memory(buffers, steps, effort=effort)


def _tile_rights(graph: RowGraph, stage: PatchStage, op: RowOp, options: Options) -> tuple[Right, ...]:
    if "in-place" not in options.layer_rights:
        return ()
    fitting = [op.inputs[p] for p in op.in_place if stage.tile_bytes(graph, op.inputs[p]) >= stage.tile_bytes(graph, op.output)]
    # A sum reads its operand at the tile of the output: in place needs both to be laid out alike.
    if op.kind == "rows":
        fitting = [t for t in fitting if stage.tile_shape(t) == stage.tile_shape(op.output)]
    return tuple(Right(op.output, t, "in-place") for t in fitting)


@dataclass(frozen=True)
class PatchChoice:
    """One way to patch the head: the arena of the whole network, and the extra work of the head against the whole network."""

    stage: PatchStage
    arena_bytes: int
    overhead: float


def patch_steps(graph: RowGraph, stage: PatchStage, options: Options, tile_bytes: int) -> tuple[list[Buffer], list[Step]]:
    """Buffers and steps of the network with its head in patches and the other operators layer by layer."""
    resident = [t for t in graph.inputs if t not in (*options.fetched, *options.external)]
    read = [t for t in resident if any(r < stage.depth for r in graph.readers(t))]
    buffers = {t: tensor_buffer(graph, t, options) for t in (*read, stage.output)}
    scratch: tuple[str, ...] = ()
    if tile_bytes:
        scratch = ("patch.tiles",)
        buffers["patch.tiles"] = Buffer("patch.tiles", tile_bytes, "scratch", align=options.align)
    steps = [Step(f"patches 0…{stage.depth - 1}", tuple(read), (stage.output,), scratch)]
    for i in range(stage.depth, len(graph.ops)):
        touched, step = range_step(graph, Range(i, i + 1, 0, None), options)
        buffers |= {b.name: b for b in touched}
        steps.append(step)
    return list(buffers.values()), steps


def evaluate(graph: RowGraph, depth: int, grid: tuple[int, int], options: Options, effort: float = DEFAULT_EFFORT) -> PatchChoice:
    """The arena and the extra work of one choice of depth and grid."""
    stage = patch_stage(graph, depth, grid)
    buffers, steps = patch_steps(graph, stage, options, _tile_bytes(graph, stage, options))
    total = sum(op.macs for op in graph.ops)
    overhead = (stage.macs - stage.whole_macs) / total if total else 0.0
    return PatchChoice(stage, plan_memory(buffers, steps, effort=effort).arena_bytes, overhead)


def _tile_bytes(graph: RowGraph, stage: PatchStage, options: Options) -> int:
    plan = tile_plan(graph, stage, options)
    return plan.arena_bytes if any(s.touches() for s in plan.steps) else 0


def patch_curve(graph: RowGraph, options: Options, max_grid: int = 8, max_depth: int | None = None) -> list[PatchChoice]:
    """Every choice worth having: no other needs both fewer bytes and less extra work. Sorted by extra work.

    Square grids from 2×2 to `max_grid`², every depth at which one tensor leaves the head. A choice is only here when it
    needs fewer bytes than no patches at all, so an empty list means that patches do not win.
    """
    layers = Partition(tuple(Range(i, i + 1, 0, None) for i in range(len(graph.ops))), 0, options)
    whole = plan_partition(graph, layers).arena_bytes
    depths = [d for d in range(1, (max_depth or len(graph.ops)) + 1) if can_patch(graph, d)]
    tried = [evaluate(graph, d, (g, g), options, effort=0) for d in depths for g in range(2, max_grid + 1)]
    tried = sorted((c for c in tried if c.arena_bytes < whole), key=lambda c: (c.overhead, c.arena_bytes, c.stage.depth))
    best: list[PatchChoice] = []
    for choice in tried:
        if not best or choice.arena_bytes < best[-1].arena_bytes:
            best.append(choice)
    return best


def best_patches(curve: Sequence[PatchChoice], budget: int | None = None, max_overhead: float | None = None) -> PatchChoice | None:
    """From a curve: the least extra work within `budget` bytes, else the fewest bytes within `max_overhead`; None when none fits."""
    fitting = [c for c in curve if max_overhead is None or c.overhead <= max_overhead]
    if budget is not None:
        return next((c for c in fitting if c.arena_bytes <= budget), None)
    return min(fitting, key=lambda c: c.arena_bytes, default=None)
