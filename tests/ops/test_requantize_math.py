# SPDX-License-Identifier: Apache-2.0
"""The rescaling arithmetic against its definition in exact rational numbers, and its TIR against numpy."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import te

from tests.support.primfuncs import run_compiled
from tvm_tiny.ops import requantize_math as rm

int32s = st.integers(-(2**31), 2**31 - 1)
multipliers = st.one_of(st.sampled_from([0, 1, 2**30, 2**31 - 1]), st.integers(2**30, 2**31 - 1))


def half_away(value: Fraction) -> int:
    return int(math.copysign(math.floor(abs(value) + Fraction(1, 2)), value))


@given(a=int32s, b=int32s)
def test_srdhm_rounds_half_up_and_saturates(a: int, b: int) -> None:
    want = min(math.floor(Fraction(a * b, 2**31) + Fraction(1, 2)), 2**31 - 1)
    assert rm.srdhm(np.int64(a), b) == want


@given(x=int32s, n=st.integers(0, 31))
def test_rounding_divide_rounds_half_away_from_zero(x: int, n: int) -> None:
    assert rm.rounding_divide_by_pot(np.int64(x), n) == half_away(Fraction(x, 2**n))


@given(x=int32s, multiplier=multipliers, shift=st.integers(-31, 0))
def test_single_rounding_rounds_once_half_up(x: int, multiplier: int, shift: int) -> None:
    want = math.floor(Fraction(x * multiplier) * Fraction(2) ** (shift - 31) + Fraction(1, 2))
    assert rm.multiply_by_quantized_multiplier(np.int64(x), multiplier, shift, "single") == want


@given(scale=st.floats(2.0**-31, 2.0**20))
def test_quantized_multiplier_is_the_nearest(scale: float) -> None:
    multiplier, shift = rm.quantize_multiplier(scale)
    assert 2**30 <= multiplier < 2**31
    assert abs(Fraction(multiplier) * Fraction(2) ** (shift - 31) - Fraction(scale)) <= Fraction(2) ** (shift - 32)


@pytest.mark.parametrize(("scale", "want"), [(0.0, (0, 0)), (2.0**-40, (0, 0)), (1.0 - 2.0**-40, (2**30, 1)), (0.5, (2**30, 0))])
def test_quantized_multiplier_at_its_edges(scale: float, want: tuple[int, int]) -> None:
    assert rm.quantize_multiplier(scale) == want


@pytest.mark.parametrize("rounding", rm.ROUNDINGS)
def test_tir_equals_numpy(rounding: str, rng: np.random.Generator) -> None:
    """With multiplier and shift from buffers, over accumulators of all magnitudes and every shift that keeps them in int32."""
    size = 4096
    shift = rng.integers(-31, 8, size).astype(np.int32)
    magnitude = np.minimum(2.0 ** rng.uniform(0, 31, size), 2.0 ** (30 - np.maximum(shift, 0)))
    acc = (rng.choice([-1, 1], size) * magnitude).astype(np.int32)
    multiplier = rng.integers(2**30, 2**31, size).astype(np.int32)
    a, m, s = (te.placeholder((size,), "int32", name) for name in "ams")
    y = te.compute((size,), lambda i: rm.requantize_tir(a[i], m[i], s[i], 3, (-128, 120), rounding), "y")
    want = rm.requantize(acc, multiplier, shift, 3, (-128, 120), rounding)
    got = run_compiled(te.create_prim_func([a, m, s, y]).with_attr("global_symbol", "kernel"), [acc, multiplier, shift], want)
    np.testing.assert_array_equal(got, want)
    assert {-128, 120} <= set(got.tolist())


@pytest.mark.parametrize("rounding", rm.ROUNDINGS)
@pytest.mark.parametrize("shift", [-31, -9, -1, 0, 1, 6])
def test_tir_with_constants_equals_numpy(rounding: str, shift: int, rng: np.random.Generator) -> None:
    acc = rng.integers(-(2**24), 2**24, 1024).astype(np.int32)
    acc[:512] >>= 16
    a = te.placeholder((1024,), "int32", "a")
    y = te.compute((1024,), lambda i: rm.requantize_tir(a[i], 1518500250, shift, -3, (-128, 127), rounding), "y")
    want = rm.requantize(acc, 1518500250, shift, -3, (-128, 127), rounding)
    got = run_compiled(te.create_prim_func([a, y]).with_attr("global_symbol", "kernel"), [acc], want)
    np.testing.assert_array_equal(got, want)


def test_tvm_bounds_shifts_by_possibly_negative_amounts_wrongly() -> None:
    """The flaw of TVM 0.27 that the TIR forms work around; when this fails, the work-arounds can go."""
    x, n = tvm.tirx.Var("x", "int32"), tvm.tirx.Var("n", "int32")
    bound = tvm.sym.Analyzer().const_int_bound(x >> (tvm.tirx.const(35, "int32") - n))
    assert (bound.min_value, bound.max_value) == (-1, 0)
