# SPDX-License-Identifier: Apache-2.0
"""How far a kernel's output may lie over its input: exact distances for kernels that work through the output in ascending order.

A right "ascending, distance d" says the kernel is correct when out_base + d <= in_base (`tvm_tiny.memory.plan.Right`): every store lies
below what is still to be read. Distances are found by walking the kernel's own order of reads and stores, not by a formula per operator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tvm_tiny.schedules.base import Layer

ALL_READ_FIRST = -(2**30)
"""Distance of a kernel that has read its whole input before it stores anything."""

_ELEMENTWISE = frozenset({"tiny.add", "tiny.sub", "tiny.mul", "tiny.lookup", "tiny.requantize"})
_WINDOWED = frozenset({"tiny.depthwise_conv2d", "tiny.avg_pool2d", "tiny.max_pool2d"})


def ascending_distance(in_start: Sequence[int] | np.ndarray, out_end: Sequence[int] | np.ndarray) -> int:
    """The least distance for a kernel that works in groups.

    Parameters
    ----------
    in_start : sequence of int
        For each group, in order: the first input byte it reads. It reads everything before it stores.
    out_end : sequence of int
        One past the last output byte it stores.
    """
    if len(out_end) < 2:
        return ALL_READ_FIRST
    later = np.minimum.accumulate(np.asarray(in_start)[::-1])[::-1]
    return int(np.max(np.asarray(out_end)[:-1] - later[1:]))


def window_starts(size: Sequence[int], out: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> np.ndarray:
    """For each output pixel in row-major order, the index of the first input pixel its window reads. Shape (OH * OW,)."""
    rows = np.maximum(np.arange(out[0]) * stride[0] - padding[0], 0)
    columns = np.maximum(np.arange(out[1]) * stride[1] - padding[1], 0)
    return (rows[:, None] * size[1] + columns[None, :]).reshape(-1)


def loop_rights(layer: Layer) -> dict[str, list[Any]]:
    """Rights of a function scheduled as plain loops over the output, one element computed and stored at a time (`tiny.overlap`)."""
    out = layer.shapes[-1]
    if layer.op in _ELEMENTWISE:
        same = [
            i for i in range(len(layer.shapes) - 1) if i not in layer.constants and layer.shapes[i] == out and layer.dtypes[i] == "int8"
        ]
        return {f"0:{i}": [["in-place", 0], ["ascending", 0]] for i in same}
    if layer.op in _WINDOWED and _is_plain_nhwc(layer):
        return {"0:0": [["ascending", element_distance(layer)]]}
    return {}


def _is_plain_nhwc(layer: Layer) -> bool:
    x, y = layer.shapes[0], layer.shapes[-1]
    return x[0] == 1 and x[3] == y[3] and layer.is_nhwc


def element_distance(layer: Layer) -> int:
    """The distance of loops that compute one element at a time: channel c of a pixel is stored before channel c + 1 of it is read.

    A maximum that is not clamped is gathered where it will stay: its element is stored before its own window is read.
    """
    x, y, attrs = layer.shapes[0], layer.shapes[-1], layer.attrs
    starts = window_starts(x[1:3], y[1:3], attrs["strides"], attrs["padding"])
    pixels = np.arange(starts.size)
    gathered = layer.op == "tiny.max_pool2d" and (attrs["clamp_min"], attrs["clamp_max"]) == (-128, 127)
    within = int(np.max(pixels - starts)) * x[3] + gathered if x[3] > 1 or gathered else ALL_READ_FIRST
    return max(within, ascending_distance(starts * x[3], (pixels + 1) * x[3]))


def to_attribute(rights: Mapping[str, list[Any]]) -> dict[str, str]:
    """The attribute `tiny.overlap` for `annotate`; nothing when there are no rights."""
    return {"overlap": json.dumps(dict(rights))} if rights else {}
