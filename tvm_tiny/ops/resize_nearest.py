# SPDX-License-Identifier: Apache-2.0
"""`tiny.resize_nearest`: nearest-neighbour resize of height and width to `size`; any dtype, scale and zero point unchanged.

Meaning: TensorFlow Lite's RESIZE_NEAREST_NEIGHBOR (reference_ops::GetNearestNeighbor): the source row is a float32 product, rounded down,
or half away from zero with `align_corners`. The float arithmetic happens here, at compile time; the device sees integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from tvm_tiny.ops import layout as lay
from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register

NAME = "tiny.resize_nearest"


def source_rows(size: int, out: int, align_corners: bool, half_pixel: bool) -> np.ndarray:
    """Return for each of `out` positions the one of `size` positions it copies."""
    corners = align_corners and out > 1
    scale = np.float32(size - 1) / np.float32(out - 1) if corners else np.float32(size) / np.float32(out)
    product = (np.arange(out, dtype=np.float32) + np.float32(0.5 if half_pixel else 0.0)) * scale
    rows = np.floor(product.astype(np.float64) + 0.5) if align_corners else np.floor(product)
    return np.clip(rows.astype(np.int64), 0, size - 1)


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    (x,), size = infos, attrs["size"]
    check(len(x.shape) == 4, NAME, f"x must be 4-D, got {x.shape}")
    lay.check_layouts(NAME, attrs, 4)
    check(len(size) == 2 and min(size) >= 1, NAME, f"size must be [height, width], got {size}")
    batch, _, _, channels = lay.to_nhwc(x.shape, attrs["x_layout"])
    return TensorInfo(lay.from_nhwc((batch, *size, channels), attrs["y_layout"]), x.dtype)


def _rows(x_hw: tuple[int, int], attrs: Attrs) -> list[np.ndarray]:
    return [source_rows(x_hw[i], attrs["size"][i], attrs["align_corners"], attrs["half_pixel"]) for i in (0, 1)]


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    x = lay.array_to_nhwc(arrays[0], attrs["x_layout"])
    rows, cols = _rows(x.shape[1:3], attrs)
    return lay.array_from_nhwc(x[:, rows][:, :, cols], attrs["y_layout"])


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    (x,) = tensors
    batch, height, width, channels = lay.to_nhwc([int(d) for d in x.shape], attrs["x_layout"])
    rows, cols = _rows((height, width), attrs)
    read = lay.reader(x, attrs["x_layout"])

    def body(n: Any, h: Any, w: Any, c: Any) -> Any:
        return read(n, _row_tir(rows, height, h), _row_tir(cols, width, w), c)

    return lay.te_nhwc((batch, *attrs["size"], channels), attrs["y_layout"], body, "y")


def _row_tir(rows: np.ndarray, size: int, index: Any) -> Any:
    """The map as `(index * size + c) / out` where one c fits all rows, else as a count of the steps passed."""
    out = len(rows)
    # floor((i * size + c) / out) == rows[i] for all i  <=>  rows[i] * out <= i * size + c < (rows[i] + 1) * out
    low = np.max(rows * out - np.arange(out) * size)
    high = np.min((rows + 1) * out - 1 - np.arange(out) * size)
    offset = max(int(low), 0)
    if offset <= high:
        return te.indexdiv(index * size + offset, out)
    row: Any = tirx.const(int(rows[0]), "int32")
    for step in np.flatnonzero(np.diff(rows)):
        row = row + tirx.Cast("int32", index > int(step)) * int(rows[step + 1] - rows[step])
    return row


OP = register(
    TinyOp(
        NAME,
        ("x",),
        _infer,
        _numpy,
        _te,
        attrs={"size": REQUIRED, "align_corners": False, "half_pixel": False, **lay.LAYOUT_ATTRS},
    )
)
