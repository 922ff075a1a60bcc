# SPDX-License-Identifier: Apache-2.0
"""Cycles of a scheduled function, estimated without compiling it: terms counted from geometry, times coefficients fitted to profiles.

`terms` counts what a function does, layer or stage; what a term costs was fitted to profiles (`schedules/cycle_terms.py`). A layer whose
kernel was measured for a tuning record counts as measured.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from tvm_tiny.memory.patch_choice import PatchCosts
from tvm_tiny.memory.patches import PatchStage, patch_stage
from tvm_tiny.memory.rows import RowGraph, RowOp
from tvm_tiny.memory.stream_choice import Costs
from tvm_tiny.memory.strips import StripSegment
from tvm_tiny.ops.graph import Node
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.conv2d import shape_of
from tvm_tiny.schedules.cycle_kernels import kernel_terms
from tvm_tiny.schedules.cycle_rows import (
    call_terms,
    firing_terms,
    requantised,
    row_planes,
    row_terms,
    stream_terms,
    strip_call_terms,
    strip_terms,
    whole_blocks,
)
from tvm_tiny.schedules.cycle_terms import (
    CACHES,
    Terms,
    conv2d_terms,
    cycles_of,
    depthwise_terms,
    elementwise_terms,
    winograd_terms,
)
from tvm_tiny.schedules.microkernels.depthwise_block import weight_pairs
from tvm_tiny.schedules.microkernels.winograd_rows import row_tiles
from tvm_tiny.schedules.patch_costs import call_rows, patch_scratch, patch_work, rows_together
from tvm_tiny.schedules.stage_layers import StageLayers
from tvm_tiny.schedules.stream_costs import costs_of, of_many_images, roomy_scratch, strip_rows
from tvm_tiny.schedules.strips import segment_of
from tvm_tiny.target import TinyTarget

BOARD_TERMS = {"cortex-m7": "stm32h7a3@280", "cortex-m4": "stm32l4r5@120"}
"""The flash that a core's coefficients include (`tvm_tiny.profiler.board_terms`)."""

_WHOLE_RULES = {"mean": "pool halfword sums", "avg_pool2d": "pool halfword sums", "max_pool2d": "pool maximum", "add": "add linear"}
_ROOMY_RULES = frozenset({"pointwise", "conv2d", "first_layer"})
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
        return Counter({"float function": 1})
    if layer.op == "tiny.stage":
        schedule = json.loads(layer.attrs["schedule"])
        if "strips" in schedule:
            return _in_strips(layer, schedule, core)
        return _patched(layer, schedule["grid"], core) if "grid" in schedule else _streamed(layer, schedule, core)
    found = Counter({"call": 1})
    found.update(kernel_terms(layer, kernel, core))
    return found


def _streamed(layer: Layer, schedule: Mapping[str, Any], core: str) -> Terms:
    stage = StageLayers.of(layer)
    graph, groups = stage.graph(), schedule.get("groups") or [1] * len(stage.inner)
    ops = [replace(op, group=group) for op, group in zip(graph.ops, groups, strict=True)]
    layers = [stage.layer_of(j) for j in range(len(ops))]
    return Counter({"call": 1}) + _rings(graph, ops, layers, core)


def _rings(graph: RowGraph, ops: Sequence[RowOp], layers: Sequence[Layer], core: str) -> Terms:
    """What the operators of a stream through rings do."""
    found: Terms = Counter()
    reads = []
    for op, inner in zip(ops, layers, strict=True):
        firings, width = graph.firings(op), graph.tensors[op.output].width
        if op.group > 1:
            found.update(_winograd_rows(inner, core))
            reads.append(_winograd_reads(inner, firings))
        else:
            found.update(stream_terms(inner, width, firings, core))
            reads.append((firings, _constant_bytes(inner)))
        found.update(firing_terms(op, firings))
    found["lines again"] += _lines_again(reads, core)
    return found


def _in_strips(layer: Layer, schedule: Mapping[str, Any], core: str) -> Terms:
    stage = StageLayers.of(layer)
    layers = [stage.layer_of(j) for j in range(len(stage.inner))]
    return Counter({"call": 1}) + _strips(stage.graph(), segment_of(stage, schedule), layers, core)


