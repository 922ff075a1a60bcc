# SPDX-License-Identifier: Apache-2.0
"""Every pass tells what it considered, took and left, and why: as objects, text, JSON, files, and on the command line."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

import tvm_tiny
from tests.support.cli import invoke
from tests.support.demo import MODEL
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.errors import InputError
from tvm_tiny.explain import Decision, Explainer, collecting, to_text
from tvm_tiny.passes.fuse_ops import FuseOps

KEYS = {"pass", "node", "candidate", "accepted", "reason", "bytes", "cycles"}


def test_decisions_are_collected_in_order_and_once() -> None:
    why = Explainer("some-pass")
    with collecting() as found:
        for _ in range(2):
            why.accepted("conv", "a", "better", bytes=-12)
            why.rejected("conv", "b", "worse", cycles=7)
    why.accepted("later", "c", "nobody listens")
    assert [str(d) for d in found] == ["accepted: conv: a: better (-12 bytes)", "rejected: conv: b: worse (+7 cycles)"]


def test_a_decision_goes_to_the_log_of_its_pass(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tvm_tiny.passes"):
        Explainer("some-pass").rejected("", "everything", "no reason needed")
    assert [(r.name, r.message) for r in caplog.records] == [
        ("tvm_tiny.passes.some-pass", "rejected: network: everything: no reason needed")
    ]


def test_text_is_by_pass_and_names_the_source() -> None:
    found = [Decision("first", "lv", "a", True, "yes"), Decision("second", "lv1", "b", False, "no")]
    assert to_text(found, {"lv": {"name": "model/conv"}}).splitlines() == [
        "first:", "  accepted: lv: a: yes  [model/conv]", "second:", "  rejected: lv1: b: no"
    ]  # fmt: skip


def test_a_pass_outside_the_pipeline_tells_too() -> None:
    b = TinyBuilder((1, 6, 6, 3))
    pad = b.call("pad", b.x, before=[0, 1, 1, 0], after=[0, 1, 1, 0], value=-3)
    mod = b.finish(b.conv(pad, 4, 3, padding=[0] * 4), b.call("avg_pool2d", pad, kernel=[2, 2]))
    with collecting() as found:
        FuseOps()(mod)
    assert {(d.accepted, d.reason) for d in found} == {(False, "other operators read the padded tensor, or it is a result")}
    assert {d.pass_name for d in found} == {"fuse-ops"}


@pytest.fixture(scope="module")
def model() -> tvm_tiny.CompiledModel:
    return tvm_tiny.build(MODEL, "c -mcpu=cortex-m7", name="demo")


def test_a_compiled_model_explains_itself(model: tvm_tiny.CompiledModel) -> None:
    told = {d.pass_name for d in model.explanation}
    assert {"fuse-ops", "remove-constant-channels", "stream-rows", "apply-schedules"} - told <= {"fuse-ops"}  # nothing to fuse in it
    kernels = [d for d in model.explanation if d.pass_name == "apply-schedules" and d.accepted]
    assert len(kernels) == len(model.program.calls)
    assert any(not d.accepted for d in model.explanation)


def test_the_report_has_it_as_json(model: tvm_tiny.CompiledModel) -> None:
    rows = json.loads(model.files["report.json"])["explain"]
    assert len(rows) == len(model.explanation)
    assert all(set(row) == KEYS for row in rows)


@pytest.mark.parametrize("name", ["why.json", "why.txt"])
def test_it_is_written_to_a_file(name: str, tmp_path: Path) -> None:
    b = TinyBuilder((1, 4, 4, 4))
    tvm_tiny.build(b.finish(b.call("lookup", b.conv(b.x, 8), np.arange(-128, 128).astype(np.int8))), explain=tmp_path / name)
    text = (tmp_path / name).read_text()
    if name.endswith("json"):
        assert any(row["pass"] == "fuse-ops" and row["accepted"] for row in json.loads(text))
    else:
        assert text.startswith("fuse-ops:\n  accepted: ")


def test_a_place_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    b = TinyBuilder((1, 4, 4, 4))
    with pytest.raises(InputError, match="can't be written"):
        tvm_tiny.build(b.finish(b.conv(b.x, 8)), explain=tmp_path / "no" / "why.txt")


def test_command_line(tmp_path: Path) -> None:
    done = invoke("compile", str(MODEL), "-o", str(tmp_path / "model"), "--explain")
    assert done.exit_code == 0, done.output
    assert "stream-rows:\n" in done.stdout
    assert "  rejected: " in done.stdout
    done = invoke("report", str(MODEL), "--explain", "--json")
    assert all(set(row) == KEYS for row in json.loads(done.stdout)["explain"])
