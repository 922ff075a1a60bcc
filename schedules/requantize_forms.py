# SPDX-License-Identifier: Apache-2.0
"""The cheapest provably exact requantisation of a layer.

The reference meaning of a channel (gemmlowp double rounding, or one rounding of the 64-bit product; zero point; clamp) is a monotone step
function of the accumulator. So is every form below. Two monotone step functions are equal on an interval exactly when their thresholds are,
and an int8 result has at most 255 of them: exactness is decided in integers, never sampled. With `a` the accumulator times `2**scale_log2`
plus `offset`:

===========  ======================================================================  ==================================================
form         meaning                                                                 when
===========  ======================================================================  ==================================================
SINGLE       sat8((hi32(a * multiplier) + constant) >> shift)                        one side of zero matters, or single rounding
DOUBLE       sat8((round_hi32(2 acc * multiplier) + constant + (acc >> 31)) >> shift)  both sides, any right shift; no search
ACCUMULATOR  the accumulator itself; C requantises it                                anything else (left shifts, overflow)
===========  ======================================================================  ==================================================

SINGLE comes from a search over (multiplier, offset, constant): for a multiplier the thresholds leave an interval for
`offset * multiplier + constant * 2**32`, and the offsets are tried until a multiple of `2**32` falls into it. `shift` is one immediate for
the layer where a common one exists (`uniform`), else one a channel. (One multiply cannot serve both sides of zero: gemmlowp rounds halves
away from zero, which moves the negative thresholds by 2**31 / multiplier, between one and two accumulator steps.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

_MAX_SHIFT = 22  # 128 * 2**(shift + 32) stays inside int64
_TWO32 = np.int64(1) << 32


class Form(Enum):
    """The instruction sequence that turns an accumulator into an int8."""

    SINGLE = "single"
    DOUBLE = "double"
    ACCUMULATOR = "accumulator"


@dataclass(frozen=True)
class Requantization:
    """What a layer asks: per-channel rescaling of accumulators within proven bounds.

    Attributes
    ----------
    multiplier, shift : numpy.ndarray of int64, shape (channels,)
        TFLite convention: positive shift is to the left.
    zero_point : int
        Of the output.
    clamp : tuple of int
        Lowest and highest output.
    acc_min, acc_max : numpy.ndarray of int64, shape (channels,)
        Bounds of the true accumulator (bias and input zero point included), computed from the weights.
    rounding : str
        "gemmlowp" or "single".
    """

    multiplier: np.ndarray
    shift: np.ndarray
    zero_point: int
    clamp: tuple[int, int]
    acc_min: np.ndarray
    acc_max: np.ndarray
    rounding: str = "gemmlowp"

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal problems."""
        arrays = (self.multiplier, self.shift, self.acc_min, self.acc_max)
        return (*(a.astype(np.int64).tobytes() for a in arrays), self.zero_point, *self.clamp, self.rounding)

    def __call__(self, acc: np.ndarray) -> np.ndarray:
        """Reference result (int64) of accumulators of shape (channels, ...)."""
        trailing = (1,) * (np.ndim(acc) - 1)
        multiplier, shift = (x.astype(np.int64).reshape(-1, *trailing) for x in (self.multiplier, self.shift))
        y = rescale(np.asarray(acc, np.int64), multiplier, shift, self.rounding) + self.zero_point
        return np.clip(y, *self.clamp)

    @property
    def overflows(self) -> np.ndarray:
        """Channels whose left shift can leave int32 (the reference wraps and is not monotone there)."""
        top = np.maximum(np.abs(self.acc_min), np.abs(self.acc_max)).astype(object)
        left = [2 ** max(int(s), 0) for s in self.shift]
        return np.array([int(t) * f >= 2**31 - 1 for t, f in zip(top, left, strict=True)], bool)


