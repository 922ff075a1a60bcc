# SPDX-License-Identifier: Apache-2.0
"""Computing a scaled tensor twice: the graph stays the same function, the tensor is never whole, the work is counted."""

from __future__ import annotations

import pytest

from tests.support.row_models import read_tflite
from tests.support.shared import SHARED, needs_shared
from tests.support.stream_simulator import Machine
from tvm_tiny.memory.partitions import least_arena, plan_partition
from tvm_tiny.memory.recompute import Copy, candidates, recompute_curve, with_copies
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor
from tvm_tiny.memory.segments import Cutter, Options


def squeeze_excite(blocks: int = 1) -> RowGraph:
    """Inverted bottlenecks with squeeze-and-excite: expand, depthwise 3x3, mean, dense, scale, project, residual sum."""
    same = Axis(3, 1, 1, 1)
    tensors = {"x": RowTensor("x", 12, 4, 2)}
    ops: list[RowOp] = []
    last = "x"
    for b in range(blocks):
        wide = {n: RowTensor(f"{n}{b}", 12, 4, 12) for n in ("e", "d", "s")}
        flat = {n: RowTensor(f"{n}{b}", 1, 1, 12) for n in ("m", "f")}
        thin = {n: RowTensor(f"{n}{b}", 12, 4, 2) for n in ("p", "y")}
        tensors |= {t.name: t for t in (*wide.values(), *flat.values(), *thin.values())}
        ops += [
            RowOp(f"expand{b}", "window", (last,), f"e{b}", macs=1152, pointwise=True),
            RowOp(f"depthwise{b}", "window", (f"e{b}",), f"d{b}", same, same, macs=5184, in_place=(0,)),
            RowOp(f"mean{b}", "reduce", (f"d{b}",), f"m{b}", pointwise=True),
            RowOp(f"dense{b}", "whole", (f"m{b}",), f"f{b}", macs=144),
            RowOp(f"scale{b}", "rows", (f"d{b}", f"f{b}"), f"s{b}", in_place=(0,), pointwise=True),
            RowOp(f"project{b}", "window", (f"s{b}",), f"p{b}", macs=1152, pointwise=True),
            RowOp(f"sum{b}", "rows", (f"p{b}", last), f"y{b}", in_place=(0, 1), pointwise=True),
        ]
        last = f"y{b}"
    return RowGraph(tensors, tuple(ops), ("x",), (last,))


def test_copies_start_at_the_smallest_tensor() -> None:
    assert candidates(squeeze_excite()) == [Copy(reader=4, ops=(0, 1))]


def test_copied_operators_feed_only_their_reader() -> None:
    graph = with_copies(squeeze_excite(), [Copy(4, (0, 1))])
    assert [op.name for op in graph.ops] == [
        *["expand0", "depthwise0", "mean0", "dense0"],
        *["expand0'", "depthwise0'", "scale0", "project0", "sum0"],
    ]
    assert [op.inputs for op in graph.ops[4:7]] == [("x",), ("e0'",), ("d0'", "f0")]
    assert graph.readers("d0") == [2]
    with pytest.raises(ValueError, match="two copies"):
        with_copies(squeeze_excite(), [Copy(4, (1,)), Copy(4, (0, 1))])


@pytest.mark.parametrize("blocks", [1, 2])
def test_recomputing_frees_the_wide_tensor(blocks: int) -> None:
    graph = squeeze_excite(blocks)
    curve = recompute_curve(graph, Options(), 1.0)
    wide = 12 * 4 * 12
    assert curve[0].copies == ()
    assert curve[0].partition.peak > wide
    assert curve[-1].partition.peak < wide
    total = sum(op.macs for op in graph.ops)
    assert curve[-1].overhead == pytest.approx(blocks * (1152 + 5184) / total)
    for point in curve:
        partition, plan = least_arena(Cutter(point.graph, point.partition.options))
        assert plan.arena_bytes <= plan_partition(point.graph, point.partition).arena_bytes
        Machine(point.graph, partition, plan).run()


def test_overhead_limit_is_kept() -> None:
    assert len(recompute_curve(squeeze_excite(2), Options(), 0.1)) == 1


@needs_shared
@pytest.mark.parametrize(("pixel", "arena"), [(False, 191744), (True, 182912)])
def test_large_network_within_twelve_percent(pixel: bool, arena: int) -> None:
    graph = read_tflite(SHARED / "models" / "tflite" / "mcunetv2_large.tflite")
    best = recompute_curve(graph, Options(pixel_fusion=pixel), 0.12)[-1]
    assert best.overhead == pytest.approx(0.1128, abs=1e-4)
    partition, plan = least_arena(Cutter(best.graph, best.partition.options))
    assert (plan.arena_bytes, plan.optimal) == (arena, True)
    Machine(best.graph, partition, plan).run()
