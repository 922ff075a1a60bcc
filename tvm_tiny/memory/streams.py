# SPDX-License-Identifier: Apache-2.0
"""Row streaming: a run of operators computed row by row, with rings of just the rows that are still needed.

A segment of the graph is cut into *stages*. One firing of a stage makes one row of its output from rows of its inputs; the
operators inside a stage run back to back (a residual ADD in the row its convolution just stored; per pixel where fused
kernels exist), so tensors between them are never stored as rows. Tensors between stages live in rings: row r in slot
r mod height. Everything is decided ahead of time; at run time there is no test but the loop counters.

How a code generator emits a segment
------------------------------------
`program` is a list of `Repeat(count, body)`: loops over stage numbers, e.g. (1, (0, 0, 1)), (15, (0, 0, 1, 2)), (1, (1, 2)).
Each stage counts its own firings, so the program carries no rows. In C this is a byte table of (count, length, stages…)
and one `switch` whose case i does

    f = fired[i]++;                                            /* output row (a "reduce" stage: input row)       */
    for each input: first = f*stride - before; rows first … first+kernel-1; row pointer = ring + (row % height)*row_bytes,
                    rows < 0 or >= tensor height = a shared zero-point row (or a kernel that skips those taps);
    out = ring or tensor + (f % height)*row_bytes;  kernel(out, rows);

Rows of a materialised tensor use height = its full height, so one form serves both. A ring height that divides nothing
costs a modulo; a counter that wraps is cheaper. A "reduce" stage adds its row to int32 sums (scratch, cleared at firing 0)
and requantises once, at its last firing.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tvm_tiny.memory.rows import RowGraph, RowOp

SUM_BYTES = 4  # int32 sums of a "reduce" operator, per channel
FIRING = ("early", "late", "prompt")
"""Orders of firings. "early": the first stage that can fire does, which frees inputs early. "late": the last one does. "prompt": early, but
rows that are only handed on are made when their reader can take them at once."""


@dataclass(frozen=True)
class Stage:
    """Operators fired together. `inner` are the tensors between them: `pixel` True means a pixel each, False nothing (in place).

    `over` names an input whose ring the output takes over row by row: the residual operand is replaced by the sum.
    """

    ops: tuple[RowOp, ...]
    pixel: bool = False
    over: str | None = None

    @property
    def name(self) -> str:
        """The operators' names joined."""
        return "+".join(op.name for op in self.ops)

    @property
    def output(self) -> str:
        """The tensor the stage makes."""
        return self.ops[-1].output

    @property
    def group(self) -> int:
        """Output rows a firing makes; of operators that make fewer at once, several firings are one of the stage."""
        return max(op.group for op in self.ops)

    def times(self, op: RowOp) -> int:
        """Firings of an operator of the stage in one of the stage."""
        return self.group // op.group

    @property
    def inner(self) -> tuple[str, ...]:
        """Tensors that never leave the stage."""
        return tuple(op.output for op in self.ops[:-1])

    def reads(self) -> list[tuple[RowOp, int, str]]:
        """(operator, input position, tensor) of every input from outside the stage."""
        return [(op, k, name) for op in self.ops for k, name in enumerate(op.inputs) if name not in self.inner]


@dataclass(frozen=True)
class Repeat:
    """`body` (stage numbers, in order) run `count` times."""

    count: int
    body: tuple[int, ...]


