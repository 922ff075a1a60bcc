# SPDX-License-Identifier: Apache-2.0
"""Patches give the same integers as whole tensors, hold exactly the halo they need, and are only offered where they win."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.random_rows import row_graphs
from tests.support.row_numeric import Region, by_macs, run_region, run_whole
from tvm_tiny.memory.check import IllegalPlanError
from tvm_tiny.memory.patch_choice import patch_candidates
from tvm_tiny.memory.patches import (
    PatchStage,
    axis_reads,
    can_patch,
    check_patch_stage,
    has_empty_tiles,
    patch_stage,
    patch_stages,
    stage_distance,
    tile_distance,
    tile_plan,
)
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor
from tvm_tiny.memory.segments import Cutter, Options
from tvm_tiny.memory.stream_choice import StreamOptions
from tvm_tiny.memory.tiny_rows import TinyRows

RANDOM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def run_tile(graph: RowGraph, stage: PatchStage, image: np.ndarray, i: int, j: int) -> np.ndarray:
    """One tile from the image alone; a missing halo pixel is an AssertionError of `Region`."""
    rows, columns = stage.rows[i], stage.columns[j]
    values = {graph.inputs[0]: Region(image, 0, 0)}
    for op in graph.ops[stage.first : stage.last]:
        if op.output in rows and op.output in columns:
            (a, b), (c, d) = rows[op.output], columns[op.output]
            data = run_region(graph, op, [values[t] for t in op.inputs], (a, b), (c, d))
            values[op.output] = Region(data, a, c)
    return values[stage.output].data


@RANDOM
@given(row_graphs(max_blocks=3), st.data())
def test_tiles_join_to_the_whole(graph: RowGraph, data: st.DataObject) -> None:
    depths = [d for d in range(1, len(graph.ops) + 1) if can_patch(graph, 0, d)]
    assume(depths)
    depth = data.draw(st.sampled_from(depths))
    stage = patch_stage(graph, 0, depth, (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))))
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
    depths = [d for d in range(1, len(graph.ops) + 1) if can_patch(graph, 0, d)]
    assume(depths)
    stage = patch_stage(graph, 0, data.draw(st.sampled_from(depths)), (2, 2))
    read = {t for op in graph.ops[stage.first : stage.last] for t in op.inputs if op.output in stage.rows[0] and op.columns.dilation == 1}
    tight = [t for t in read if t in stage.rows[0] and stage.rows[0][t][0] < stage.rows[0][t][1]]
    dilated = any(op.rows.dilation > 1 or op.columns.dilation > 1 or op.rows.stride > op.rows.extent for op in graph.ops)
    assume(tight and not dilated)
    victim = data.draw(st.sampled_from(sorted(tight)))
    low, high = stage.rows[0][victim]
    small = {**stage.rows[0], victim: (low, high - 1)}
    broken = PatchStage(0, stage.last, stage.output, (small, *stage.rows[1:]), stage.columns, stage.macs, stage.whole_macs)
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
    stage = patch_stage(two_layers(), 0, 2, (2, 2))
    assert stage.grid == (2, 2)
    assert [s["wide"] for s in stage.rows] == [(0, 9), (8, 16)]
    assert [s["x"] for s in stage.rows] == [(0, 10), (7, 16)]
    assert stage.tile_bytes(two_layers(), "wide") == 9 * 9 * 16
    assert stage.macs == 36864 * 17 * 17 // 256 + 18432
    assert tile_plan(two_layers(), stage).arena_bytes == 9 * 9 * 16


def test_fetched_patches_replace_the_image_by_a_compact_tile() -> None:
    graph = two_layers()
    stage = patch_stage(graph, 0, 2, (2, 2))
    rows_apart = tile_distance(graph, stage, graph.ops[0], 0)
    assert tile_plan(graph, stage, fetched=("x",)).arena_bytes == rows_apart + 10 * 10


def candidates(graph: RowGraph, max_overhead: float) -> list:
    rows = TinyRows(graph, [SimpleNamespace(op="any")] * len(graph.ops), {})
    return patch_candidates(rows, Cutter(graph, Options()), StreamOptions("sram", None, max_overhead), by_macs())


def test_candidates_are_a_trade_off() -> None:
    curve = candidates(two_layers(), 1.0)
    assert len(curve) > 1
    assert all(a.overhead < b.overhead and a.arena_bytes > b.arena_bytes for a, b in itertools.pairwise(curve))
    assert all(c.extra_macs <= 0.05 for c in candidates(two_layers(), 0.05))


def test_patches_are_not_offered_where_they_do_not_win() -> None:
    tensors = {"x": RowTensor("x", 8, 8, 8), "y": RowTensor("y", 8, 8, 8)}
    graph = RowGraph(tensors, (RowOp("op", "window", ("x",), "y", Axis(3, 1, 1, 1), Axis(3, 1, 1, 1), macs=9),), ("x",), ("y",))
    assert candidates(graph, 1.0) == []


def test_heads_that_cannot_be_patched() -> None:
    tensors = {"x": RowTensor("x", 4, 4, 1), "a": RowTensor("a", 4, 4, 1), "m": RowTensor("m", 1, 1, 1), "y": RowTensor("y", 4, 4, 1)}
    ops = (
        RowOp("conv", "window", ("x",), "a"),
        RowOp("mean", "reduce", ("a",), "m"),
        RowOp("scale", "rows", ("a", "m"), "y"),
    )
    graph = RowGraph(tensors, ops, ("x",), ("y",))
    assert [can_patch(graph, 0, d) for d in (1, 2, 3)] == [True, False, False]
    with pytest.raises(ValueError, match=r"operators 0..1 can't"):
        patch_stage(graph, 0, 2, (2, 2))


def test_a_window_that_lies_in_the_padding_makes_an_empty_tile() -> None:
    tensors = {"x": RowTensor("x", 2, 2, 1), "y": RowTensor("y", 6, 2, 1)}
    graph = RowGraph(tensors, (RowOp("op", "window", ("x",), "y", Axis(1, 1, 2, 2), Axis()),), ("x",), ("y",))
    assert has_empty_tiles(graph, patch_stage(graph, 0, 1, (6, 1)))
    assert not has_empty_tiles(graph, patch_stage(graph, 0, 1, (2, 1)))


@RANDOM
@given(row_graphs(max_blocks=3), st.data())
def test_distances_keep_every_byte_that_is_still_read(graph: RowGraph, data: st.DataObject) -> None:
    """Byte by byte: calls of a few rows inside every tile, then whole rows of tiles of the stage."""
    depths = [d for d in range(1, len(graph.ops) + 1) if can_patch(graph, 0, d)]
    assume(depths)
    stage = patch_stage(graph, 0, data.draw(st.sampled_from(depths)), (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))))
    assume(not has_empty_tiles(graph, stage))
    op = data.draw(st.sampled_from(graph.ops[: stage.last]))
    together = data.draw(st.integers(1, 3))
    distance = tile_distance(graph, stage, op, 0, together)
    for rows, columns in itertools.product(stage.rows, stage.columns):
        assert tile_is_safe(graph, op, Tile(rows, columns), together, distance)
    assert any(not tile_is_safe(graph, op, Tile(r, c), together, distance - 1) for r in stage.rows for c in stage.columns)
    whole = stage_distance(graph, stage, "x")
    assert stage_is_safe(graph, stage, whole)


@dataclass(frozen=True)
class Tile:
    """The regions of one tile."""

    rows: Mapping[str, tuple[int, int]]
    columns: Mapping[str, tuple[int, int]]


def tile_is_safe(graph: RowGraph, op: RowOp, tile: Tile, together: int, distance: int) -> bool:
    """No byte stored by a call is read by it or a later one, with the output `distance` bytes below the input."""
    out, source = op.output, op.inputs[0]
    (low, high), width = tile.rows[out], tile.columns[out][1] - tile.columns[out][0]
    row = width * graph.tensors[out].pixel_bytes
    calls = [(b, min(high, b + together)) for b in range(low, high, together)]
    for number, (begin, end) in enumerate(calls):
        stored = ((begin - low) * row, (end - low) * row)
        for later in calls[number:]:
            first = distance + first_byte_read(graph, op, tile, source, later)
            if first < stored[1]:
                return False
    return True


def first_byte_read(graph: RowGraph, op: RowOp, tile: Tile, source: str, rows: tuple[int, int]) -> int:
    """Offset of the first byte of the compact tile of `source` that output rows `rows` read."""
    (top, _), (left, right) = tile.rows[source], tile.columns[source]
    pixel = graph.tensors[source].pixel_bytes
    row = axis_reads(graph, op, 0, rows, True)[0] - top
    column = axis_reads(graph, op, 0, tile.columns[op.output], False)[0] - left
    return (row * (right - left) + column) * pixel


def stage_is_safe(graph: RowGraph, stage: PatchStage, distance: int) -> bool:
    """No byte stored by a row of tiles is read by it or a later one."""
    out, inp = graph.tensors[stage.output].row_bytes, graph.tensors["x"].row_bytes
    return all(
        rows[stage.output][1] * out <= distance + later["x"][0] * inp
        for number, rows in enumerate(stage.rows)
        for later in stage.rows[number:]
    )


def test_all_grids_at_once_are_those_made_one_by_one() -> None:
    graph = RowGraph(
        {"x": RowTensor("x", 11, 7, 3), "a": RowTensor("a", 11, 7, 4), "y": RowTensor("y", 6, 4, 5)},
        (
            RowOp("conv", "window", ("x",), "a", rows=Axis(3, 1, 1), columns=Axis(3, 1, 1), macs=900),
            RowOp("pool", "window", ("a",), "y", rows=Axis(3, 2, 1), columns=Axis(3, 2, 1), macs=300),
        ),
        ("x",),
        ("y",),
    )
    one_by_one = [patch_stage(graph, 0, 2, (down, across)) for down in range(1, 9) for across in range(1, 9)]
    assert list(patch_stages(graph, 0, 2, 8)) == list({stage.grid: stage for stage in one_by_one}.values())
    assert list(patch_stages(replace(graph, outputs=("a", "y")), 0, 2, 8)) == []
