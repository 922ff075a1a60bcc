# SPDX-License-Identifier: Apache-2.0
"""NHWC and NCHW, for arrays, shapes and tensor expressions; windows of convolutions and poolings.

Operators are written once, for NHWC; these helpers translate at their edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from tvm_tiny.ops.registry import check

LAYOUTS = ("NHWC", "NCHW")
LAYOUT_ATTRS = {"x_layout": "NHWC", "y_layout": "NHWC"}
WINDOW_ATTRS = {"strides": [1, 1], "padding": [0, 0, 0, 0], **LAYOUT_ATTRS}
"""strides [h, w]; padding [top, left, bottom, right]."""


def to_nhwc(shape: Sequence[Any], layout: str) -> tuple[Any, ...]:
    """Return the N, H, W, C entries of a shape or index that lies in `layout`."""
    return tuple(shape[i] for i in (0, 2, 3, 1)) if layout == "NCHW" else tuple(shape)


def from_nhwc(shape: Sequence[Any], layout: str) -> tuple[Any, ...]:
    """Return N, H, W, C entries in the order of `layout`."""
    return tuple(shape[i] for i in (0, 3, 1, 2)) if layout == "NCHW" else tuple(shape)


def array_to_nhwc(x: np.ndarray, layout: str) -> np.ndarray:
    """View an array of `layout` as NHWC."""
    return x.transpose(0, 2, 3, 1) if layout == "NCHW" else x


def array_from_nhwc(x: np.ndarray, layout: str) -> np.ndarray:
    """View an NHWC array in `layout`."""
    return x.transpose(0, 3, 1, 2) if layout == "NCHW" else x


def check_layouts(op: str, attrs: dict[str, Any] | Any, rank: int) -> None:
    """Raise `DialectError` for an unknown layout, or for a layout on a tensor that is not 4-D."""
    for key in LAYOUT_ATTRS:
        check(attrs[key] in LAYOUTS, op, f"{key} must be one of {', '.join(LAYOUTS)}, got {attrs[key]!r}")
        check(rank == 4 or attrs[key] == "NHWC", op, f"{key} {attrs[key]} needs a 4-D tensor, got {rank}-D")


def window_extent(op: str, size: int, kernel: int, stride: int, before: int, after: int, dilation: int = 1) -> int:
    """Return the number of window positions along one axis; raises `DialectError` when there is none."""
    check(min(stride, dilation, kernel) >= 1 and min(before, after) >= 0, op, "strides, dilation, kernel must be >= 1 and padding >= 0")
    span = (kernel - 1) * dilation + 1
    check(size + before + after >= span, op, f"a window of {span} does not fit an axis of {size} with padding {before}+{after}")
    return (size + before + after - span) // stride + 1


def out_shape(op: str, nhwc: Sequence[int], kernel: Sequence[int], attrs: Any) -> tuple[int, int]:
    """Return output height and width of a window operator on an NHWC shape."""
    top, left, bottom, right = attrs["padding"]
    dilation = attrs.get("dilation", [1, 1])
    height = window_extent(op, nhwc[1], kernel[0], attrs["strides"][0], top, bottom, dilation[0])
    return height, window_extent(op, nhwc[2], kernel[1], attrs["strides"][1], left, right, dilation[1])


def pad_array(x: np.ndarray, padding: Sequence[int], value: int) -> np.ndarray:
    """Pad height and width of an NHWC array by [top, left, bottom, right]."""
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def window_views(
    x: np.ndarray, kernel: Sequence[int], out_hw: Sequence[int], strides: Sequence[int], dilation: Sequence[int] = (1, 1)
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (kh, kw, view of a padded NHWC array at that tap for all window positions)."""
    for kh in range(kernel[0]):
        for kw in range(kernel[1]):
            rows = slice(kh * dilation[0], kh * dilation[0] + (out_hw[0] - 1) * strides[0] + 1, strides[0])
            cols = slice(kw * dilation[1], kw * dilation[1] + (out_hw[1] - 1) * strides[1] + 1, strides[1])
            yield kh, kw, x[:, rows, cols, :]


Accessor = Callable[[Any, Any, Any, Any], Any]


def reader(x: te.Tensor, layout: str) -> Accessor:
    """Return `f(n, h, w, c)` reading `x`, which lies in `layout`."""
    return lambda n, h, w, c: x[from_nhwc((n, h, w, c), layout)]


def padded_reader(x: te.Tensor, layout: str, padding: Sequence[int], value: int, extent: Sequence[int]) -> Accessor:
    """Return `f(n, h, w, c)` reading `x` with padding, h and w counted in the padded tensor.

    Where there is padding this makes a stage called `pad` that schedules inline or stage as they like. `extent` is the height and width
    that is read: windows may end before the padding does.
    """
    if not any(padding):
        return reader(x, layout)
    batch, height, width, channels = to_nhwc([int(d) for d in x.shape], layout)
    read = reader(x, layout)

    def body(*index: Expr) -> Expr:
        n, h, w, c = to_nhwc(index, layout)
        row, col = h - padding[0], w - padding[1]
        # Only the sides that are read beyond are tested; the C codegen prints every comparison.
        tests = [row >= 0] if padding[0] else []
        tests += [row < height] if extent[0] - padding[0] > height else []
        tests += [col >= 0] if padding[1] else []
        tests += [col < width] if extent[1] - padding[1] > width else []
        inside = tirx.all(*tests) if tests else tirx.const(True, "bool")
        return tirx.if_then_else(inside, read(n, row, col, c), tirx.const(value, str(x.dtype)))

    padded = te.compute(from_nhwc((batch, extent[0], extent[1], channels), layout), body, name="pad")
    return reader(padded, layout)


def window_span(out_hw: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int] = (1, 1)) -> tuple[int, int]:
    """Return the height and width of the padded input that the windows read."""
    spans = [(o - 1) * s + (k - 1) * d + 1 for o, k, s, d in zip(out_hw, kernel, strides, dilation, strict=True)]
    return spans[0], spans[1]


def te_nhwc(shape: Sequence[int], layout: str, body: Accessor, name: str) -> te.Tensor:
    """Compute a stage of an NHWC shape that is stored in `layout`; `body(n, h, w, c)` gives an element."""
    return te.compute(from_nhwc(shape, layout), lambda *index: body(*to_nhwc(index, layout)), name=name)
