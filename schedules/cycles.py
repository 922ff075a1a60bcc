# SPDX-License-Identifier: Apache-2.0
"""Cycles of a scheduled function, estimated without compiling it: terms counted from geometry, times coefficients fitted to profiles.

`terms` counts what a function does, layer or stage; what a term costs was fitted to profiles (`schedules/cycle_terms.py`). A layer whose
kernel was measured for a tuning record counts as measured.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

from tvm_tiny.memory.patch_choice import PatchCosts
from tvm_tiny.memory.patches import PatchStage, patch_stage
from tvm_tiny.memory.rows import RowGraph, RowOp
from tvm_tiny.memory.stream_choice import Costs
from tvm_tiny.memory.strips import StripSegment
from tvm_tiny.ops.graph import Node
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.conv2d import shape_of
from tvm_tiny.schedules.cycle_terms import (
    Terms,
    call_terms,
    conv2d_terms,
    cycles_of,
    depthwise_terms,
    elementwise_terms,
    firing_terms,
    row_terms,
    stream_terms,
    strip_call_terms,
    strip_terms,
    winograd_terms,
)
from tvm_tiny.schedules.microkernels.winograd_rows import row_tiles
from tvm_tiny.schedules.patch_costs import call_rows, patch_scratch, patch_work, rows_together
from tvm_tiny.schedules.stage_layers import StageLayers
from tvm_tiny.schedules.stream_costs import CACHE_BYTES, LINE_BYTES, costs_of, roomy_scratch, strip_rows
from tvm_tiny.schedules.strips import segment_of
from tvm_tiny.target import TinyTarget

BOARD_TERMS = {"cortex-m7": "stm32h7a3@280", "cortex-m4": "stm32l4r5@120"}
"""The flash that a core's coefficients include (`tvm_tiny.profiler.board_terms`)."""

_SHORT = 64  # products of sums for which a Cortex-M4 takes four pixels together
_OUTPUTS = 8  # of a depthwise layer's row, together
_TILE = 16  # products of a Winograd tile of 2x2 outputs, a channel


def estimated_cycles(name: str, layer: Layer | None, kernel: Mapping[str, Any], target: TinyTarget) -> float:
    """Cycles of one scheduled function.

    Parameters
    ----------
    name : str
        Of the call's result.
    layer : Layer or None
        The function before it was scheduled; None for what is no operator of the dialect.
    kernel : mapping
        Its annotation `tiny.kernel`.
    """
    core = core_of(target)
    found = terms(layer, kernel, core)
    if (counted := _COUNTED.get()) is not None:
        counted[name] = found
    if "cycles" in kernel and kernel.get("board_term") == BOARD_TERMS[core]:
        return float(kernel["cycles"])
    return cycles_of(found, core)


_COUNTED: ContextVar[dict[str, Terms] | None] = ContextVar("tvm_tiny_cycles", default=None)


@contextmanager
def counting() -> Iterator[dict[str, Terms]]:
    """Gather the terms of every call that is estimated inside the context, by the name of its result: for fitting their costs."""
    counted: dict[str, Terms] = {}
    token = _COUNTED.set(counted)
    try:
        yield counted
    finally:
        _COUNTED.reset(token)


def core_of(target: TinyTarget) -> str:
    """The core whose coefficients count for the target: a Cortex-M7's for itself and the host, else a Cortex-M4's."""
    return "cortex-m7" if target.mcpu == "cortex-m7" or target.is_host else "cortex-m4"


def terms(layer: Layer | None, kernel: Mapping[str, Any], core: str) -> Terms:
    """What a scheduled function does, by name of the term."""
    if layer is None:
        return Counter({"float": 1})
    if layer.op == "tiny.stage":
        schedule = json.loads(layer.attrs["schedule"])
        if "strips" in schedule:
            return _in_strips(layer, schedule, core)
        return _patched(layer, schedule["grid"]) if "grid" in schedule else _streamed(layer, schedule, core)
    found = Counter({"call": 1})
    found.update(_whole(layer, kernel))
    return found


# -- whole layers


