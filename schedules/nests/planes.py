# SPDX-License-Identifier: Apache-2.0
"""The schedule of depthwise layers that a tuning trace holds: strips of rows, four padded planes at a time, some outputs of a row together.

The kernel has these loops in C (`microkernels/depthwise.py`); here they are TVM's, over the operator's own stages `pad`, `acc` and `y`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm.s_tir import Schedule

_TOGETHER = 4  # planes that lie in scratch at once


def strips(sch: Schedule, found: Mapping[str, Any], *, padded: bool) -> None:
    """Schedule a depthwise layer NHWC; decisions `strip` (output rows) and `pixels` (outputs of a row), random variables or numbers."""
    _image, row, column, channel, *window = sch.get_loops(sch.get_sblock("acc"))
    strip, rows = sch.split(row, [None, found["strip"]])
    groups, pixels = sch.split(column, [None, found["pixels"]])
    fours, plane = sch.split(channel, [None, _TOGETHER])
    sch.reorder(strip, fours, plane, rows, groups, *window, pixels)
    if padded:
        sch.compute_at(sch.get_sblock("pad"), fours)
    sch.reverse_compute_at(sch.get_sblock("y"), rows)
    sch.unroll(pixels)
