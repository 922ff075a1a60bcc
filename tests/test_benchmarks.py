# SPDX-License-Identifier: Apache-2.0
"""The commands in benchmarks/ print what they say they measure."""

from __future__ import annotations

import pytest

from benchmarks import speed
from tests.support.shared import SHARED, needs_shared


@needs_shared
@pytest.mark.qemu
def test_speed_measures_a_whole_network_and_checks_every_byte() -> None:
    row = speed.measure(SHARED / "models/tflite/ad01_int8.tflite", "ad01_int8", "mps2_an500", "speed")
    assert row.exact
    assert row.cycles <= speed.PUBLISHED["ad01_int8", "mps2_an500"].wanted
    assert row.instructions > 264_192 / 2  # no core here does more than two multiply-accumulates an instruction
    assert 0 < row.code < row.constants
    assert speed.table([row]).row_count == 1
