# SPDX-License-Identifier: Apache-2.0
"""The bridge under bad clients, hung devices and kill -9; keys, addresses and the tracker."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rpc import build_demo_server, wait_until
from tvm_tiny.device.rpc.bridge import BridgeOptions
from tvm_tiny.device.rpc.line import ProcessSpec, SerialSpec, TcpSpec, parse_line
from tvm_tiny.device.rpc.session import RunningBridge, connect, running_bridge
from tvm_tiny.device.rpc.tracker import TrackerClient
from tvm_tiny.errors import DeviceError, OptionError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> ProcessSpec:
    return ProcessSpec((str(build_demo_server(tmp_path_factory.mktemp("rpc") / "server")),))


@pytest.fixture(scope="module")
def tcp_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_demo_server(tmp_path_factory.mktemp("rpc") / "server", "tcp")


@pytest.fixture(scope="module")
def tcp_device(tcp_program: Path) -> Iterator[TcpSpec]:
    """A device that outlives its bridges, as a board does."""
    with subprocess.Popen([tcp_program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield TcpSpec("127.0.0.1", int(process.stdout.readline()))
        process.kill()


def stock(bridge: RunningBridge, key: str = "", timeout: int = 0) -> object:
    from tvm import rpc

    return rpc.connect(bridge.host, bridge.port, key or bridge.key, session_timeout=timeout)


def close(remote: object) -> None:
    remote._sess.get_function("CloseRPCConnection")()  # type: ignore[attr-defined]


def total(remote: object) -> int:
    return int(remote.get_function("sum")(20, 22))  # type: ignore[attr-defined]


def works(bridge: RunningBridge) -> bool:
    remote = stock(bridge)
    answer = total(remote)
    close(remote)
    return answer == 42


@pytest.mark.host_cc
def test_a_hung_function_is_an_exception_and_the_device_is_restarted(server: ProcessSpec) -> None:
    with running_bridge(server, call_timeout=1.0) as bridge:
        remote = stock(bridge)
        hang = remote.get_function("hang")  # type: ignore[attr-defined]
        start = time.monotonic()
        with pytest.raises(RuntimeError, match="DeviceError: the device did not answer in time"):
            hang()
        assert 0.9 < time.monotonic() - start < 3
        assert works(bridge)


@pytest.mark.host_cc
def test_a_board_that_hangs_is_reset_by_its_command(tmp_path: Path) -> None:
    """Here the board is a process behind TCP, and its reset kills and restarts it on the same port."""
    program = build_demo_server(tmp_path / "server", "tcp")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    pid_file, script = tmp_path / "pid", tmp_path / "reset.sh"
    script.write_text(f"kill -9 $(cat {pid_file})\n{program} {port} >/dev/null 2>&1 </dev/null &\necho $! > {pid_file}\nsleep 1\n")
    first = subprocess.Popen([program, str(port)], stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert int(first.stdout.readline()) == port
    pid_file.write_text(str(first.pid))
    try:
        with running_bridge(TcpSpec("127.0.0.1", port), call_timeout=1.0, reset_command=f"sh {script}") as bridge:
            with pytest.raises(RuntimeError, match="did not answer in time"):
                stock(bridge).get_function("hang")()  # type: ignore[attr-defined]
            assert works(bridge)
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
        first.wait()


@pytest.mark.host_cc
def test_a_session_timeout_is_tvms_own_exception(server: ProcessSpec) -> None:
    from tvm.error import RPCSessionTimeoutError

    with running_bridge(server, call_timeout=30) as bridge:
        remote = stock(bridge, timeout=1)
        with pytest.raises(RPCSessionTimeoutError):
            remote.get_function("hang")()  # type: ignore[attr-defined]
        assert works(bridge)


@pytest.mark.host_cc
@pytest.mark.skipif(sys.platform != "linux", reason="the device's death with its parent is Linux's prctl")
def test_bridge_killed_in_a_call(server: ProcessSpec) -> None:
    with running_bridge(server) as bridge:
        children = Path(f"/proc/{bridge.pid}/task/{bridge.pid}/children")
        remote = stock(bridge)
        hang = remote.get_function("hang")  # type: ignore[attr-defined]
        device = int(children.read_text())
        killer = subprocess.Popen([sys.executable, "-c", f"import os,time; time.sleep(0.5); os.kill({bridge.pid}, 9)"])
        start = time.monotonic()
        with pytest.raises(RuntimeError):
            hang()
        assert time.monotonic() - start < 5
        killer.wait()
        assert wait_until(lambda: not Path(f"/proc/{device}").exists() or "Z" in Path(f"/proc/{device}/stat").read_text().split()[2])
    with running_bridge(server) as bridge:
        assert works(bridge)


@pytest.mark.host_cc
def test_bridge_killed_and_the_device_lives_on(tcp_device: TcpSpec) -> None:
    """In the middle of a 40 KB copy; the next bridge finds the same device with nothing allocated."""
    for _ in range(3):
        with running_bridge(tcp_device) as bridge, socket.create_connection((bridge.host, bridge.port)) as client:
            begin_session(client)
            client.sendall(struct.pack("<Qi", 4 + 44 + 40000, 7) + bytes(10000))
            time.sleep(0.1)
            os.kill(bridge.pid, signal.SIGKILL)
    with running_bridge(tcp_device) as bridge:
        remote = stock(bridge)
        assert remote.get_function("tiny_rpc.arena_live_blocks")() == 0  # type: ignore[attr-defined]
        close(remote)


def begin_session(client: socket.socket, key: bytes = b"client:") -> None:
    client.settimeout(10)
    client.sendall(struct.pack("<ii", 0xFF271, len(key)) + key)
    assert struct.unpack("<i", client.recv(4))[0] == 0xFF271
    client.recv(struct.unpack("<i", client.recv(4))[0])
    client.sendall(struct.pack("<QiQ5si", 21, 2, 5, b"0.8.0", 0))
    assert struct.unpack_from("<Qi", client.recv(20)) == (12, 4)


BAD_CLIENTS = {
    "says nothing": b"",
    "speaks HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "has a key of 2 GB": struct.pack("<ii", 0xFF271, 0x7FFFFFFF),
    "has a key of negative length": struct.pack("<ii", 0xFF271, -1),
    "is no client": struct.pack("<ii", 0xFF271, 6) + b"server",
    "stops inside its key": struct.pack("<ii", 0xFF271, 60) + b"client:",
}


@pytest.mark.host_cc
def test_bad_clients_cost_nothing(server: ProcessSpec) -> None:
    with running_bridge(server) as bridge:
        for what, data in BAD_CLIENTS.items():
            with socket.create_connection((bridge.host, bridge.port)) as client:
                client.sendall(data)
            assert works(bridge), what
        # Inside a session: broken off in a packet, longer than any packet can be, without a code, of an unknown code.
        for data in (struct.pack("<Qi", 1000, 7) + b"abc", struct.pack("<Q", 1 << 40), struct.pack("<Q", 0), struct.pack("<Qi", 4, 99)):
            with socket.create_connection((bridge.host, bridge.port)) as client:
                begin_session(client)
                client.sendall(data)
            assert works(bridge)


@pytest.mark.host_cc
def test_another_protocol_version_is_refused_in_words(server: ProcessSpec) -> None:
    with running_bridge(server) as bridge, socket.create_connection((bridge.host, bridge.port)) as client:
        client.settimeout(10)
        client.sendall(struct.pack("<ii7s", 0xFF271, 7, b"client:") + struct.pack("<QiQ5si", 21, 2, 5, b"0.9.0", 0))
        answer = b""
        while b"not 0.8.0" not in answer:
            answer += client.recv(1000)
        assert b"ProtocolError: the client speaks version 0.9.0, not 0.8.0" in answer


@pytest.mark.host_cc
def test_keys(server: ProcessSpec) -> None:
    with running_bridge(server, key="secret") as bridge:
        for wrong in ("other", "secre", "secret2"):
            with pytest.raises(RuntimeError, match=r"[Mm]ismatch|key"):
                stock(bridge, wrong)
        assert works(bridge)


def test_a_wide_bind_needs_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.1", "example.org"):
        with pytest.raises(OptionError, match=r"without a key would let anybody drive the device"):
            BridgeOptions(host=host)
        BridgeOptions(host=host, key="k")
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        BridgeOptions(host=host)
    with pytest.raises(OptionError, match="under a key"):
        BridgeOptions(tracker=("localhost", 9190))
    with pytest.raises(OptionError, match="time-outs"):
        BridgeOptions(call_timeout=0)


def test_options_of_the_command_are_refused_in_words(tmp_path: Path) -> None:
    for arguments, words in (
        (["--device", "nonsense"], "names no line to a device"),
        (["--device", "tcp:localhost:1", "--host", "0.0.0.0"], "without a key"),
        (["--device", "tcp:localhost:1", "--key", "k", "--tracker", "nowhere"], "tracker='nowhere' is no address"),
        (["--device", "tcp:localhost:1", "--key", "a b", "--tracker", "localhost:9190"], "no key for a tracker"),
    ):
        command = [sys.executable, "-m", "tvm_tiny.device.rpc", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_lines_by_name() -> None:
    assert parse_line("exec:qemu -serial 'a b'") == ProcessSpec(("qemu", "-serial", "a b"))
    assert parse_line("tcp:::1:99") == TcpSpec("::1", 99)
    assert parse_line("serial:/dev/ttyACM0") == SerialSpec("/dev/ttyACM0", 115200)
    for spec in (ProcessSpec(("a", "b c")), TcpSpec("host", 1), SerialSpec("/dev/ttyUSB0", 921600)):
        assert parse_line(str(spec)) == spec
    for bad in ("", "exec:", "tcp:99", "tcp:host:0", "tcp:host:x", "serial:", "serial:/dev/x@fast", "usb:1"):
        with pytest.raises(OptionError, match="names no line"):
            parse_line(bad)
    for absent in (TcpSpec("127.0.0.1", 1), SerialSpec("/dev/no such port")):
        with pytest.raises(DeviceError, match="no device at"):
            absent.open()
    with pytest.raises(OptionError, match="no 12345 baud"):
        SerialSpec("/dev/null", 12345).open()
    with pytest.raises(DeviceError, match="is no serial port"):
        SerialSpec("/dev/null").open()


@pytest.mark.host_cc
def test_a_serial_port(tmp_path: Path) -> None:
    """A pseudo-terminal in raw mode between bridge and device carries every byte value."""
    import pty

    program = build_demo_server(tmp_path / "server")
    master, slave = pty.openpty()
    path = os.ttyname(slave)
    line = SerialSpec(path)
    line.open().close()  # sets raw mode before the device says anything
    with subprocess.Popen([program], stdin=master, stdout=master) as process:
        with connect(line) as remote:
            import numpy as np
            from tvm import runtime

            values = np.arange(20480, dtype="uint8")
            assert np.array_equal(runtime.tensor(values, device=remote.cpu(0)).numpy(), values)
        process.kill()
    os.close(master)
    os.close(slave)


@pytest.mark.host_cc
def test_connect_says_what_is_wrong() -> None:
    with pytest.raises(DeviceError, match="no session with the device"), connect(ProcessSpec(("true",)), start_timeout=2.0):
        pass


def test_tracker_keys() -> None:
    for key in ("", "a b", "a:b"):
        with pytest.raises(OptionError, match="no key for a tracker"):
            TrackerClient(("localhost", 1), key, (None, 1))
    absent = TrackerClient(("127.0.0.1", 1), "key", (None, 1))
    absent.offer()
    absent.tick()
    assert absent.last_error


@pytest.fixture(scope="module")
def tracker() -> Iterator[tuple[str, int]]:
    """TVM's own tracker, in a process of its own."""
    for module in ("tornado", "psutil", "cloudpickle"):
        pytest.importorskip(module, reason="TVM's tracker needs it")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:

        def listens() -> bool:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                return False
            return True

        assert wait_until(listens, 60)
        yield "127.0.0.1", port
        process.terminate()