def _strips(graph: RowGraph, segment: StripSegment, layers: Sequence[Layer], core: str) -> Terms:
    """What the operators of a segment do."""
    found: Terms = Counter()
    reads = []
    for j, (op, inner) in enumerate(zip(segment.ops, layers, strict=True)):
        most = strip_rows(segment, j, graph, inner.op.removeprefix("tiny."))
        calls = Counter(min(most, end - at) for begin, end in segment.turns(j) for at in range(begin, end, most))
        width = graph.tensors[op.output].width
        together = not segment.kept.get(op.inputs[0])
        found.update(strip_terms(inner, width, calls, most, core, together=together, over=j in segment.over))
        found.update(strip_call_terms(op, calls))
        reads.append((sum(end > begin for begin, end in segment.turns(j)), _constant_bytes(inner)))
    found["strip products"] += sum(op.macs for op in segment.ops)
    kept = {op.output: min(segment.kept.get(op.output, 0), segment.most(j)) for j, op in enumerate(segment.ops)}
    found["strip steps"] += segment.count * (len(segment.ops) + sum(rows > 0 for rows in kept.values()))
    found["strip bytes kept"] += segment.count * sum(rows * graph.tensors[t].row_bytes for t, rows in kept.items())
    found["lines again"] += _lines_again(reads, core)
    return found


def _by_layers(graph: RowGraph, ops: Sequence[RowOp], layers: Sequence[Layer], core: str, most: int = 0) -> Terms:
    """What the same kernels do layer by layer, in a network one of whose operators has tensors of `most` bytes."""
    found: Terms = Counter()
    for op, inner in zip(ops, layers, strict=True):
        out = graph.tensors[op.output]
        if inner.op == "tiny.conv2d" and op.group > 1:
            found.update(winograd_terms(inner, core=core, requantise=requantised(inner, 2)))
        elif inner.op == "tiny.conv2d":
            found.update(conv2d_terms(inner, whole_blocks(inner, core, _room(graph, op, core, most)), [(out.height * out.width, 1)], core))
        elif inner.op == "tiny.depthwise_conv2d":
            planes = replace(row_planes(inner, core), rows=False)
            found.update(depthwise_terms(inner, planes, [(out.height, out.width, 1)], inner.shapes[0][3]))
        else:
            found.update(elementwise_terms(inner, _whole_rule(inner), out.nbytes))
        found["call"] += 1
    return found


def _whole_rule(layer: Layer) -> str:
    """The rule, and its operand, of a layer without products of weights: a product of tensors of one shape has plain loops."""
    name = layer.op.removeprefix("tiny.")
    if name == "mul" and (1 in layer.constants or layer.shapes[0] == layer.shapes[1]):
        return "fallback"
    return _WHOLE_RULES.get(name, name)


def _room(graph: RowGraph, op: RowOp, core: str, most: int = 0) -> int:
    """Bytes of scratch that cost no memory layer by layer: what the largest operator's tensors take and those of `op` do not; elsewhere in
    the network one has tensors of `most` bytes.

    Weights are copied there beside a flash with next to no cache; beside a Cortex-M7 nothing is counted on.
    """
    if core == "cortex-m7":
        return 0
    return max(most, *(_live_bytes(graph, o) for o in graph.ops)) - _live_bytes(graph, op)


def _live_bytes(graph: RowGraph, op: RowOp) -> int:
    return sum(graph.tensors[t].nbytes for t in {*op.inputs, op.output})


def most_live_bytes(layer: Layer | None) -> int:
    """Bytes of the tensors of an operator: of a stage, of the largest inside layer by layer."""
    if layer is None:
        return 0
    if layer.op == "tiny.stage":
        graph = StageLayers.of(layer).graph()
        return max(_live_bytes(graph, op) for op in graph.ops)
    return sum(math.prod(shape) for k, shape in enumerate(layer.shapes) if k not in layer.constants)


