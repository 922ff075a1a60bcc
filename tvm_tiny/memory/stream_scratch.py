# SPDX-License-Identifier: Apache-2.0
"""The scratch of a streamed segment as one buffer that may slide under the segment's own input.

Rings, sums and kernel scratch are first touched at different firings, and by then some rows of the input are gone. Laid out in the order of
their first use, with the input above, every region ends below what is still to be read if

    scratch_base + d <= in_base    with    d = max over regions of (end of the region - input bytes freed before its first use)

which is an "ascending" right of the scratch over the input, exactly as an output has one. Every place among the rings is tried for the
kernels' common scratch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tvm_tiny.memory.rows import RowGraph
from tvm_tiny.memory.streams import SUM_BYTES, Dataflow, StreamedSegment

Freed = Mapping[str, int]
"""Bytes of each input that nothing reads any more."""


@dataclass(frozen=True)
class Part:
    """A part of the scratch, and the input bytes freed before it is first touched."""

    name: str
    nbytes: int
    freed: Freed


@dataclass(frozen=True)
class Layout:
    """Offsets of the regions and of the kernels' scratch, the size of it all, and d for each input."""

    offsets: Mapping[str, int]
    kernels_at: int
    nbytes: int
    distances: Mapping[str, int]


def first_uses(graph: RowGraph, segment: StreamedSegment) -> dict[str, Freed]:
    """For every operator (by name), ring ("<tensor>.ring") and sums ("<tensor>.sums"): what is freed of the inputs before its first use."""
    flow = Dataflow(graph, segment.stages, segment.outputs, segment.fetched)
    fired = [0] * len(flow.links)
    found: dict[str, Freed] = {}
    for i in segment.firings():
        if fired[i] == 0:
            freed = {t: flow.freed(t, fired) * graph.tensors[t].row_bytes for t in segment.inputs}
            ops = segment.stages[i].ops if i < len(segment.stages) else ()
            home = flow.home(flow.output[i])
            names = [*(op.name for op in ops), *(f"{op.output}.sums" for op in ops if op.kind == "reduce")]
            names += [f"{home}.ring"] if home in segment.rings else []
            for name in names:
                found.setdefault(name, freed)
        fired[i] += 1
    return found


def regions_of(graph: RowGraph, segment: StreamedSegment) -> list[Part]:
    """Rings and sums of a segment."""
    uses = first_uses(graph, segment)
    sizes = {f"{t}.ring": rows * graph.tensors[t].row_bytes for t, rows in segment.rings.items()}
    reduced = [op.output for stage in segment.stages for op in stage.ops if op.kind == "reduce"]
    sizes |= {f"{t}.sums": SUM_BYTES * graph.tensors[t].channels for t in reduced}
    return [Part(name, size, uses[name]) for name, size in sizes.items()]


def place(regions: Sequence[Part], kernels: Sequence[Part], align: int = 4) -> Layout:
    """Lay out `regions`, which coexist, and `kernels`, which share one place; of both orders the one with less over all inputs."""
    ordered = sorted(regions, key=lambda r: (sum(r.freed.values()), r.name))
    ways = [_place(ordered, kernels, align, at) for at in range(len(ordered) + 1)]
    return min(ways, key=lambda layout: (sum(layout.distances.values()), layout.nbytes))


def _place(ordered: Sequence[Part], kernels: Sequence[Part], align: int, position: int) -> Layout:
    """The kernels' common scratch stands before part number `position`."""
    common = Part("", max((k.nbytes for k in kernels), default=0), {})
    parts = [*ordered[:position], common, *ordered[position:]]
    offsets, at, top = {}, 0, 0
    for part in parts:
        offsets[part.name] = at
        top = at + part.nbytes
        at = _up(top, align)
    kernels_at = offsets.pop("")
    ends = [(offsets[p.name] + p.nbytes, p.freed) for p in ordered]
    ends += [(kernels_at + k.nbytes, k.freed) for k in kernels if k.nbytes]
    inputs = {name for _, freed in ends for name in freed}
    distances = {name: max(end - freed[name] for end, freed in ends) for name in sorted(inputs)}
    return Layout(offsets, kernels_at, top, distances)


def _up(value: int, align: int) -> int:
    return -(-value // align) * align
