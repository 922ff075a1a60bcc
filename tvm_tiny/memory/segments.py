# SPDX-License-Identifier: Apache-2.0
"""Where to cut a network into streamed segments and single layers, for the least arena or within a budget.

A partition is a list of consecutive ranges of operators. A range of one runs as an ordinary layer with the rights its
kernel grants; a longer one is streamed. The bytes of a range (tensors that pass it by, its rings and sums, its inputs and
outputs as far as they may not share bytes) do not depend on the other ranges, so the least peak is a shortest path over cut
points. Of all partitions within that peak (or a budget) the one that streams the least work is taken, since streaming
re-reads weights row by row. Offsets are then planned for real (`plan_partition`): the peak is only a bound for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tvm_tiny.memory.pairs import conflicts, lower_bound
from tvm_tiny.memory.plan import Buffer, Right, Step
from tvm_tiny.memory.rows import RowGraph, RowOp, layer_rights
from tvm_tiny.memory.stream_scratch import Layout, place, place_thoroughly, regions_of
from tvm_tiny.memory.streams import Stage, StreamedSegment, reordered, schedule
from tvm_tiny.memory.strips import StripSegment, strip_regions

NEVER = 1 << 62  # the bytes of a range that can't run

_Key = tuple[tuple[tuple[str, tuple[str, ...]], ...], tuple[str, ...], tuple[str, ...]]

LAYER_RIGHTS = ("in-place", "ascending", "descending")


@dataclass(frozen=True)
class Options:
    """What the kernels at hand can do.

    Attributes
    ----------
    layer_rights : tuple of str
        Rights of whole-layer kernels (`plan.ORDERS`).
    pixel_fusion : bool
        Fused kernels exist that compute a pixel of a producer and hand it to a pointwise consumer at once.
    overlap : bool
        Streamed segments may overlap their own input.
    fetched : tuple of str
        Model inputs that arrive row by row and never lie whole in the arena (unless their reader needs them whole).
    external : tuple of str
        Tensors that exist outside the arena and cost nothing (an image in another memory).
    kept : tuple of str
        Model inputs whose bytes must survive the run.
    align : int
        Offsets of tensors, rings and scratch are multiples of it.
    one_scratch : bool
        Rings, sums and kernel scratch of a segment are one buffer (`tvm_tiny.memory.stream_scratch`), which may slide under the input.
    scratch : callable
        Bytes of scratch that running an operator needs beyond rows (im2col, planes), by operator and whether it is streamed.
    strip_scratch : callable
        The same in strips.
    """

    layer_rights: tuple[str, ...] = LAYER_RIGHTS
    pixel_fusion: bool = False
    overlap: bool = True
    fetched: tuple[str, ...] = ()
    external: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    align: int = 1
    one_scratch: bool = False
    scratch: Callable[[RowOp, bool], int] = lambda op, streamed: 0
    strip_scratch: Callable[[RowOp, StripSegment], int] = lambda op, segment: 0


@dataclass(frozen=True)
class Range:
    """Operators [first, last) of the graph and how they run; `bytes` is the range's own need, tensors passing by included."""

    first: int
    last: int
    bytes: int
    segment: StreamedSegment | StripSegment | None

    @property
    def streamed(self) -> bool:
        """Whether rows are streamed through the range."""
        return self.segment is not None


@dataclass(frozen=True)
class Partition:
    """A cut of the whole graph; `peak` is the largest need of its ranges."""

    ranges: tuple[Range, ...]
    peak: int
    options: Options = field(default_factory=Options)


def stages_of(graph: RowGraph, first: int, last: int, pixel_fusion: bool) -> tuple[Stage, ...]:
    """Operators [first, last) grouped into stages.

    1. A residual ADD joins the operator that makes its operand on the longer path, when nobody else reads that operand, and all firings
       make as many rows of it.
    2. With pixel fusion, a pointwise operator joins the only producer of its input under the same condition, and a sum
       takes over the ring of a residual operand that only it reads.
    """
    group: dict[int, int] = {}
    depth: dict[str, int] = {}
    members: dict[int, list[int]] = {}
    for i in range(first, last):
        op = graph.ops[i]
        depth[op.output] = 1 + max((depth.get(t, 0) for t in op.inputs), default=0)
        joins = _joins(graph, i, first, depth, pixel_fusion)
        home = group[joins] if joins is not None and members[group[joins]][-1] == joins else i
        group[i] = home
        members.setdefault(home, []).append(i)
    groups = sorted(members.values(), key=lambda g: g[-1])
    return tuple(_stage(graph, g, first, pixel_fusion) for g in groups)


