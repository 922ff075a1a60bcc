# SPDX-License-Identifier: Apache-2.0
"""What patches cost, estimated before any kernel is generated: rows a call, scratch bytes, instructions."""

from __future__ import annotations

from collections import Counter

import numpy as np

from tvm_tiny.memory.patches import PatchStage
from tvm_tiny.memory.rows import RowGraph, RowOp
from tvm_tiny.ops.graph import Node
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.cycle_rows import call_terms, row_terms
from tvm_tiny.schedules.cycle_terms import cycles_of
from tvm_tiny.schedules.row_blocks import column_bytes, row_pixels
from tvm_tiny.schedules.stream_costs import fetch_scratch

_MOST_ROWS = 8
"""Rows one call computes: the pointers to their input rows lie on the stack."""

_MOST_FETCHED = 255
"""Rows the application hands over in one call: the number is a byte of the stage's tables."""

_PLANES = 1024
"""Bytes of a depthwise layer's planes: more rows at once are faster (input rows are widened once), but this is memory to be saved."""


def rows_together(graph: RowGraph, stage: PatchStage, op: RowOp, kind: str) -> int:
    """Output rows computed by one call of an operator's kernel; `kind` is its short name."""
    if op.output == stage.output and len(stage.columns) > 1:
        return 1  # its rows lie apart
    if kind == "fetch":
        return 1 if graph.tensors[op.inputs[0]].itemsize > 1 else min(_MOST_FETCHED, stage.tile_shape(op.output)[0])
    rows = min(_MOST_ROWS, stage.tile_shape(op.output)[0])
    if kind == "conv2d":
        return rows
    if kind != "depthwise_conv2d":
        return 1
    width = (stage.tile_shape(op.output)[1] - 1) * op.columns.stride + op.columns.extent
    fitting = [n for n in range(1, rows + 1) if _planes(op, n, width, graph.tensors[op.output].channels) <= _PLANES]
    return max(fitting, default=1)


def _planes(op: RowOp, rows: int, width: int, channels: int) -> int:
    return min(4, channels) * ((rows - 1) * op.rows.stride + op.rows.extent) * ((width + 1) // 2 * 4)


def patch_scratch(graph: RowGraph, stage: PatchStage, op: RowOp, node: Node) -> int:
    """Bytes of scratch of an operator inside its stage."""
    together = rows_together(graph, stage, op, node.op)
    widths = {s[op.output][1] - s[op.output][0] for s in stage.columns}
    if node.op == "conv2d":
        k, by_words = _products(node)
        return max(row_pixels(w * together, k, by_words=by_words) for w in widths) * column_bytes(k, by_words=by_words)
    if node.op == "depthwise_conv2d":
        return _planes(op, together, (max(widths) - 1) * op.columns.stride + op.columns.extent, graph.tensors[op.output].channels)
    if node.op == "fetch":
        return fetch_scratch((1, 1, max(widths), graph.tensors[op.output].channels), str(node.args[0].ty.dtype))
    return 0


def _products(node: Node) -> tuple[int, bool]:
    """Products of one sum of a convolution, and whether its columns are widened by words."""
    x, weight = (tuple(int(d) for d in a.ty.shape.values) for a in node.args[:2])
    return int(np.prod(weight[1:])), x[-1] % 4 == 0


def patch_work(graph: RowGraph, stage: PatchStage, op: RowOp, node: Node, core: str) -> tuple[float, float]:
    """(as a whole layer, in patches) estimated cycles: what the patches' kernels take (`schedules/cycle_rows.py`), once for the whole map
    and once for every tile."""
    out = graph.tensors[op.output]
    together = rows_together(graph, stage, op, node.op)
    heights, widths = ([s[op.output][1] - s[op.output][0] for s in spans] for spans in (stage.rows, stage.columns))
    calls = Counter((min(together, h - at), w) for h in heights for at in range(0, h, together) for w in widths)
    layer = Layer(f"tiny.{node.op}", node.attrs, {}, (*node.shapes, (1, out.height, out.width, out.channels)), ())
    if node.op == "fetch":
        return 0.0, 0.0  # the application's work
    whole = row_terms(layer, [(out.height, out.width, 1)], core)
    tiled = row_terms(layer, [(rows, width, times) for (rows, width), times in calls.items()], core) + call_terms(op, calls)
    return cycles_of(whole, core), cycles_of(tiled, core)


def call_rows(graph: RowGraph, stage: PatchStage, op: RowOp, node: Node) -> int:
    """`rows_together` of a node."""
    return rows_together(graph, stage, op, node.op)
