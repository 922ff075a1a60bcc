# SPDX-License-Identifier: Apache-2.0
"""Patch-based inference (MCUNetV2, Lin et al., NeurIPS 2021): a run of operators computed tile by tile of its output.

For each tile the exact region of every tensor it depends on is known: walking back through any mix of windows, residual
sums and concatenations, rows and columns apart, clipped at the true borders. Inside a tile the operators run one after the
other on compact buffers; the halo between tiles is computed again. Padding with the zero point happens only where a window
crosses a true border, so every output pixel is the same integer as without patches.

    arena of the stage  =  input and whole output (sharing what `stage_distance` allows)  +  buffers of the largest tile

The first operators read the input tensor itself at its own row stride (or, when patches are fetched by a callback of the
application, a compact input patch), the last one writes into the whole output. Tiles run row by row of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tvm_tiny.memory.check import IllegalPlanError, Violation
from tvm_tiny.memory.plan import Buffer, MemoryPlan, Right, Step
from tvm_tiny.memory.planner import plan_memory
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, union

Interval = tuple[int, int]
Spans = Mapping[str, Interval]

REASONS = ("halo-too-small", "patch-gap", "outside-tensor")


@dataclass(frozen=True)
class PatchStage:
    """Operators [first, last) computed on a grid of tiles.

    Attributes
    ----------
    output : str
        The only tensor that leaves the stage.
    rows, columns : tuple of dict
        For each row (column) of tiles: the interval of every tensor's rows (columns) it needs. The tile (i, j) of tensor t
        is ``rows[i][t] × columns[j][t]``.
    macs, whole_macs : int
        Multiply-accumulates with patches, and of the same operators without.
    """

    first: int
    last: int
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

    def inputs(self, graph: RowGraph) -> tuple[str, ...]:
        """Tensors read from outside."""
        ops = graph.ops[self.first : self.last]
        made = {op.output for op in ops}
        return tuple(dict.fromkeys(t for op in ops for t in op.inputs if t not in made))


def can_patch(graph: RowGraph, first: int, last: int) -> bool:
    """Operators can be patched when one tensor leaves them and every one of them works on windows."""
    ops = graph.ops[first:last]
    if not ops or not all(op.kind in ("window", "rows") for op in ops) or any(_broadcasts(graph, op) for op in ops):
        return False
    left = graph.leaving(first, last)
    return len(left) == 1 and ops[-1].output == left[0]


def _broadcasts(graph: RowGraph, op: RowOp) -> bool:
    """Some pixel needs more or other pixels than those at its own place (of every input but a window's first)."""
    out = graph.tensors[op.output]
    elementwise = op.inputs[1:] if op.kind == "window" else op.inputs
    return any(graph.tensors[t].height < out.height or graph.tensors[t].width != out.width for t in elementwise)


def patch_stage(graph: RowGraph, first: int, last: int, grid: tuple[int, int]) -> PatchStage:
    """Operators [first, last) cut into about `grid` equal tiles (fewer where tiles of that size cover the output).

    Raises
    ------
    ValueError
        When they can't be patched (`can_patch`).
    """
    if not can_patch(graph, first, last):
        raise ValueError(f"operators {first}..{last - 1} can't be computed in patches")
    out = graph.tensors[graph.ops[last - 1].output]
    rows = _cut(graph, first, last, _tiles(out.height, grid[0]), True)
    return _stage(graph, first, last, rows, _cut(graph, first, last, _tiles(out.width, grid[1]), False))


def patch_stages(graph: RowGraph, first: int, last: int, most: int) -> Iterator[PatchStage]:
    """`patch_stage` of every grid of up to `most` tiles down and across, each once; nothing where there is none."""
    if not can_patch(graph, first, last):
        return
    out = graph.tensors[graph.ops[last - 1].output]
    cuts: list[list[tuple[Spans, ...]]] = []
    for along_rows, size in ((True, out.height), (False, out.width)):  # as many tiles are the same tiles
        tiles = {len(t): t for t in (_tiles(size, count) for count in range(1, most + 1))}
        cuts.append([_cut(graph, first, last, t, along_rows) for t in tiles.values()])
    for rows in cuts[0]:
        for columns in cuts[1]:
            yield _stage(graph, first, last, rows, columns)


def _cut(graph: RowGraph, first: int, last: int, tiles: Sequence[Interval], along_rows: bool) -> tuple[Spans, ...]:
    return tuple(_spans(graph, graph.ops[first:last], tile, along_rows) for tile in tiles)


def _stage(graph: RowGraph, first: int, last: int, rows: tuple[Spans, ...], columns: tuple[Spans, ...]) -> PatchStage:
    ops = graph.ops[first:last]
    macs = sum(patched_macs(graph, op, rows, columns) for op in ops)
    return PatchStage(first, last, ops[-1].output, rows, columns, macs, sum(op.macs for op in ops))


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
    return Axis().reads(low, high, size)


def patched_macs(graph: RowGraph, op: RowOp, rows: Sequence[Spans], columns: Sequence[Spans]) -> int:
    """Multiply-accumulates of one operator over all tiles."""
    out = graph.tensors[op.output]
    covered = [sum(s[op.output][1] - s[op.output][0] for s in spans if op.output in s) for spans in (rows, columns)]
    return op.macs * covered[0] * covered[1] // (out.height * out.width)


def has_empty_tiles(graph: RowGraph, stage: PatchStage) -> bool:
    """Some tile needs nothing of a tensor (its windows lie wholly in the padding, or between the rows a stride skips)."""
    names = {t for op in graph.ops[stage.first : stage.last] for t in (*op.inputs, op.output)}
    return any(t not in s or s[t][0] >= s[t][1] for spans in (stage.rows, stage.columns) for s in spans for t in names)


# -- what a legal stage is


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
        for op in graph.ops[stage.first : stage.last]:
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


# -- memory


def stage_distance(graph: RowGraph, stage: PatchStage, tensor: str) -> int:
    """Least d with out_base + d <= in_base safe for the whole output over the whole input `tensor`.

    While a row of tiles runs, the output is stored up to the row's last line and the input read from its first line on.
    """
    out, inp = graph.tensors[stage.output].row_bytes, graph.tensors[tensor].row_bytes
    return max(s[stage.output][1] * out - s[tensor][0] * inp for s in stage.rows)


@dataclass(frozen=True)
class TileKernels:
    """What the kernels of a stage need: bytes of scratch and rows computed by one call, of each operator."""

    scratch: Callable[[RowOp], int] = lambda op: 0
    together: Callable[[RowOp], int] = lambda op: 1


def tile_plan(
    graph: RowGraph,
    stage: PatchStage,
    kernels: TileKernels = TileKernels(),
    fetched: Collection[str] = (),
    align: int = 1,
    effort: float = 1.0,
) -> MemoryPlan:
    """Offsets of the tile buffers and of the kernels' scratch ("<operator>.scratch") inside the stage's scratch, for the largest tiles.

    The stage's input and output are not part of it, unless the input is `fetched` tile by tile.
    """
    ops = graph.ops[stage.first : stage.last]
    resident = {*stage.inputs(graph), stage.output} - set(fetched)
    names = dict.fromkeys(t for op in ops for t in (*op.inputs, op.output) if t not in resident)
    buffers = [Buffer(t, max(1, stage.tile_bytes(graph, t)), align=align) for t in names]
    steps = []
    fetches = [t for t in stage.inputs(graph) if t in fetched]
    if fetches:
        steps.append(Step("fetch", (), tuple(fetches)))
    for op in ops:
        scratch = kernels.scratch(op)
        if scratch:
            buffers.append(Buffer(f"{op.name}.scratch", scratch, "scratch", align=align))
        reads = tuple(t for t in dict.fromkeys(op.inputs) if t in names)
        writes = tuple(t for t in (op.output,) if t in names)
        rights = _tile_rights(graph, stage, op, reads, kernels.together(op)) if writes else ()
        steps.append(Step(op.name, reads, writes, (f"{op.name}.scratch",) if scratch else (), rights))
    return plan_memory(buffers, [s for s in steps if s.touches()], effort=effort)


def _tile_rights(graph: RowGraph, stage: PatchStage, op: RowOp, reads: Collection[str], together: int) -> tuple[Right, ...]:
    """The row contract inside a tile; a sum may also work in an operand whose tiles are laid out like its own."""
    rights = []
    for position, name in enumerate(op.inputs):
        if name in reads and op.inputs.count(name) == 1:
            rights.append(Right(op.output, name, "ascending", tile_distance(graph, stage, op, position, together)))
            alike = all(s[name] == s[op.output] for spans in (stage.rows, stage.columns) for s in spans)
            if op.kind == "rows" and alike and graph.tensors[name].pixel_bytes == graph.tensors[op.output].pixel_bytes:
                rights.append(Right(op.output, name, "in-place"))
    return tuple(rights)


def tile_distance(graph: RowGraph, stage: PatchStage, op: RowOp, position: int, together: int = 1) -> int:
    """Least d with out_base + d <= in_base safe in every tile, `together` output rows computed by one call, in ascending order."""
    out, inp = graph.tensors[op.output].pixel_bytes, graph.tensors[op.inputs[position]].pixel_bytes
    found = []
    for columns in {(s[op.output], s[op.inputs[position]]) for s in stage.columns}:
        (low, high), (left, right) = columns
        aside = axis_reads(graph, op, position, (low, high), False)[0] - left
        for stored, read in _calls(graph, stage, op, position, together):
            found.append(stored * (high - low) * out - (read * (right - left) + aside) * inp)
    return max(found)


def _calls(graph: RowGraph, stage: PatchStage, op: RowOp, position: int, together: int) -> Iterator[Interval]:
    """For every call of every tile: rows of the output tile stored after it, and the first row of the input tile it reads."""
    for (low, high), (top, _) in {(s[op.output], s[op.inputs[position]]) for s in stage.rows}:
        for begin in range(low, high, together):
            end = min(high, begin + together)
            yield end - low, axis_reads(graph, op, position, (begin, end), True)[0] - top
