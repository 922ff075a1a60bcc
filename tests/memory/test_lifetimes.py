# SPDX-License-Identifier: Apache-2.0
"""Lifetimes are exact for every kind of buffer."""

from __future__ import annotations

import pytest

from tvm_tiny.memory.lifetimes import with_lifetimes
from tvm_tiny.memory.plan import Buffer, Step

STEPS = [
    Step("a", ("x",), ("t",), ("col",)),
    Step("b", ("t", "w"), ("u", "side")),
    Step("c", ("u", "x"), ("y",)),
    Step("d", ("u",), ("z",)),
]


def spans(*buffers: Buffer) -> dict[str, tuple[int, int]]:
    rest = [Buffer(n, 1) for n in ("x", "t", "col", "w", "u", "side", "y", "z") if n not in {b.name for b in buffers}]
    return {b.name: (b.first_use, b.last_use) for b in with_lifetimes([*buffers, *rest], STEPS)}


def test_each_kind() -> None:
    got = spans(
        Buffer("x", 1, "input"), Buffer("col", 1, "scratch"), Buffer("w", 1, "constant"), Buffer("y", 1, "output"), Buffer("z", 1, "output")
    )
    assert got == {"x": (0, 2), "t": (0, 1), "col": (0, 0), "w": (0, 4), "u": (1, 3), "side": (1, 1), "y": (2, 4), "z": (3, 4)}


def test_kept_input_lives_past_the_end() -> None:
    assert spans(Buffer("x", 1, "input", keep=True))["x"] == (0, 4)


def test_unused_intermediate_vanishes_but_an_unused_input_stays() -> None:
    got = spans(Buffer("dead", 1), Buffer("unread", 4, "input"))
    assert "dead" not in got
    assert got["unread"] == (0, 0)


def test_undeclared_and_repeated_names_are_refused() -> None:
    with pytest.raises(ValueError, match="step a uses buffer x, which is not declared"):
        with_lifetimes([], STEPS)
    with pytest.raises(ValueError, match=r"names repeat: \['x'\]"):
        with_lifetimes([Buffer("x", 1), Buffer("x", 2)], STEPS)


@pytest.mark.parametrize(
    ("change", "message"), [({"nbytes": 0}, "at least one"), ({"align": 3}, "power of two"), ({"kind": "heap"}, "not one of")]
)
def test_impossible_buffers_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Buffer(**{"name": "b", "nbytes": 4, **change})
