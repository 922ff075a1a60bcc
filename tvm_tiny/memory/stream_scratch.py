# SPDX-License-Identifier: Apache-2.0
"""The scratch of a streamed segment as one buffer: what is never needed at once lies in the same bytes, and all may slide under the input.

A ring is live from the firing that makes a row somebody will read to the last firing that reads it: one that hands every row straight on is
dead most of the time, and the rings of a network's first layers are dead before those of its last are born. Kernel scratch is live in its
own firings, sums from the first row they add to the last.

Regions are also first touched at different firings, and by then some rows of the input are gone. With the input above, every region ends
below what is still to be read if

    scratch_base + d <= in_base    with    d = max over regions of (end of the region - input bytes freed before its first use)

which is an "ascending" right of the scratch over the input, exactly as an output has one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from tvm_tiny.memory.rows import RowGraph
from tvm_tiny.memory.streams import SUM_BYTES, Dataflow, StreamedSegment

Freed = Mapping[str, int]
"""Bytes of each input that nothing reads any more."""


@dataclass(frozen=True)
class Use:
    """When a region is needed: a bit for every firing of the segment, the first one lowest; and what is freed before the first."""

    live: int
    freed: Freed


@dataclass(frozen=True)
class Part:
    """A region of the scratch."""

    name: str
    nbytes: int
    use: Use

    def meets(self, other: Part) -> bool:
        """Whether both are needed at once."""
        return self.use.live & other.use.live != 0


@dataclass(frozen=True)
class Layout:
    """Offsets of the regions, the size of it all, and d for each input."""

    offsets: Mapping[str, int]
    nbytes: int
    distances: Mapping[str, int] = field(default_factory=dict)


def uses(graph: RowGraph, segment: StreamedSegment) -> dict[str, Use]:
    """When every operator's kernel (by the operator's name), ring ("<tensor>.ring") and sums ("<tensor>.sums") are needed."""
    flow = Dataflow(graph, segment.stages, segment.outputs, segment.fetched)
    fired, firings = [0] * len(flow.links), segment.firings()
    live: dict[str, int] = {}
    born: dict[str, int] = {}  # rings that hold rows, and since when
    freed: dict[str, Freed] = {}
    for time, i in enumerate(firings):
        ops = segment.stages[i].ops if i < len(segment.stages) else ()
        touched = {flow.home(t) for t in (flow.output[i], *(link.tensor for link in flow.links[i]))} & set(segment.rings)
        names = [op.name for op in ops] + [f"{op.output}.sums" for op in ops if op.kind == "reduce"]
        if any(name not in freed for name in (*names, *(f"{t}.ring" for t in touched))):
            now = {t: flow.freed(t, fired) * graph.tensors[t].row_bytes for t in segment.inputs}
            for name in (*names, *(f"{t}.ring" for t in touched)):
                freed.setdefault(name, now)
        fired[i] += 1
        for name in names:
            live[name] = live.get(name, 0) | 1 << time
        for tensor in touched:
            since = born.setdefault(tensor, time)
            if not _holds(flow, tensor, fired):
                live[f"{tensor}.ring"] = live.get(f"{tensor}.ring", 0) | _span(since, time)
                del born[tensor]
    for tensor, since in born.items():
        live[f"{tensor}.ring"] = live.get(f"{tensor}.ring", 0) | _span(since, len(firings) - 1)
    for name, bits in live.items():
        if name.endswith(".sums"):
            live[name] = _span((bits & -bits).bit_length() - 1, bits.bit_length() - 1)
    return {name: Use(bits, freed[name]) for name, bits in live.items()}


def _span(first: int, last: int) -> int:
    """Bits `first` to `last`."""
    return (1 << last + 1) - (1 << first)


def _holds(flow: Dataflow, ring: str, fired: Sequence[int]) -> bool:
    """Whether a ring holds a row that a firing to come reads: of its own tensor, or of one whose rows it takes over."""
    tensors = [ring, *([flow.over[ring]] if ring in flow.over else [])]
    return any(flow.rows(t, fired) > flow.freed(t, fired) for t in tensors)


def regions_of(graph: RowGraph, segment: StreamedSegment, scratch: Mapping[str, int]) -> list[Part]:
    """Rings, sums and kernel scratch of a segment; `scratch` is bytes by operator."""
    found = uses(graph, segment)
    sizes = {f"{t}.ring": rows * graph.tensors[t].row_bytes for t, rows in segment.rings.items()}
    reduced = [op.output for stage in segment.stages for op in stage.ops if op.kind == "reduce"]
    sizes |= {f"{t}.sums": SUM_BYTES * graph.tensors[t].channels for t in reduced} | dict(scratch)
    return [Part(name, size, found[name]) for name, size in sizes.items() if size]


_TRIES = 40  # orders that follow from each of the first ones


def place(regions: Sequence[Part], align: int = 4, tries: int = 0, elsewhere: Collection[str] = ()) -> Layout:
    """Lay out `regions`, each as low as those before it allow, in several orders; the layout with the least distances, then bytes.

    `tries` further orders follow from each of the first ones: the region that ends highest over what is freed before it moves to the front
    somewhere, until the distances (without inputs: the bytes) meet their lower bound. Inputs that lie `elsewhere` than in the arena, as
    fetched ones do, leave no bytes to slide under and have no distance.
    """
    regions = _beside(regions, elsewhere)
    best, bound = None, least_distance(regions) if tries else None
    for order in _orders(regions):
        for found in _improved(order, align, tries):
            best = found if best is None or _height(found) < _height(best) else best
            if bound is not None and (sum(best.distances.values()) if best.distances else best.nbytes) <= bound:
                return best
    assert best is not None
    return best


def place_thoroughly(regions: Sequence[Part], align: int = 4, elsewhere: Collection[str] = ()) -> Layout:
    """`place`, for what is built or decided; remembered, since designs and goals share most streams."""
    told = tuple((p.name, p.nbytes, p.use.live, tuple(sorted(p.use.freed.items()))) for p in _beside(regions, elsewhere))
    return _placed_thoroughly(told, align)


@lru_cache(maxsize=4096)
def _placed_thoroughly(regions: Sequence[tuple[str, int, int, tuple[tuple[str, int], ...]]], align: int) -> Layout:
    return place([Part(name, nbytes, Use(live, dict(freed))) for name, nbytes, live, freed in regions], align, _TRIES)


def _beside(regions: Sequence[Part], elsewhere: Collection[str]) -> list[Part]:
    """The regions without what is freed of inputs that lie elsewhere."""
    return [Part(p.name, p.nbytes, Use(p.use.live, {t: n for t, n in p.use.freed.items() if t not in elsewhere})) for p in regions]


def least_distance(regions: Sequence[Part]) -> int:
    """A lower bound of the sum of a layout's distances, or of its bytes where it has none: of what is live at once, all that was first used
    before so many bytes of the inputs were freed lies below them."""
    found = 0
    for time in range(max((part.use.live.bit_length() for part in regions), default=0)):
        live = sorted((sum(part.use.freed.values()), part.nbytes) for part in regions if part.use.live >> time & 1)
        end = 0
        for freed, nbytes in live:
            end += nbytes
            found = max(found, end - freed)
    return found


def _height(layout: Layout) -> tuple[int, int]:
    return sum(layout.distances.values()), layout.nbytes


def _improved(start: Sequence[Part], align: int, tries: int) -> Iterator[Layout]:
    """The layout in the order given, and in those that follow from it."""
    order, draw = list(start), Random(0)
    yield (layout := _place(order, align))
    for _ in range(tries):
        worst = max(range(len(order)), key=lambda i: layout.offsets[order[i].name] + order[i].nbytes - sum(order[i].use.freed.values()))
        if worst == 0:
            return
        order.insert(draw.randrange(worst), order.pop(worst))
        yield (layout := _place(order, align))


def _orders(regions: Sequence[Part]) -> Iterator[list[Part]]:
    by_use = sorted(regions, key=lambda r: (sum(r.use.freed.values()), r.name))
    yield by_use
    yield sorted(by_use, key=lambda r: -r.use.live.bit_count())
    yield sorted(by_use, key=lambda r: -r.nbytes)
    yield sorted(by_use, key=lambda r: -r.nbytes * r.use.live.bit_count())
    rings = [r for r in by_use if r.name.endswith((".ring", ".sums"))]
    kernels = sorted((r for r in by_use if r not in rings), key=lambda r: -r.nbytes)
    for at in range(len(rings) + 1):
        yield [*rings[:at], *kernels, *rings[at:]]


def _place(order: Sequence[Part], align: int) -> Layout:
    placed: list[tuple[int, Part]] = []
    for part in order:
        taken = sorted((at, at + other.nbytes) for at, other in placed if part.meets(other))
        at = 0
        for low, high in taken:
            if at + part.nbytes <= low:
                break
            at = max(at, -(-high // align) * align)
        placed.append((at, part))
    inputs = sorted({name for part in order for name in part.use.freed})
    distances = {name: max(at + part.nbytes - part.use.freed[name] for at, part in placed) for name in inputs}
    return Layout({part.name: at for at, part in placed}, max((at + part.nbytes for at, part in placed), default=0), distances)