@dataclass(frozen=True)
class StreamedSegment:
    """A scheduled segment.

    Attributes
    ----------
    rings : dict
        Rows of every tensor that lives in a ring (or, when streamed in from outside, of an input).
    fetched : tuple of str
        Inputs fetched row by row by the application; stage number i >= len(stages) in the program fetches input i - len(stages).
    program : tuple of Repeat
        All firings in order.
    distances : dict
        For each materialised (output, input): the least d with out_base + d <= in_base safe under this very order.
    """

    stages: tuple[Stage, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    rings: Mapping[str, int]
    fetched: tuple[str, ...]
    program: tuple[Repeat, ...]
    distances: Mapping[tuple[str, str], int]

    def firings(self) -> list[int]:
        """The program written out."""
        return [stage for part in self.program for _ in range(part.count) for stage in part.body]

    def ring_bytes(self, graph: RowGraph) -> dict[str, int]:
        """Bytes of every scratch buffer: rings, int32 sums and fused pixels, by name."""
        sizes = {f"{t}.ring": rows * graph.tensors[t].row_bytes for t, rows in self.rings.items()}
        return sizes | stage_scratch(graph, self.stages)


def stage_scratch(graph: RowGraph, stages: Sequence[Stage]) -> dict[str, int]:
    """Bytes each stage keeps beside its rows: int32 sums of a reduce, and a pixel of every fused inner tensor."""
    sizes = {}
    for stage in stages:
        for op in stage.ops:
            if op.kind == "reduce":
                sizes[f"{op.output}.sums"] = SUM_BYTES * graph.tensors[op.output].channels
        if stage.pixel:
            sizes |= {f"{t}.pixel": graph.tensors[t].pixel_bytes for t in stage.inner}
    return sizes


@dataclass(frozen=True)
class _Link:
    """One input of a stage: for every firing, the rows [low, high) it reads, and the first row later firings still need."""

    tensor: str
    high: tuple[int, ...]
    keep: tuple[int, ...]


class Dataflow:
    """A segment as a bounded-buffer dataflow: whether it can run depends on ring heights alone, not on the firing order."""

    def __init__(self, graph: RowGraph, stages: Sequence[Stage], materialised: Sequence[str], fetched: Sequence[str] = ()) -> None:
        self.graph, self.stages, self.fetched = graph, tuple(stages), tuple(fetched)
        made = {s.output for s in stages}
        read = {name for s in stages for _, _, name in s.reads()}
        self.inputs = tuple(sorted(read - made))
        self.rings = tuple(sorted((made | set(fetched)) - set(materialised)))
        self.total = [graph.firings(s.ops[-1]) // s.times(s.ops[-1]) for s in self.stages] + [graph.tensors[t].height for t in self.fetched]
        self.links = [[self._link(*r, s.times(r[0])) for r in s.reads()] for s in self.stages] + [[] for _ in self.fetched]
        self.output = [s.output for s in self.stages] + list(self.fetched)
        lasts = [(s.ops[-1], s.times(s.ops[-1])) for s in self.stages]
        self.made = [[graph.made(op, f * m) for f in range(n + 1)] for (op, m), n in zip(lasts, self.total, strict=False)]
        # Rows made at once lie beside each other, so a ring holds a multiple of them.
        self.step = {s.output: s.group for s in self.stages}
        self.made += [list(range(graph.tensors[t].height + 1)) for t in self.fetched]
        self.readers: dict[str, list[tuple[int, _Link]]] = {}
        for i, links in enumerate(self.links):
            for link in links:
                self.readers.setdefault(link.tensor, []).append((i, link))
        self._requirements: dict[tuple[int, str], tuple[int, ...]] = {}
        self.producers = {name: i for i, name in enumerate(self.output)}
        self.over = {s.output: s.over for s in self.stages if s.over is not None}

    def _link(self, op: RowOp, position: int, tensor: str, times: int) -> _Link:
        each = [self.graph.needs(op, f, position) for f in range(self.graph.firings(op))]
        parts = [each[f : f + times] for f in range(0, len(each), times)]
        ranges = [(min(low for low, _ in part), max(high for _, high in part)) for part in parts]
        keep = [0] * len(ranges) + [self.graph.tensors[tensor].height]
        for f in reversed(range(len(ranges))):
            low = ranges[f][0] if ranges[f][0] < ranges[f][1] else keep[f + 1]
            keep[f] = min(low, keep[f + 1])
        return _Link(tensor, tuple(high for _, high in ranges), tuple(keep))

    def least_heights(self) -> dict[str, int]:
        """Ring heights below which no schedule exists: rows one firing reads, and rows a join waits for while it keeps others."""
        heights = dict.fromkeys(self.rings, 1)
        for tensor in self.rings:
            for _, link in self.readers.get(tensor, []):
                spans = (high - low for high, low in zip(link.high, link.keep, strict=False))
                heights[tensor] = max(heights[tensor], *spans)
        for tensor in self.rings:
            if len(self.readers.get(tensor, [])) > 1:
                heights[tensor] = max(heights[tensor], self._held(tensor))
        for tensor, source in self.over.items():
            rows = heights.pop(source, 1)
            if tensor in heights:
                heights[tensor] = max(heights[tensor], rows)
        return {t: -(-rows // self.step.get(t, 1)) * self.step.get(t, 1) for t, rows in heights.items()}

    def _held(self, tensor: str) -> int:
        """Rows of `tensor` that must exist at once: a firing that still keeps row k may need, through other stages, row n."""
        required = [self._required(i, tensor) for i in range(len(self.links))]
        held = 1
        for i, link in self.readers[tensor]:
            held = max(held, *(need - keep for need, keep in zip(required[i], link.keep, strict=False)))
        return held

    def _required(self, i: int, tensor: str) -> tuple[int, ...]:
        """For each firing of stage `i`: rows of `tensor` that must have been made before it, through all of its inputs."""
        if (i, tensor) in self._requirements:
            return self._requirements[i, tensor]
        needs = [0] * self.total[i]
        for link in self.links[i]:
            producer = self.producers.get(link.tensor)
            if link.tensor == tensor:
                needs = [max(a, b) for a, b in zip(needs, link.high, strict=True)]
            elif producer is not None:
                earlier = (0, *self._required(producer, tensor))
                fired = self.fired_for(producer)
                needs = [max(a, earlier[fired[rows]]) for a, rows in zip(needs, link.high, strict=True)]
        return self._requirements.setdefault((i, tensor), tuple(needs))

    def fired_for(self, i: int) -> list[int]:
        """How often stage `i` must have fired for 0, 1, 2 … rows of its output to exist."""
        fired = [0]
        for f, rows in enumerate(self.made[i]):
            fired += [f] * (rows + 1 - len(fired))
        return fired

    def run(self, heights: Mapping[str, int], firing: str = "late") -> tuple[list[int], set[str]]:
        """Fire until nothing can, in an order of `FIRING`: the firings made and, on a deadlock, the full rings that hold up a stage."""
        fired = [0] * len(self.links)
        order = list(range(len(self.links)))
        # Fetches stand before every stage in the direction of the data.
        order = [*order[len(self.stages) :], *order[: len(self.stages)]]
        order = order[::-1] if firing == "late" else order
        handing = self._handing(heights) if firing == "prompt" else set()
        sequence: list[int] = []
        while able := [i for i in order if self._able(i, fired, heights)] if handing else self._first(order, fired, heights):
            i = self._promptest(able, handing, fired, heights) if handing else able[0]
            fired[i] += 1
            sequence.append(i)
        stuck = [i for i in range(len(fired)) if fired[i] < self.total[i] and self._ready(i, fired)]
        return sequence, {self.home(self.output[i]) for i in stuck}

    def _able(self, i: int, fired: Sequence[int], heights: Mapping[str, int]) -> bool:
        return fired[i] < self.total[i] and self._ready(i, fired) and self._room(i, fired, heights)

    def _first(self, order: Sequence[int], fired: Sequence[int], heights: Mapping[str, int]) -> list[int]:
        return next(([i] for i in order if self._able(i, fired, heights)), [])

    def _handing(self, heights: Mapping[str, int]) -> set[int]:
        """Stages whose rings have room for the rows of one firing only: they hand them on."""
        return {i for i, stage in enumerate(self.stages) if heights.get(stage.output, 0) == stage.group and stage.output in self.readers}

    def _promptest(self, able: Sequence[int], handing: set[int], fired: Sequence[int], heights: Mapping[str, int]) -> int:
        """What reads rows that wait to be handed on; else the first that keeps its rows, or whose reader can fire at once."""

        def waits(i: int) -> bool:
            made = (link.tensor for link in self.links[i] if self.producers.get(link.tensor) in handing)
            return any(self.rows(t, fired) > self.freed(t, fired) for t in made)

        def is_read_next(i: int) -> bool:
            after = [f + (j == i) for j, f in enumerate(fired)]
            return any(self._able(j, after, heights) for j, _ in self.readers[self.output[i]])

        taken = next((i for i in able if waits(i)), None)
        prompt = (i for i in able if i not in handing or is_read_next(i))
        return taken if taken is not None else next(prompt, able[0])

    def _ready(self, i: int, fired: Sequence[int]) -> bool:
        f = fired[i]
        return all(self.rows(link.tensor, fired) >= link.high[f] for link in self.links[i])

    def rows(self, tensor: str, fired: Sequence[int]) -> int:
        """Rows of `tensor` made so far."""
        producer = self.producers.get(tensor)
        return self.graph.tensors[tensor].height if producer is None else self.made[producer][fired[producer]]

    def home(self, tensor: str) -> str:
        """Where a tensor's rows lie: in its own ring, or in that of the sum that takes them over."""
        return next((out for out, source in self.over.items() if source == tensor), tensor)

    def _room(self, i: int, fired: Sequence[int], heights: Mapping[str, int]) -> bool:
        ring = self.home(self.output[i])
        if ring not in heights or self.over.get(self.output[i]) is not None:
            return True  # a whole tensor, or a row that already has its slot
        f = fired[i]
        return self.made[i][f + 1] - self.freed(ring, fired) <= heights[ring]

    def freed(self, tensor: str, fired: Sequence[int]) -> int:
        """Rows of `tensor` that no firing to come reads: the first row still needed."""
        readers = self.readers.get(tensor, [])
        made = self.rows(tensor, fired)
        return min((link.keep[fired[i]] for i, link in readers), default=made)


def schedule(
    graph: RowGraph,
    stages: Sequence[Stage],
    outputs: Sequence[str],
    fetched: Sequence[str] = (),
    firing: str = "early",
    max_tries: int = 400,
) -> StreamedSegment:
    """The segment with the least ring bytes, and its program.

    Exact up to `max_tries` (best-first over ring heights, smallest total bytes first): at a deadlock some full ring that
    holds up a stage must grow, whatever the firing order, so growing each of them in turn reaches the optimum. Beyond that
    the rings grow greedily; the program is legal all the same.

    Parameters
    ----------
    outputs
        Tensors made here that must exist whole afterwards.
    fetched
        Inputs that never exist whole: the application delivers them row by row into a ring.
    firing
        Order of firings among those the rings allow, of `FIRING`.
    """
    flow = Dataflow(graph, stages, outputs, fetched)
    start = flow.least_heights()
    names = sorted(start)
    cost = {t: graph.tensors[t].row_bytes for t in names}
    heap = [(sum(cost[t] * start[t] for t in names), tuple(start[t] for t in names))]
    seen = {heap[0][1]}
    for _ in range(max_tries):
        total, rows = heapq.heappop(heap)
        heights = dict(zip(names, rows, strict=True))
        sequence, full = flow.run(heights, firing)
        if len(sequence) == sum(flow.total):
            return _segment(graph, flow, outputs, heights, sequence)
        for tensor in sorted(full & set(names)):
            grown = tuple(h + (t == tensor) * flow.step.get(t, 1) for t, h in zip(names, rows, strict=True))
            if heights[tensor] < graph.tensors[tensor].height and grown not in seen:
                seen.add(grown)
                heapq.heappush(heap, (total + cost[tensor] * flow.step.get(tensor, 1), grown))
    return _segment(graph, flow, outputs, *_grow(flow, dict(zip(names, heap[0][1], strict=True)), firing))


def reordered(graph: RowGraph, segment: StreamedSegment, firing: str) -> StreamedSegment:
    """The same segment and rings, fired in another order of `FIRING`; which rings suffice does not depend on the order."""
    flow = Dataflow(graph, segment.stages, segment.outputs, segment.fetched)
    return _segment(graph, flow, segment.outputs, segment.rings, flow.run(segment.rings, firing)[0])


def _grow(flow: Dataflow, heights: dict[str, int], firing: str) -> tuple[dict[str, int], list[int]]:
    """Ring heights that run, not always the least: every ring that holds up a stage grows until none does."""
    while True:
        sequence, full = flow.run(heights, firing)
        if len(sequence) == sum(flow.total):
            return heights, sequence
        heights |= {t: heights[t] + flow.step.get(t, 1) for t in full if t in heights}


def _segment(
    graph: RowGraph, flow: Dataflow, outputs: Sequence[str], heights: Mapping[str, int], sequence: Sequence[int]
) -> StreamedSegment:
    inputs = tuple(t for t in flow.inputs if t not in flow.fetched)
    distances = overlap_distances(graph, flow, inputs, [t for t in outputs if t in flow.output], sequence)
    return StreamedSegment(flow.stages, inputs, tuple(outputs), dict(heights), flow.fetched, compress(sequence), distances)


def overlap_distances(
    graph: RowGraph, flow: Dataflow, inputs: Sequence[str], outputs: Sequence[str], sequence: Sequence[int]
) -> dict[tuple[str, str], int]:
    """For every output and input: max over its stores of (bytes of output stored) - (bytes of input below what is still read)."""
    distances: dict[tuple[str, str], int] = {}
    fired = [0] * len(flow.links)
    for i in sequence:
        out = graph.tensors[flow.home(flow.output[i])]
        before = {t: flow.freed(t, fired) * graph.tensors[t].row_bytes for t in inputs} if out.name in outputs else {}
        fired[i] += 1
        rows = flow.made[i][fired[i]]
        for t, freed in before.items():
            if rows:
                distances[out.name, t] = max(distances.get((out.name, t), -graph.tensors[t].nbytes), rows * out.row_bytes - freed)
    return distances


def compress(sequence: Sequence[int], longest: int = 64) -> tuple[Repeat, ...]:
    """The sequence as loops: greedily the repetition that covers most, bodies up to `longest` firings."""
    parts: list[Repeat] = []
    at = 0
    while at < len(sequence):
        count, length = _best_repeat(sequence, at, longest)
        body = tuple(sequence[at : at + length])
        if count == 1 and parts and parts[-1].count == 1:
            parts[-1] = Repeat(1, parts[-1].body + body)
        else:
            parts.append(Repeat(count, body))
        at += count * length
    return tuple(parts)


def _best_repeat(sequence: Sequence[int], at: int, longest: int) -> tuple[int, int]:
    best = (1, 1)
    for length in range(1, min(longest, (len(sequence) - at) // 2) + 1):
        count = 1
        body = sequence[at : at + length]
        while sequence[at + count * length : at + (count + 1) * length] == body:
            count += 1
        # A loop must save more than the two bytes it costs in the table.
        if count > 1 and (count - 1) * length > max(2, (best[0] - 1) * best[1]):
            best = (count, length)
    return best
