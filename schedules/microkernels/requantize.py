# SPDX-License-Identifier: Apache-2.0
"""Requantisation of accumulators inside a kernel: its instructions, its C, and the constants it needs in the parameter stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..requantize_forms import Form, RequantParameters
from .assembly import Body


class Constants:
    """The requantisation words of one channel, loaded at first use: written early they would only hold registers."""

    def __init__(self, body: Body, base: str, offset: int, stride: int) -> None:
        self._load = lambda i: body.ldr(base, offset + i * stride)
        self._loaded: dict[int, int] = {}

    def __getitem__(self, index: int) -> int:
        if index not in self._loaded:
            self._loaded[index] = self._load(index)
        return self._loaded[index]


@dataclass(frozen=True)
class RequantShape:
    """What of a requantisation is code: everything else is data in the parameter stream.

    Attributes
    ----------
    form : Form
    scale_log2 : int
        Accumulators hold the true sum times two to this power.
    shift : int or None
        Immediate shift of the layer, or None when every channel brings its own.
    clamp : tuple of int or None
        Explicit clamp, None when saturation to int8 is enough.
    """

    form: Form
    scale_log2: int
    shift: int | None
    clamp: tuple[int, int] | None

    @staticmethod
    def of(parameters: RequantParameters) -> RequantShape:
        """Return the code part of found parameters."""
        uniform = parameters.uniform and parameters.form is not Form.ACCUMULATOR
        clamp = None if parameters.form is Form.ACCUMULATOR else parameters.clamp
        return RequantShape(parameters.form, parameters.scale_log2, int(parameters.shift[0]) if uniform else None, clamp)

    @property
    def words(self) -> int:
        """Parameter words a channel needs besides its bias."""
        if self.form is Form.ACCUMULATOR:
            return 0
        return 2 if self.shift is not None else 3

    def constants(self, body: Body, base: str, offset: int, stride: int) -> Constants:
        """Return a channel's constants: word i lies at `offset + i * stride` from `base`, and is loaded where it is first needed."""
        return Constants(body, base, offset, stride)

    def emit(self, body: Body, acc: int, constants: Constants | Sequence[int]) -> int:
        """Append the instructions from accumulator to int8 (in the low byte) and return its register."""
        if self.form is Form.SINGLE:
            t = body.mac("smmla", acc, constants[0], constants[1], keep=False)
        else:
            twice = acc
            if self.scale_log2 != 1:
                twice = body.alu("lsl" if self.scale_log2 == 0 else "asr", acc, tail=f"#{abs(self.scale_log2 - 1)}")
            t = body.mac("smmlar", twice, constants[0], constants[1], keep=False)
            t = body.shifted("add", t, twice, "asr #31")
        if self.shift is None:
            t = body.alu("asr", t, constants[2])
        y = body.field_op("ssat", t, head="#8", tail=f"asr #{self.shift}" if self.shift else "")
        return self._clamp(body, y)

    def _clamp(self, body: Body, y: int) -> int:
        if self.clamp is None:
            return y
        low, high = self.clamp
        if low > -128:
            y = body.bundle(f"cmp {{d}}, #{low}\n\tit lt\n\tmovlt {{d}}, #{low}", y, 3)
        if high < 127:
            y = body.bundle(f"cmp {{d}}, #{high}\n\tit gt\n\tmovgt {{d}}, #{high}", y, 3)
        return y

    def portable(self, acc: str, constants: tuple[str, ...]) -> str:
        """Return the C expression (int32_t) of the same meaning; `acc` is an int32_t lvalue, constants are int32_t expressions."""
        multiplier, constant = constants[:2]
        if self.form is Form.SINGLE:
            t = f"tiny_smmla({acc}, {multiplier}, {constant})"
        else:
            twice = f"({acc} * 2)" if self.scale_log2 == 0 else f"({acc} >> {self.scale_log2 - 1})"
            t = f"(tiny_smmlar({twice}, {multiplier}, {constant}) + ({acc} >> 31))"
        shift = str(self.shift) if self.shift is not None else constants[2]
        low, high = self.clamp or (-128, 127)
        return f"tiny_clamp({t} >> {shift}, {low}, {high})"


def constant_words(parameters: RequantParameters, shape: RequantShape) -> np.ndarray:
    """The stream constants of every channel: int32 of shape (shape.words, channels)."""
    rows = [parameters.multiplier, parameters.constant, parameters.shift][: shape.words]
    return np.array(rows, np.int64).reshape(shape.words, len(parameters.multiplier)).astype(np.int32)