def _whole(layer: Layer, kernel: Mapping[str, Any]) -> Terms:
    form = "shared" if layer.small_code else "own"
    if kernel.get("rule") == "winograd":
        return winograd_terms(layer)
    if layer.op in ("tiny.conv2d", "tiny.dense") and "block" in kernel:
        pixels = _pixels(layer.shapes[-1], layer.op, str(layer.attrs.get("y_layout", "NHWC")))
        return conv2d_terms(layer, f"{form} {kernel['operand']}", [(pixels, 1)], _together(kernel))
    if layer.op == "tiny.depthwise_conv2d" and "block" in kernel:
        _, height, width, channels = _nhwc(layer.shapes[-1], str(layer.attrs.get("y_layout", "NHWC")))
        strip = int(kernel.get("strip", height))
        heights = [strip] * (height // strip) + ([height % strip] if height % strip else [])
        spread = str(layer.attrs.get("x_layout", "NHWC"))
        return depthwise_terms(layer, form, [(h, width, 1) for h in heights], _together(kernel), channels, spread)
    return elementwise_terms(layer, str(kernel.get("rule", "")), math.prod(layer.shapes[-1]))


def _together(kernel: Mapping[str, Any]) -> int:
    """Pixels a block computes together: 3 of "2x3", 6 of "1x6+1", where one more is left at the end of a row."""
    return int(str(kernel["block"]).split("x")[1].split("+")[0])


def _pixels(shape: Sequence[int], op: str, layout: str) -> int:
    if op == "tiny.dense":
        return math.prod(shape[:-1])
    _, height, width, _ = _nhwc(shape, layout)
    return height * width


def _nhwc(shape: Sequence[int], layout: str) -> tuple[int, int, int, int]:
    n, a, b, c = shape
    return (n, a, b, c) if layout == "NHWC" else (n, b, c, a)


# -- stages


def _streamed(layer: Layer, schedule: Mapping[str, Any], core: str) -> Terms:
    stage = StageLayers.of(layer)
    graph, groups = stage.graph(), schedule.get("groups") or [1] * len(stage.inner)
    ops = [replace(op, group=group) for op, group in zip(graph.ops, groups, strict=True)]
    layers = [stage.layer_of(j) for j in range(len(ops))]
    return Counter({"call": 1}) + _rings(graph, ops, layers, layer.small_code, core)


def _rings(graph: RowGraph, ops: Sequence[RowOp], layers: Sequence[Layer], small: Collection[int], core: str) -> Terms:
    """What the operators of a stream through rings do, those in `small` with shared code."""
    found: Terms = Counter()
    reads = []
    for j, (op, inner) in enumerate(zip(ops, layers, strict=True)):
        firings, width = graph.firings(op), graph.tensors[op.output].width
        if op.group > 1:
            found.update(winograd_terms(inner, " rows"))
            reads.append(_winograd_reads(inner, firings))
        else:
            found.update(stream_terms(inner, width, firings, j in small, core))
            reads.append((firings, _constant_bytes(inner)))
        found.update(firing_terms(op, firings))
    found["lines again"] += _lines_again(reads)
    return found


def _in_strips(layer: Layer, schedule: Mapping[str, Any], core: str) -> Terms:
    stage = StageLayers.of(layer)
    layers = [stage.layer_of(j) for j in range(len(stage.inner))]
    return Counter({"call": 1}) + _strips(stage.graph(), segment_of(stage, schedule), layers, layer.small_code, core)


def _strips(graph: RowGraph, segment: StripSegment, layers: Sequence[Layer], small: Collection[int], core: str) -> Terms:
    """What the operators of a segment do, those in `small` with shared code."""
    found: Terms = Counter()
    reads = []
    for j, (op, inner) in enumerate(zip(segment.ops, layers, strict=True)):
        most = strip_rows(segment, j, graph, inner.op.removeprefix("tiny."))
        calls = Counter(min(most, end - at) for begin, end in segment.turns(j) for at in range(begin, end, most))
        width = graph.tensors[op.output].width
        together = not segment.kept.get(op.inputs[0])
        found.update(strip_terms(inner, width, calls, most, j in small, core, together=together))
        found.update(strip_call_terms(op, calls))
        reads.append((sum(calls.values()), _constant_bytes(inner)))
    found["strip products"] += sum(op.macs for op in segment.ops)
    kept = {op.output: min(segment.kept.get(op.output, 0), segment.most(j)) for j, op in enumerate(segment.ops)}
    found["strip steps"] += segment.count * (len(segment.ops) + sum(rows > 0 for rows in kept.values()))
    found["strip bytes kept"] += segment.count * sum(rows * graph.tensors[t].row_bytes for t, rows in kept.items())
    found["lines again"] += _lines_again(reads)
    return found


def _by_layers(graph: RowGraph, ops: Sequence[RowOp], layers: Sequence[Layer], small: Collection[int], core: str) -> Terms:
    """What the same kernels do layer by layer, those in `small` with shared code."""
    found: Terms = Counter()
    for j, (op, inner) in enumerate(zip(ops, layers, strict=True)):
        out, form = graph.tensors[op.output], "shared" if j in small else "own"
        if inner.op == "tiny.conv2d" and op.group > 1:
            found.update(winograd_terms(inner))
        elif inner.op == "tiny.conv2d":
            block = 4 if core == "cortex-m4" and form == "own" and math.prod(inner.shapes[1][1:]) <= _SHORT else 3
            found.update(conv2d_terms(inner, f"{form} r8", [(out.height * out.width, 1)], min(block, out.height * out.width)))
        elif inner.op == "tiny.depthwise_conv2d":
            found.update(depthwise_terms(inner, form, [(out.height, out.width, 1)], min(_OUTPUTS, out.width), out.channels, "NHWC"))
        elif inner.op != "tiny.fetch":
            rule = "pool" if inner.op in ("tiny.mean", "tiny.avg_pool2d", "tiny.max_pool2d") else inner.op.removeprefix("tiny.")
            found.update(elementwise_terms(inner, rule, out.nbytes))
        found["call"] += 1
    return found


def added_by_streams(layer: Layer | None, kernel: Mapping[str, Any], target: TinyTarget) -> float:
    """Estimated cycles that a scheduled stage takes beyond the same kernels layer by layer; 0 for whatever is not streamed."""
    if layer is None or layer.op != "tiny.stage" or kernel.get("rule") not in ("stream", "strips"):
        return 0.0
    stage, core, schedule = StageLayers.of(layer), core_of(target), json.loads(layer.attrs["schedule"])
    graph, layers = stage.graph(), [stage.layer_of(j) for j in range(len(stage.inner))]
    groups = schedule.get("groups") or [1] * len(layers)
    ops = [replace(op, group=group) for op, group in zip(graph.ops, groups, strict=True)]
    return cycles_of(terms(layer, kernel, core), core) - cycles_of(_by_layers(graph, ops, layers, layer.small_code, core), core)


def layers_work(graph: RowGraph, ops: Sequence[RowOp], nodes: Sequence[Node], core: str) -> float:
    """Estimated cycles of operators layer by layer by the kernels that strips have, before kernels are chosen."""
    return cycles_of(_by_layers(graph, ops, [_layer_of(graph, op, node) for op, node in zip(ops, nodes, strict=True)], (), core), core)


def ring_work(graph: RowGraph, ops: Sequence[RowOp], nodes: Sequence[Node], core: str) -> float:
    """Estimated cycles of operators that are streamed through rings, before kernels are chosen."""
    return cycles_of(_rings(graph, ops, [_layer_of(graph, op, node) for op, node in zip(ops, nodes, strict=True)], (), core), core)


def strip_work(graph: RowGraph, segment: StripSegment, nodes: Sequence[Node], core: str) -> float:
    """Estimated cycles of a segment in strips before kernels are chosen: of those of code of their own."""
    layers = [_layer_of(graph, op, node) for op, node in zip(segment.ops, nodes, strict=True)]
    found = _strips(graph, segment, layers, (), core)
    return cycles_of(found, core)


def _layer_of(graph: RowGraph, op: RowOp, node: Node) -> Layer:
    """A node as a layer; constants are counted only."""
    out = graph.tensors[op.output]
    constants = {k: node.constant(k) for k in range(1, len(node.args)) if node.is_constant(k)}
    return Layer(f"tiny.{node.op}", node.attrs, constants, (*node.shapes, (1, out.height, out.width, out.channels)), ())


def layer_work(graph: RowGraph, op: RowOp, node: Node) -> tuple[float, float]:
    """(as a whole layer, as a stream) estimated cycles before kernels are chosen: of those of code of their own, on a Cortex-M7."""
    out = graph.tensors[op.output]
    layer = Layer(f"tiny.{node.op}", node.attrs, {}, (*node.shapes, (1, out.height, out.width, out.channels)), ())
    if node.op == "stage":
        return COMMON * op.macs, COMMON * op.macs
    if node.op == "fetch" or not node.shapes:
        return 0.0, cycles_of(firing_terms(op, graph.firings(op)))
    firings = -(-graph.firings(op) // op.group)
    winograd = node.op == "conv2d" and roomy_scratch(node) > 0
    whole = winograd_terms(layer) if winograd else row_terms(layer, [(out.height, out.width, 1)])
    rows = winograd_terms(layer, " rows") if op.group > 1 else stream_terms(layer, out.width, graph.firings(op), False, "cortex-m7")
    return cycles_of(whole), cycles_of(rows) + cycles_of(firing_terms(op, firings))


def lines_again(parts: Sequence[tuple[int, int]]) -> float:
    """Cycles of waiting for constants that operators taking turns have driven out of the cache; `parts` are (times read, bytes)."""
    return cycles_of({"lines again": _lines_again(parts)})


COMMON = 0.6
"""Cycles of a product, mostly."""


def cycle_costs(*, dual_issue: bool, pairs: bool = True) -> Costs:
    """What kernels cost, as measured, on a core that issues two instructions at once, or one; `pairs` as of `StreamRows`."""
    core = "cortex-m7" if dual_issue else "cortex-m4"
    costs = replace(
        costs_of(dual_issue=dual_issue), work=layer_work, again=lines_again, cycles=1.0,
        strip_work=partial(strip_work, core=core), ring_work=partial(ring_work, core=core), layers_work=partial(layers_work, core=core),
    )  # fmt: skip
    return costs if pairs else replace(costs, paired=lambda node: 0)


CYCLE_COSTS = cycle_costs(dual_issue=True)
"""On a Cortex-M7."""

PATCH_COSTS = PatchCosts(patch_scratch, call_rows, patch_work, CYCLE_COSTS)
"""What `patch-inference` decides by."""


def _winograd_reads(layer: Layer, firings: int) -> tuple[int, int]:
    """How often a firing's groups of tiles read the transformed weights in all, and their bytes."""
    shape = shape_of(layer)
    assert shape is not None, layer
    return firings * -(-((shape.out_width + 1) // 2) // row_tiles(shape)), 2 * _TILE * shape.channels * shape.outputs


def _patched(layer: Layer, grid: Sequence[int]) -> Terms:
    stage = StageLayers.of(layer)
    graph = stage.graph()
    patches = patch_stage(graph, 0, len(graph.ops), (grid[0], grid[1]))
    found: Terms = Counter({"call": 1, "patches": len(patches.rows) * len(patches.columns)})
    reads = []
    for j, op in enumerate(graph.ops):
        inner = stage.layer_of(j)
        together = rows_together(graph, patches, op, inner.op.removeprefix("tiny."))
        calls = Counter(_calls(patches, op, together))
        found.update(row_terms(inner, [(rows, width, times) for (rows, width), times in calls.items()], j in layer.small_code))
        found.update(call_terms(op, calls))
        reads.append((sum(calls.values()), _constant_bytes(inner)))
    found["lines again"] += _lines_again(reads)
    return found


def _calls(stage: PatchStage, op: RowOp, together: int) -> Iterator[tuple[int, int]]:
    """(rows, columns) of every call of an operator's kernel."""
    for rows in stage.rows:
        height = rows[op.output][1] - rows[op.output][0]
        for columns in stage.columns:
            width = columns[op.output][1] - columns[op.output][0]
            yield from ((min(together, height - at), width) for at in range(0, height, together))


def _constant_bytes(layer: Layer) -> int:
    return sum(int(a.nbytes) for a in layer.constants.values())


def _lines_again(reads: Sequence[tuple[int, int]]) -> int:
    """Lines of constants that operators taking turns have driven out of the data cache since they read them last."""
    if sum(size for _, size in reads) <= CACHE_BYTES:
        return 0
    return sum((times - 1) * size for times, size in reads) // LINE_BYTES
