# SPDX-License-Identifier: Apache-2.0
"""Faults on the line between host and device: no hang past the time-out, no wrong result accepted, nothing run twice, next call works."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.support.rpc import Faults, FaultySpec, RawClient, build_demo_server
from tvm_tiny.device.rpc.frame import Frame, FrameType, encode
from tvm_tiny.device.rpc.line import LineClosedError, ProcessSpec
from tvm_tiny.device.rpc.link import DeviceLink, DeviceResetError, SilentDeviceError
from tvm_tiny.errors import DeviceError

pytestmark = pytest.mark.host_cc


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> ProcessSpec:
    return ProcessSpec((str(build_demo_server(tmp_path_factory.mktemp("rpc") / "server")),))


def faulty_client(spec: FaultySpec, timeout: float = 20.0) -> RawClient:
    return RawClient(spec.open(), timeout)


@pytest.mark.parametrize("kind", ["drop", "flip", "double", "insert"])
def test_noise_costs_repetitions_and_nothing_else(server: ProcessSpec, kind: str) -> None:
    """One byte in 2,000 hit, both ways: 40 calls and 20 copies of up to 3 KB each way are exact, and each call ran once."""
    faults = Faults(**{kind: 5e-4}, rng=random.Random(kind))
    spec = FaultySpec(server, faults)
    client = faulty_client(spec)
    count, add = client.function("count_calls"), client.function("sum")
    rng = random.Random(3)
    for i in range(20):
        data = rng.randbytes(rng.randrange(3000))
        address = client.alloc(len(data))
        client.write(address, data)
        assert client.read(address, len(data)) == data
        client.free(address)
        assert client.call(add, i, 1000) == i + 1000
        assert client.call(count) == i + 1
    spec.opened[0].close()
    assert faults.done > 20
    assert client.link.statistics.repeated > 10


def test_a_call_repeated_by_the_host_runs_once(server: ProcessSpec) -> None:
    """Every frame is sent twice by the line: the device answers both and acts on one."""
    spec = FaultySpec(server)
    client = faulty_client(spec)
    line, count = spec.opened[0], client.function("count_calls")
    line.on_write = lambda data: line._line.write(data, 1.0)
    assert [client.call(count) for _ in range(50)] == list(range(1, 51))
    line.close()


def test_a_late_answer_is_never_the_next_ones(server: ProcessSpec) -> None:
    """The answer to a call that was given up arrives while the next session's first call waits for its own."""
    spec = FaultySpec(server)
    client = faulty_client(spec, timeout=0.5)
    line, add = spec.opened[0], client.function("sum")
    line.hold = True
    with pytest.raises(SilentDeviceError):
        client.call(add, 1, 1)
    assert len(line.held) > 0
    line.hold = False
    client = RawClient(line)  # type: ignore[arg-type]
    assert client.call(client.function("sum"), 20, 22) == 42
    line.close()


def test_answers_of_the_same_session_are_told_apart_by_sequence(server: ProcessSpec) -> None:
    """Right session, right type, right check sum, wrong sequence number: not this call's answer."""
    spec = FaultySpec(server)
    client = faulty_client(spec)
    line, add, link = spec.opened[0], client.function("sum"), client.link
    forged = Frame(FrameType.DEVICE_DATA, 1, link._sequence, link._session, b"\x18" + bytes(31))
    line.held += encode(forged)
    assert client.call(add, 2, 3) == 5
    line.close()


def test_a_handle_of_an_older_session_is_refused(server: ProcessSpec) -> None:
    line = server.open()
    old = RawClient(line)
    handle, address = old.function("sum"), old.alloc(100)
    new = RawClient(line)
    with pytest.raises(RuntimeError, match="no function of this session"):
        new.call(handle, 1)
    with pytest.raises(RuntimeError, match="outside live device memory"):
        new.read(address, 100)
    line.close()


