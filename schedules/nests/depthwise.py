# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution as a nest: padded planes of four channels, then their outputs.

    for n (strips of rows), c (channels), r, j:   planes[n, c, r, j] = x[n's rows, j - left, c], padding around the image
    for n, c, r, i:                               y[n r, i, c] = depthwise(planes[n, c], stream[c])
Padding is in the planes and nowhere else. The schedule splits the channels into fours, computes the planes of four channels of a strip
where they are used, which leaves scratch for these alone, and tensorizes both. Strips that reach beyond the image are nests of their own;
so are channels that fill no four: they are the last of the last four, whose planes are built whole.

TVM proves both blocks. Rows of the planes outside the image are the same for all channels of a strip, and nothing else is written there:
the calls that pad them do not depend on the loop over channels and are moved out of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorRegion
from tvm.s_tir import Schedule

from tvm_tiny.schedules.blocks.base import Block
from tvm_tiny.schedules.blocks.depthwise import depthwise, depthwise_body, rows_read
from tvm_tiny.schedules.blocks.planes import Rows, columns_inside, nearest, padded, plane_rows
from tvm_tiny.schedules.blocks.tir import load, nest, region, store
from tvm_tiny.schedules.microkernels import CFunction, DepthwiseShape, LayerParameters, MicroKernel
from tvm_tiny.schedules.nests.base import Nest, Place, hoisted, joined, statements, without_repeats

_TOGETHER = 4  # planes that lie in scratch at once
_MOST_PARTS = 6  # nests of a layer: code of each is its own


@dataclass(frozen=True)
class _Part:
    """Strips of `rows` output rows from `row` on, `strips` of them, and `channels` channels from `channel` on.

    `image` are the rows of a strip's planes that lie inside the image.
    """

    row: int
    strips: int
    rows: int
    image: Rows
    channel: int
    channels: int


def depthwise_nest(
    prefix: str, shape: DepthwiseShape, layer: LayerParameters, kernel: MicroKernel, tensors: Sequence[tuple[int, ...]]
) -> Nest | None:
    """The nest that `kernel`, made by `depthwise` for the same layer, is in C; None where it is none. `tensors` are shapes, output last.

    Which is: plain C, code that layers share, several outputs a channel, fewer than four channels, one output of one channel left over,
    strips or columns of padding alone, and channels left over in many strips.
    """
    if kernel.planes is None or shape.outputs != shape.channels:
        return None
    block, _, strip = kernel.planes
    parts = [*_parts(shape, strip)]
    lonely = any(part.rows == block.width == part.channels == 1 for part in parts)  # no loop is left that could be tensorized
    padding = columns_inside(kernel.planes[1]) < 1 or any(part.image.first == part.image.last for part in parts)
    if lonely or padding or len(parts) > _MOST_PARTS:
        return None
    x, y = (tirx.decl_buffer(tensors[i], "int8", name) for i, name in ((0, "x"), (-1, "y")))
    packed, scratch = (tirx.decl_buffer((n,), "uint8", name) for n, name in ((len(kernel.packed), "packed"), (1, "scratch")))
    places = {"x": Place(x), "y": Place(y), "stream": Place(packed)}
    bodies: list[tirx.Stmt] = []
    writers = [_Writer(prefix, shape, layer, kernel, part) for part in parts]
    made: list[tirx.PrimFunc] = []
    size = 0
    for writer in writers:
        func = writer.scheduled()
        body, end = statements(func, places, scratch, 0)
        bodies, made, size = [*bodies, hoisted(body, writer.padding)], [*made, func], max(size, end)
    functions = {f.name: f for writer in writers for f in writer.functions}
    last = writers[-1].functions[-1]
    functions[last.name] = functions.pop(last.name)
    intrinsics = dict.fromkeys(name for writer in writers for name in writer.intrinsics)
    body = joined(without_repeats(bodies, frozenset().union(*(w.padding for w in writers))))
    traces = tuple(writer.trace for writer in writers)
    return Nest((x, packed, y, scratch), body, tuple(functions.values()), size, tuple(made), traces, tuple(intrinsics))


def _parts(shape: DepthwiseShape, strip: int) -> Iterator[_Part]:
    """Strips alike that follow each other are one part, unless channels are left over: those come after the others of their strip."""
    left, strips = shape.channels % _TOGETHER, list(_strips(shape, strip))
    for part in strips if left else _merged(strips):
        if whole := shape.channels - left:
            yield replace(part, channels=whole)
        if left:
            yield replace(part, channel=whole, channels=left)


def _strips(shape: DepthwiseShape, strip: int) -> Iterator[_Part]:
    for row in range(0, shape.out_height, strip):
        rows = min(strip, shape.out_height - row)
        top, height = row * shape.stride[0] - shape.padding[0], shape.plane_rows(rows)
        first = min(max(0, -top), height)
        yield _Part(row, 1, rows, Rows(height, first, max(first, min(height, shape.height - top))), 0, 0)


def _merged(strips: Sequence[_Part]) -> list[_Part]:
    """Strips alike that lie inside the image whole, as one part."""
    merged: list[_Part] = []
    for part in strips:
        before, inside = merged[-1] if merged else None, Rows(part.image.height, 0, part.image.height)
        if before is not None and (before.rows, before.image, part.image) == (part.rows, inside, inside):
            merged[-1] = replace(before, strips=before.strips + 1)
        else:
            merged.append(part)
    return merged


class _Writer:
    """One part of a layer: its nest, then its schedule."""

    def __init__(self, prefix: str, shape: DepthwiseShape, layer: LayerParameters, kernel: MicroKernel, part: _Part) -> None:
        assert kernel.planes is not None
        self.prefix, self.shape, self.layer, self.part = prefix, shape, layer, part
        self.block, self.plane, _strip = kernel.planes
        self.block = replace(self.block, planes=_TOGETHER, plane_bytes=self.plane.plane_bytes)
        self.is_rest = part.channels < _TOGETHER
        self.functions: list[CFunction] = []
        self.intrinsics: list[str] = []
        self.padding: frozenset[str] = frozenset()
        self.trace = ""

    def scheduled(self) -> tirx.PrimFunc:
        """The part's nest, scheduled and tensorized; fills `functions`, `intrinsics`, `padding` and `trace`."""
        part, together = self.part, self.part.channels if self.is_rest else _TOGETHER
        sch = Schedule(s_tir.transform.StmtSimplify()(tvm.IRModule({"main": self._nest()})))
        planes, outputs = (sch.get_sblock(name) for name in ("planes", "depthwise"))
        loops = {str(sch.get(loop).loop_var.name): loop for loop in sch.get_loops(outputs)}
        if not self.is_rest:
            fours, inner = sch.split(loops["channel"], [None, _TOGETHER])
            loops["channel"] = inner
            sch.compute_at(planes, fours)
        spread = sch.get_loops(planes)[-2 - (part.image.height > 1)]
        made = plane_rows(self.prefix, self.plane, part.image, self.layer.x_zero_point)
        spread = sch.blockize(spread)
        sch.tensorize(spread, self._use(made))
        sch.storage_align(spread, 0, axis=1, factor=self.plane.plane_bytes // 2, offset=0)
        first = next(loops[axis] for axis in ("channel", "r", "i") if axis in loops)
        sch.tensorize(sch.blockize(first), self._use(depthwise(self.prefix, self.block, part.rows, together)))
        self.trace = str(sch.trace)
        return sch.mod["main"]

    def _use(self, block: Block) -> str:
        self.functions += [*block.before, block.function]
        self.padding = self.padding | {f.name for f in block.before}
        self.intrinsics.append(block.intrinsic)
        return block.intrinsic

    def _nest(self) -> tirx.PrimFunc:
        s, part, block = self.shape, self.part, self.block
        x = tirx.decl_buffer((s.height, s.width, s.channels), "int8", "x")
        stream = tirx.decl_buffer((s.channels, block.stream_bytes // 4), "int32", "stream")
        y = tirx.decl_buffer((s.out_height, s.out_width, s.channels), "int8", "y")
        held = _TOGETHER if self.is_rest else part.channels
        planes = tirx.decl_buffer((part.strips, held, part.image.height, s.row_bytes // 2), "int16", "planes")
        sums = tirx.decl_buffer((part.strips, part.channels, part.rows, s.out_width, 1), "int64", "sums")
        axes = {"n": part.strips, "channel": part.channels, "r": part.rows, "i": s.out_width}
        outputs = depthwise_body(
            block,
            lambda _n, c, word: load(stream, c + part.channel, word),
            lambda n, c, r, column: load(planes, n, c + (held - part.channels), r, column),
            lambda n, c, r, i, value: store(y, value, n * part.rows + r + part.row, i, c + part.channel),
            sums,
        )

        def window(n: Any, c: Any, r: Any, _i: Any) -> list[TensorRegion]:
            return [region(planes, (n, 1), (c + (held - part.channels), 1), *rows_read(block, r))]

        stages = [self._planes(x, planes), nest("depthwise", axes, (planes, stream, y, sums), outputs, window)]
        root = s_tir.SBlock([], [], [], "root", tirx.SeqStmt(stages), alloc_buffers=[planes, sums])
        return tirx.PrimFunc([x, stream, y], s_tir.SBlockRealize([], True, root)).with_attr({"s_tir": True, "tirx.noalias": True})

    def _planes(self, x: tirx.Var, planes: tirx.Var) -> tirx.Stmt:
        """Padded planes of all channels, or of the last four."""
        s, part, image = self.shape, self.part, self.part.image
        top, channel = part.row * s.stride[0] - s.padding[0], s.channels - _TOGETHER if self.is_rest else 0

        def first(n: Any) -> Any:
            return n * (part.rows * s.stride[0]) + top

        def body(n: Any, c: Any, r: Any, column: Any) -> list[tirx.Stmt]:
            value = load(x, first(n) + r, column - s.padding[1], c + channel)
            return [store(planes, padded(self.plane, image, value, self.layer.x_zero_point, r, column), n, c, r, column)]

        def reads(n: Any, c: Any, r: Any, column: Any) -> list[TensorRegion]:
            row, at = nearest(self.plane, image, r, column)
            return [region(x, (first(n) + image.first + row, 1), (at, 1), (c + channel, 1))]

        strips, held, height, width = (int(extent) for extent in planes.ty.shape)
        return nest("planes", {"n": strips, "channel": held, "r": height, "column": width}, (x, planes), body, reads)
