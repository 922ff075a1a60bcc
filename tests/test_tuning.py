# SPDX-License-Identifier: Apache-2.0
"""Tuning: records round trip, replay is deterministic, inexact candidates are refused, a search resumes, builds with records are exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

import tvm_tiny
from tests.support.demo import MODEL
from tests.support.host import HostModel
from tests.support.shared import ROOT
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.boards import find_board
from tvm_tiny.errors import InputError, OptionError, TargetError
from tvm_tiny.schedules import rules
from tvm_tiny.schedules.base import Layer
from tvm_tiny.target import parse_target
from tvm_tiny.tuning import Record, Records, Workload, read_records
from tvm_tiny.tuning.bench import Bench
from tvm_tiny.tuning.candidate import Candidate, Case
from tvm_tiny.tuning.network import lowered_layers, row_layers, tune
from tvm_tiny.tuning.records import SHIPPED, YOURS, append_records, load_records
from tvm_tiny.tuning.search import features

M7 = parse_target("c -mcpu=cortex-m7")


def small_network() -> tvm.IRModule:
    b = TinyBuilder((1, 6, 6, 4))
    return b.finish(b.depthwise(b.conv(b.x, 8, 3)))


def one_layer() -> tvm.IRModule:
    b = TinyBuilder((1, 6, 6, 4))
    return b.finish(b.conv(b.x, 8, 3))


def first_layer() -> tvm.tirx.PrimFunc:
    return lowered_layers(small_network(), M7)[0]


def record(**changes: object) -> Record:
    func = first_layer()
    workload = Workload.of(Layer.of(func), M7)
    choice = {"rule": "conv2d", "channels": 2, "pixels": 2, "operand": "w16", "unroll": 4, "tile": 1}
    return replace(Record(workload, choice, cycles=12.5, instructions=10, flash=100, scratch=64, compiler="gcc 1"), **changes)


def test_records_survive_a_file_and_a_torn_last_line(tmp_path: Path) -> None:
    path, one = tmp_path / "deep" / "r.jsonl", record()
    append_records(path, [one, replace(one, status="inexact", message="3 bytes")])
    path.write_text(path.read_text() + '{"format":1,"worklo')
    assert [r.status for r in read_records(path)] == ["ok", "inexact"]
    append_records(path, [one])
    assert read_records(path)[2] == one


@pytest.mark.parametrize("line", ["{}", "[]", "x", '{"format": 7}', '{"format": 1, "status": "fine"}'])
def test_a_line_that_is_no_record_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(record().to_json() + "\n" + line + "\n")
    with pytest.raises(InputError, match="line 2 is no tuning record"):
        read_records(path)


def test_candidates_respect_limits_and_prefer_yours() -> None:
    slow, big = record(cycles=20.0), record(cycles=1.0, scratch=999)
    shipped = record(cycles=2.0, source="shipped record")
    known = Records([slow, replace(big, choice={**big.choice, "unroll": 8}), shipped, record(status="inexact", compiler="b")])
    assert [r.cycles for r in known.candidates(slow.workload, scratch=100)] == [20.0, 2.0]
    assert known.candidates(slow.workload)[0].scratch == 999


def test_equal_layers_are_one_workload_whatever_their_weights() -> None:
    b = TinyBuilder((1, 6, 6, 8))
    funcs = lowered_layers(b.finish(b.conv(b.conv(b.x, 8, 3), 8, 3)), M7)
    keys = {Workload.of(Layer.of(f), M7).key for f in funcs}
    assert len(funcs) == 2
    assert len(keys) == 1
    assert Workload.of(Layer.of(funcs[0]), parse_target("c -mcpu=cortex-m4")).key not in keys


def test_a_trace_replayed_gives_the_same_c() -> None:
    func = first_layer()
    for space in rules.spaces(func, M7).values():
        sampled = space.sample(func)
        again = tvm.s_tir.Schedule(tvm.IRModule({"main": space.form(func)}))
        sampled.trace.apply_to_schedule(again, remove_postproc=False)
        choices = [space.read(s.mod["main"]) for s in (sampled, again)]
        assert choices[0] == choices[1]
        assert json.loads(json.dumps(choices[0])) == choices[0]
        choice = {"rule": space.rule, **{k: v[0] for k, v in space.decisions.items()}}
        made = [Candidate.of(rules.realise(func, M7, choice).mod["main"]) for _ in range(2)]
        assert made[0].digest == made[1].digest


def test_features_tell_candidates_apart() -> None:
    spaces = rules.spaces(first_layer(), M7)
    choices = [{"rule": name, **{k: v[i % len(v)] for k, v in s.decisions.items()}} for name, s in spaces.items() for i in range(2)]
    rows = [features(c, spaces) for c in choices]
    assert len({r.shape for r in rows}) == 1
    assert len({r.tobytes() for r in rows}) == len(rows)


@pytest.mark.host_cc
def test_builds_with_records_are_exact_and_say_so(rng: np.random.Generator) -> None:
    mod, x = small_network(), rng.integers(-128, 128, (4, 1, 6, 6, 4)).astype(np.int8)
    plain = tvm_tiny.build(mod, "c -mcpu=cortex-m7", records=False, optimize="speed")
    tuned = tvm_tiny.build(mod, "c -mcpu=cortex-m7", records=Records([record(scratch=0)]), optimize="speed")
    kernel = tuned.report.layers[0].kernel
    assert kernel["source"] == "your tuning"
    assert kernel["block"] == "2x2"
    assert "measured with other code" in kernel["note"]
    assert plain.report.layers[0].kernel["source"] == "default"
    assert "your tuning" in str(tuned.report)
    assert "your tuning" not in str(plain.report)
    assert tuned.files["codegen/host/src/tvmgen_model_kernels.c"] != plain.files["codegen/host/src/tvmgen_model_kernels.c"]
    hosts = [HostModel(model) for model in (plain, tuned)]
    for sample in x:
        np.testing.assert_array_equal(hosts[0](sample)[0], hosts[1](sample)[0])


@pytest.mark.host_cc
def test_streamed_layers_use_records_of_their_row_kernels(rng: np.random.Generator) -> None:
    """The rows of a streamed stage get the recorded blocks, bytes and arena stay; a choice that is none any more is passed over."""
    target, scale = "c -mcpu=cortex-m7", record()
    func = row_layers(MODEL, M7)[0]
    workload = Workload.of(Layer.of(func), M7)
    assert '"by_rows":true' in workload.attrs
    narrow = {"rule": "rows", "channels": 2, "pixels": 1, "operand": "w8", "unroll": 3}
    models = [tvm_tiny.build(MODEL, target, records=False)]
    for choice in (narrow, {"rule": "rows"}):
        models.append(tvm_tiny.build(MODEL, target, records=Records([replace(scale, workload=workload, choice=choice)])))
    assert [m.report.layers[0].kernel.get("recorded_rows") for m in models] == [None, 1, None]
    assert len({m.workspace_size for m in models}) == 1
    plain, tuned, _same = map(HostModel, models)
    image = rng.integers(-128, 128, models[0].inputs[0].shape).astype(np.int8)
    np.testing.assert_array_equal(plain(image)[0], tuned(image)[0])


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an500", "mps2_an386"])
def test_row_kernels_are_exact_over_whole_layers(board: str, tmp_path: Path) -> None:
    """Odd shapes: stride 2, asymmetric padding, prime channels; defaults and corners of the space."""
    found, networks = find_board(board), []
    for channels, outputs, kernel, stride in ((3, 5, 3, 2), (7, 11, 1, 1)):
        b = TinyBuilder((1, 9, 7, channels))
        networks.append(b.finish(b.conv(b.x, outputs, kernel, strides=(stride, stride))))
    b = TinyBuilder((1, 9, 7, 5))
    networks.append(b.finish(b.depthwise(b.x)))
    bench = Bench(found, "none", tmp_path)
    for func in (f.with_attr("tiny.by_rows", True) for mod in networks for f in lowered_layers(mod, found.target)):
        (space,) = rules.spaces(func, found.target).values()
        corners = [{"rule": "rows", **{k: v[i] for k, v in space.decisions.items()}} for i in (0, -1)]
        schedules = [rules.default_schedule(func, found.target), *(rules.realise(func, found.target, c) for c in corners if space.legal(c))]
        measured = bench.measure(Case.of(Layer.of(func)), [Candidate.of(s.mod["main"]) for s in schedules])
        assert {m.status for m in measured} == {"ok"}, measured


def test_a_record_the_rules_no_longer_take_is_passed_over() -> None:
    stale = record(choice={"rule": "conv2d", "channels": 2}, scratch=0)
    built = tvm_tiny.build(small_network(), "c -mcpu=cortex-m7", records=Records([stale]), optimize="speed")
    kernel = built.report.layers[0].kernel
    assert kernel["source"] == "default"
    assert kernel["note"] == "records the kernels no longer have: 1"


def test_the_report_says_what_chose_a_kernel_and_what_the_next_best_costs() -> None:
    taken = tvm_tiny.build(small_network(), "c -mcpu=cortex-m7", records=False, optimize="speed").report.layers[0].scratch
    default = record(choice={}, cycles=500.0, scratch=taken, runner_up={"choice": record().choice, "cycles": 550.0})
    faster = record(cycles=400.0, scratch=0)
    told = []
    for records in ([default], [default, faster]):
        report = tvm_tiny.build(small_network(), "c -mcpu=cortex-m7", records=Records(records), optimize="speed").report
        told.append(report.layers[0].kernel)
        assert "kernels as measured (none)" in str(report)
        assert "+10.0%" in str(report) or "+25.0%" in str(report)
    assert [k["source"] for k in told] == ["default", "your tuning"]
    assert [k["cycles"] for k in told] == [500, 400]
    assert told[0]["next_best"]["rule"] == "conv2d"
    assert (told[1]["next_best"]["rule"], told[1]["next_best"]["cycles"]) == ("default", 500)
    other = Records([replace(default, scratch=taken + 4)])  # of a network with more room: not the default that is taken here
    assert "cycles" not in tvm_tiny.build(small_network(), "c -mcpu=cortex-m7", records=other, optimize="speed").report.layers[0].kernel


def test_shipped_kernels_that_need_more_flash_are_for_speed_where_it_is_there() -> None:
    b = TinyBuilder((1, 6, 6, 32))
    mod = b.finish(b.conv(b.x, 16, 1))
    workload = Workload.of(Layer.of(lowered_layers(mod, M7)[0]), M7)
    default = Record(workload, {}, cycles=500.0, flash=100, source=SHIPPED)
    larger = replace(default, choice={**POINTWISE, "operand": "w16", "unroll": 8, "channels": 3, "rows": 36}, cycles=400.0, flash=340)
    code = tvm_tiny.build(mod, "c -mcpu=cortex-m7", records=False, optimize="speed").report.decisions["code"]
    bound = {"optimize": "speed", "flash": code["code_bytes"] + code["constants_bytes"]}
    goals: list[dict[str, Any]] = [{"optimize": "speed"}, {"optimize": "balanced"}, bound]
    for mine, wanted in ((larger, [True, False, False]), (replace(larger, source=YOURS), [True, True, False])):
        built = [tvm_tiny.build(mod, "c -mcpu=cortex-m7", records=Records([default, mine]), **goal) for goal in goals]
        kernels = [b.report.layers[0].kernel for b in built]
        assert [k["source"] == mine.source for k in kernels] == wanted
        told = "240 bytes of flash more than by default"
        assert [told in k.get("note", "") for k in kernels] == [mine is larger, False, False]


def test_figures_of_other_conditions_are_not_compared() -> None:
    old, new = record(cycles=1.0, compiler="gcc 0"), record(cycles=2.0, compiler="gcc 1")
    assert [r.compiler for r in Records([old, new]).candidates(old.workload)] == ["gcc 1", "gcc 0"]


def test_shipped_records_can_be_read_and_left_out() -> None:
    assert len(load_records(False)) == 0
    assert all(r.status == "ok" and r.source == "shipped record" for r in load_records())


def test_bad_options_are_refused() -> None:
    with pytest.raises(OptionError, match="trials=-1"):
        tune(small_network(), trials=-1)
    with pytest.raises(TargetError, match="is a cortex-m7, not a cortex-m4"):
        tune(small_network(), "c -mcpu=cortex-m4")


@pytest.mark.qemu
def test_inexact_crashing_and_hanging_candidates_are_refused_not_timed(tmp_path: Path) -> None:
    func = first_layer()
    bench, case = Bench(find_board("mps2_an500"), "none", tmp_path, timeout=0.7), Case.of(Layer.of(func))
    good = Candidate.of(rules.default_schedule(func, M7).mod["main"])
    wrong = replace(good, packed=bytes([good.packed[0] ^ 0x55, good.packed[1] ^ 0x55, *good.packed[2:]]))
    body = "void bad(const int8_t *a, int8_t *b, const void *c, void *d) {{ (void)a; (void)b; (void)c; (void)d; {} }}"
    crash = Candidate("bad", "#include <stdint.h>\n" + body.format('__asm volatile("udf #0");'), b"", 0, 1)
    hang = replace(crash, source="#include <stdint.h>\n" + body.format("for (;;) { }"))
    broken = replace(crash, source="no C")
    found = bench.measure(case, [good, wrong, crash, hang, broken, good])
    assert [m.status for m in found] == ["ok", "inexact", "crash", "timeout", "build", "ok"]
    assert found[0] == found[-1]
    assert found[0].cycles > 0
    assert {m.cycles for m in found[1:5]} == {0.0}


@pytest.mark.qemu
def test_candidates_that_no_image_holds_together_are_measured_in_several(tmp_path: Path) -> None:
    """Two megabytes of constants each, four of flash."""
    func = first_layer()
    good = Candidate.of(rules.default_schedule(func, M7).mod["main"])
    padded = [replace(good, packed=good.packed + bytes([i]) * (1 << 21)) for i in range(3)]
    found = Bench(find_board("mps2_an500"), "none", tmp_path).measure(Case.of(Layer.of(func)), padded)
    assert [m.status for m in found] == ["ok"] * 3
    assert found[0].cycles > 0


@pytest.mark.qemu
def test_kernels_that_are_called_part_by_part_are_measured_whole(tmp_path: Path) -> None:
    """A pointwise layer is a TIR loop over strips: loop and calls are the candidate."""
    b = TinyBuilder((1, 16, 16, 8))
    func = lowered_layers(b.finish(b.conv(b.x, 8, 1)), M7)[0]
    made = [Candidate.of(rules.realise(func, M7, {**POINTWISE, "rows": rows}).mod["main"]) for rows in (4, 16)]
    found = Bench(find_board("mps2_an500"), "none", tmp_path).measure(Case.of(Layer.of(func)), made)
    assert [m.status for m in found] == ["ok", "ok"], found
    assert abs(found[0].cycles / found[1].cycles - 1) < 0.2


POINTWISE = {"rule": "pointwise", "channels": 2, "pixels": 2, "operand": "r8", "unroll": 2, "tile": 1}


@pytest.mark.qemu
def test_a_layer_is_tuned_and_the_search_resumes(tmp_path: Path) -> None:
    path, seen = tmp_path / "r.jsonl", []
    first = tune(small_network(), trials=6, batch=3, records=path, progress=lambda _task, r: seen.append(r))
    assert len(first.layers) == 2
    assert len(seen) > 6
    stored = read_records(path)
    assert all(layer.best.cycles <= layer.default.cycles for layer in first.layers)
    assert {r.status for r in stored} <= {"ok", "illegal"}
    second = tune(small_network(), trials=6, batch=3, records=path)
    names = [(r.workload.key, r.candidate) for r in read_records(path)]
    assert len(names) == len(set(names))  # nothing was measured twice
    assert all(b.best.cycles <= a.best.cycles for a, b in zip(first.layers, second.layers, strict=True))
    built = tvm_tiny.build(small_network(), "c -mcpu=cortex-m7", records=path, optimize="speed")
    assert len(built.report.layers) == 2


KILLED = """
import sys
from tests.test_tuning import one_layer
from tvm_tiny.tuning.network import tune

