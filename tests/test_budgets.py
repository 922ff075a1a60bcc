# SPDX-License-Identifier: Apache-2.0
"""The demo network costs what benchmarks/record.json says: who makes it dearer sees by how much, who makes it cheaper updates it."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import BOARDS
from benchmarks.measure import COUNTED, DEMO_MODEL, measure, read_record

TOLERANCE = 0.01  # another release of the compiler schedules the same C a little differently


@pytest.mark.qemu
@pytest.mark.parametrize("board", BOARDS)
def test_the_demo_network_is_within_its_record(board: str) -> None:
    key = f"{DEMO_MODEL.stem} {board}"
    recorded, found = read_record()[key], measure(DEMO_MODEL, board)
    dearer = {name: (recorded[name], found[name]) for name in COUNTED if found[name] > recorded[name] * (1 + TOLERANCE)}
    assert not dearer, f"{key} grew (recorded, found): {dearer}; if that is meant: make bench ARGS=--update"


@pytest.mark.qemu
def test_figures_are_deterministic() -> None:
    assert measure(DEMO_MODEL, BOARDS[0]) == measure(DEMO_MODEL, BOARDS[0])
