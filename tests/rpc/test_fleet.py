# SPDX-License-Identifier: Apache-2.0
"""A fleet: work spreads over its devices, and none is lost with a device."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.rpc import build_demo_server, wait_until
from tvm_tiny.device import fleet as fleets
from tvm_tiny.device.fleet import Fleet, is_lost, running_fleet
from tvm_tiny.device.rpc.line import ProcessSpec
from tvm_tiny.errors import DependencyError, DeviceError

pytestmark = pytest.mark.host_cc


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> ProcessSpec:
    for module in fleets._TRACKER_NEEDS:
        pytest.importorskip(module, reason="TVM's tracker needs it")
    return ProcessSpec((str(build_demo_server(tmp_path_factory.mktemp("rpc") / "server")),))


@pytest.fixture(scope="module")
def fleet(server: ProcessSpec) -> Iterator[Fleet]:
    """Three devices, all of them back after every test."""
    with running_fleet([server] * 3, "demo", call_timeout=1.5, health_interval=1.0) as running:
        yield running


def square(session: Any, item: int) -> int:
    time.sleep(0.1)
    return sum(session.get_function("sum")(item) for _ in range(item))


def test_work_spreads_over_all_devices(fleet: Fleet) -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def work(session: Any, item: int) -> int:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        result = square(session, item)
        with lock:
            at_once -= 1
        return result

    assert fleet.map(work, range(15)) == [i * i for i in range(15)]
    assert most == 3
    fleet.wait(3, 10)


def test_a_device_killed_in_the_run_loses_nothing(server: ProcessSpec) -> None:
    with running_fleet([server] * 2, "demo", call_timeout=1.5, health_interval=1.0) as fleet:
        killer = threading.Timer(0.7, os.kill, (fleet.bridges[1].pid, signal.SIGKILL))
        killer.start()
        assert fleet.map(square, range(24)) == [i * i for i in range(24)]
        killer.join()
        assert wait_until(lambda: fleet.free() == 1)


def test_a_device_that_hangs_once_is_left_and_comes_back(fleet: Fleet) -> None:
    hung = threading.Event()

    def work(session: Any, item: int) -> int:
        if item == 5 and not hung.is_set():
            hung.set()
            session.get_function("hang")()
        return square(session, item)

    assert fleet.map(work, range(12)) == [i * i for i in range(12)]
    assert hung.is_set()
    fleet.wait(3, 10)


@pytest.mark.parametrize("when", ["before", "in"])
def test_a_server_that_freezes_is_given_up(server: ProcessSpec, when: str) -> None:
    """Stopped, not killed: its connections stay open, and nobody answers."""
    with running_fleet([server] * 2, "demo", call_timeout=1.5, health_interval=1.0) as running:
        fleet = replace(running, greeting=3.0)
        command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host=127.0.0.1", f"--tracker={fleet.host}:{fleet.port}", "--key=demo"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as frozen:
            try:
                fleet.wait(3, 60)
                stopped = threading.Event()

                def freeze() -> None:
                    if not stopped.is_set():
                        stopped.set()
                        os.killpg(frozen.pid, signal.SIGSTOP)

                def work(session: Any, item: int) -> int:
                    if when == "in" and not _is_ours(session):
                        freeze()
                    return square(session, item)

                if when == "before":
                    freeze()
                assert fleet.map(work, range(8), workers=3, session_timeout=3) == [i * i for i in range(8)]
                assert stopped.is_set()
            finally:
                os.killpg(frozen.pid, signal.SIGKILL)


def _is_ours(session: Any) -> bool:
    """Whether a device of the bridges serves it: TVM's own server has functions that they lack."""
    try:
        session.get_function("tvm.rpc.server.upload")
    except (AttributeError, RuntimeError):
        return True
    return False


def test_errors_of_the_work_are_not_tried_elsewhere(fleet: Fleet) -> None:
    calls = []

    def work(session: Any) -> None:
        calls.append(1)
        session.get_function("fail")(1)

    with pytest.raises(RuntimeError, match="asked to fail with 1 arguments"):
        fleet.call(work)
    assert len(calls) == 1
    fleet.wait(3, 10)


def test_work_that_hangs_every_device_ends(fleet: Fleet) -> None:
    with pytest.raises(DeviceError, match="2 devices under 'demo' were lost over the same work"):
        fleet.call(lambda session: session.get_function("hang")(), attempts=2)
    fleet.wait(3, 20)


def test_which_errors_mean_a_lost_device() -> None:
    prefix = "RPCError: Error caught from RPC call:\n"
    assert is_lost(RuntimeError("socket closed"))
    assert is_lost(RuntimeError(prefix + "DeviceError: the device did not answer in time"))
    assert not is_lost(RuntimeError(prefix + "ValueError: DeviceError: no"))
    assert not is_lost(RuntimeError(prefix + "DeviceFault: the device crashed: SIGFPE"))


def test_no_tracker_and_missing_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fleets, "_TRACKER_NEEDS", ("no_such_package",))
    with pytest.raises(DependencyError, match="needs no_such_package"), fleets.running_tracker():
        pass
