# SPDX-License-Identifier: Apache-2.0
"""`tiny.softmax`: softmax over the last axis.

x int8 (..., C); table int32 (256,) with exp(-d * beta * x_scale) in Q0 for a distance d = max - x in 0..255; y int8 (..., C) of scale
1/256 and zero point -128. The table holds exactly what the reference computes for each element, since an int8 row has only 256 distances.
Meaning: TensorFlow Lite's SOFTMAX, int8 to int8 (reference_ops::Softmax).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from tvm_tiny.ops import fixed_point
from tvm_tiny.ops.registry import Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import (
    clamp_tir,
    i32,
    quantize_multiplier,
    rounding_divide_by_pot,
    rounding_divide_by_pot_tir,
    srdhm,
    srdhm_tir,
    wrap_int32,
)
from tvm_tiny.ops.scales import f64

NAME = "tiny.softmax"
DIFF_INTEGER_BITS = 5
SUM_INTEGER_BITS = 12
MAX_DEPTH = 4095  # more ones would overflow the Q12 sum


def quantize_params(x_scale: float, beta: float = 1.0) -> dict[str, np.ndarray]:
    """Return the `table` argument (int32[256]) for the input's scale and the exponent's factor."""
    real = min(f64(beta) * f64(x_scale) * float(1 << (31 - DIFF_INTEGER_BITS)), 2.0**31 - 1.0)
    multiplier, left_shift = quantize_multiplier(real)
    check(real > 1.0, NAME, f"beta * x_scale = {beta * x_scale} is too small")
    diff = -np.arange(256, dtype=np.int64)
    inside = diff >= -fixed_point.input_radius(DIFF_INTEGER_BITS, left_shift)
    scaled = srdhm(wrap_int32(np.where(inside, diff, 0) << left_shift), multiplier)
    table = np.where(inside, fixed_point.exp_on_negative_values(scaled, DIFF_INTEGER_BITS), 0)
    return {"table": table.astype(np.int32)}


def _infer(infos: list[TensorInfo], _attrs: Attrs) -> TensorInfo:
    x, table = infos
    check(x.dtype == "int8" and len(x.shape) >= 1, NAME, f"x must be int8 with at least one axis, got {x.dtype} {x.shape}")
    check(table == ((256,), "int32"), NAME, f"table must be int32 (256,), got {table.dtype} {table.shape}")
    check(x.shape[-1] <= MAX_DEPTH, NAME, f"at most {MAX_DEPTH} classes, got {x.shape[-1]}")
    return x


def _numpy(arrays: list[np.ndarray], _attrs: Attrs) -> np.ndarray:
    x, table = arrays
    wide = x.astype(np.int64)
    exps = table.astype(np.int64)[wide.max(axis=-1, keepdims=True) - wide]
    total = rounding_divide_by_pot(exps, SUM_INTEGER_BITS).sum(axis=-1, keepdims=True)
    headroom = 32 - np.ceil(np.log2(total + 1)).astype(np.int64)
    scale = fixed_point.one_over_one_plus_x((total << headroom) - (1 << 31))
    exponent = 31 - 8 + SUM_INTEGER_BITS - headroom
    return np.clip(rounding_divide_by_pot(srdhm(scale, exps), exponent) - 128, -128, 127).astype(np.int8)


def _te(tensors: list[te.Tensor], _attrs: Attrs) -> te.Tensor:
    x, table = tensors
    outer, depth = [int(d) for d in x.shape[:-1]] or [1], int(x.shape[-1])

    def at(i: tuple[Any, ...], c: Any) -> Any:
        own = (*i, c) if len(x.shape) > 1 else (c,)
        return i32(x[own])

    k, j = te.reduce_axis((0, depth), "k"), te.reduce_axis((0, depth), "k")
    largest = te.compute(outer, lambda *i: te.max(at(i, k), axis=k), name="largest")

    def exp(i: tuple[Any, ...], c: Any) -> Any:
        return table[i32(largest[i]) - at(i, c)]

    total = te.compute(outer, lambda *i: te.sum(rounding_divide_by_pot_tir(exp(i, j), SUM_INTEGER_BITS), axis=j), name="total")
    # Leading zeros of the sum, which is at least 2^19 (the largest element's exp is one) and below 2^31.
    bits = [i32(1 << b) for b in range(20, 31)]
    headroom = te.compute(outer, lambda *i: sum((tirx.Cast("int32", i32(total[i]) < b) for b in bits), i32(1)), name="headroom")
    scale = _reciprocal(outer, total, headroom)

    def element(*index: Any) -> Any:
        i = index[:-1] or (0,)
        exponent = i32(31 - 8 + SUM_INTEGER_BITS) - i32(headroom[i])
        # Beyond 31 bits nothing is left; C leaves such shifts undefined. The lower bound is for TVM 0.27, which bounds `v >> n` to -1..0
        # when n may be negative for all it knows, and drops the clamp.
        shifted = rounding_divide_by_pot_tir(srdhm_tir(scale[i], exp(i, index[-1])), tirx.max(tirx.min(exponent, i32(31)), i32(0)))
        value = tirx.Select(exponent > i32(31), i32(0), shifted)
        return tirx.Cast("int8", clamp_tir(value - i32(128), -128, 127))

    return te.compute([int(d) for d in x.shape], element, name="y")


def _reciprocal(outer: list[int], total: te.Tensor, headroom: te.Tensor) -> te.Tensor:
    """`fixed_point.one_over_one_plus_x` of the normalised sum, in stages (each value is used more than once)."""

    # (1 + rest) / 2 for the normalised sum 1 + rest: the sum shifted until bit 30 is its highest.
    denominator = te.compute(outer, lambda *i: i32(total[i]) << (i32(headroom[i]) - i32(1)), name="denominator")
    x = te.compute(
        outer, lambda *i: i32(fixed_point.C48_OVER_17_Q2) + srdhm_tir(denominator[i], fixed_point.NEG_32_OVER_17_Q2), name="guess"
    )
    for step in range(3):
        x = _newton_step(outer, denominator, x, step)
    # Saturates only for a sum that is a power of two, where the reciprocal is one.
    return te.compute(outer, lambda *i: _saturating_double(x[i].asobject()), name="reciprocal")


def _newton_step(outer: list[int], denominator: te.Tensor, x: te.Tensor, step: int) -> te.Tensor:
    def improved(*i: Any) -> Any:
        error = i32(fixed_point.ONE_Q2) - srdhm_tir(denominator[i], x[i])
        return i32(x[i]) + srdhm_tir(x[i], error) * i32(4)

    return te.compute(outer, improved, name=f"step{step}")


def _saturating_double(x: Any) -> Any:
    return tirx.min(x, i32((1 << 30) - 1)) * i32(2) + tirx.Cast("int32", x >= i32(1 << 30))


OP = register(TinyOp(NAME, ("x", "table"), _infer, _numpy, _te))
