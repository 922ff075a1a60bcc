# SPDX-License-Identifier: Apache-2.0
"""Patches give the same integers as whole tensors, hold exactly the halo they need, and are only offered where they win."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.random_rows import row_graphs
from tests.support.row_numeric import Region, run_region, run_whole
from tvm_tiny.memory.check import IllegalPlanError
from tvm_tiny.memory.patches import (
    PatchStage,
    best_patches,
    can_patch,
    check_patch_stage,
    evaluate,
    patch_curve,
    patch_stage,
    tile_plan,
)
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor
from tvm_tiny.memory.segments import Options

RANDOM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def run_tile(graph: RowGraph, stage: PatchStage, image: np.ndarray, i: int, j: int) -> np.ndarray:
    """One tile from the image alone; a missing halo pixel is an AssertionError of `Region`."""
    rows, columns = stage.rows[i], stage.columns[j]
    values = {graph.inputs[0]: Region(image, 0, 0)}
    for op in graph.ops[: stage.depth]:
        if op.output in rows and op.output in columns:
            (a, b), (c, d) = rows[op.output], columns[op.output]
            data = run_region(graph, op, [values[t] for t in op.inputs], (a, b), (c, d))
            values[op.output] = Region(data, a, c)
    return values[stage.output].data


@RANDOM
@given(row_graphs(max_blocks=3), st.data())
def test_tiles_join_to_the_whole(graph: RowGraph, data: st.DataObject) -> None:
    depths = [d for d in range(1, len(graph.ops) + 1) if can_patch(graph, d)]
    assume(depths)
    depth = data.draw(st.sampled_from(depths))
    stage = patch_stage(graph, depth, (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))))
    check_patch_stage(graph, stage)
    source = graph.tensors["x"]
    image = np.arange(source.nbytes, dtype=np.int64).reshape(source.height, source.width, source.channels) * 31 % 97
    whole = run_whole(graph, image, depth)[stage.output]
    tiles = [[run_tile(graph, stage, image, i, j) for j in range(len(stage.columns))] for i in range(len(stage.rows))]
    assert (np.concatenate([np.concatenate(row, axis=1) for row in tiles], axis=0) == whole).all()


@RANDOM
@given(row_graphs(max_blocks=3), st.data())
def test_regions_are_no_larger_than_needed(graph: RowGraph, data: st.DataObject) -> None:
    """Shrinking any region of an inner tensor by one row or column at a border makes the check fail by name."""
    depths = [d for d in range(1, len(graph.ops) + 1) if can_patch(graph, d)]
    assume(depths)
    stage = patch_stage(graph, data.draw(st.sampled_from(depths)), (2, 2))
    read = {t for op in graph.ops[: stage.depth] for t in op.inputs if op.output in stage.rows[0] and op.columns.dilation == 1}
    tight = [t for t in read if t in stage.rows[0] and stage.rows[0][t][0] < stage.rows[0][t][1]]
    dilated = any(op.rows.dilation > 1 or op.columns.dilation > 1 or op.rows.stride > op.rows.extent for op in graph.ops)
    assume(tight and not dilated)
    victim = data.draw(st.sampled_from(sorted(tight)))
    low, high = stage.rows[0][victim]
    small = {**stage.rows[0], victim: (low, high - 1)}
    broken = PatchStage(stage.depth, stage.output, (small, *stage.rows[1:]), stage.columns, stage.macs, stage.whole_macs)
    with pytest.raises(IllegalPlanError, match=r"halo-too-small|patch-gap"):
        check_patch_stage(graph, broken)


def two_layers() -> RowGraph:
    """3x3 stride 1, then 3x3 stride 2, on 16x16: wide middle, small ends."""
    tensors = {"x": RowTensor("x", 16, 16, 1), "wide": RowTensor("wide", 16, 16, 16), "y": RowTensor("y", 8, 8, 2)}
    one, two = Axis(3, 1, 1, 1), Axis(3, 2, 0, 1)
    ops = (
        RowOp("grow", "window", ("x",), "wide", one, one, macs=36864),
        RowOp("shrink", "window", ("wide",), "y", two, two, macs=18432),
    )
    return RowGraph(tensors, ops, ("x",), ("y",))


def test_halo_work_and_bytes_by_hand() -> None:
    stage = patch_stage(two_layers(), 2, (2, 2))
    assert stage.grid == (2, 2)
    assert [s["wide"] for s in stage.rows] == [(0, 9), (8, 16)]
    assert [s["x"] for s in stage.rows] == [(0, 10), (7, 16)]
    assert stage.tile_bytes(two_layers(), "wide") == 9 * 9 * 16
    assert stage.macs == 36864 * 17 * 17 // 256 + 18432
    choice = evaluate(two_layers(), 2, (2, 2), Options())
    assert choice.arena_bytes == 256 + 9 * 9 * 16 + 128
    assert choice.overhead == pytest.approx((stage.macs - 36864 - 18432) / (36864 + 18432))


def test_fetched_patches_replace_the_image_by_a_compact_tile() -> None:
    graph = two_layers()
    stage = patch_stage(graph, 2, (2, 2))
    options = Options(fetched=("x",))
    assert tile_plan(graph, stage, options).arena_bytes == 10 * 10 + 9 * 9 * 16
    assert evaluate(graph, 2, (2, 2), options).arena_bytes == 10 * 10 + 9 * 9 * 16 + 128


def test_curve_is_a_trade_off_and_budget_and_overhead_pick_from_it() -> None:
    curve = patch_curve(two_layers(), Options())
    assert len(curve) > 1
    assert all(a.overhead < b.overhead and a.arena_bytes > b.arena_bytes for a, b in itertools.pairwise(curve))
    assert best_patches(curve, budget=curve[1].arena_bytes) == curve[1]
    assert best_patches(curve, budget=100) is None
    assert best_patches(curve, max_overhead=curve[0].overhead) == curve[0]
    assert best_patches(curve) == curve[-1]


def test_patches_are_not_offered_where_they_do_not_win() -> None:
    tensors = {"x": RowTensor("x", 8, 8, 8), "y": RowTensor("y", 8, 8, 8)}
    graph = RowGraph(tensors, (RowOp("op", "window", ("x",), "y", Axis(3, 1, 1, 1), Axis(3, 1, 1, 1), macs=9),), ("x",), ("y",))
    assert patch_curve(graph, Options()) == []


def test_heads_that_cannot_be_patched() -> None:
    tensors = {"x": RowTensor("x", 4, 4, 1), "a": RowTensor("a", 4, 4, 1), "m": RowTensor("m", 1, 1, 1), "y": RowTensor("y", 4, 4, 1)}
    ops = (
        RowOp("conv", "window", ("x",), "a"),
        RowOp("mean", "reduce", ("a",), "m"),
        RowOp("scale", "rows", ("a", "m"), "y"),
    )
    graph = RowGraph(tensors, ops, ("x",), ("y",))
    assert [can_patch(graph, d) for d in (1, 2, 3)] == [True, False, False]
    with pytest.raises(ValueError, match="first 2 operators"):
        patch_stage(graph, 2, (2, 2))
