# SPDX-License-Identifier: Apache-2.0
"""The schedule of depthwise layers that a tuning trace holds: strips of rows, four padded planes at a time, some outputs of a row together.

Over the operator's own stages `pad`, `acc` and `y`; the nest of a candidate (`nests/depthwise.py`) has the same strips and fours, over
planes as its blocks want them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.errors import OptionError
from tvm_tiny.schedules.nests.loops import REMEDY, loops_around
from tvm_tiny.schedules.space import Tiling

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


_LOOPS = ("image", "strips", "fours", "planes", "strip", "groups", "window rows", "window columns", "pixels")
_AXES = (("image",), ("strips", "strip"), ("groups", "pixels"), ("fours", "planes"), ("window rows",), ("window columns",))


def read_strips(func: tirx.PrimFunc) -> dict[str, int]:
    """The decisions that `strips` was called with, read off the loops of what it scheduled.

    Raises
    ------
    OptionError
        The loops are not those of `strips`: no kernel computes in that order.
    """
    found = loops_around(func, "acc").named(_LOOPS, _AXES, "pixels")
    if found["planes"] != _TOGETHER:
        raise OptionError(f"{found['planes']} planes at once: kernels take {_TOGETHER}", remedy=REMEDY)
    return {"strip": found["strip"], "pixels": found["pixels"]}


def in_strips(*, padded: bool, **fixed: int) -> Tiling:
    """The tiling of depthwise layers; `fixed` decisions are not chosen."""
    return Tiling(partial(strips, padded=padded), read_strips, ("strip", "pixels"), fixed)