tune(one_layer(), trials=12, batch=3, records=sys.argv[1], progress=lambda _task, record: print(record.candidate, flush=True))
"""


@pytest.mark.qemu
def test_a_killed_search_loses_at_most_a_batch(tmp_path: Path) -> None:
    """Killed while candidates are in flight; what it had told of is in the file, and the search that goes on measures none of it again."""
    path, batch = tmp_path / "r.jsonl", 3
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(2 * batch)]
        process.kill()
        told += [line.strip() for line in process.stdout]
    before = [r.candidate for r in read_records(path)]
    assert set(told) <= set(before)
    tune(one_layer(), trials=9, batch=batch, records=path)
    after = [(r.workload.key, r.candidate) for r in read_records(path)]
    assert len(after) == len(set(after)) > len(before)


@pytest.mark.qemu
def test_figures_hold_while_the_c_is_the_same_and_are_measured_again_when_not(tmp_path: Path) -> None:
    """What counts is the C, not which version of the generator made it, nor the weights; a build says so."""
    path = tmp_path / "r.jsonl"
    tune(one_layer(), trials=0, records=path)
    (first,) = read_records(path)
    path.write_text(replace(first, code="x", cycles=2.0).to_json() + "\n" + replace(first, cycles=1.0).to_json() + "\n")
    assert tune(one_layer(), trials=0, records=path).layers[0].default.cycles == 1.0
    assert len(read_records(path)) == 2
    lost = replace(first, cycles=0.5, choice={"rule": "conv2d", "channels": 2})  # decisions the rule no longer has
    path.write_text(replace(first, cycles=1.0, code="x").to_json() + "\n" + lost.to_json() + "\n")
    assert tune(one_layer(), trials=0, records=path).layers[0].best.cycles == first.cycles
    assert [(r.status, r.cycles) for r in read_records(path)] == [("ok", 1.0), ("ok", 0.5), ("illegal", 0.0), ("ok", first.cycles)]
    kernels = []
    for code in (first.code, "x"):
        built = tvm_tiny.build(one_layer(), "c -mcpu=cortex-m7", records=Records([replace(first, code=code)]), optimize="speed")
        kernels.append(built.report.layers[0].kernel)
    assert [k["cycles"] for k in kernels] == [round(first.cycles)] * 2
    assert [k.get("note") for k in kernels] == [None, "measured with other code"]


def test_a_kernel_of_other_weights_is_the_same_code() -> None:
    b = TinyBuilder((1, 6, 6, 8))
    made = [Candidate.of(rules.default_schedule(f, M7).mod["main"]) for f in lowered_layers(b.finish(b.conv(b.conv(b.x, 8, 3), 8, 3)), M7)]
    assert made[0].packed != made[1].packed
    assert made[0].code == made[1].code


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an386", "mps2_an505"])
def test_other_cores_are_tuned(board: str, tmp_path: Path) -> None:
    """Cortex-M4 with its flash, and Cortex-M33."""
    result = tune(one_layer(), board=board, trials=3, batch=3, records=tmp_path / "r.jsonl")
    assert all(layer.default is not None and layer.best.cycles <= layer.default.cycles for layer in result.layers)
    assert {r.workload.mcpu for r in result.records} == {find_board(board).mcpu}


@pytest.mark.qemu
@pytest.mark.slow
def test_two_hundred_trials_of_a_layer_take_minutes(tmp_path: Path) -> None:
    """A pointwise layer of 64 to 64 channels: prints what it takes; five minutes on two cores that nobody else uses."""
    b = TinyBuilder((1, 25, 5, 64))
    begin, used = time.monotonic(), os.times()
    result = tune(b.finish(b.conv(b.x, 64, 1)), trials=200, batch=32, records=tmp_path / "r.jsonl")
    now = os.times()
    cpu = sum(now[:4]) - sum(used[:4])
    print(f"{result.layers[0].tried} candidates in {time.monotonic() - begin:.0f} s, {cpu:.0f} s of them on a processor")
    assert result.layers[0].tried >= 150  # the search stops where it proposes nothing new
    assert cpu < 2 * 300
