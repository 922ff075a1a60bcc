# SPDX-License-Identifier: Apache-2.0
"""Pooling as a nest: windows row by row and column by column, all channels of one at once.

    for n (rows), i (columns), c (channels):   y[n, i, c] = pool(x[the window's first pixel, …, c], windows[its rows, its columns])

`windows` has one entry for each size of a window, which padding cuts short: its rows and columns, which end the loops over it, the
distances to walk it by, and what a sum is requantised with. So windows at the border are no case of their own: where a window begins and
which size it has are minima and maxima of its place, which TVM folds away where nothing is padded. The schedule tensorizes the loop over
channels.

`x` is looked at from every pixel: (pixels, rows, columns, channels) of a window that begins there. Where the pixels of a window lie at
equal distances, as in whole rows or one column of the image, they are one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorRegion
from tvm.s_tir import Schedule

from tvm_tiny.schedules.blocks.pool import pool, pool_body
from tvm_tiny.schedules.blocks.tir import load, nest, region, store
from tvm_tiny.schedules.microkernels import MicroKernel, PoolShape
from tvm_tiny.schedules.microkernels.pool import WindowWalk, sizes
from tvm_tiny.schedules.nests.base import Nest, Place, statements


def pool_nest(prefix: str, shape: PoolShape, kernel: MicroKernel, tensors: Sequence[tuple[int, ...]]) -> Nest:
    """The nest of a layer whose block is `kernel`'s. `tensors` are shapes, output last."""
    assert kernel.windows is not None
    x, y = (tirx.decl_buffer(tensors[i], "int8", name) for i, name in ((0, "x"), (-1, "y")))
    packed, scratch = (tirx.decl_buffer((n,), "uint8", name) for n, name in ((len(kernel.packed), "packed"), (1, "scratch")))
    walk = WindowWalk.of(shape)
    extents = walk.extents(sizes(shape.rows)[-1], sizes(shape.columns)[-1])
    block = pool(prefix, kernel.windows, extents, walk.row_bytes, walk.pixel_bytes, shape.channels)
    sch = Schedule(s_tir.transform.StmtSimplify()(tvm.IRModule({"main": _nest(shape, kernel, walk, extents)})))
    sch.tensorize(sch.blockize(sch.get_loops(sch.get_sblock("pool"))[-1]), block.intrinsic)
    func = sch.mod["main"]
    body, _ = statements(func, {"x": Place(x), "y": Place(y), "windows": Place(packed)}, scratch, 0)
    return Nest((x, packed, y), body, (*block.before, block.function), 0, (func,), (str(sch.trace),), (block.intrinsic,))


def _nest(shape: PoolShape, kernel: MicroKernel, walk: WindowWalk, extents: tuple[int, int]) -> tirx.PrimFunc:
    assert kernel.windows is not None
    block, (rows, columns), pixels = kernel.windows[0], (sizes(shape.rows), sizes(shape.columns)), shape.height * shape.width
    strides = (shape.channels, walk.row_bytes, walk.pixel_bytes, 1)
    x = tirx.decl_buffer((pixels, *extents, shape.channels), "int8", "x", strides=strides)
    windows = tirx.decl_buffer((len(rows) * len(columns), block.window_words), "uint32", "windows")
    y = tirx.decl_buffer((shape.out_height, shape.out_width, shape.channels), "int8", "y")
    axes = {"n": shape.out_height, "i": shape.out_width, "c": shape.channels}
    sums = tirx.decl_buffer((*axes.values(), 1), "int64", "sums")

    def place(n: Any, i: Any) -> tuple[Any, Any]:
        """The first pixel of a window, and the number of its size."""
        (top, tall), (left, wide) = (_part(shape, axis, at) for axis, at in ((0, n), (1, i)))
        return top * shape.width + left, (tall - rows[0]) * len(columns) + (wide - columns[0])

    def parameter(n: Any, i: Any, _c: Any, word: int) -> Any:
        return load(windows, place(n, i)[1], word).astype("int32")

    def element(n: Any, i: Any, c: Any, row: Any, column: Any) -> Any:
        return load(x, place(n, i)[0], row, column, c)

    def read(n: Any, i: Any, c: Any) -> list[TensorRegion]:
        pixel, size = place(n, i)
        return [region(x, (pixel, 1), *((0, extent) for extent in extents), (c, 1)), region(windows, (size, 1), (0, block.window_words))]

    outputs = pool_body(block, parameter, element, lambda n, i, c, value: store(y, value, n, i, c), sums)
    stage = nest("pool", axes, (x, windows, y, sums), outputs, read)
    root = s_tir.SBlock([], [], [], "root", stage, alloc_buffers=[sums])
    return tirx.PrimFunc([x, windows, y], s_tir.SBlockRealize([], True, root)).with_attr({"s_tir": True, "tirx.noalias": True})


def _part(shape: PoolShape, axis: int, at: Any) -> tuple[Any, Any]:
    """First row or column of a window, and how many it has."""
    parts, size, limit = (shape.rows, shape.kernel[0], shape.height) if axis == 0 else (shape.columns, shape.kernel[1], shape.width)
    counts = sizes(parts)
    start = at * shape.stride[axis] - shape.padding[axis]
    first = tirx.max(start, 0) if shape.padding[axis] else start
    return first, counts[0] if len(counts) == 1 else tirx.min(start + size, limit) - first
