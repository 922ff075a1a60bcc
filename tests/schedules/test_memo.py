# SPDX-License-Identifier: Apache-2.0
"""What is remembered is the same function made for the same purpose; nothing is kept beyond the build."""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.script import tirx as T

from tvm_tiny.schedules.memo import remembered, remembering


@T.prim_func(private=True, s_tir=True)
def copy(x: T.Buffer((4,), "int8"), y: T.Buffer((4,), "int8")) -> None:
    for i in range(4):
        y[i] = x[i]


class Maker:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> tirx.PrimFunc:
        self.calls += 1
        return copy.with_attr("made", self.calls)


def test_the_same_function_is_made_once() -> None:
    make = Maker()
    with remembering():
        first = remembered(copy.with_attr("room", 1), ("m7", True), make)
        assert remembered(copy.with_attr("room", 1), ("m7", True), make).same_as(first)
        assert make.calls == 1


def test_other_attributes_constants_or_purposes_are_made_anew() -> None:
    from tvm.runtime import tensor

    make = Maker()
    weights = [copy.with_attr("tiny.constants", {"1": tensor(np.full(3, n, np.int8))}) for n in (1, 2)]
    with remembering():
        for func, how in ((weights[0], 1), (weights[1], 1), (weights[0], 2), (weights[0].with_attr("room", 2), 1), (copy, 1)):
            remembered(func, how, make)
    assert make.calls == 5


def test_nothing_is_kept_after_a_build() -> None:
    make = Maker()
    for _ in range(2):
        with remembering():
            remembered(copy, "", make)
        remembered(copy, "", make)
    assert make.calls == 4


def test_builds_within_one_share_what_was_made() -> None:
    make = Maker()
    with remembering():
        with remembering():
            first = remembered(copy, "m7", make)
        assert remembered(copy, "m7", make).same_as(first)
    assert not remembered(copy, "m7", make).same_as(first)
    assert make.calls == 2
