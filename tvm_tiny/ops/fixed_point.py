# SPDX-License-Identifier: Apache-2.0
"""Exponential, logistic and hyperbolic tangent in 32-bit fixed point, as the reference computes them (gemmlowp, fixedpoint/fixedpoint.h).

Values are raw int32 in int64 numpy arrays; "Qm" has m integer bits and 31 - m fractional ones. Products are `srdhm`, whose integer bits
add up.
"""

from __future__ import annotations

import numpy as np

from tvm_tiny.ops.requantize_math import INT32_MAX, INT32_MIN, rounding_divide_by_pot, srdhm

ONE_Q0 = INT32_MAX
ONE_Q2 = 1 << 29
C48_OVER_17_Q2 = 1515870810
NEG_32_OVER_17_Q2 = -1010580540
EXP_MINUS_EIGHTH_Q0 = 1895147668
ONE_THIRD_Q0 = 715827883
HALF_SQRT_2_Q0 = 1518500250
ONE_AND_A_HALF_Q3 = (1 << 28) + (1 << 27)
# exp(-2^e) in Q0 for e = -2 .. 4: factors for the bits of the argument above a quarter.
EXP_OF_BITS_Q0 = ((-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308), (2, 39332535), (3, 720401), (4, 242))


def saturating_shift_left(x: np.ndarray, amount: int) -> np.ndarray:
    """Return `x * 2^amount` saturated to int32."""
    return np.clip(np.asarray(x, np.int64) << amount, INT32_MIN, INT32_MAX)


def exp_on_negative_values(a: np.ndarray, integer_bits: int) -> np.ndarray:
    """Return exp(a) in Q0 for a <= 0 in Q`integer_bits` (4 or 5)."""
    a = np.asarray(a, np.int64)
    fractional_bits = 31 - integer_bits
    quarter = 1 << (fractional_bits - 2)
    within = (a & (quarter - 1)) - quarter  # in [-1/4, 0)
    remainder = within - a
    result = _exp_from_minus_quarter(saturating_shift_left(within, integer_bits))
    for exponent, factor in EXP_OF_BITS_Q0:
        if exponent < integer_bits:
            result = np.where(remainder & (1 << (fractional_bits + exponent)), srdhm(result, factor), result)
    return np.where(a == 0, ONE_Q0, result)


def _exp_from_minus_quarter(a: np.ndarray) -> np.ndarray:
    """Fourth-order Taylor polynomial around -1/8 for a in [-1/4, 0), Q0."""
    x = a + (1 << 28)
    x2 = srdhm(x, x)
    x3, x4 = srdhm(x2, x), srdhm(x2, x2)
    tail = srdhm(rounding_divide_by_pot(x4, 2) + x3, ONE_THIRD_Q0) + x2
    return EXP_MINUS_EIGHTH_Q0 + srdhm(EXP_MINUS_EIGHTH_Q0, x + rounding_divide_by_pot(tail, 1))


def half_of_one_plus(a: np.ndarray) -> np.ndarray:
    """Return (a + 1) / 2 in Q0, rounded half away from zero; a >= 0."""
    return (np.asarray(a, np.int64) + ONE_Q0 + 1) >> 1


def _newton_raphson(half_denominator: np.ndarray) -> np.ndarray:
    """Return 1 / half_denominator in Q2, for half_denominator in [1/2, 1] Q0, by three steps."""
    x = C48_OVER_17_Q2 + srdhm(half_denominator, NEG_32_OVER_17_Q2)
    for _ in range(3):
        error = ONE_Q2 - srdhm(half_denominator, x)
        x = x + saturating_shift_left(srdhm(x, error), 2)
    return x


def one_over_one_plus_x(a: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + a) in Q0 for a in [0, 1] Q0."""
    return saturating_shift_left(_newton_raphson(half_of_one_plus(a)), 1)


def logistic(a: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-a)) in Q0 for a in Q4."""
    a = np.asarray(a, np.int64)
    positive = one_over_one_plus_x(exp_on_negative_values(-np.abs(a), 4))
    return np.where(a == 0, 1 << 30, np.where(a > 0, positive, ONE_Q0 - positive))


def tanh(a: np.ndarray) -> np.ndarray:
    """Return tanh(a) in Q0 for a in Q4: (1 - e) / (1 + e) with e = exp(-2|a|), whose argument has the same bits in Q5."""
    a = np.asarray(a, np.int64)
    reciprocal = _newton_raphson(half_of_one_plus(exp_on_negative_values(-np.abs(a), 5)))
    magnitude = saturating_shift_left(reciprocal - ONE_Q2, 2)
    return np.where(a == 0, 0, np.where(a < 0, -magnitude, magnitude))


def input_radius(integer_bits: int, left_shift: int) -> int:
    """Return the largest input magnitude whose rescaled value stays below 2^integer_bits."""
    return int(np.floor(float((1 << integer_bits) - 1) * float(1 << (31 - integer_bits)) / 2.0**left_shift))


def inverse_sqrt(x: int) -> tuple[int, int]:
    """Return (multiplier, shift) with 1 / sqrt(x) ~ multiplier * 2^(shift - 31): five Newton-Raphson steps in Q3 from a guess of one."""
    if x <= 1:
        return ONE_Q0, 0
    right = 11
    while x >= 1 << 29:
        x, right = x // 4, right + 1
    pairs = (31 - x.bit_length()) // 2 - 1
    x, right = x << 2 * pairs, right - pairs
    value = np.int64(x >> 1)
    half, guess = rounding_divide_by_pot(value, 1), np.int64(1 << 28)
    for _ in range(5):
        cube = saturating_shift_left(srdhm(srdhm(guess, guess), guess), 6)
        guess = saturating_shift_left(srdhm(ONE_AND_A_HALF_Q3, guess) - srdhm(half, cube), 3)
    root = int(srdhm(guess, HALF_SQRT_2_Q0))
    return (root << -right, 0) if right < 0 else (root, -right)
