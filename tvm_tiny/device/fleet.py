# SPDX-License-Identifier: Apache-2.0
"""Fleets: several devices, boards and emulators alike, behind TVM's own RPC tracker, and work that moves on when one fails.

Each device has a bridge (tvm_tiny.device.rpc) that registers it under a key, asks it now and then whether it still answers, takes it out
of the tracker when not, and brings it back when it does. Clients are anybody's: `tvm.rpc.connect_tracker` or `Fleet`.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeVar

from tvm_tiny.device.rpc.session import RunningBridge, running_bridge
from tvm_tiny.device.rpc.tracker import request_device
from tvm_tiny.errors import DependencyError, DeviceError

Item = TypeVar("Item")
Result = TypeVar("Result")

_TRACKER_NEEDS = ("tornado", "psutil", "cloudpickle")
_TRACKER_START = 60.0
_PASSED_OVER = 5
_FAREWELL = 10.0  # seconds a session that ends may take to say so
_GRACE = 5.0  # seconds after which a bridge that should have ended a session is given up
# What TVM's client puts before the text of an exception that came from the other side.
_FROM_DEVICE = "Error caught from RPC call:\n"


@dataclass(frozen=True)
class Fleet:
    """Devices under one key of a tracker.

    Attributes
    ----------
    bridges : tuple[RunningBridge, ...]
        Those started here; other machines' may serve the same key.
    patience : float
        Seconds to wait while no device is registered under the key; busy ones are waited for without end.
    greeting : float
        Seconds a device's server may take to open a session.
    """

    host: str
    port: int
    key: str
    bridges: tuple[RunningBridge, ...] = ()
    patience: float = 60.0
    greeting: float = 60.0

    def free(self) -> int:
        """How many devices wait for work.

        Raises
        ------
        DeviceError
            The tracker can't be reached.
        """
        queues = self._tracker().summary()["queue_info"]
        return int(queues.get(self.key, {}).get("free", 0))

    def wait(self, count: int, timeout: float = 60.0) -> None:
        """Wait until `count` devices are free.

        Raises
        ------
        DeviceError
            They were not in time.
        """
        deadline = time.monotonic() + timeout
        while (free := self.free()) < count:
            if time.monotonic() > deadline:
                what = f"{free} of {count} devices under {self.key!r} answered within {timeout:g} s"
                raise DeviceError(what, remedy="see their bridges' messages")
            time.sleep(0.1)

    def call(self, work: Callable[[Any], Result], *, attempts: int = 3, session_timeout: float = 600.0) -> Result:
        """Give a free device's session to `work`; a device that hangs, is reset or unplugged meanwhile is left, and another takes the work.

        An error of a function, or a crash of the program, is the work's own: it is raised and not tried elsewhere.

        Raises
        ------
        DeviceError
            `attempts` devices were lost over it, or none became free.
        RuntimeError
            What the device reported (TVM's RPCError).
        """
        lost = ""
        for _ in range(attempts):
            session = self._request(session_timeout)
            try:
                result = _within(session_timeout + _GRACE, work, session)
            except RuntimeError as error:
                if is_lost(error):
                    lost = str(error)
                    continue
                _close(session)
                raise
            except BaseException:
                _close(session)
                raise
            _close(session)
            return result
        what = f"{attempts} devices under {self.key!r} were lost over the same work: {lost}"
        raise DeviceError(what, remedy="look at the work, not at the devices")

    def map(
        self,
        work: Callable[[Any, Item], Result],
        items: Iterable[Item],
        *,
        workers: int = 0,
        attempts: int = 3,
        session_timeout: float = 600.0,
    ) -> list[Result]:
        """`work(session, item)` of every item, in order, on as many devices at a time as there are (or `workers`); see `call`."""

        def one(item: Item) -> Result:
            return self.call(lambda session: work(session, item), attempts=attempts, session_timeout=session_timeout)

        with ThreadPoolExecutor(workers or max(len(self.bridges), 1)) as pool:
            return list(pool.map(one, items))

    def _tracker(self) -> Any:
        from tvm import rpc

        try:
            return rpc.connect_tracker(self.host, self.port)
        except (OSError, RuntimeError) as error:
            raise DeviceError(f"no tracker at {self.host}:{self.port}: {error}", remedy="start `python -m tvm.exec.rpc_tracker`") from None

    def _request(self, session_timeout: float) -> Any:
        """A session with a free device; one that went away after the tracker gave it out is passed over."""
        from tvm import rpc

        for _ in range(_PASSED_OVER):
            offer = request_device((self.host, self.port), self.key, self.patience)
            try:
                return _within(self.greeting, rpc.connect, offer.host, offer.port, offer.match_key, session_timeout)
            except RuntimeError as error:
                lost = error
        raise DeviceError(f"no device under {self.key!r} lets anybody in: {lost}", remedy="see their bridges' messages")


def is_lost(error: RuntimeError) -> bool:
    """Whether an error of TVM's client says that the device, or the way to it, is gone, rather than what the device reported."""
    _, reported, text = str(error).partition(_FROM_DEVICE)
    return not reported or text.startswith(("DeviceError:", "RPCSessionTimeoutError:"))


def _within(seconds: float, function: Callable[..., Result], *args: Any) -> Result:
    """Call a function of TVM's client, which itself waits without end for a server that froze.

    The thread left behind ends with this process, or when the server's machine closes the connection.

    Raises
    ------
    RuntimeError
        It took longer than `seconds`; `is_lost` takes it for a device that is gone.
    """
    answer: Future[Result] = Future()

    def run() -> None:
        try:
            answer.set_result(function(*args))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    done, _ = wait([answer], seconds)
    if not done:
        raise RuntimeError(f"the device's server did not answer within {seconds:g} s")
    return answer.result()


def _close(session: Any) -> None:
    with contextlib.suppress(RuntimeError):
        _within(_FAREWELL, session._sess.get_function("CloseRPCConnection"))


@contextlib.contextmanager
def running_tracker(host: str = "127.0.0.1") -> Iterator[tuple[str, int]]:
    """Run TVM's tracker; yields its host and port.

    Raises
    ------
    DependencyError
        A package that TVM's tracker imports is missing.
    DeviceError
        It did not start.
    """
    missing = [name for name in _TRACKER_NEEDS if find_spec(name) is None]
    if missing:
        raise DependencyError(f"TVM's RPC tracker needs {', '.join(missing)}", remedy="pip install 'tvm_tiny[rpc]'")
    with socket.create_server((host, 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tvm.exec.rpc_tracker", "--host", host, "--port", str(port), "--port-end", str(port + 1)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for_port(process, host, port)
            yield host, port
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_port(process: subprocess.Popen[bytes], host: str, port: int) -> None:
    deadline = time.monotonic() + _TRACKER_START
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise DeviceError(f"TVM's RPC tracker did not start on {host}:{port}", remedy="run `python -m tvm.exec.rpc_tracker` to see why")


@contextlib.contextmanager
def running_fleet(lines: Sequence[object], key: str, *, tracker: tuple[str, int] | None = None, **bridge: Any) -> Iterator[Fleet]:
    """A bridge for each line, registered under `key` with `tracker` (default: one of its own); on leaving, all are gone.

    Parameters
    ----------
    bridge
        Options of `tvm_tiny.device.rpc.session.running_bridge`.
    """
    with contextlib.ExitStack() as stack:
        host, port = tracker or stack.enter_context(running_tracker())
        bridges = [stack.enter_context(running_bridge(line, key=key, tracker=f"{host}:{port}", **bridge)) for line in lines]
        fleet = Fleet(host, port, key, tuple(bridges))
        fleet.wait(len(lines))
        yield fleet
