# SPDX-License-Identifier: Apache-2.0
"""What streaming costs, estimated before any kernel is generated: scratch bytes, and instructions against the whole layer's.

Instructions are a model of the kernels' loops, for ranking candidates; the profiler counts what was really generated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from tvm_tiny.memory.rows import RowGraph, RowOp
from tvm_tiny.memory.stream_choice import Costs
from tvm_tiny.memory.strips import StripSegment
from tvm_tiny.ops.graph import Node
from tvm_tiny.schedules import depthwise as depthwise_rule
from tvm_tiny.schedules.band_costs import band_of
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.conv2d import parameters_of, shape_of
from tvm_tiny.schedules.depthwise import bytes_in_place, bytes_in_strips, can_run_in_place, plane_bytes
from tvm_tiny.schedules.microkernels import Conv2DShape, Core, DepthwiseChoice, DepthwiseShape, depthwise
from tvm_tiny.schedules.microkernels.channel_sums import MOST_PIXELS
from tvm_tiny.schedules.microkernels.depthwise import default_strip
from tvm_tiny.schedules.microkernels.winograd_rows import row_tiles, rows_apply, rows_scratch, whole_scratch
from tvm_tiny.schedules.row_blocks import (
    BLOCK_CYCLES,
    CACHE_BYTES,
    LINE_BYTES,
    LINE_CYCLES,
    column_bytes,
    row_block,
    row_pixels,
    row_work,
    strip_block,
)

USUAL_PIXELS = 3
"""Pixels that a block of a whole layer computes together where nothing is short."""

_MOST_ROWS = 12
"""Rows a call of a kernel in a strip makes: the pointers to its input rows lie on the stack."""

_MOST_PLANES = 1600
"""Bytes of a depthwise layer's planes in a strip: more rows at once are faster, but these are bytes to be saved."""


