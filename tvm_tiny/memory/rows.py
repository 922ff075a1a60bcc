# SPDX-License-Identifier: Apache-2.0
"""Operators as consumers and producers of rows: which input rows an output row needs, and what follows for memory.

A tensor is a stack of `height` rows of `row_bytes` each (batch 1, channels innermost or rows of all channels together).
An operator *fires* a fixed number of times in order; each firing reads a contiguous range of rows of every input and
makes rows of its output:

    kind      firings        firing f reads                                        after f firings there are
    window    output rows    rows f*stride - pad … of input 0 (clipped), row f of   f output rows
                             every other input (a fused residual)
              / group        the same for `group` output rows at once               f*group output rows, in the end all
    rows      output rows    row f of every input                                   f output rows
    resize    output rows    rows `sources[f]` of input 0                           f output rows
    reduce    input rows     row f of input 0                                       all output rows at the end, none before
    whole     1              every input completely                                 all output rows

Padding is virtual: rows outside the tensor hold the zero point and are never stored. All arithmetic is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tvm_tiny.memory.plan import Right

KINDS = ("window", "rows", "resize", "reduce", "whole")


@dataclass(frozen=True)
class RowTensor:
    """A tensor of `height` rows of `width` pixels of `channels` elements of `itemsize` bytes."""

    name: str
    height: int
    width: int
    channels: int
    itemsize: int = 1

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel."""
        return self.channels * self.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * self.pixel_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.height * self.row_bytes


@dataclass(frozen=True)
class Axis:
    """A sliding window along one axis: output index i reads input indices i*stride - before + k*dilation, k < kernel."""

    kernel: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1

    @property
    def extent(self) -> int:
        """Input indices from the first to the last tap."""
        return (self.kernel - 1) * self.dilation + 1

    def output_size(self, size: int) -> int:
        """Output indices of an input of `size`."""
        return (size + self.before + self.after - self.extent) // self.stride + 1

    def reads(self, low: int, high: int, size: int) -> tuple[int, int]:
        """The input interval [a, b) inside [0, size) that output indices [low, high) read; empty as (a, a)."""
        a = min(max(0, low * self.stride - self.before), size)
        b = min(size, (high - 1) * self.stride - self.before + self.extent)
        return (a, max(a, b)) if high > low else (a, a)

    def padding(self, low: int, high: int, size: int) -> tuple[int, int]:
        """How many indices before 0 and from `size` on the window of output [low, high) covers: zero-point border."""
        first = low * self.stride - self.before
        last = (high - 1) * self.stride - self.before + self.extent
        return max(0, -first), max(0, last - size)


