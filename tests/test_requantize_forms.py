# SPDX-License-Identifier: Apache-2.0
"""Requantisation forms: proof over thresholds agrees with brute force, and the expected form is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_tiny.schedules.requantize_forms import Form, Requantization, find_form, is_exact


def requantize(
    acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, zero_point: int, clamp: tuple[int, int], rounding: str
) -> np.ndarray:
    """gemmlowp as its source reads (nudge and truncating division; remainder against threshold), written apart from the library's."""
    if rounding == "single":
        y = np.floor_divide(acc * multiplier + 2 ** (30 - shift), 2 ** (31 - shift))
    else:
        ab = acc * 2 ** np.maximum(shift, 0) * multiplier
        nudged = ab + np.where(ab >= 0, 2**30, 1 - 2**30)
        high = np.sign(nudged) * (np.abs(nudged) // 2**31)
        power = 2 ** np.maximum(-shift, 0)
        remainder, threshold = np.mod(high, power), (power - 1) // 2 + (high < 0)
        y = high // power + (remainder > threshold)
    return np.clip(y + zero_point, *clamp)


def problem(
    seed: int, zero_point: int, clamp: tuple[int, int], spread: int, rounding: str, low: int = 4, bound: int = 3000
) -> Requantization:
    rng = np.random.default_rng(seed)
    channels = 6
    multiplier, shift = rng.integers(2**30, 2**31, channels), -rng.integers(low, low + 1 + spread, channels)
    limit = np.full(channels, bound)
    return Requantization(multiplier, shift, zero_point, clamp, -limit, limit, rounding)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    zero_point=st.sampled_from([-128, 127, 0, -7]),
    clamp=st.sampled_from([(-128, 127), (-100, 90), (-7, 127)]),
    low=st.integers(-3, 12),
    spread=st.integers(0, 6),
    scale_log2=st.sampled_from([0, 2, 8]),
    rounding=st.sampled_from(["gemmlowp", "single"]),
)
def test_the_chosen_form_is_exact_on_every_accumulator(
    seed: int, zero_point: int, clamp: tuple[int, int], low: int, spread: int, scale_log2: int, rounding: str
) -> None:
    task = problem(seed, zero_point, clamp, spread, rounding, low)
    found = find_form(task, scale_log2)
    every = np.tile(np.arange(-3000, 3001), (6, 1))
    expected = requantize(every, task.multiplier[:, None], task.shift[:, None], zero_point, clamp, rounding)
    np.testing.assert_array_equal(task(every), expected)
    if found.form is not Form.ACCUMULATOR:
        np.testing.assert_array_equal(found(every), expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), nudge=st.sampled_from(["multiplier", "constant", "offset"]), by=st.integers(-3, 3))
def test_the_proof_refutes_exactly_what_brute_force_refutes(seed: int, nudge: str, by: int) -> None:
    task = problem(seed, -128, (-128, 127), 2, "gemmlowp")
    found = find_form(task)
    wrong = replace(found, **{nudge: getattr(found, nudge) + by * (2**18 if nudge == "multiplier" else 1)})
    every = np.tile(np.arange(-3000, 3001), (6, 1))
    assert is_exact(task, wrong) == bool((wrong(every) == task(every)).all())


@pytest.mark.parametrize(
    ("zero_point", "clamp", "spread", "rounding", "form", "uniform"),
    [
        (-128, (-128, 127), 3, "gemmlowp", Form.SINGLE, True),
        (4, (-128, 127), 3, "single", Form.SINGLE, True),
        (4, (-128, 127), 0, "gemmlowp", Form.DOUBLE, True),
        (4, (-128, 127), 3, "gemmlowp", Form.DOUBLE, False),
    ],
)
def test_the_cheapest_form_is_found(zero_point: int, clamp: tuple[int, int], spread: int, rounding: str, form: Form, uniform: bool) -> None:
    found = find_form(problem(5, zero_point, clamp, spread, rounding), 8)
    assert (found.form, found.uniform) == (form, uniform)


def test_a_left_shift_that_overflows_is_left_to_c() -> None:
    task = problem(1, 0, (-128, 127), 0, "gemmlowp", low=-24)
    assert find_form(task).form is Form.ACCUMULATOR


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale_log2=st.sampled_from([0, 2, 8]))
def test_a_bias_far_beyond_the_sums_keeps_the_cheapest_form(seed: int, scale_log2: int) -> None:
    """Channels that hardly depend on their input, some of them not at all, beside ordinary ones."""
    rng = np.random.default_rng(seed)
    task = problem(seed, -128, (-128, 127), 2, "gemmlowp")
    bias = np.array([2**29, -(2**29), 2**25, 2**24 - 7, 0, 0]) + rng.integers(0, 1000, 6)
    shift = np.array([-23, -23, -int(rng.integers(17, 21)), -17, *task.shift[4:]])
    far = replace(task, shift=shift, acc_min=bias - 3000, acc_max=bias + 3000)
    found = find_form(far, scale_log2)
    assert found.form is Form.SINGLE
    every = bias[:, None] + np.arange(-3000, 3001)
    np.testing.assert_array_equal(found(every), far(every))
    registers = (every << scale_log2) + found.offset[:, None]
    assert np.abs(registers).max() < 2**31
