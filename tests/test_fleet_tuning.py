# SPDX-License-Identifier: Apache-2.0
"""Tuning on emulators behind TVM's tracker: the figures of one emulator here, and no candidate lost with an emulator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tvm

from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.boards import find_board
from tvm_tiny.device.fleet import Fleet, running_fleet
from tvm_tiny.device.rpc.tracker import parse_tracker
from tvm_tiny.errors import DeviceError, OptionError, TargetError
from tvm_tiny.schedules.base import Layer
from tvm_tiny.target import parse_target
from tvm_tiny.tuning import read_records
from tvm_tiny.tuning.bench import Bench
from tvm_tiny.tuning.candidate import Candidate, Case
from tvm_tiny.tuning.emulator import EmulatorSpec, LocalEmulator, RemoteEmulator, hosted_emulator
from tvm_tiny.tuning.network import lowered_layers, make_runner, tune

pytestmark = pytest.mark.qemu
BOARD = find_board("mps2_an500")
M7 = parse_target("c -mcpu=cortex-m7")


def network() -> tvm.IRModule:
    b = TinyBuilder((1, 6, 6, 4))
    return b.finish(b.conv(b.x, 8, 3))


def candidates(count: int) -> tuple[Case, list[Candidate]]:
    """The first layer's case, and kernels that differ in a comment: measured one by one, with the same figures."""
    from tvm_tiny.schedules import rules

    func = lowered_layers(network(), M7)[0]
    good = Candidate.of(rules.default_schedule(func, M7).mod["main"])
    assert good is not None
    made = [replace(good, source=f"{good.source}\n/* {i} */\n") for i in range(count)]
    return Case.of(Layer.of(func)), made


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Two emulators of a Cortex-M7."""
    for module in ("tornado", "psutil", "cloudpickle"):
        pytest.importorskip(module, reason="TVM's tracker needs it")
    with running_fleet([EmulatorSpec("mps2_an500")] * 2, "m7", start_timeout=60.0, health_interval=2.0) as running:
        yield running


def test_the_fleet_measures_what_one_emulator_here_measures(fleet: Fleet, tmp_path: Path) -> None:
    """Exact, inexact, crashing, hanging and broken candidates, in order, with the same figures."""
    case, (good, other) = candidates(2)
    wrong = replace(good, packed=bytes([good.packed[0] ^ 0x55, *good.packed[1:]]))
    body = "void bad(const void *a, void *b, const void *c, void *d) { (void)a; (void)b; (void)c; (void)d; STATEMENT; }"
    crash = Candidate("bad", body.replace("STATEMENT", '__asm volatile("udf #0")'), b"", 0, 1)
    hang = Candidate("bad", body.replace("STATEMENT", 'for (;;) __asm volatile("")'), b"", 0, 1)
    given = [good, wrong, crash, Candidate("bad", "no C", b"", 0, 1), hang, other]
    far = Bench(BOARD, "none", tmp_path / "far", 2.0, jobs=2, fleet=fleet).measure(case, given)
    here = Bench(BOARD, "none", tmp_path / "here", 2.0, jobs=2).measure(case, given)
    assert [m.status for m in far] == ["ok", "inexact", "crash", "build", "timeout", "ok"], far
    assert [(m.status, m.cycles, m.instructions, m.flash) for m in far] == [(m.status, m.cycles, m.instructions, m.flash) for m in here]


def test_an_emulator_killed_in_the_run_loses_no_candidate(fleet: Fleet, tmp_path: Path) -> None:
    """Its images go to the other; the device server brings it back."""
    case, made = candidates(12)
    bench = Bench(BOARD, "none", tmp_path, jobs=2, fleet=fleet)
    stop, killed = threading.Event(), []

    def kill() -> None:
        while not stop.wait(0.02) and not killed:
            killed.extend(kill_emulators_of(fleet.bridges[0].pid))

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        found = bench.measure(case, made)
    finally:
        stop.set()
        killer.join()
    assert killed
    assert [m.status for m in found] == ["ok"] * len(made)
    fleet.wait(2, 30)


def kill_emulators_of(bridge: int) -> list[int]:
    """Kill QEMU processes that a device server has started; their numbers."""
    children = subprocess.run(["pgrep", "-P", str(bridge), "qemu-system"], capture_output=True, text=True, check=False).stdout.split()
    for child in map(int, children):
        os.kill(child, signal.SIGKILL)
    return list(map(int, children))


def test_a_device_server_killed_in_the_run_loses_no_candidate(tmp_path: Path) -> None:
    """Nobody brings it back: the other does the work alone."""
    case, made = candidates(8)
    with running_fleet([EmulatorSpec("mps2_an500")] * 2, "m7", start_timeout=60.0) as pair:
        timer = threading.Timer(0.5, os.kill, (pair.bridges[1].pid, signal.SIGKILL))
        timer.start()
        found = Bench(BOARD, "none", tmp_path, jobs=2, fleet=pair).measure(case, made)
        timer.join()
        assert [m.status for m in found] == ["ok"] * len(made)


@pytest.mark.slow
def test_tune_from_the_command_line(fleet: Fleet, tmp_path: Path) -> None:
    """`tune --tracker --key -j` writes the records that tuning here writes."""
    model = Path(__file__).parents[1] / "examples/fashion_mnist/fashion_mnist_int8.tflite"
    records = tmp_path / "records.jsonl"
    command = [sys.executable, "-m", "tvm_tiny", "tune", str(model), "--layer", "logits", "-n", "4", "-o", str(records), "--json"]
    command += ["--tracker", f"{fleet.host}:{fleet.port}", "--key", "m7", "-j", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["layers"][0]["best"]["cycles"] > 0
    assert {r.board_term for r in read_records(records)} == {"stm32h7a3@280"}


def test_several_emulators_of_this_machine(tmp_path: Path) -> None:
    """Without a tracker, `jobs` images run side by side."""
    result = tune(network(), board=BOARD, trials=4, batch=4, records=tmp_path / "records.jsonl", jobs=2)
    assert result.layers[0].best is not None


def test_wrong_devices_are_told(fleet: Fleet, tmp_path: Path) -> None:
    case, made = candidates(1)
    m4 = find_board("mps2_an386")
    with pytest.raises(OptionError, match="the device emulates mps2_an500, not mps2_an386"):
        Bench(m4, "none", tmp_path, fleet=fleet).measure(case, made)
    nobody = replace(fleet, key="nobody", patience=0.5)
    with pytest.raises(DeviceError, match="no device under 'nobody'"):
        Bench(BOARD, "none", tmp_path, fleet=nobody).measure(case, made)

    class Model:
        def get_function(self, name: str) -> None:
            raise AttributeError(name)

    with pytest.raises(OptionError, match="it is no emulator"):
        RemoteEmulator(Model(), BOARD)
    with pytest.raises(TargetError, match="native is not emulated"):
        LocalEmulator(find_board("native"))
    with pytest.raises(OptionError, match="jobs=0"):
        make_runner("", BOARD, tmp_path, None, "", "", 0)
    with pytest.raises(OptionError, match="nucleo_f746zg is tuned on devices of a tracker"):
        make_runner("", find_board("nucleo_f746zg"), tmp_path, None, "", "", 1)
    with pytest.raises(OptionError, match="tracker='x' is no address"):
        parse_tracker("x")


def test_a_machine_without_qemu_offers_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = hosted_emulator("mps2_an500")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="qemu-system-arm is not on PATH"):
        device.open_session(1)
