# SPDX-License-Identifier: Apache-2.0
"""Compute a tensor twice instead of keeping it: for one late reader, the operators that make it are run again.

    before   b → e → d → mean → … → s;   y = d * s          d must exist whole until s is known
    after    b → e → d → mean → … → s;   y = (b → e' → d') * s   d and d' are both streamed, only b is kept

This is what squeeze-and-excite blocks need: the scale depends on all of d, so streaming alone can't avoid storing it. The
copies are ordinary operators of the graph; whether they pay is left to the search over partitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm_tiny.memory.partitions import least_peak, partitions
from tvm_tiny.memory.rows import RowGraph, RowOp
from tvm_tiny.memory.segments import Cutter, Options, Partition, Range

MARK = "'"


@dataclass(frozen=True)
class Copy:
    """Run `ops` (indices into the graph) again just before operator `reader`, which reads their last output."""

    reader: int
    ops: tuple[int, ...]


@dataclass(frozen=True)
class Recomputed:
    """A graph with copies, the partition found for it, and the extra work relative to the graph without."""

    graph: RowGraph
    copies: tuple[Copy, ...]
    partition: Partition
    overhead: float


def candidates(graph: RowGraph, longest: int = 4) -> list[Copy]:
    """One copy for every tensor that is scaled by a broadcast factor: the chain that makes it, back to the smallest tensor.

    The chain is followed through at most `longest` single-input window operators; it starts at the smallest tensor on the way
    (the input of an inverted bottleneck), which is what has to be kept.
    """
    found = []
    for i, op in enumerate(graph.ops):
        tall = graph.tensors[op.output].height > 1
        if op.kind == "rows" and tall and any(graph.tensors[t].height == 1 for t in op.inputs):
            chain: list[int] = []
            kept: list[int] = []
            tensor = op.inputs[0]
            while len(chain) < longest and (producer := graph.producer(tensor)) >= 0 and _cloneable(graph.ops[producer]):
                chain.insert(0, producer)
                tensor = graph.ops[producer].inputs[0]
                kept.append(graph.tensors[tensor].nbytes)
            if chain:
                found.append(Copy(i, tuple(chain[len(chain) - 1 - kept.index(min(kept)) :])))
    return found


def _cloneable(op: RowOp) -> bool:
    return op.kind == "window" and len(op.inputs) == 1


def with_copies(graph: RowGraph, copies: Sequence[Copy]) -> RowGraph:
    """The graph with every copy inserted before its reader; copied operators and tensors carry a mark.

    Raises
    ------
    ValueError
        When two copies serve one reader.
    """
    by_reader = {c.reader: c for c in copies}
    if len(by_reader) != len(copies):
        raise ValueError("two copies serve one reader")
    tensors = dict(graph.tensors)
    ops: list[RowOp] = []
    for i, op in enumerate(graph.ops):
        if i not in by_reader:
            ops.append(op)
            continue
        renamed: dict[str, str] = {}
        for k in by_reader[i].ops:
            source = graph.ops[k]
            name = f"{source.output}{MARK}"
            tensors[name] = replace(tensors[source.output], name=name)
            inputs = tuple(renamed.get(t, t) for t in source.inputs)
            ops.append(replace(source, name=f"{source.name}{MARK}", inputs=inputs, output=name))
            renamed[source.output] = name
        ops.append(replace(op, inputs=tuple(renamed.get(t, t) for t in op.inputs)))
    return RowGraph(tensors, tuple(ops), graph.inputs, graph.outputs)


def recompute_curve(graph: RowGraph, options: Options, max_overhead: float, copies: Sequence[Copy] | None = None) -> list[Recomputed]:
    """Partitions with more and more recomputation, each of a lower peak than the one before; the first has none.

    Copies (all `candidates` when None) are taken in the order of the peak each is responsible for (the peak when all others are taken and
    it is not), as long as their extra multiply-accumulates stay within `max_overhead` of the graph's.
    """
    total = sum(op.macs for op in graph.ops) or 1
    copies = candidates(graph) if copies is None else copies
    known: dict[Any, Range | None] = {}

    def cutter_of(taken: Sequence[Copy]) -> Cutter:
        return Cutter(with_copies(graph, taken), options, known)

    blame = {c.reader: least_peak(cutter_of([o for o in copies if o is not c])) or 0 for c in copies}
    curve = [_result(graph, (), cutter_of(()), 0.0)]
    taken: tuple[Copy, ...] = ()
    for copy in sorted(copies, key=lambda c: (-blame[c.reader], c.reader)):
        overhead = sum(graph.ops[k].macs for c in (*taken, copy) for k in c.ops) / total
        if overhead > max_overhead:
            break
        taken = (*taken, copy)
        cutter = cutter_of(taken)
        peak = least_peak(cutter)
        if peak is not None and peak < curve[-1].partition.peak:
            curve.append(_result(cutter.graph, taken, cutter, overhead))
    return curve


def _result(graph: RowGraph, copies: tuple[Copy, ...], cutter: Cutter, overhead: float) -> Recomputed:
    return Recomputed(graph, copies, next(partitions(cutter)), overhead)
