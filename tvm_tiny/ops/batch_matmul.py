# SPDX-License-Identifier: Apache-2.0
"""`tiny.batch_matmul`: products of matrices that are both computed, requantised.

a int8 (..., M, K); b int8 (..., K, N), or (..., N, K) with `transpose_b`; the axes before broadcast; y int8 (..., M, N).
Meaning: TensorFlow Lite's BATCH_MATMUL, int8 (reference_ops::BatchMatMul): both operands lose their zero points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import i32, quantize_multiplier, requantize, requantize_tir, wrap_int32
from tvm_tiny.ops.scales import f64

NAME = "tiny.batch_matmul"


def quantize_params(a_scale: float, b_scale: float, y_scale: float) -> dict[str, int]:
    """Return the attributes `multiplier` and `shift` for float scales."""
    multiplier, shift = quantize_multiplier(f64(a_scale) * f64(b_scale) / f64(y_scale))
    return {"multiplier": multiplier, "shift": shift}


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    a, b = infos
    check(a.dtype == b.dtype == "int8", NAME, f"arguments must be int8, got {a.dtype} and {b.dtype}")
    check(min(len(a.shape), len(b.shape)) >= 2, NAME, f"arguments need two axes at least, got {a.shape} and {b.shape}")
    depth, columns = b.shape[:-3:-1] if attrs["transpose_b"] else b.shape[-2:]
    check(a.shape[-1] == depth, NAME, f"a {a.shape} has rows of {a.shape[-1]}, b {b.shape} columns of {depth}")
    try:
        outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        outer = None
    check(outer is not None, NAME, f"the outer axes of {a.shape} and {b.shape} do not broadcast")
    assert outer is not None
    return TensorInfo((*outer, a.shape[-2], columns), "int8")


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    a, b = arrays[0].astype(np.int64) - attrs["a_zp"], arrays[1].astype(np.int64) - attrs["b_zp"]
    acc = wrap_int32(a @ (b.swapaxes(-1, -2) if attrs["transpose_b"] else b))
    return requantize(acc, attrs["multiplier"], attrs["shift"], attrs["y_zp"], (attrs["clamp_min"], attrs["clamp_max"]), attrs["rounding"])


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    a, b = tensors
    shape = _infer([TensorInfo(tuple(int(d) for d in t.shape), "int8") for t in tensors], attrs).shape
    k = te.reduce_axis((0, int(a.shape[-1])), "k")

    def outer(tensor: te.Tensor, index: tuple[Any, ...]) -> tuple[Any, ...]:
        extents = [int(d) for d in tensor.shape[:-2]]
        own = index[len(index) - 2 - len(extents) : len(index) - 2]
        return tuple(0 if extent == 1 else i for extent, i in zip(extents, own, strict=True))

    def mac(*index: Any) -> Any:
        inner = (index[-1], k) if attrs["transpose_b"] else (k, index[-1])
        row, column = (*outer(a, index), index[-2], k), (*outer(b, index), *inner)
        return te.sum((i32(a[row]) - i32(attrs["a_zp"])) * (i32(b[column]) - i32(attrs["b_zp"])), axis=k)

    acc = te.compute(shape, mac, name="acc")
    clamp = (attrs["clamp_min"], attrs["clamp_max"])

    def scaled(*index: Any) -> Any:
        return requantize_tir(i32(acc[index]), attrs["multiplier"], attrs["shift"], attrs["y_zp"], clamp, attrs["rounding"])

    return te.compute(shape, scaled, name="y")


def _macs(shapes: list[tuple[int, ...]], attrs: Attrs) -> int:
    return int(np.prod(_infer([TensorInfo(s, "int8") for s in shapes[:2]], attrs).shape)) * shapes[0][-1]


OP = register(
    TinyOp(
        NAME,
        ("a", "b"),
        _infer,
        _numpy,
        _te,
        _macs,
        {
            "a_zp": REQUIRED,
            "b_zp": REQUIRED,
            "y_zp": REQUIRED,
            "multiplier": REQUIRED,
            "shift": REQUIRED,
            "transpose_b": False,
            "clamp_min": -128,
            "clamp_max": 127,
            "rounding": "gemmlowp",
        },
    )
)
