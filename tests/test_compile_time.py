# SPDX-License-Identifier: Apache-2.0
"""The command that says how long builds take."""

from __future__ import annotations

from benchmarks.compile_time import builds, table
from tests.support.demo import MODEL


def test_a_build_is_timed_without_and_with_cached_blocks() -> None:
    found = list(builds(MODEL, "mps2_an500", "speed", 0.1))
    assert [b.cache for b in found] == ["cold", "warm"]
    assert found[0].digest == found[1].digest
    assert all(0 < b.processor for b in found)
    assert table(found).row_count == len(found)