@pytest.mark.host_cc
def test_devices_behind_tvms_tracker(server: ProcessSpec, tracker: tuple[str, int]) -> None:
    """Two devices under one key: listed, handed out, given back, and gone with their bridges."""
    from tvm import rpc

    where = f"{tracker[0]}:{tracker[1]}"
    client = rpc.connect_tracker(*tracker)

    def free() -> int:
        return int(client.summary()["queue_info"].get("demo", {}).get("free", 0))

    with running_bridge(server, key="demo", tracker=where) as one:
        assert wait_until(lambda: free() == 1)
        with pytest.raises(RuntimeError):
            stock(one, "demo")  # not through the tracker: does not know the session's match key
        with running_bridge(server, key="demo", tracker=where):
            assert wait_until(lambda: free() == 2)
            for _ in range(3):
                remotes = [client.request("demo"), client.request("demo")]
                assert [total(remote) for remote in remotes] == [42, 42]
                assert free() == 0
                for remote in remotes:
                    close(remote)
                assert wait_until(lambda: free() == 2)
        assert wait_until(lambda: free() == 1)
        remote = client.request("demo")
        assert total(remote) == 42
        close(remote)
    assert wait_until(lambda: free() == 0)


@pytest.mark.host_cc
def test_a_device_that_dies_is_taken_out_and_comes_back(tcp_program: Path, tracker: tuple[str, int]) -> None:
    """Not there, there, killed, there again: the tracker lists it only while it answers."""
    from tvm import rpc

    client = rpc.connect_tracker(*tracker)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    def free() -> int:
        return int(client.summary()["queue_info"].get("mortal", {}).get("free", 0))

    where = f"{tracker[0]}:{tracker[1]}"
    with running_bridge(TcpSpec("127.0.0.1", port), key="mortal", tracker=where, start_timeout=1.0, health_interval=0.5):
        time.sleep(1.5)
        assert free() == 0
        for _ in range(2):
            with subprocess.Popen([tcp_program, str(port)], stdout=subprocess.DEVNULL) as device:
                assert wait_until(lambda: free() == 1)
                remote = client.request("mortal")
                assert total(remote) == 42
                close(remote)
                assert wait_until(lambda: free() == 1)
                device.kill()
            assert wait_until(lambda: free() == 0)
