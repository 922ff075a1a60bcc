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
from typing import Any

from tvm_tiny.memory.patch_choice import PatchCosts
from tvm_tiny.memory.patches import PatchStage, patch_stage
from tvm_tiny.memory.rows import RowGraph, RowOp
from tvm_tiny.memory.stream_choice import Costs
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
    winograd_terms,
)
from tvm_tiny.schedules.microkernels.winograd_rows import row_tiles
from tvm_tiny.schedules.patch_costs import call_rows, patch_scratch, patch_work, rows_together
from tvm_tiny.schedules.stage_layers import StageLayers
from tvm_tiny.schedules.stream_costs import CACHE_BYTES, LINE_BYTES, costs_of, roomy_scratch
from tvm_tiny.target import TinyTarget

BOARD_TERMS = {"cortex-m7": "stm32h7a3@280", "cortex-m4": "stm32l4r5@120"}
"""The flash that a core's coefficients include (`tvm_tiny.profiler.board_terms`)."""

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
    found: Terms = Counter({"call": 1})
    reads = []
    for j, op in enumerate(graph.ops):
        inner, firings = stage.layer_of(j), -(-graph.firings(op) // groups[j])
        width = graph.tensors[op.output].width
        if groups[j] > 1 and inner.op == "tiny.depthwise_conv2d":
            found.update(row_terms(inner, [(groups[j], width, firings)], j in layer.small_code))
            reads.append((firings, _constant_bytes(inner)))
        elif groups[j] > 1:
            found.update(winograd_terms(inner, " rows"))
            reads.append(_winograd_reads(inner, firings))
        else:
            found.update(stream_terms(inner, width, firings, j in layer.small_code, core))
            reads.append((firings, _constant_bytes(inner)))
        found.update(firing_terms(op, firings))
    found["lines again"] += _lines_again(reads)
    return found


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
    costs = replace(costs_of(dual_issue=dual_issue), work=layer_work, again=lines_again, cycles=1.0)
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
