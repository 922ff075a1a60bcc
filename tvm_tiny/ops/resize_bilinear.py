# SPDX-License-Identifier: Apache-2.0
"""`tiny.resize_bilinear`: bilinear resize of height and width to `size`; x and y int8, scale and zero point unchanged.

Meaning: TensorFlow Lite's RESIZE_BILINEAR, int8 (reference_ops::ResizeBilinearInteger): positions and weights have 10 bits of fraction, the
sum of four products is rounded half away from zero. Where rounded steps lead behind the last pixel (1 to 65 of them), there the reference
reads what is no part of the image; here it is the last pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import i32

NAME = "tiny.resize_bilinear"
_ONE = 1 << 10
LARGEST = 1 << 15  # pixels along an axis: positions times 1024 stay within int32


def steps(size: int, out: int, align_corners: bool, half_pixel: bool) -> tuple[int, int]:
    """(distance between the sources of two neighbours, position of the first), in units of 1/1024 pixel."""
    if align_corners and out > 1:
        step = (_ONE * (size - 1) + (out - 1) // 2) // (out - 1)
    else:
        step = (_ONE * size + out // 2) // out
    return step, step // 2 - _ONE // 2 if half_pixel else 0


def neighbours(size: int, out: int, align_corners: bool, half_pixel: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `out` positions the two of `size` positions it lies between, and the weight of the second in units of 1/1024."""
    step, first = steps(size, out, align_corners, half_pixel)
    position = np.arange(out) * step + first
    low = np.minimum(np.maximum(position, 0) >> 10, size - 1)
    high = np.minimum(np.maximum(position + _ONE - 1, 0) >> 10, size - 1)
    return low, high, position - _ONE * low


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    (x,), size = infos, attrs["size"]
    check(len(x.shape) == 4, NAME, f"x must be 4-D, got {x.shape}")
    check(x.dtype == "int8", NAME, f"x must be int8, got {x.dtype}")
    check(len(size) == 2 and min(size) >= 1, NAME, f"size must be [height, width], got {size}")
    check(max(*x.shape[1:3], *size) <= LARGEST, NAME, f"more than {LARGEST} pixels along an axis: {x.shape} to {size}")
    return TensorInfo((x.shape[0], *size, x.shape[3]), "int8")


def _axis(size: int, out: int, attrs: Attrs) -> tuple[int, int]:
    return steps(size, out, attrs["align_corners"], attrs["half_pixel"])


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    x = arrays[0].astype(np.int64)
    for axis, out in zip((1, 2), attrs["size"], strict=True):
        low, high, weight = neighbours(arrays[0].shape[axis], out, attrs["align_corners"], attrs["half_pixel"])
        weight = weight.reshape([-1 if i == axis else 1 for i in range(4)])
        x = np.take(x, low, axis) * (_ONE - weight) + np.take(x, high, axis) * weight
    half = np.where(x > 0, 1 << 19, -(1 << 19))
    return (np.sign(x) * (np.abs(x + half) >> 20)).astype(np.int8)


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    (x,) = tensors
    batch, height, width, channels = (int(d) for d in x.shape)

    def body(n: Any, h: Any, w: Any, c: Any) -> Any:
        top, bottom, below = _between(h, height, attrs["size"][0], attrs)
        left, right, beside = _between(w, width, attrs["size"][1], attrs)
        upper = i32(x[n, top, left, c]) * (i32(_ONE) - beside) + i32(x[n, top, right, c]) * beside
        lower = i32(x[n, bottom, left, c]) * (i32(_ONE) - beside) + i32(x[n, bottom, right, c]) * beside
        total = upper * (i32(_ONE) - below) + lower * below
        # Half away from zero: a negative sum is rounded up, and up to but not including a half more.
        return tirx.Cast("int8", (total + i32((1 << 19) - 1) + tirx.Cast("int32", total > i32(0))) >> 20)

    return te.compute((batch, *attrs["size"], channels), body, name="y")


def _between(index: Any, size: int, out: int, attrs: Attrs) -> tuple[Any, Any, Any]:
    """The two neighbours along one axis, and the weight of the second."""
    step, first = _axis(size, out, attrs)
    position = index * step + first
    low = tirx.max(position, i32(0)) >> 10
    if (out - 1) * step + first >= size * _ONE:
        low = tirx.min(low, i32(size - 1))
    high = tirx.min(tirx.max(position + (_ONE - 1), i32(0)) >> 10, i32(size - 1))
    return low, high, position - low * _ONE


OP = register(TinyOp(NAME, ("x",), _infer, _numpy, _te, attrs={"size": REQUIRED, "align_corners": False, "half_pixel": False}))
