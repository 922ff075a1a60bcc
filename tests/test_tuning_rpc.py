# SPDX-License-Identifier: Apache-2.0
"""Tuning over RPC: candidates sent to an emulated board through tracker, bridge and UART are checked and timed there like on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tvm

import tvm_tiny
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.boards import find_board
from tvm_tiny.device.artifact import open_artifact
from tvm_tiny.device.fleet import Fleet, running_fleet
from tvm_tiny.device.rpc.boards import RPC_OPTIONS, project_line
from tvm_tiny.device.rpc.line import LineSpec
from tvm_tiny.device.runner import built_project
from tvm_tiny.errors import OptionError
from tvm_tiny.schedules import rules
from tvm_tiny.schedules.base import Layer
from tvm_tiny.target import parse_target
from tvm_tiny.tuning import read_records
from tvm_tiny.tuning.candidate import Candidate, Case
from tvm_tiny.tuning.network import lowered_layers, make_runner, tune
from tvm_tiny.tuning.rpc import RpcRunner

M7 = parse_target("c -mcpu=cortex-m7")
BOARD = find_board("mps2_an500")
SLOW_LINE = {"call_timeout": 60.0, "start_timeout": 60.0, "health_interval": 60.0}  # a busy machine is no reason to give up on a device


def network() -> tvm.IRModule:
    b = TinyBuilder((1, 6, 6, 4))
    return b.finish(b.conv(b.x, 8, 3))


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LineSpec]:
    """An emulated Cortex-M7 with the RPC server that may be sent code."""
    for module in ("tornado", "psutil", "cloudpickle"):
        pytest.importorskip(module, reason="TVM's tracker needs it")
    mlf = tvm_tiny.build(network(), board=BOARD, records=False).save(tmp_path_factory.mktemp("rpc") / "model")
    with open_artifact(mlf) as artifact, built_project(artifact, BOARD, replace(RPC_OPTIONS, run_code=True)) as project:
        yield project_line(project)


@pytest.fixture(scope="module")
def fleet(line: LineSpec) -> Iterator[Fleet]:
    """One such device behind a tracker."""
    with running_fleet([line], "m7", **SLOW_LINE) as running:
        yield running


@pytest.mark.qemu
def test_candidates_are_checked_and_timed_on_the_device(fleet: Fleet, tmp_path: Path) -> None:
    """A crash ends the device's session; it is restarted and the candidates after it are measured all the same."""
    func = lowered_layers(network(), M7)[0]
    good = Candidate.of(rules.default_schedule(func, M7).mod["main"])
    assert good is not None
    wrong = replace(good, packed=bytes([good.packed[0] ^ 0x55, good.packed[1] ^ 0x55, *good.packed[2:]]))
    body = 'void bad(const void *a, void *b, const void *c, void *d) { (void)a; (void)b; (void)c; (void)d; __asm volatile("udf #0"); }'
    crash, broken = Candidate("bad", body, b"", 0, 1), Candidate("bad", "no C", b"", 0, 1)
    found = RpcRunner(BOARD, fleet, tmp_path).measure(Case.of(Layer.of(func)), [good, wrong, crash, broken, good])
    assert [m.status for m in found] == ["ok", "inexact", "crash", "build", "ok"], found
    assert found[0].cycles > 0
    assert found[0].scratch == good.scratch
    assert "the device crashed" in found[2].message


@pytest.mark.qemu
@pytest.mark.slow
def test_a_layer_is_tuned_by_two_devices(line: LineSpec, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with running_fleet([line] * 2, "pair", **SLOW_LINE) as pair:
        options = {"runner": "rpc", "tracker": f"{pair.host}:{pair.port}", "key": "pair", "jobs": 2}
        result = tune(network(), board=BOARD, trials=6, batch=6, records=path, **options)
    assert result.layers[0].best.cycles > 0
    assert {r.board_term for r in read_records(path)} == {"rpc:pair"}


def test_options_of_the_runner(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="runner='gpu' is not known"):
        make_runner("gpu", BOARD, tmp_path, None, "", "", 1)
    with pytest.raises(OptionError, match="tracker='here' is no address"):
        make_runner("rpc", BOARD, tmp_path, None, "here", "", 1)
    with pytest.raises(OptionError, match="jobs=0"):
        make_runner("rpc", BOARD, tmp_path, None, "here:1", "", 0)
