# SPDX-License-Identifier: Apache-2.0
"""The commands in benchmarks/ print what they say they measure."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import ablation, speed
from tests.support.shared import SHARED, needs_shared
from tvm_tiny.boards import find_board


@needs_shared
@pytest.mark.qemu
def test_speed_measures_a_whole_network_and_checks_every_byte() -> None:
    row = speed.measure(SHARED / "models/tflite/ad01_int8.tflite", "ad01_int8", "mps2_an500", "speed")
    assert row.exact
    assert row.cycles <= speed.PUBLISHED["ad01_int8", "mps2_an500"].wanted
    assert row.instructions > 264_192 / 2  # no core here does more than two multiply-accumulates an instruction
    assert 0 < row.code < row.constants
    assert speed.table([row]).row_count == 1


@pytest.mark.qemu
def test_ablation_measures_and_draws_steps_of_equal_outputs(tmp_path: Path) -> None:
    """Generic loops, intrinsics and the shipped state: each exact, each faster; the picture is the same for the same figures."""
    pytest.importorskip("matplotlib")
    steps = [ablation.STEPS[0], next(s for s in ablation.STEPS if s.form == "intrinsics"), ablation.STEPS[-1]]
    found = list(ablation.rows(ablation.DEMO_MODEL, find_board("mps2_an500"), steps))
    assert found[0].gain == 1.0
    assert found[1].gain > 1
    assert found[2].gain > 2
    pictures = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for picture in pictures:
        ablation.draw(found, "demo", picture)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert ablation.table(found, "demo").row_count == 3