def _joins(graph: RowGraph, i: int, first: int, depth: dict[str, int], pixel_fusion: bool) -> int | None:
    """The operator in range that operator `i` is fused into, if any."""
    op = graph.ops[i]
    is_sum = op.kind == "rows" and len(op.inputs) > 1
    if not is_sum and not (pixel_fusion and op.pointwise):
        return None
    candidates = []
    for position in op.in_place if is_sum else (0,):
        tensor = op.inputs[position]
        producer = graph.producer(tensor)
        private = graph.readers(tensor) == [i] and tensor not in graph.outputs
        if producer >= first and private and graph.ops[producer].kind in ("window", "rows", "resize") and _whole_firings(graph, producer):
            candidates.append((depth[tensor], producer))
    return max(candidates)[1] if candidates else None


def _whole_firings(graph: RowGraph, producer: int) -> bool:
    """Every firing of an operator makes as many rows, so that a sum can fire for each of them."""
    op = graph.ops[producer]
    return graph.tensors[op.output].height % op.group == 0


def _stage(graph: RowGraph, members: Sequence[int], first: int, pixel_fusion: bool) -> Stage:
    ops = tuple(graph.ops[i] for i in members)
    inner = {op.output for op in ops[:-1]}
    if not pixel_fusion or len(ops) == 1:
        return Stage(ops)
    over = next((t for t in ops[-1].inputs if t not in inner and _private(graph, t, members[-1], first, ops[-1])), None)
    in_place_sum = len(ops) == 2 and ops[-1].kind == "rows" and over is None
    return Stage(ops, pixel=not in_place_sum, over=over)


def _private(graph: RowGraph, tensor: str, reader: int, first: int, op: RowOp) -> bool:
    """`tensor` is a residual operand made in this range for `op` alone, of the size of its output."""
    same = graph.tensors[tensor].nbytes == graph.tensors[op.output].nbytes and op.kind == "rows"
    return same and graph.producer(tensor) >= first and graph.readers(tensor) == [reader] and tensor not in graph.outputs