@dataclass(frozen=True)
class RequantParameters:
    """A form and its constants, one row a channel; see the module's table for the meaning.

    `clamp` is the explicit clamp that must follow, or None when saturation to int8 already is the layer's clamp.
    """

    form: Form
    scale_log2: int
    uniform: bool
    clamp: tuple[int, int] | None
    offset: np.ndarray
    multiplier: np.ndarray
    constant: np.ndarray
    shift: np.ndarray

    def __call__(self, acc: np.ndarray) -> np.ndarray:
        """Evaluate the form on accumulators of shape (channels, n), as the instructions do."""
        acc = np.asarray(acc, np.int64)
        offset, multiplier, constant, shift = (
            x.astype(np.int64)[:, None] for x in (self.offset, self.multiplier, self.constant, self.shift)
        )
        if self.form is Form.DOUBLE:
            t = ((2 * acc * multiplier + (_TWO32 >> 1)) >> 32) + constant + (acc >> 63)
        else:
            a = (acc << self.scale_log2) + offset
            t = ((a * multiplier) >> 32) + constant
        y = np.clip(t >> shift, -128, 127)
        return y if self.clamp is None else np.clip(y, *self.clamp)


def rescale(acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, rounding: str) -> np.ndarray:
    """Multiply int32 accumulators by `multiplier * 2**(shift - 31)` with the given rounding (gemmlowp's double one, or a single one)."""
    if rounding == "single":
        right = 31 - shift
        return (acc * multiplier + (np.int64(1) << (right - 1))) >> right
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    wrapped = ((acc << left) + (np.int64(1) << 31)) % _TWO32 - (np.int64(1) << 31)
    high = (wrapped * multiplier + (np.int64(1) << 30)) >> 31  # truncating gemmlowp nudges = round half up
    mask = (np.int64(1) << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


def thresholds(problem: Requantization) -> np.ndarray:
    """Return the smallest accumulator reaching each output -127 .. 127, clipped to [acc_min, acc_max + 1]; shape (channels, 255)."""
    wanted = np.arange(-127, 128)[None, :]
    low = np.broadcast_to(problem.acc_min.astype(np.int64)[:, None], (len(problem.shift), 255)).copy()
    high = np.broadcast_to(problem.acc_max.astype(np.int64)[:, None] + 1, low.shape).copy()
    while (low < high).any():
        middle = (low + high) >> 1
        reached = problem(middle) >= wanted
        open_ = low < high
        high = np.where(open_ & reached, middle, high)
        low = np.where(open_ & ~reached, middle + 1, low)
    return low


def is_exact(problem: Requantization, found: RequantParameters) -> bool:
    """Prove or refute that `found` equals the reference on every accumulator in bounds, over all thresholds.

    Both are monotone, so equality at both ends and on both sides of each of the reference's thresholds is equality everywhere.
    """
    if found.form is Form.ACCUMULATOR:
        return True
    steps = thresholds(problem)
    low, high = problem.acc_min.astype(np.int64)[:, None], problem.acc_max.astype(np.int64)[:, None]
    points = np.clip(np.concatenate([steps, steps - 1, low, high], axis=1), low, high)
    return bool((problem(points) == found(points)).all()) and _fits_int32(problem, found)


def _fits_int32(problem: Requantization, found: RequantParameters) -> bool:
    """No register of the form is out of range between the accumulator's bounds; sums on the way may wrap and come back."""
    for acc in (problem.acc_min, problem.acc_max):
        a = (acc.astype(np.int64) << found.scale_log2) + found.offset
        operand = 2 * acc.astype(np.int64) if found.form is Form.DOUBLE else a
        high = (operand * found.multiplier) >> 32
        if (np.abs(np.stack([a, operand, high + found.constant])) >= 2**31 - 2).any():
            return False
    return bool((np.abs(found.constant) < 2**31).all() and (found.multiplier < 2**31).all())


@dataclass(frozen=True)
class _Search:
    """One channel's thresholds, ready to be tested against candidate constants; accumulators are counted from `origin`.

    A bias far larger than the sums it is added to (a channel that hardly depends on its input) would leave the registers; counted from
    the middle of its range, such an accumulator is small again, and the bias pays for it.
    """

    steps: np.ndarray  # thresholds that count, (n,)
    outputs: np.ndarray  # the outputs they belong to, (n,)
    acc_min: int
    acc_max: int
    ideal: float  # multiplier * 2**(shift + 1 - scale_log2): times 2**shift gives the exact slope
    scale_log2: int
    origin: int = 0

    @property
    def is_constant(self) -> bool:
        """Every accumulator in bounds has the same output."""
        return not ((self.steps > self.acc_min) & (self.steps <= self.acc_max)).any()

    def find(self, shift: int) -> tuple[int, int, int] | None:
        """Return (offset, multiplier, constant) of this shift, or None."""
        moved = -self.origin << self.scale_log2
        if self.is_constant:
            reached = self.outputs[self.steps <= self.acc_min]
            output = reached[-1] if reached.size else self.outputs[0] - 1 if self.outputs.size else 0  # nothing counts: the clamp decides
            return moved, 0, int(output) << shift
        hit = self._near(shift)
        return None if hit is None else (hit[0] + moved, *hit[1:])

    def _near(self, shift: int) -> tuple[int, int, int] | None:
        """The same for accumulators counted from the origin; multipliers near the ideal one."""
        centre = round(self.ideal * 2.0**shift)
        if centre >= 2**31 - 64:
            return None
        for spread, reach in ((4, 1 << 12), (64, 1 << 12), (16, 1 << 16)):
            hit = self._try(centre + np.arange(-spread, spread + 1, dtype=np.int64), shift, reach)
            if hit is not None:
                return hit
        return None

    def _try(self, multipliers: np.ndarray, shift: int, reach: int) -> tuple[int, int, int] | None:
        multipliers = multipliers[multipliers >= 0]
        target = self.outputs.astype(np.int64)[None, :] << (shift + 32)
        slope = multipliers[:, None] << self.scale_log2
        floor = np.where(self.steps <= self.acc_max, target - self.steps * slope, np.iinfo(np.int64).min)
        ceiling = np.where(self.steps > self.acc_min, target - 1 - (self.steps - 1) * slope, np.iinfo(np.int64).max)
        least, most = floor.max(axis=1, initial=-(2**62)), ceiling.min(axis=1, initial=2**62)
        open_ = least <= most
        if not open_.any():
            return None
        offsets = np.arange(-reach, reach + 1, dtype=np.int64)
        for multiplier, lo, hi in zip(multipliers[open_], least[open_], most[open_], strict=True):
            constant = (hi - offsets * multiplier) >> 32
            hits = np.flatnonzero((constant << 32) >= lo - offsets * multiplier)
            if hits.size:
                best = hits[np.argmin(np.abs(offsets[hits]))]
                return int(offsets[best]), int(multiplier), int(constant[best])
        return None


_FOUND: dict[tuple[object, ...], RequantParameters] = {}
"""Answers of `find_form`: the same layer is asked about by several passes and for several kernels."""


def find_form(problem: Requantization, scale_log2: int = 0) -> RequantParameters:
    """Choose the cheapest exact form of a layer whose registers hold the accumulator times `2**scale_log2`.

    Returns
    -------
    RequantParameters
        Proven by `is_exact`; Form.ACCUMULATOR when no other form is exact for every channel.
    """
    key = (*problem.key, scale_log2)
    if key not in _FOUND:
        _FOUND[key] = _search_form(problem, scale_log2)
    return _FOUND[key]


def _search_form(problem: Requantization, scale_log2: int) -> RequantParameters:
    if problem.overflows.any():
        return _accumulator(problem, scale_log2)
    steps = thresholds(problem)
    for clamp in (None, problem.clamp) if problem.clamp != (-128, 127) else (None,):
        for candidate in _candidates(problem, steps, scale_log2, clamp):
            if candidate is not None and is_exact(problem, candidate):
                return candidate
    return _accumulator(problem, scale_log2)


def _candidates(
    problem: Requantization, steps: np.ndarray, scale_log2: int, clamp: tuple[int, int] | None
) -> Iterator[RequantParameters | None]:
    """Yield forms from the cheapest to the dearest."""
    searches = _searches(problem, steps, scale_log2, clamp)
    yield _uniform(searches, scale_log2, clamp)
    double = _double(problem, scale_log2, clamp)
    if double is not None and double.uniform:
        yield double
    yield _each(searches, [_highest_shift([s]) for s in searches], scale_log2, clamp, uniform=False)
    yield double


def _searches(problem: Requantization, steps: np.ndarray, scale_log2: int, clamp: tuple[int, int] | None) -> list[_Search]:
    outputs = np.arange(-127, 128)
    rows = np.ones(255, bool) if clamp is None else (outputs > clamp[0]) & (outputs <= clamp[1])
    ideal = problem.multiplier.astype(np.float64) * 2.0 ** (problem.shift + 1.0 - scale_log2)
    found = []
    for c in range(len(ideal)):
        low, high = int(problem.acc_min[c]), int(problem.acc_max[c])
        origin = (low + high) // 2 if max(abs(low), abs(high)) << scale_log2 >= 2**30 else 0
        found.append(_Search(steps[c][rows] - origin, outputs[rows], low - origin, high - origin, float(ideal[c]), scale_log2, origin))
    return found


def _highest_shift(searches: list[_Search]) -> int:
    """Largest shift whose multipliers all stay below 2**31 (more bits, more freedom)."""
    top = max((s.ideal for s in searches if not s.is_constant), default=0.0)
    shift = _MAX_SHIFT
    while shift > 0 and round(top * 2.0**shift) >= 2**31 - 64:
        shift -= 1
    return shift


def _uniform(searches: list[_Search], scale_log2: int, clamp: tuple[int, int] | None) -> RequantParameters | None:
    highest = _highest_shift(searches)
    rounded = highest // 4 * 4  # kernels of layers that agree in the shift are one kernel
    for shift in dict.fromkeys([rounded, rounded - 4, *range(highest, highest - 4, -1)]):
        found = _each(searches, [shift] * len(searches), scale_log2, clamp, uniform=True)
        if found is not None:
            return found
    return None


def _each(
    searches: list[_Search], shifts: list[int], scale_log2: int, clamp: tuple[int, int] | None, *, uniform: bool
) -> RequantParameters | None:
    rows = []
    for search, shift in zip(searches, shifts, strict=True):
        hit = search.find(int(shift)) if 0 <= shift <= _MAX_SHIFT else None
        if hit is None:
            return None
        rows.append((*hit, int(shift)))
    offset, multiplier, constant, shift_ = np.array(rows, np.int64).reshape(-1, 4).T
    return RequantParameters(Form.SINGLE, scale_log2, uniform, clamp, offset, multiplier, constant, shift_)


def _double(problem: Requantization, scale_log2: int, clamp: tuple[int, int] | None) -> RequantParameters | None:
    n = -problem.shift.astype(np.int64)
    if problem.rounding != "gemmlowp" or (n < 1).any() or (n > _MAX_SHIFT).any():
        return None
    constant = (np.int64(1) << (n - 1)) + (np.int64(problem.zero_point) << n)
    uniform = len(set(n.tolist())) == 1
    return RequantParameters(Form.DOUBLE, scale_log2, uniform, clamp, np.zeros_like(n), problem.multiplier.astype(np.int64), constant, n)


def _accumulator(problem: Requantization, scale_log2: int) -> RequantParameters:
    zero = np.zeros(len(problem.shift), np.int64)
    plain = RequantParameters(Form.ACCUMULATOR, scale_log2, True, problem.clamp, zero, zero, zero, zero)
    return replace(plain, multiplier=problem.multiplier.astype(np.int64), shift=problem.shift.astype(np.int64))
