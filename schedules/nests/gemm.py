# SPDX-License-Identifier: Apache-2.0
"""Convolution as a nest: columns of a few pixels, then products with all channels.

    for n (groups of pixels):                 columns[n] = widened windows of x, padding written in
    for n, m (blocks of channels), p, c:      y[n p, m c] = gemm(columns[n], stream[m])

Padding is in the columns and nowhere else, so the products have no condition. The schedule splits n into tiles, computes the columns of
a tile where it is used, puts the walk over the channels outside the groups of a tile where there are several (weights are then read once
a tile), reads weights through scratch where that is chosen, and tensorizes. Pixels that fill no group, and groups that fill no tile, are
nests of their own.

TVM proves the blocks of products, of copied weights and, without windows, of columns. Windows are conditions on where a pixel lies, which
no intrinsic of TVM's can have: their block is replaced by the generated function whose arguments are that place (`_place`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import Schedule
from tvm_ffi import structural_map

from tvm_tiny.schedules.blocks.base import Block, address, cast
from tvm_tiny.schedules.blocks.columns import expand, expansion, widened
from tvm_tiny.schedules.blocks.copy import copy
from tvm_tiny.schedules.blocks.gemm import gemm, gemm_body
from tvm_tiny.schedules.blocks.tir import load, nest, store
from tvm_tiny.schedules.layer_form import substitute
from tvm_tiny.schedules.microkernels import CFunction, Conv2DShape, Core, LayerParameters, MicroKernel
from tvm_tiny.schedules.microkernels.conv2d_columns import columns_functions
from tvm_tiny.schedules.microkernels.expand import Expand
from tvm_tiny.schedules.microkernels.gemm_block import GemmBlock
from tvm_tiny.schedules.microkernels.gemm_layer import gemm_functions
from tvm_tiny.schedules.nests.base import Nest, Place, aligned, joined, statements
from tvm_tiny.schedules.nests.products import walk
from tvm_tiny.schedules.requantize_forms import Form


@dataclass(frozen=True)
class _Part:
    """Pixels from `first` on: `groups` of `pixels`; where `tile` is not 0, channels are walked outside that many groups."""

    first: int
    groups: int
    pixels: int
    tile: int


def gemm_nest(
    prefix: str, shape: Conv2DShape, layer: LayerParameters, kernel: MicroKernel, core: Core, tensors: Sequence[tuple[int, ...]]
) -> Nest | None:
    """The nest that `kernel`, made by `conv2d` for the same layer, is in C; None where it is none. `tensors` are shapes, output last.

    Which is: sums requantised in C or padded with columns that nothing writes, planes stored, a left-over block of channels beside tiles or
    copied weights, a block of one output, a residual to add, and code that layers share.
    """
    if kernel.packing is None or kernel.packing[0].shared or kernel.inputs > 1:
        return None
    choice, matrix = kernel.packing
    odd = matrix.tail_channels and (choice.tile > 1 or choice.weights != "flash")
    if shape.planar or matrix.requant.form is Form.ACCUMULATOR or not matrix.main_bytes or odd or matrix.groups > -(-shape.k // 4):
        return None
    parts = _parts(shape.out_height * shape.out_width, choice.pixels, choice.tile)
    lonely = choice.channels == choice.pixels == 1  # a block of one output has no loop that could be tensorized
    if lonely or any(part.pixels == 1 and 1 in (matrix.tail_channels, matrix.outputs) for part in parts):
        return None
    x, y = (tirx.decl_buffer(tensors[i], "int8", name) for i, name in ((0, "x"), (-1, "y")))
    packed, scratch = (tirx.decl_buffer((n,), "uint8", name) for n, name in ((len(matrix.stream), "packed"), (1, "scratch")))
    places = {"x": Place(x), "y": Place(y), "stream": Place(packed), "rest": Place(packed, matrix.main_bytes)}
    bodies: list[tirx.Stmt] = []
    made: list[tirx.PrimFunc] = []
    functions: dict[str, CFunction] = {}
    traces: list[str] = []
    intrinsics: dict[str, None] = {}
    size = base = 0
    for part in parts:
        writer = _Writer(prefix, shape, layer, kernel, core, part)
        func = writer.scheduled()
        body, end = statements(func, places, scratch, base)
        bodies, made, size = [*bodies, body], [*made, func], max(size, end)
        traces, intrinsics = [*traces, writer.trace], intrinsics | dict.fromkeys(writer.intrinsics)
        if choice.weights == "layer" and not base:  # the first part has copied the weights, to the start of scratch
            places["stream"], base = Place(scratch), aligned(matrix.main_bytes)
        functions = {function.name: function for function in writer.functions} | functions  # the first part's products stay last
    return Nest((x, packed, y, scratch), joined(bodies), tuple(functions.values()), size, tuple(made), tuple(traces), tuple(intrinsics))


def _parts(total: int, pixels: int, tile: int) -> list[_Part]:
    groups, left = divmod(total, pixels)
    whole, rest = divmod(groups, tile)
    parts = [_Part(0, whole * tile, pixels, tile if tile > 1 else 0)] if whole else []
    parts += [_Part(whole * tile * pixels, rest, pixels, rest)] if rest else []
    return parts + ([_Part(groups * pixels, left, 1, 0)] if left else [])


class _Writer:
    """One part of a layer: its nest, then its schedule."""

    def __init__(self, prefix: str, shape: Conv2DShape, layer: LayerParameters, kernel: MicroKernel, core: Core, part: _Part) -> None:
        assert kernel.packing is not None
        self.prefix, self.shape, self.layer, self.core, self.part = prefix, shape, layer, core, part
        self.choice, self.matrix = kernel.packing
        self.functions: list[CFunction] = []
        self.intrinsics: list[str] = []
        self.trace = ""
        self.expands = shape.is_pointwise and shape.channels % 4 == 0
        made = gemm_functions(prefix, self.matrix, self.choice, {part.pixels}, dual_issue=core.dual_issue).blocks
        main, tail = made[self.choice.channels, part.pixels], made.get((self.matrix.tail_channels, part.pixels))
        if part.tile:
            main = replace(main, order="pixels", repeat=1, pixel_stride=None, unroll=self.choice.unroll)
        self.gemms = {"stream": main} | ({"rest": tail} if tail is not None else {})

    def scheduled(self) -> tirx.PrimFunc:
        """The part's nest, scheduled and tensorized; fills `functions`, `intrinsics` and `trace`."""
        sch = Schedule(s_tir.transform.StmtSimplify()(tvm.IRModule({"main": self._nest()})))
        for name, block in self.gemms.items():
            self._products(sch, name, block)
        if self.expands:
            self._widen(sch)
        else:
            sch.blockize(self._inner(sch, "columns", (self.matrix.groups, self.part.pixels, 2, 2)))
        self.trace = str(sch.trace)
        return sch.mod["main"] if self.expands else self._place(sch.mod["main"])

    def _use(self, block: Block) -> str:
        self.functions.append(block.function)
        self.intrinsics.append(block.intrinsic)
        return block.intrinsic

    # -- the nest

    def _nest(self) -> tirx.PrimFunc:
        s, part, matrix = self.shape, self.part, self.matrix
        x = tirx.decl_buffer((s.height * s.width, s.channels), "int8", "x")
        y = tirx.decl_buffer((s.out_height * s.out_width, s.outputs), "int8", "y")
        columns = tirx.decl_buffer((part.groups, matrix.groups, part.pixels, 2, 2), "int16", "columns")
        stages, streams, sums = [self._columns(x, columns)], [], []
        for name, block in self.gemms.items():
            count, channel = (1, s.outputs - block.channels) if name == "rest" else (matrix.outputs // block.channels, 0)
            axes = {"n": part.groups, "m": count, "p": part.pixels, "c": block.channels}
            streams.append(tirx.decl_buffer((count, block.stream_bytes // 4), "int32", name))
            sums.append(tirx.decl_buffer((*axes.values(), 1), "int64", f"sums_{name}"))
            operands = (columns, streams[-1], y, sums[-1])
            stages.append(nest(f"gemm_{name}", axes, operands, gemm_body(block, *operands, part.first, channel)))
        if part.groups > 1:
            stages[1:] = [_fused(stages[1:])]
        gathered = tirx.decl_buffer((part.pixels * 4 * matrix.groups,), "int8", "bytes")
        root = s_tir.SBlock([], [], [], "root", tirx.SeqStmt(stages), alloc_buffers=[columns, *sums])
        params = [x, *streams, *([] if self.expands else [gathered]), y]
        return tirx.PrimFunc(params, s_tir.SBlockRealize([], True, root)).with_attr({"s_tir": True, "tirx.noalias": True})

    def _columns(self, x: tirx.Var, columns: tirx.Var) -> tirx.Stmt:
        s, part = self.shape, self.part
        if self.expands:
            axes = {"n": part.groups, "i": s.channels // 4, "p": part.pixels}
            return expansion(x, columns, self.matrix.operand, axes, name="columns", pixel=part.first)
        zero, size = tirx.const(self.layer.x_zero_point, "int32"), s.k

        def activation(pixel: Any, k: Any) -> Any:
            (row, column), (ky, rest) = (
                (pixel // s.out_width, pixel % s.out_width),
                (k // (s.kernel[1] * s.channels), k % (s.kernel[1] * s.channels)),
            )
            iy = row * s.stride[0] + ky * s.dilation[0] - s.padding[0]
            ix = column * s.stride[1] + rest // s.channels * s.dilation[1] - s.padding[1]
            inside = tirx.all(iy >= 0, iy < s.height, ix >= 0, ix < s.width)
            value = tirx.if_then_else(inside, load(x, iy * s.width + ix, rest % s.channels).astype("int32"), zero)
            return value if 4 * self.matrix.groups == size else tirx.if_then_else(k < size, value, tirx.const(0, "int32"))

        def body(n: Any, i: Any, p: Any, word: Any, half: Any) -> list[tirx.Stmt]:
            even, odd = (activation(n * part.pixels + p + part.first, i * 4 + half * 2 + late) for late in (0, 1))
            return [store(columns, widened(self.matrix.operand, word, even, odd), n, i, p, word, half)]

        axes = {"n": part.groups, "i": self.matrix.groups, "p": part.pixels, "word": 2, "half": 2}
        return nest("columns", axes, (x, columns), body)

    # -- the schedule

    def _products(self, sch: Schedule, name: str, block: GemmBlock) -> None:
        """Tile and order the loops around the products, with the columns where a tile needs them."""
        s, part = self.shape, self.part
        sums = sch.get_sblock(f"gemm_{name}")
        loops = {str(sch.get(loop).loop_var.name): loop for loop in sch.get_loops(sums)}
        outer, times = loops.get("n"), self.matrix.outputs // block.channels
        first = next(loops[axis] for axis in ("m", "p", "c") if axis in loops)
        if name == "rest":
            times = 1
        elif part.tile:
            times, first = part.tile, loops.get("p", loops.get("c"))
            if outer is not None:
                outer, first = walk(sch, outer, loops.get("m"), part.tile)
        elif outer is not None and s.out_width % part.pixels == 0 and part.groups * part.pixels == s.out_height * s.out_width:
            _rows, outer = sch.split(outer, [None, s.out_width // part.pixels])
        if name == "stream":
            if outer is not None:
                sch.compute_at(sch.get_sblock("columns"), outer)
            self._copy(sch, sums, loops.get("m"), block)
        made = gemm(self.prefix, block, times, stride=s.outputs)
        sch.tensorize(sch.blockize(first), self._use(made))

    def _copy(self, sch: Schedule, sums: s_tir.schedule.SBlockRV, channels: Any, block: GemmBlock) -> None:
        """Weights go through scratch: all of them before anything else, or those of a block of channels before its walk over a tile."""
        whole, apart = self.choice.weights == "layer" and self.part.first == 0, self.choice.weights == "block" and self.part.tile
        if not whole and not apart:
            return
        copied, count = sch.cache_read(sums, 0, "global"), self.matrix.outputs // block.channels
        if apart and channels is not None:
            sch.compute_at(copied, channels)
            count = 1
        loops = sch.get_loops(copied)
        made = copy(self.prefix, count, block.stream_bytes // 4)
        sch.tensorize(sch.blockize(loops[len(loops) - (2 if count > 1 else 1)]), self._use(made))

    def _widen(self, sch: Schedule) -> None:
        s, shape = self.shape, (self.shape.channels // 4, self.part.pixels, 2, 2)
        stride = s.channels
        made = Expand(shape[0], shape[1], stride, 8 * shape[1], self.matrix.operand, self.core.dual_issue)
        block = expand(self.prefix, made)
        self.functions.insert(0, block.function)
        self.intrinsics.insert(0, block.intrinsic)
        sch.tensorize(sch.blockize(self._inner(sch, "columns", shape)), block.intrinsic)

    @staticmethod
    def _inner(sch: Schedule, name: str, extents: tuple[int, ...]) -> s_tir.schedule.LoopRV:
        """The outermost loop over the last axes of a block, of those longer than one."""
        loops = sch.get_loops(sch.get_sblock(name))
        return loops[len(loops) - sum(extent > 1 for extent in extents)]

    def _place(self, func: tirx.PrimFunc) -> tirx.PrimFunc:
        """Columns of windows become a call of their function with the row and the column of the group's first pixel."""
        packing, zero = (self.choice, self.matrix), self.layer.x_zero_point
        *callees, function = columns_functions(self.prefix, self.shape, zero, self.core, packing, self.part.pixels)
        self.functions[:0] = [*callees, function]
        part, width = self.part, self.shape.out_width
        x = func.params[0]
        gathered = tirx.const(0, "int32") if self.shape.channels % 4 == 0 else cast("int8_t *", address(func.params[-2]))

        def call(block: s_tir.SBlock) -> s_tir.SBlock:
            if block.name_hint != "columns_o":
                return block
            group = block.writes[0].region[0].min
            columns, pixel = block.writes[0].source, group * part.pixels + part.first
            target = tirx.address_of(tirx.BufferLoad(columns, [group, 0, 0, 0, 0]))
            pointers = cast("uint8_t *", target), gathered
            extern = tirx.call_extern("int32", function.name, address(x), pixel // width, pixel % width, *pointers)
            return s_tir.SBlock(block.iter_vars, block.reads, block.writes, block.name_hint, tirx.Evaluate(extern))

        return func.with_body(structural_map(func.body, [(s_tir.SBlock, call)]))


def _fused(nests: list[tirx.For]) -> tirx.Stmt:
    """Nests with equal outermost loops as one."""
    first, *others = nests
    bodies = [first.body, *(substitute(other.body, {other.loop_var: first.loop_var}) for other in others)]
    return tirx.For(first.loop_var, first.min, first.extent, tirx.ForKind.SERIAL, joined(bodies))
