# SPDX-License-Identifier: Apache-2.0
"""Arena bytes of real networks under each idea, activations only (no kernel scratch): analysed from shapes, planned, replayed.

Ideas: 1 lifetimes packed · 2 in place · 3 overlap by rows, both orders · 4 patches and 3 (bytes, depth) · 5a one streamed head
and 2 (bytes, operators) · 5b the same and 3 · 5c several segments and 3 · 5d the same, pointwise consumers fused per pixel.
Suffix "x": the image outside the arena; "c": fetched row by row from a camera. The figures agree with an independent analysis
of the same networks, but for: 3 (in-place depthwise with stride 2 is used here), 5d of the ResNet (its shortcut rows can't
wait in the ring they are computed from), and the large network's 5c (960 bytes less: the sums within one row of a mean are
kernel scratch here).
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest

from tests.support.row_models import mobilenet_v2, read_tflite
from tests.support.row_numeric import by_macs
from tests.support.shared import SHARED, needs_shared
from tests.support.stream_simulator import Machine
from tvm_tiny.memory.partitions import Allowed, least_arena, least_peak, partition_steps
from tvm_tiny.memory.patch_choice import patch_candidates
from tvm_tiny.memory.patches import check_patch_stage
from tvm_tiny.memory.plan import MemoryPlan
from tvm_tiny.memory.planner import plan_memory
from tvm_tiny.memory.rows import RowGraph
from tvm_tiny.memory.segments import LAYER_RIGHTS, Cutter, Options, Partition, Range
from tvm_tiny.memory.stream_check import check_segment
from tvm_tiny.memory.stream_choice import StreamOptions
from tvm_tiny.memory.tiny_rows import TinyRows

EXPECTED: dict[str, dict[str, object]] = {
    "pretrainedResnet_quant": {
        "1": 49152, "2": 49152, "3": 33792, "4": (13984, 8), "4≤10%": (25600, 4), "5a": (14144, 13), "5b": (14080, 13),
        "5c": 14080, "5d": 13216, "5cx": 11072, "5cc": 11360,
    },
    "vww_96_int8": {
        "1": 55296, "2": 55296, "3": 37248, "5a": (40704, 4), "5b": (31488, 4),
        "5c": 28032, "5d": 28032, "5cx": 14208, "5dx": 12728, "5cc": 14592, "5dc": 13592,
    },
    "kws_ref_model": {
        "1": 16000, "2": 16000, "3": 8320, "5a": (6250, 10), "5b": (6186, 10), "5c": 6186, "5d": 4906, "5cx": 5760, "5dx": 4480,
        "5cc": 5860, "5dc": 4580,
    },
    "ad01_int8": {"1": 768, "2": 768, "3": 768, "5a": (768, 0), "5b": (768, 0), "5c": 768, "5d": 768, "5cx": 768, "5cc": 768},
    "mcunet_vww_80": {
        "1": 96000, "2": 89600, "3": 77120, "4≤10%": (25920, 5), "5a": (35200, 6), "5b": (27840, 5),
        "5c": 21760, "5d": 21136, "5cx": 16000, "5dx": 14152, "5cc": 16720, "5dc": 14872,
    },
    "person_detect": {
        "1": 55296, "2": 55296, "3": 37248, "4≤10%": (19200, 4), "5a": (23424, 8), "5b": (18816, 8),
        "5c": 14592, "5d": 13856, "5cx": 14208, "5dx": 12728, "5cc": 14496, "5dc": 13016,
    },
    "mcunetv2_large": {
        "1": 1505280, "2": 1404928, "3": 1206016, "5a": (250880, 8), "5b": (226480, 7), "5c": 220960, "5cc": 220960,
    },
}  # fmt: skip


def single_head(head: int) -> Allowed:
    """The first `head` operators streamed as one, the others layer by layer."""
    return lambda first, last: (first, last) == (0, head) if first < head else last == first + 1


def best_single_head(cutter: Cutter) -> tuple[int, MemoryPlan]:
    """The least arena of any one streamed head with all other operators layer by layer: how many operators it has, and the plan."""
    best: tuple[int, MemoryPlan] | None = None
    peaks = [(peak, head) for head in range(len(cutter.graph.ops) + 1) if (peak := least_peak(cutter, single_head(head))) is not None]
    for peak, head in sorted(peaks):
        if best is not None and peak >= best[1].arena_bytes:
            break
        plan = least_arena(cutter, allowed=single_head(head))[1]
        if best is None or plan.arena_bytes < best[1].arena_bytes:
            best = (head, plan)
    assert best is not None
    return best


@cache
def model(name: str) -> RowGraph:
    return read_tflite(SHARED / "models" / "tflite" / f"{name}.tflite")


def figure(graph: RowGraph, idea: str) -> object:
    """The arena of one idea, every plan and program checked on the way."""
    if idea in "123":
        rights = {"1": (), "2": ("in-place",), "3": LAYER_RIGHTS}[idea]
        ranges = tuple(Range(i, i + 1, 0, None) for i in range(len(graph.ops)))
        return plan_memory(*partition_steps(graph, Partition(ranges, 0, Options(rights)))).arena_bytes
    if idea.startswith("4"):
        rows = TinyRows(graph, [SimpleNamespace(op="any")] * len(graph.ops), {})
        goal = StreamOptions("sram", None, 10.0 if idea == "4" else 0.1)
        choice = patch_candidates(rows, Cutter(graph, Options()), goal, by_macs())[-1]
        check_patch_stage(graph, choice.stage)
        return choice.arena_bytes, choice.stage.last
    if idea in ("5a", "5b"):
        options = Options(("in-place",), overlap=False) if idea == "5a" else Options()
        head, plan = best_single_head(Cutter(graph, options))
        return plan.arena_bytes, head
    external, fetched = (graph.inputs if idea[2:] == where else () for where in ("x", "c"))
    cutter = Cutter(graph, Options(pixel_fusion=idea.startswith("5d"), external=external, fetched=fetched))
    partition, plan = least_arena(cutter)
    for part in partition.ranges:
        if part.segment is not None:
            check_segment(graph, part.segment)
    Machine(graph, partition, plan).run()
    return plan.arena_bytes


@needs_shared
@pytest.mark.parametrize(("name", "idea"), [(name, idea) for name, ideas in EXPECTED.items() for idea in ideas])
def test_arena(name: str, idea: str) -> None:
    assert figure(model(name), idea) == EXPECTED[name][idea]


@needs_shared
@pytest.mark.parametrize("name", ["pretrainedResnet_quant", "mcunet_vww_80", "kws_ref_model"])
def test_programs_are_small_tables(name: str) -> None:
    """As bytes (count, length, stages…) the programs of a network take a few hundred bytes of flash."""
    partition, _ = least_arena(Cutter(model(name)))
    sizes = [2 + len(p.body) for part in partition.ranges if part.segment for p in part.segment.program]
    assert 0 < sum(sizes) <= 400


def test_mobilenet_v2_is_built_as_published() -> None:
    graph = mobilenet_v2(1.0, 224)
    assert sum(op.macs for op in graph.ops) == 300_774_272  # 300 M multiply-adds, table 4 of the paper
    assert figure(graph, "1") == 1505280
    assert figure(mobilenet_v2(0.35, 96), "5d") == 29968