def test_reset_in_the_middle_of_a_call(server: ProcessSpec) -> None:
    """A fresh device behind the same wire knows no session: the host hears so at once, long before the time-out."""
    spec = FaultySpec(server)
    client = faulty_client(spec, timeout=30)
    hang = client.function("hang")
    line = spec.opened[0]
    line.on_write = lambda _: (setattr(line, "on_write", None), line.swap_device())
    start = time.monotonic()
    with pytest.raises(DeviceResetError):
        client.call(hang)
    assert time.monotonic() - start < 5
    client = RawClient(line)  # type: ignore[arg-type]
    assert client.call(client.function("sum"), 1, 2) == 3
    line.close()


def test_reset_in_the_middle_of_a_copy(server: ProcessSpec) -> None:
    spec = FaultySpec(server)
    client = faulty_client(spec, timeout=30)
    address, line = client.alloc(20000), spec.opened[0]
    written = []

    def swap_after_ten(data: bytes) -> None:
        written.append(len(data))
        if len(written) == 10:
            line.swap_device()

    line.on_write = swap_after_ten
    with pytest.raises(DeviceResetError):
        client.write(address, bytes(20000))
    line.close()


@pytest.mark.parametrize("timeout", [0.3, 1.5])
def test_a_silent_device_costs_its_time_out(server: ProcessSpec, timeout: float) -> None:
    spec = FaultySpec(server)
    client = faulty_client(spec, timeout)
    add = client.function("sum")
    spec.opened[0].mute = True
    start = time.monotonic()
    with pytest.raises(SilentDeviceError):
        client.call(add, 1)
    assert timeout <= time.monotonic() - start < timeout + 0.5
    with pytest.raises(SilentDeviceError):
        DeviceLink(spec.opened[0]).open_session(timeout)  # type: ignore[arg-type]
    spec.opened[0].mute = False
    assert RawClient(spec.opened[0]).alloc(16) != 0  # type: ignore[arg-type]
    spec.opened[0].close()


def test_a_function_that_hangs_and_a_line_that_backs_up(server: ProcessSpec) -> None:
    """The device reads nothing any more: writing must not block the host either."""
    line = server.open()
    client = RawClient(line, timeout=1.0)
    start = time.monotonic()
    with pytest.raises(SilentDeviceError):
        client.call(client.function("hang"))
    for _ in range(3):  # 180 KB into a pipe of 64
        line.write(bytes(60000), 0.1)
    assert time.monotonic() - start < 3
    line.close()


def test_a_process_that_ends(server: ProcessSpec) -> None:
    line = server.open()
    client = RawClient(line)
    line._process.kill()  # type: ignore[attr-defined]
    with pytest.raises(LineClosedError):
        client.alloc(1)
    line.close()


def test_a_session_broken_off_in_a_message_leaves_nothing(server: ProcessSpec) -> None:
    """The host goes away after three frames of a copy, and in the middle of an answer; the next session finds an empty device."""
    spec = FaultySpec(server)
    line = spec.open()
    for direction in ("write", "read"):
        client = RawClient(line)
        address = client.alloc(20000)
        frames: list[bytes] = []

        class BreakOffError(Exception):
            pass

        def stop(data: bytes, frames: list[bytes] = frames, error: type[Exception] = BreakOffError) -> None:
            frames.append(data)
            if len(frames) == 3:
                raise error

        spec.opened[0].on_write = stop
        with pytest.raises(BreakOffError):
            client.write(address, bytes(20000)) if direction == "write" else client.read(address, 20000)
        spec.opened[0].on_write = None
        client = RawClient(line)
        assert client.call(client.function("tiny_rpc.arena_live_blocks")) == 0
    line.close()


def test_nothing_at_the_other_end(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="can't start the device"):
        ProcessSpec((str(tmp_path / "no such program"),)).open()
    silent = ProcessSpec(("sleep", "60")).open()
    start = time.monotonic()
    with pytest.raises(SilentDeviceError, match="did not start"):
        DeviceLink(silent).open_session(0.5)
    silent.close()
    assert time.monotonic() - start < 3