def added_by_streams(layer: Layer | None, kernel: Mapping[str, Any], target: TinyTarget, most: int = 0) -> float:
    """Estimated cycles that a scheduled stage takes beyond the same kernels layer by layer, or another layer beyond what it would take with
    the scratch that costs no memory layer by layer.

    `most` is the bytes of the tensors of the network's largest operator layer by layer.
    """
    core = core_of(target)
    if layer is None:
        return 0.0
    if layer.op == "tiny.conv2d" and core != "cortex-m7" and kernel.get("rule") in _ROOMY_RULES and layer.is_nhwc:
        pixels = math.prod(layer.shapes[-1][1:3])
        roomy = conv2d_terms(layer, whole_blocks(layer, core, most - most_live_bytes(layer)), [(pixels, 1)], core)
        return max(0.0, cycles_of(kernel_terms(layer, kernel, core), core) - cycles_of(roomy, core))
    if layer.op != "tiny.stage" or kernel.get("rule") not in ("stream", "strips"):
        return 0.0
    stage, schedule = StageLayers.of(layer), json.loads(layer.attrs["schedule"])
    graph, layers = stage.graph(), [stage.layer_of(j) for j in range(len(stage.inner))]
    groups = schedule.get("groups") or [1] * len(layers)
    ops = [replace(op, group=group) for op, group in zip(graph.ops, groups, strict=True)]
    return cycles_of(terms(layer, kernel, core), core) - cycles_of(_by_layers(graph, ops, layers, core, most), core)


def layers_work(graph: RowGraph, ops: Sequence[RowOp], nodes: Sequence[Node], core: str) -> float:
    """Estimated cycles of operators layer by layer by the kernels that strips have, before kernels are chosen."""
    return cycles_of(_by_layers(graph, ops, [_layer_of(graph, op, node) for op, node in zip(ops, nodes, strict=True)], core), core)


def ring_work(graph: RowGraph, ops: Sequence[RowOp], nodes: Sequence[Node], core: str) -> float:
    """Estimated cycles of operators that are streamed through rings, before kernels are chosen."""
    return cycles_of(_rings(graph, ops, [_layer_of(graph, op, node) for op, node in zip(ops, nodes, strict=True)], core), core)


def strip_work(graph: RowGraph, segment: StripSegment, nodes: Sequence[Node], core: str) -> float:
    """Estimated cycles of a segment in strips before kernels are chosen: of those of code of their own."""
    layers = [_layer_of(graph, op, node) for op, node in zip(segment.ops, nodes, strict=True)]
    found = _strips(graph, segment, layers, core)
    return cycles_of(found, core)


def _layer_of(graph: RowGraph, op: RowOp, node: Node) -> Layer:
    """A node as a layer; constants are counted only."""
    out = graph.tensors[op.output]
    constants = {k: node.constant(k) for k in range(1, len(node.args)) if node.is_constant(k)}
    dtypes = (str(node.args[0].ty.dtype),) if node.op == "fetch" else ()
    return Layer(f"tiny.{node.op}", node.attrs, constants, (*node.shapes, (1, out.height, out.width, out.channels)), dtypes)


def layer_work(graph: RowGraph, op: RowOp, node: Node, core: str) -> tuple[float, float]:
    """(as a whole layer, as a stream) estimated cycles before kernels are chosen: of those of code of their own."""
    if node.op == "stage":
        return COMMON * op.macs, COMMON * op.macs
    if of_many_images(node):
        plain = cycles_of({"plain products": op.macs}, core)
        return plain, plain
    if not node.shapes:
        return 0.0, cycles_of(firing_terms(op, graph.firings(op)), core)
    layer = replace(_layer_of(graph, op, node), constants={})
    winograd = op.group > 1 or (node.op == "conv2d" and roomy_scratch(node) > 0)
    whole = _by_layers(graph, [replace(op, group=2) if winograd else op], [layer], core)
    firings = graph.firings(op)
    rows = _winograd_rows(layer, core) if op.group > 1 else stream_terms(layer, graph.tensors[op.output].width, firings, core)
    return cycles_of(whole, core), cycles_of(rows, core) + cycles_of(firing_terms(op, firings), core)


def lines_again(parts: Sequence[tuple[int, int]], core: str) -> float:
    """Cycles of waiting for constants that operators taking turns have driven out of the cache; `parts` are (times read, bytes)."""
    return cycles_of({"lines again": _lines_again(parts, core)}, core)