def strip_rows(segment: StripSegment, j: int, graph: RowGraph, kind: str) -> int:
    """Rows that one call of the kernel of operator j makes, of those of a strip; `kind` is its short name."""
    op, rows = segment.ops[j], segment.most(j)
    out = graph.tensors[op.output]
    if kind == "conv2d":
        return min(_MOST_ROWS, rows)
    if op.kind == "reduce":
        return max(1, min(_MOST_ROWS, rows, MOST_PIXELS // graph.tensors[op.inputs[0]].width))
    if kind != "depthwise_conv2d":
        return 1
    if j in segment.over:
        return rows
    width = ((out.width - 1) * op.columns.stride + op.columns.extent + 1) // 2 * 4
    planes = [min(4, out.channels) * ((n - 1) * op.rows.stride + op.rows.extent) * width for n in range(1, min(_MOST_ROWS, rows) + 1)]
    return max((n for n, size in enumerate(planes, 1) if size <= _MOST_PLANES), default=1)


def may_write_over(node: Node, rows: int, core: Core) -> bool:
    """Whether a kernel of up to `rows` rows can write over the rows it reads: channels in fours, or pixel by pixel."""
    if node.op == "conv2d":
        shape = conv_shape(node)
        return shape.is_pointwise and shape.channels % 4 == 0 and shape.outputs <= shape.channels
    if node.op != "depthwise_conv2d" or rows > _MOST_ROWS or not all(node.is_constant(k) for k in (1, 2, 3, 4)):
        return False
    layer = replace(_conv_layer(node), op="tiny.depthwise_conv2d", by_rows=True)
    planes, parameters = depthwise_rule.shape_of(layer), depthwise_rule.parameters_of(layer)
    if planes.outputs != planes.channels:
        return False
    choices = (DepthwiseChoice(strip=rows), DepthwiseChoice(strip=rows, shared=True))
    return all(depthwise("tiny", planes, parameters, core, choice=c, row_form=True).choices["operand"] == "planes" for c in choices)


def strip_scratch(node: Node, segment: StripSegment, j: int, graph: RowGraph, dual_issue: bool = True) -> int:
    """Bytes of scratch of operator j in its strips."""
    most = strip_rows(segment, j, graph, node.op)
    if node.op == "conv2d":
        shape = conv_shape(node)
        if (band := band_of(shape, dual_issue)) is not None:
            return band.scratch(shape)
        cut = strip_block(shape, most, dual_issue=dual_issue)
        return cut.scratch(shape.k, shape.outputs, by_words=shape.channels % 4 == 0)
    if node.op == "depthwise_conv2d":
        planes = _depthwise_shape(node)
        return planes.planes * planes.plane_rows(most) * planes.row_bytes
    return scratch_bytes(node, True, dual_issue)


def scratch_bytes(node: Node, streamed: bool, dual_issue: bool = True) -> int:
    """Bytes of scratch of a layer without generating its kernel: exact for the default blocks, an upper bound otherwise."""
    if not node.op:  # an operator in float
        return 0
    if node.op == "stage":  # made by a pass before, which has estimated it
        return int(json.loads(node.attrs["schedule"]).get("scratch", 0))
    op, shapes = node.op, _shapes(node)
    if of_many_images(node):  # plain loops
        return 0
    if op == "fetch":
        return fetch_scratch(shapes[0], str(node.args[0].ty.dtype))
    if op in ("conv2d", "dense"):
        k, by_words = int(np.prod(shapes[1][1:])), shapes[0][-1] % 4 == 0
        band = band_of(conv_shape(node), dual_issue) if streamed and op == "conv2d" else None
        if band is not None:
            return band.scratch(conv_shape(node))
        if streamed:
            cut = row_block(_out_width(node), k, shapes[1][0], by_words=by_words, dual_issue=dual_issue)
            return cut.scratch(k, shapes[1][0], by_words=by_words)
        return min(USUAL_PIXELS, _pixels(node)) * column_bytes(k, by_words=by_words)
    if op == "depthwise_conv2d":
        shape = _depthwise_shape(node)
        if streamed:
            return 4 * shape.plane_rows(1) * shape.row_bytes
        rows = shape.out_height if runs_in_place(node) else default_strip(shape, DepthwiseChoice().scratch_limit)
        return plane_bytes(shape, rows)
    return 0


def fewer_pixels(node: Node, pixels: int, dual_issue: bool = True) -> tuple[int, float] | None:
    """Bytes of scratch of a whole convolution by blocks of so many pixels instead of three, and its cycles against those."""
    if node.op not in ("conv2d", "dense"):
        return None
    shape, weights = node.shapes[:2]
    if _pixels(node) < USUAL_PIXELS:
        return None
    return pixels * column_bytes(int(np.prod(weights[1:])), by_words=shape[-1] % 4 == 0), BLOCK_CYCLES[dual_issue][pixels]


def _pixels(node: Node) -> int:
    return int(np.prod([int(d) for d in node.var.ty.shape.values[:-1]]))


def fetch_scratch(shape: Sequence[int], dtype: str) -> int:
    """Bytes for the row of an image (1, height, width, channels) that the application hands over, where it is not int8 yet."""
    return 4 * shape[2] * shape[3] if dtype == "float32" else 0


_WINOGRAD = 0.6
"""Work of a whole layer that Winograd may take (3x3, stride 1, even maps), against the same layer as rows."""

_WHOLE_TILES = 16
"""Tiles for which a whole layer in Winograd's form reads its weights once, where there is room for their transforms."""

_PAIRED = 0.62
"""The same for its form of two rows at once, which reads the weights for fewer tiles and copies pieces of rows that overlap."""

_SUM = 4
"""Instructions an element of operators without products."""

FIRING_WORK = 150.0
"""Instructions of a firing besides its kernel: the interpreter, row pointers, the kernel's own set-up. Measured order of magnitude."""

CYCLES = 0.57
"""Cycles an instruction of these kernels takes on a Cortex-M7, as the profiler estimates for whole networks."""


def read_again(parts: Sequence[tuple[int, int]]) -> float:
    """Instructions' worth of waiting for constants that operators taking turns row by row have driven out of the cache since the last row.

    Parameters
    ----------
    parts : sequence of (times read, bytes of constants)
        Of every operator that takes part.
    """
    if sum(size for _, size in parts) <= CACHE_BYTES:
        return 0.0
    return sum((times - 1) * size for times, size in parts) * LINE_CYCLES / LINE_BYTES / CYCLES


def constant_reads(graph: RowGraph, op: RowOp, node: Node) -> tuple[int, int]:
    """How often a stream reads a layer's constants, and their bytes.

    Winograd's are larger and read for every group of tiles; what the whole layer reads more than once is not counted again.
    """
    if op.group > 1 and node.op == "conv2d":
        shape = conv_shape(node)
        groups = -(-shape.out_width // 2 // row_tiles(shape))
        whole = graph.firings(op) * shape.out_width // 2 // _WHOLE_TILES
        return max(1, graph.firings(op) * groups - whole), 32 * shape.channels * shape.outputs
    return graph.firings(op), constant_bytes(node)


def constant_bytes(node: Node) -> int:
    """Bytes of a layer's constants as the model has them."""
    shapes = [(a.ty.shape.values, str(a.ty.dtype)) for k, a in enumerate(node.args) if node.is_constant(k)]
    return sum(int(np.prod([int(d) for d in shape], dtype=np.int64)) * np.dtype(dtype).itemsize for shape, dtype in shapes)


def paired_scratch(node: Node) -> int:
    """Bytes of scratch of Winograd's form of a convolution, two output rows at once; 0 where there is none."""
    if node.op != "conv2d" or not all(node.is_constant(k) for k in (1, 2, 3, 4)):
        return 0
    layer = _conv_layer(node)
    shape = shape_of(layer)
    applies = shape is not None and shape.out_width >= 2 and rows_apply(shape, parameters_of(layer, shape))
    return rows_scratch(shape) if applies and shape is not None else 0


def roomy_scratch(node: Node) -> int:
    """Bytes of scratch of a whole layer in Winograd's form that reads its weights once a group of tiles; 0 for other layers."""
    return whole_scratch(conv_shape(node)) if paired_scratch(node) else 0


def of_many_images(node: Node) -> bool:
    """Whether it is a convolution of a batch, which no kernel but plain loops takes."""
    return node.op in ("conv2d", "depthwise_conv2d") and node.shapes[0][0] != 1


def conv_shape(node: Node) -> Conv2DShape:
    """Geometry of a convolution that the kernels take."""
    shape = shape_of(_conv_layer(node))
    assert shape is not None, node.name
    return shape


def _conv_layer(node: Node) -> Layer:
    constants = {k: node.constant(k) for k in (1, 2, 3, 4)}
    shapes = (*_shapes(node), tuple(int(d) for d in node.var.ty.shape.values))
    return Layer("tiny.conv2d", node.attrs, constants, shapes, ())


def streaming_work(graph: RowGraph, op: RowOp, node: Node) -> tuple[float, float]:
    """(as a whole layer, as a stream) estimated instructions: a model of the kernels' loops, for ranking."""
    out = graph.tensors[op.output]
    firing = FIRING_WORK * graph.firings(op)
    if node.op == "conv2d":
        pixels = out.height * out.width
        each = op.macs / max(pixels, 1)
        k, by_words = int(np.prod(_shapes(node)[1][1:])), _shapes(node)[0][-1] % 4 == 0
        plain = op.rows.extent == op.columns.extent == 3 and op.rows.stride == op.columns.stride == op.rows.dilation == 1
        whole = _WINOGRAD if plain and out.height % 2 == out.width % 2 == 0 else 1.0
        rows = row_work(out.width, row_pixels(out.width, k, by_words=by_words)) * out.height
        rows = _PAIRED * row_work(pixels, 3) if op.group > 1 else rows
        sums = _SUM * out.nbytes * (len(op.inputs) - 1)  # of a residual
        return whole * row_work(pixels, 3) * each + sums, rows * each + sums + firing
    if node.op == "depthwise_conv2d":
        whole, streamed = depthwise_work(op.macs, out.nbytes, op.rows.extent, op.rows.stride)
        return whole, streamed + firing
    if node.op == "fetch":
        return firing, firing  # the application works as much either way
    whole = float(max(op.macs, _SUM * graph.tensors[(*op.inputs, op.output)[0]].nbytes))  # an operator in float may read constants alone
    return whole, whole + firing


def depthwise_work(macs: int, outputs: int, kernel_rows: float, stride: int) -> tuple[float, float]:
    """(whole layer, rows alone) instructions of a depthwise layer: input rows are widened once a strip, or once an output row."""
    products = 0.75 * macs + 3.0 * outputs
    return products + 1.5 * outputs * stride, products + 1.5 * outputs * kernel_rows


def runs_in_place(node: Node) -> bool:
    """Whether the whole-layer kernel of a depthwise convolution writes over its input."""
    if node.op != "depthwise_conv2d":
        return False
    shape = _depthwise_shape(node)
    return can_run_in_place(shape) and bytes_in_place(shape) < bytes_in_strips(shape)


def _depthwise_shape(node: Node) -> DepthwiseShape:
    (_, height, width, channels), (kh, kw, outputs) = _shapes(node)[:2]
    windows: dict[str, Any] = {
        k: tuple(node.attrs[v]) for k, v in (("stride", "strides"), ("padding", "padding"), ("dilation", "dilation"))
    }
    return DepthwiseShape(height, width, channels, outputs, (kh, kw), **windows)


def _out_width(node: Node) -> int:
    shape = [int(d) for d in node.var.ty.shape.values]
    return shape[2] if len(shape) == 4 else 1


def _shapes(node: Node) -> list[tuple[int, ...]]:
    return node.shapes


def costs_of(*, dual_issue: bool) -> Costs:
    """What the kernels of this package cost on a core that issues two instructions at once, or one."""
    scratch = partial(scratch_bytes, dual_issue=dual_issue)
    core = Core.of("cortex-m7" if dual_issue else "cortex-m4")
    constants = (constant_bytes, constant_reads, read_again)
    strip, over = partial(strip_scratch, dual_issue=dual_issue), partial(may_write_over, core=core)
    fewer = partial(fewer_pixels, dual_issue=dual_issue)
    return Costs(scratch, streaming_work, runs_in_place, paired_scratch, roomy_scratch, *constants, CYCLES, strip, over, fewer=fewer)


COSTS = costs_of(dual_issue=True)
"""On a Cortex-M7."""
