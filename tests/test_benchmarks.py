# SPDX-License-Identifier: Apache-2.0
"""The commands in benchmarks/ print what they say they measure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ablation, data_dependent, measure, records, speed, streaming
from tests.passes.test_skip_zeros import network
from tests.support.shared import SHARED, needs_shared
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.boards import find_board
from tvm_tiny.tuning import Record, Records, Workload
from tvm_tiny.tuning.network import make_runner, tasks_of
from tvm_tiny.tuning.records import append_records, read_records


@pytest.mark.qemu
def test_the_demo_network_is_no_worse_than_recorded() -> None:
    found, record = measure.measure(measure.DEMO_MODEL, "mps2_an500"), measure.read_record()["fashion_mnist_int8 mps2_an500"]
    assert {name: found[name] for name in measure.COUNTED if found[name] > 1.02 * record[name]} == {}


@needs_shared
@pytest.mark.qemu
@pytest.mark.parametrize("board", speed.BOARD_TERMS)
def test_speed_measures_a_whole_network_and_checks_every_byte(board: str) -> None:
    row = speed.measure(SHARED / "models/tflite/ad01_int8.tflite", "ad01_int8", board, "speed")
    assert row.exact
    assert row.cycles <= speed.PUBLISHED["ad01_int8", board].wanted
    assert row.instructions > 264_192 / 2  # no core here does more than two multiply-accumulates an instruction
    assert 0 < row.code < row.constants
    assert speed.table([row]).row_count == 1


@pytest.mark.qemu
def test_time_that_depends_on_the_input_stays_within_the_report() -> None:
    (row,) = rows = data_dependent.measure(network(), "mps2_an386", 2)
    assert len(row.taken) == 2
    assert row.taken[0] != row.taken[1]
    assert max(row.taken) <= row.most
    assert row.half < row.most
    assert data_dependent.table(rows).row_count == 2


@pytest.mark.qemu
def test_streaming_is_compared_with_the_same_kernels_layer_by_layer() -> None:
    row = streaming.measure(measure.DEMO_MODEL, "mps2_an500")
    (stage,) = row.stages
    assert row.arena < row.speed_arena
    assert stage.streamed.core < row.streamed.core < row.streamed.board
    assert row.speed.core <= row.layers.core
    assert row.streamed.over(row.layers)[0] == pytest.approx(row.streamed.core / row.layers.core - 1)
    assert streaming.table([row]).row_count == 2


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


def test_shipped_records_beat_the_default_and_need_less_scratch_or_flash_the_slower_they_are() -> None:
    """Nothing slower than the default, nothing that only ties."""
    workload = Workload("conv2d", ((1, 4, 4, 4),), "{}", "cortex-m7", ("dsp",))
    base = Record(workload, {}, cycles=100.0, scratch=50, code="d")
    made = {
        "large": replace(base, choice={"rule": "l"}, cycles=70.0, scratch=95, flash=1, code="l"),
        "fast": replace(base, choice={"rule": "a"}, cycles=80.0, scratch=90, code="a"),
        "frugal": replace(base, choice={"rule": "b"}, cycles=90.0, scratch=40, code="b"),
        "greedy": replace(base, choice={"rule": "c"}, cycles=91.0, scratch=95, code="c"),
        "tie": replace(base, choice={"rule": "e"}, cycles=99.5, scratch=10, code="e"),
        "slow": replace(base, choice={"rule": "f"}, cycles=120.0, code="f"),
    }
    chosen = list(records.select(sorted([base, *made.values()], key=lambda r: r.cycles)))
    assert [r.choice.get("rule") for r in chosen] == ["l", "a", "b", None]
    assert [r.runner_up and r.runner_up["cycles"] for r in chosen] == [80.0, 90.0, 91.0, 120.0]
    assert list(records.select([made["fast"]])) == []
    assert [Record.from_json(r.to_json()).runner_up for r in chosen] == [r.runner_up for r in chosen]


@pytest.mark.qemu
def test_a_layer_has_the_same_records_whenever_it_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file of other C as from none, whatever numpy has drawn before; what is current is left alone; shipped twice the same."""
    board, b = find_board("mps2_an386"), TinyBuilder((1, 6, 6, 8))
    mod, texts = b.finish(b.depthwise(b.x)), []
    for name in ("empty", "stale"):
        runner = make_runner("emulator", board, tmp_path, None, "", "", 1)
        (task,) = (t for t in tasks_of(mod, board.target, runner, Records(), None, None) if not t.layer.by_rows)
        file = tmp_path / board.name / f"{name}.jsonl"
        if texts:
            append_records(file, [replace(r, code="other", cycles=1.0) for r in read_records(tmp_path / board.name / "empty.jsonl")])
        assert records.bring_up_to_date(file, task, 4, tmp_path / f"search_{name}")
        assert not records.bring_up_to_date(file, task, 4, tmp_path / f"again_{name}")
        texts.append(file.read_text())
        np.random.random()
    assert texts[0] == texts[1]
    assert texts[0].count("\n") > 2
    monkeypatch.setattr(records, "SHIPPED", tmp_path / "shipped")
    shipped = []
    for _ in range(2):
        records.ship(tmp_path)
        shipped.append((tmp_path / "shipped" / "cortex_m4.jsonl").read_text())
    assert shipped[0] == shipped[1] != ""