class Cutter:
    """Needs of all ranges of one graph under one set of options, computed on demand and remembered.

    Parameters
    ----------
    known : dict, optional
        How ranges run in other graphs under the same options, where operators of equal names and inputs are equal; this one adds to it.
    """

    def __init__(self, graph: RowGraph, options: Options = Options(), known: dict[_Key, Range | None] | None = None) -> None:
        by_rows = [t for t in options.fetched if all(graph.ops[r].kind != "whole" for r in graph.readers(t))]
        self.graph, self.options = graph, replace(options, fetched=tuple(by_rows))
        self._lives = {t: self._life(t) for t in sorted(graph.tensors) if t not in self.options.fetched}
        self._ranges: dict[tuple[int, int], Range | None] = {}
        self._bounds: dict[tuple[int, int], int] = {}
        self._spans: dict[tuple[str, str], int] = {}
        self._known = {} if known is None or by_rows else known

    def range(self, first: int, last: int) -> Range | None:
        """How operators [first, last) would run, or None when they can't be streamed together."""
        key = (first, last)
        if key not in self._ranges:
            alike = self._key(first, last)
            if alike not in self._known:
                self._known[alike] = self._compute(first, last)
            found = self._known[alike]
            self._ranges[key] = None if found is None else Range(first, last, found.bytes + self._passed(first, last), found.segment)
        return self._ranges[key]

    def _key(self, first: int, last: int) -> _Key:
        """All that how a range runs depends on, but for what passes it by: its operators, and which tensors are needed afterwards."""
        ops = tuple((op.name, op.inputs) for op in self.graph.ops[first:last])
        stay = tuple(t for _, inputs in ops for t in inputs if self._lives.get(t, (0, 0))[1] >= last)
        return ops, tuple(self.graph.leaving(first, last)), stay

    def _passed(self, first: int, last: int) -> int:
        """Bytes of tensors that pass a range by."""
        return sum(self.graph.tensors[t].nbytes for t in self._passing(first, last) if t not in self.options.external)

    def known(self, first: int, last: int) -> Range | None:
        """The range if it has been computed already."""
        return self._ranges.get((first, last))

    def streams(self, first: int, last: int) -> bool:
        """Whether the range, if it runs at all, is streamed."""
        return last - first > 1 or bool(self._fetched(first, last))

    def bound(self, first: int, last: int) -> int:
        """A lower bound of the range's bytes, without scheduling it: tensors passing by, leaving, and rows one firing reads."""
        key = (first, last)
        if key not in self._bounds:
            self._bounds[key] = self._bound(first, last)
        return self._bounds[key]

    def _bound(self, first: int, last: int) -> int:
        graph, outside = self.graph, self.options.external
        if self.streams(first, last) and not _streamable(graph, first, last):
            return NEVER
        left = set(graph.leaving(first, last))
        rows = sum(self._least_rows(op.output, first, last) for op in graph.ops[first:last] if op.output not in left)
        gone = {t for op in graph.ops[first:last] for t in op.inputs} - {op.output for op in graph.ops[first:last]}
        gone -= {*outside, *self.options.fetched}
        stay = {t for t in gone if self._lives[t][1] >= last}
        size = {name: sum(graph.tensors[t].nbytes for t in group) for name, group in (("in", gone), ("stay", stay), ("out", left))}
        return self._passed(first, last) + rows + max(size["in"], size["stay"] + size["out"])

    def _least_rows(self, tensor: str, first: int, last: int) -> int:
        """Bytes of the rows of an inner tensor that its largest window spans; 0 where fusion could do without."""
        graph = self.graph
        readers = [graph.ops[r] for r in graph.readers(tensor) if first <= r < last]
        windows = [op.rows.extent for op in readers if op.kind == "window" and op.inputs[0] == tensor and not op.pointwise]
        fused = not windows and (self.options.pixel_fusion or any(op.kind == "rows" for op in readers))
        data = graph.tensors[tensor]
        return 0 if fused else data.row_bytes * min(data.height, max(self._real_span(op, tensor) for op in readers))

    def _real_span(self, op: RowOp, tensor: str) -> int:
        spans = self._spans.get((op.name, tensor))
        if spans is None:
            position = op.inputs.index(tensor)
            needs = (self.graph.needs(op, f, position) for f in range(self.graph.firings(op)))
            spans = self._spans[op.name, tensor] = max(high - low for low, high in needs)
        return spans

    def _compute(self, first: int, last: int) -> Range | None:
        """How the range runs, without the bytes that pass it by."""
        segment = self._segment(first, last)
        if segment is None:
            return None if last - first > 1 or self._fetched(first, last) else self._alone(first, last, None)
        ways = [reordered(self.graph, segment, "prompt"), segment] if self.options.one_scratch else [segment]
        return min((self._alone(first, last, way) for way in ways), key=lambda part: part.bytes)

    def range_of(self, first: int, last: int, segment: StreamedSegment | StripSegment | None) -> Range:
        """Operators [first, last) run so."""
        return Range(first, last, self._alone(first, last, segment).bytes + self._passed(first, last), segment)

    def _alone(self, first: int, last: int, segment: StreamedSegment | StripSegment | None) -> Range:
        buffers, step = range_step(self.graph, Range(first, last, 0, segment), self.options)
        live = [b for b in buffers if b.name in step.touches()]
        born = [replace(b, first_use=first_use, last_use=last_use) for b in live for first_use, last_use in [self._times(b, step, last)]]
        return Range(first, last, lower_bound(born, [step], conflicts(born, [step])), segment)

    def _times(self, b: Buffer, step: Step, last: int) -> tuple[int, int]:
        """An input that is read later, or a model output, does not die here: its bytes are needed past step 0."""
        return (0, 1) if b.name in step.reads and self._lives.get(b.name, (0, 0))[1] >= last else (0, 0)

    def _fetched(self, first: int, last: int) -> tuple[str, ...]:
        read = {t for op in self.graph.ops[first:last] for t in op.inputs}
        return tuple(t for t in self.options.fetched if t in read)

    def _segment(self, first: int, last: int) -> StreamedSegment | None:
        fetched = self._fetched(first, last)
        if last - first == 1 and not fetched:
            return None
        if not _streamable(self.graph, first, last) or any(min(self.graph.readers(t)) < first for t in fetched):
            return None
        if any(max(self.graph.readers(t)) >= last for t in fetched):
            return None
        stages = stages_of(self.graph, first, last, self.options.pixel_fusion)
        return schedule(self.graph, stages, self.graph.leaving(first, last), fetched)

    def _passing(self, first: int, last: int) -> list[str]:
        """Tensors that exist before the range, are not touched by it and are read after it (or are model outputs)."""
        graph = self.graph
        touched = {t for op in graph.ops[first:last] for t in (*op.inputs, op.output)}
        found = []
        for name, (born, dies) in self._lives.items():
            if born < first and dies >= last and name not in touched:
                found.append(name)
        return found

    def _life(self, tensor: str) -> tuple[int, int]:
        """Producer (-1: a model input) and last reader (the end where the bytes must survive) of a tensor that lies in memory whole."""
        survives = tensor in self.graph.outputs or tensor in self.options.kept
        return self.graph.producer(tensor), len(self.graph.ops) if survives else max(self.graph.readers(tensor), default=-1)