COMMON = 0.6
"""Cycles of a product, mostly."""


@lru_cache(maxsize=8)
def cycle_costs(*, dual_issue: bool, pairs: bool = True) -> Costs:
    """What kernels cost, as measured, on a core that issues two instructions at once, or one; `pairs` as of `StreamRows`."""
    core = "cortex-m7" if dual_issue else "cortex-m4"
    costs = replace(
        costs_of(dual_issue=dual_issue), work=partial(layer_work, core=core), again=partial(lines_again, core=core), cycles=1.0,
        strip_work=partial(strip_work, core=core), ring_work=partial(ring_work, core=core), layers_work=partial(layers_work, core=core),
    )  # fmt: skip
    return costs if pairs else replace(costs, paired=lambda node: 0)


CYCLE_COSTS = cycle_costs(dual_issue=True)
"""On a Cortex-M7."""


def patch_costs(layers: Costs, core: str) -> PatchCosts:
    """What patches cost, and `layers` after them."""
    return PatchCosts(patch_scratch, call_rows, partial(patch_work, core=core), layers)


PATCH_COSTS = patch_costs(CYCLE_COSTS, "cortex-m7")
"""What `patch-inference` decides by where it runs alone."""


def _winograd_rows(layer: Layer, core: str) -> Terms:
    shape = shape_of(layer)
    assert shape is not None, layer
    tiles = row_tiles(shape)
    walks = -(-((shape.out_width + 1) // 2) // tiles) * -(-shape.out_height // 2)
    return winograd_terms(layer, " rows", tiles, walks, core, requantised(layer, 2))


def _winograd_reads(layer: Layer, firings: int) -> tuple[int, int]:
    """How often a firing's groups of tiles read the transformed weights in all, and their bytes."""
    shape = shape_of(layer)
    assert shape is not None, layer
    return firings * -(-((shape.out_width + 1) // 2) // row_tiles(shape)), 2 * _TILE * shape.channels * shape.outputs


def _patched(layer: Layer, grid: Sequence[int], core: str) -> Terms:
    stage = StageLayers.of(layer)
    graph = stage.graph()
    patches = patch_stage(graph, 0, len(graph.ops), (grid[0], grid[1]))
    found: Terms = Counter({"call": 1, "patches": len(patches.rows) * len(patches.columns)})
    reads = []
    for j, op in enumerate(graph.ops):
        inner = stage.layer_of(j)
        together = rows_together(graph, patches, op, inner.op.removeprefix("tiny."))
        calls = Counter(_calls(patches, op, together))
        found.update(row_terms(inner, [(rows, width, times) for (rows, width), times in calls.items()], core))
        found.update(call_terms(op, calls))
        reads.append((sum(calls.values()), _constant_bytes(inner)))
    found["lines again"] += _lines_again(reads, core)
    return found


def _calls(stage: PatchStage, op: RowOp, together: int) -> Iterator[tuple[int, int]]:
    """(rows, columns) of every call of an operator's kernel."""
    for rows in stage.rows:
        height = rows[op.output][1] - rows[op.output][0]
        for columns in stage.columns:
            width = columns[op.output][1] - columns[op.output][0]
            yield from ((min(together, height - at), width) for at in range(0, height, together))


def _constant_bytes(layer: Layer) -> int:
    """Bytes of a layer's constants as row kernels of code of its own have them."""
    if layer.op == "tiny.depthwise_conv2d" and 1 in layer.constants:
        (kh, kw, outputs), stride, dilation = layer.shapes[1], layer.attrs["strides"][1], layer.attrs.get("dilation", (1, 1))[1]
        return 4 * outputs * (3 + kh * len(weight_pairs(kw, stride, dilation)))
    return sum(int(a.nbytes) for a in layer.constants.values())


def _lines_again(reads: Sequence[tuple[int, int]], core: str) -> int:
    """Lines of constants that operators taking turns have driven out of the data cache since they read them last.

    Constants that exceed the cache by themselves are waited for at every walk anyhow (`conv2d_terms`).
    """
    cache, line = CACHES[core]
    if sum(size for _, size in reads) <= cache:
        return 0
    return sum((times - 1) * size for times, size in reads if size <= cache) // line
