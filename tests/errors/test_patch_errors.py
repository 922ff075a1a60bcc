# SPDX-License-Identifier: Apache-2.0
"""Illegal patch stages are rejected by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tvm_tiny.memory.check import IllegalPlanError
from tvm_tiny.memory.patches import REASONS, check_patch_stage, patch_stage
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor

WINDOW = Axis(3, 1, 1, 1)
GRAPH = RowGraph(
    {n: RowTensor(n, 8, 8, 1) for n in ("x", "a", "y")},
    (RowOp("first", "window", ("x",), "a", WINDOW, WINDOW), RowOp("second", "window", ("a",), "y", WINDOW, WINDOW)),
    ("x",),
    ("y",),
)
LEGAL = patch_stage(GRAPH, 0, 2, (2, 2))
ILLEGAL = {
    "halo-too-small": replace(LEGAL, columns=({**LEGAL.columns[0], "a": (0, 4)}, LEGAL.columns[1])),
    "patch-gap": replace(LEGAL, rows=LEGAL.rows[:1]),
    "outside-tensor": replace(LEGAL, rows=({**LEGAL.rows[0], "x": (-1, 6)}, LEGAL.rows[1])),
}


def test_the_stage_itself_is_legal() -> None:
    check_patch_stage(GRAPH, LEGAL)


@pytest.mark.parametrize("reason", REASONS)
def test_illegal_patch_stage_is_rejected_by_name(reason: str) -> None:
    with pytest.raises(IllegalPlanError) as caught:
        check_patch_stage(GRAPH, ILLEGAL[reason])
    assert {v.reason for v in caught.value.violations} == {reason}
    if reason == "halo-too-small":
        assert "tile 0: columns 2..5 are read for output 3, the tile holds 0..4" in str(caught.value)
