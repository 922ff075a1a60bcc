# SPDX-License-Identifier: Apache-2.0
"""Resized images: copies of the nearest pixel by words, or four pixels by their weights; rows in ascending order."""

from __future__ import annotations

from tvm import tirx

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.memory.tiny_rows import sources_of
from tvm_tiny.ops import registry, resize_bilinear, resize_nearest
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels import MicroKernel
from tvm_tiny.schedules.microkernels.resize import Axis, Map, Resize, at_row, resize, row_code
from tvm_tiny.schedules.row_form import RowKernel, row_function
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget

_OPS = (resize_nearest.NAME, resize_bilinear.NAME)


def apply(func: tirx.PrimFunc, _target: TinyTarget, _tunable: bool) -> Applied:
    """Take `tiny.resize_nearest` and `tiny.resize_bilinear` of one int8 image, NHWC in and out."""
    layer = Layer.of(func)
    if layer is None or layer.op not in _OPS or layer.dtypes[0] != "int8" or layer.shapes[0][0] != 1 or not layer.is_nhwc:
        return None
    return tensorized(kernel_of(layer, f"{PREFIX}resize"), func, "resize", rights=[["ascending", _distance(layer)]])


def kernel_of(layer: Layer, name: str) -> MicroKernel:
    """The kernel of the whole image."""
    return resize(name, shape_of(layer), lambda x: registry.get(layer.op).numpy(x, **layer.attrs))


def shape_of(layer: Layer) -> Resize:
    """Where every row and column comes from; bilinear ones all of whose points are pixels are copies too."""
    attrs, sizes = layer.attrs, list(zip(layer.shapes[0][1:3], layer.attrs["size"], strict=True))
    forms = [(*size, attrs["align_corners"], attrs["half_pixel"]) for size in sizes]
    if layer.op == resize_nearest.NAME:
        maps = [resize_nearest.source_rows(*form) for form in forms]
    else:
        axes = [Axis(*form[:2], *resize_bilinear.steps(*form)) for form in forms]
        if any(axis.fraction_log2 for axis in axes):
            return Resize(axes[0], axes[1], layer.shapes[0][3])
        maps = [resize_bilinear.neighbours(*form)[0] for form in forms]
    rows, columns = (Map(size, tuple(found.tolist())) for (size, _), found in zip(sizes, maps, strict=True))
    return Resize(rows, columns, layer.shapes[0][3])


def _distance(layer: Layer) -> int:
    """A row is stored below the first row that it or a later one reads."""
    (_, height, width, channels), (_, _, out_width, _) = layer.shapes[0], layer.shapes[-1]
    sources = sources_of(layer.op.removeprefix("tiny."), layer.attrs, height)
    return max((y + 1) * out_width * channels - low * width * channels for y, (low, _) in enumerate(sources))


def row_kernel_of(layer: Layer, slots: int) -> RowKernel:
    """The kernel of a row of a stream: rows[0] is where slot 0 of the input's rows lies, input row r lies in slot r mod `slots`."""
    shape = shape_of(layer)
    line = row_code(f"{PREFIX}resize", shape)
    name, own = row_function("resize", at_row(line, shape, "begin", "rows[0]", slots))
    return RowKernel(name, (line, *own), kernel=shape.operand)