@dataclass(frozen=True)
class RowOp:
    """One operator.

    Attributes
    ----------
    rows, columns : Axis
        The window over input 0; identity for every kind but "window".
    macs : int
        Multiply-accumulates of the whole operator.
    in_place : tuple of int
        Inputs the whole-tensor kernel may overwrite at equal base addresses (elementwise operands; a depthwise input).
    sources : tuple of (int, int)
        For kind "resize": the input rows [low, high) that every output row reads; neither bound falls from one to the next.
    pointwise : bool
        An output pixel needs exactly the pixels at its own position: it can be fused per pixel with its producer.
    group : int
        Output rows a firing makes in a stream, for kind "window"; the last firing makes those that are left.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    rows: Axis = Axis()
    columns: Axis = Axis()
    macs: int = 0
    in_place: tuple[int, ...] = ()
    sources: tuple[tuple[int, int], ...] = ()
    pointwise: bool = False
    group: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"operator {self.name}: kind {self.kind!r} is not one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class RowGraph:
    """Operators in a topological order and the tensors between them. `inputs` and `outputs` are the model's own."""

    tensors: Mapping[str, RowTensor]
    ops: tuple[RowOp, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    _readers: dict[str, list[int]] = field(init=False, repr=False, compare=False, default_factory=dict)
    _producers: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)
    _ends: list[int] = field(init=False, repr=False, compare=False, default_factory=list)

    def __post_init__(self) -> None:
        for i, op in enumerate(self.ops):
            self._producers[op.output] = i
            for name in dict.fromkeys(op.inputs):
                self._readers.setdefault(name, []).append(i)
        kept, end = frozenset(self.outputs), len(self.ops)
        self._ends.extend(end if op.output in kept else max(self._readers.get(op.output, [end])) for op in self.ops)

    def readers(self, tensor: str) -> list[int]:
        """Indices of the operators that read `tensor`, ascending."""
        return self._readers.get(tensor, [])

    def leaving(self, first: int, last: int) -> list[str]:
        """Tensors made by operators [first, last) that exist afterwards: read later, model outputs, or read by nobody."""
        return [self.ops[i].output for i in range(first, last) if self._ends[i] >= last]

    def producer(self, tensor: str) -> int:
        """Index of the operator that writes `tensor`; -1 for a model input."""
        return self._producers.get(tensor, -1)

    def firings(self, op: RowOp) -> int:
        """How often `op` fires in one run."""
        if op.kind == "whole":
            return 1
        return -(-self.tensors[op.inputs[0] if op.kind == "reduce" else op.output].height // op.group)

    def made(self, op: RowOp, fired: int) -> int:
        """Rows of the output that exist after `fired` firings."""
        if op.kind in ("window", "rows", "resize"):
            return min(fired * op.group, self.tensors[op.output].height)
        return self.tensors[op.output].height if fired == self.firings(op) else 0

    def needs(self, op: RowOp, firing: int, position: int) -> tuple[int, int]:
        """Rows [low, high) of input number `position` that `firing` reads."""
        height = self.tensors[op.inputs[position]].height
        if op.kind == "whole":
            return 0, height
        if op.kind == "reduce":
            return firing, firing + 1
        if op.kind == "resize":
            return op.sources[firing]
        if op.kind == "window" and position == 0:
            return op.rows.reads(firing * op.group, self.made(op, firing + 1), height)
        out = self.tensors[op.output].height
        if height == 1 and out > 1:
            return 0, 1  # broadcast over rows: a squeeze-and-excite scale
        return firing * op.group, (firing + 1) * op.group


def forward_distance(graph: RowGraph, op: RowOp, position: int = 0) -> int:
    """Least d with out_base + d <= in_base safe, rows in ascending order, all reads of a row before or beside its stores.

    max over output rows r of  (bytes of output up to and with r) - (bytes of input below the first row r or a later row reads).
    Source: diagonal memory optimisation (arXiv 2010.01668), applied row-wise.
    """
    out, inp = graph.tensors[op.output], graph.tensors[op.inputs[position]]
    return max((r + 1) * out.row_bytes - graph.needs(op, r, position)[0] * inp.row_bytes for r in range(graph.firings(op)))


def backward_distance(graph: RowGraph, op: RowOp, position: int = 0) -> int:
    """Least d with in_end + d <= out_end safe, rows in descending order: `forward_distance` of the mirrored operator."""
    out, inp = graph.tensors[op.output], graph.tensors[op.inputs[position]]
    rows = range(graph.firings(op))
    return max((out.height - r) * out.row_bytes - (inp.height - graph.needs(op, r, position)[1]) * inp.row_bytes for r in rows)


def layer_rights(graph: RowGraph, op: RowOp, kinds: Sequence[str] = ("in-place", "ascending", "descending")) -> tuple[Right, ...]:
    """The rights of a kernel that runs the whole operator under the row contract, limited to `kinds`.

    An input that is broadcast or read by a "reduce" or "whole" operator is never shared: it is read until the end.
    """
    op = replace(op, group=1)
    rights = []
    for position, name in enumerate(op.inputs):
        same_size = graph.tensors[name].nbytes >= graph.tensors[op.output].nbytes
        if "in-place" in kinds and position in op.in_place and same_size:
            rights.append(Right(op.output, name, "in-place"))
        broadcast = graph.tensors[name].height == 1 < graph.tensors[op.output].height
        if op.kind in ("reduce", "whole") or broadcast:
            continue
        if "ascending" in kinds:
            rights.append(Right(op.output, name, "ascending", forward_distance(graph, op, position)))
        if "descending" in kinds:
            rights.append(Right(op.output, name, "descending", backward_distance(graph, op, position)))
    return tuple(rights)


def union(a: tuple[int, int] | None, b: tuple[int, int]) -> tuple[int, int]:
    """The smallest interval that holds both; an empty one adds nothing."""
    if a is None or a[0] == a[1]:
        return b
    return a if b[0] == b[1] else (min(a[0], b[0]), max(a[1], b[1]))