def _streamable(graph: RowGraph, first: int, last: int) -> bool:
    ops = graph.ops[first:last]
    made = {op.output for op in ops}
    for op in ops:
        tall = graph.tensors[op.output].height > 1
        broadcast = [t for t in op.inputs[1:] if t in made and graph.tensors[t].height == 1 and tall]
        if op.kind == "whole" or broadcast:
            return False
    return True


def range_step(graph: RowGraph, part: Range, options: Options) -> tuple[list[Buffer], Step]:
    """The buffers (its own scratch and every tensor it touches) and the step of a range."""
    ops = graph.ops[part.first : part.last]
    name = ops[0].name if len(ops) == 1 else f"{ops[0].name} … {ops[-1].name}"
    if part.segment is None:
        op = ops[0]
        sizes = {f"{op.name}.scratch": options.scratch(op, False)}
        reads: tuple[str, ...] = op.inputs
        writes: tuple[str, ...] = (op.output,)
        rights = layer_rights(graph, op, options.layer_rights)
    else:
        reads, writes = part.segment.inputs, part.segment.outputs
        pairs = part.segment.distances.items() if options.overlap else ()
        rights = tuple(Right(out, inp, "ascending", d) for (out, inp), d in pairs if inp not in options.external)
        if options.one_scratch or isinstance(part.segment, StripSegment):
            layout = scratch_layout(graph, part.segment, ops, options)
            sizes = {f"{ops[0].name}.scratch": layout.nbytes}
            over = layout.distances.items() if options.overlap and layout.nbytes else ()
            rights += tuple(Right(f"{ops[0].name}.scratch", inp, "ascending", d) for inp, d in over)
        else:
            sizes = part.segment.ring_bytes(graph)
            sizes[f"{ops[0].name}.scratch"] = max(options.scratch(op, True) for op in ops)  # one firing at a time
    reads = tuple(dict.fromkeys(t for t in reads if t not in options.external))
    rights = tuple(r for r in rights if r.input in reads)
    scratch = [Buffer(n, size, "scratch", align=options.align) for n, size in sizes.items() if size]
    touched = [tensor_buffer(graph, t, options) for t in dict.fromkeys((*reads, *writes))]
    return touched + scratch, Step(name, reads, writes, tuple(b.name for b in scratch), rights)


def scratch_layout(graph: RowGraph, segment: StreamedSegment | StripSegment, ops: Sequence[RowOp], options: Options) -> Layout:
    """Rings, sums and kernel scratch of a segment as one buffer."""
    if isinstance(segment, StripSegment):
        scratch = {op.name: options.strip_scratch(op, segment) for op in segment.ops}
        return place_thoroughly(strip_regions(graph, segment, scratch), options.align, options.external)
    regions = regions_of(graph, segment, {op.name: options.scratch(op, True) for op in ops})
    return place(regions, options.align, elsewhere=options.external)


def tensor_buffer(graph: RowGraph, tensor: str, options: Options) -> Buffer:
    """The buffer of a tensor that lies in memory whole."""
    kind = "input" if tensor in graph.inputs else "output" if tensor in graph.outputs else "intermediate"
    return Buffer(tensor, graph.tensors[tensor].nbytes, kind, align=options.align, keep=tensor in options.kept)
