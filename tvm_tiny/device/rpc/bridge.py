# SPDX-License-Identifier: Apache-2.0
"""The bridge: a TCP port where TVM's own RPC client finds a device that hangs on a line.

One client at a time, as TVM's server does. Whole packets only go down the line. A device that fails is reported to the client as an
exception, the client's connection is closed (it would wait for answers for ever), the device is reset, and the next client is served.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import logging
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from tvm_tiny.device.faults import DeviceFault
from tvm_tiny.device.rpc.hosted import HostedDevice
from tvm_tiny.device.rpc.line import Line, LineSpec
from tvm_tiny.device.rpc.link import DeviceLink
from tvm_tiny.device.rpc.packets import (
    ClientGoneError,
    Code,
    PipeConnection,
    code_of,
    exception_packet,
    packet,
    receive_client_key,
    receive_packet,
    send_mismatch,
    send_server_key,
)
from tvm_tiny.device.rpc.tracker import TrackerClient
from tvm_tiny.errors import DeviceError, OptionError

logger = logging.getLogger("tvm_tiny.rpc")

_TICK = 0.5
_HANDSHAKE_TIMEOUT = 5.0
# What a client may need for the rest of a packet it has begun, seconds.
_PACKET_TIMEOUT = 30.0
# A packet holds at most one tensor, which fits the arena, and little else.
_BESIDES_TENSOR = 1 << 20


@dataclass(frozen=True)
class BridgeOptions:
    """How a bridge behaves.

    Attributes
    ----------
    host, port
        Where it listens; port 0 lets the system choose. Anything but a loopback address needs a key.
    key
        What clients must say in `rpc.connect(..., key=...)`; empty: anything. With a tracker, the key there (and then each session has a
        match key of its own).
    tracker
        Host and port of an RPC tracker, or None.
    call_timeout
        Seconds a function on the device may run.
    start_timeout
        Seconds a device may take from the opening of its line to its first answer.
    health_interval
        With a tracker: an idle device is asked this often, in seconds, whether it answers; one that does not is reset, and withdrawn until
        it does.
    """

    host: str = "127.0.0.1"
    port: int = 0
    key: str = ""
    tracker: tuple[str, int] | None = None
    call_timeout: float = 30.0
    start_timeout: float = 10.0
    health_interval: float = 10.0

    def __post_init__(self) -> None:
        if not _is_loopback(self.host) and not self.key:
            what = f"listening on {self.host} without a key would let anybody drive the device"
            raise OptionError(what, remedy="give a key, or listen on 127.0.0.1")
        if self.tracker is not None and not self.key:
            raise OptionError("a device registers with a tracker under a key", remedy="give one, such as the board's name")
        if min(self.call_timeout, self.start_timeout, self.health_interval) <= 0:
            raise OptionError("time-outs must be above 0 seconds")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Bridge:
    """Serves the device behind `line`. Single-threaded: run `serve()` in a process (or, in tests, a thread) of its own.

    Parameters
    ----------
    line
        How to reach the device, or the device itself where it is hosted here.
    reset
        Resets the board; called after it failed to answer, with its line closed. A process is reset by closing its line.
    """

    def __init__(
        self, line: LineSpec | HostedDevice, options: BridgeOptions | None = None, reset: Callable[[], None] | None = None
    ) -> None:
        self.options = options or BridgeOptions()
        self._spec, self._reset = line, reset
        self._line: Line | None = None
        self._stopping = False
        self._next_health_check = 0.0
        self._listener = socket.create_server((self.options.host, self.options.port), backlog=8)
        self.port: int = self._listener.getsockname()[1]
        self._tracker: TrackerClient | None = None
        if self.options.tracker is not None:
            own_host = None if self.options.host in ("0.0.0.0", "::") else self.options.host
            self._tracker = TrackerClient(self.options.tracker, self.options.key, (own_host, self.port))

    def stop(self) -> None:
        """Ask `serve` to return within a second after the current packet; may be called from a signal handler or another thread."""
        self._stopping = True

    def serve(self) -> None:
        """Serve clients until `stop`, then close port and line."""
        try:
            while not self._stopping:
                connection = self._next_client()
                if connection is not None:
                    with connection:
                        used = self._serve_client(connection)
                    if used and self._tracker is not None:
                        # Not after a client that was sent away: the tracker still has the offer. The device is asked first.
                        self._tracker.match_key = ""
                        self._next_health_check = 0.0
        finally:
            self.close()

    def serve_pipe(self, read_fd: int, write_fd: int) -> None:
        """Serve the one client at the other end of two pipes, until it goes: what `tvm.rpc.PopenSession` starts."""
        try:
            with contextlib.suppress(ClientGoneError, OSError):
                _Session(self, PipeConnection(read_fd, write_fd), None).run()
        finally:
            self.close()

    def close(self) -> None:
        """Close port, line and tracker connection."""
        self._listener.close()
        if self._tracker is not None:
            self._tracker.close()
        self._close_line()

    # ---- clients --------------------------------------------------------------------------------------------------------------

    def _next_client(self) -> socket.socket | None:
        while not self._stopping:
            if self._tracker is not None:
                self._keep_offered(self._tracker)
            if select.select([self._listener], [], [], _TICK)[0]:
                connection, address = self._listener.accept()
                logger.info("client %s", address)
                return connection
        return None

    def _keep_offered(self, tracker: TrackerClient) -> None:
        """Offer the device as long as it answers; take it out when it does not, and back when it does."""
        if time.monotonic() < self._next_health_check:
            tracker.tick()
            return
        try:
            self.open_device()
        except DeviceError as error:
            logger.warning("taken out: %s", error)
            tracker.close()
            self.reset_device()
        else:
            if not tracker.match_key:
                tracker.offer()
        self._next_health_check = time.monotonic() + self.options.health_interval

    def _serve_client(self, connection: socket.socket) -> bool:
        """Whether it was let in."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_PACKET_TIMEOUT)
        with contextlib.suppress(ClientGoneError, OSError):
            client = receive_client_key(connection, time.monotonic() + _HANDSHAKE_TIMEOUT)
            if not self._welcome(client.key):
                send_mismatch(connection)
                return False
            send_server_key(connection, self.options.key)
            with contextlib.suppress(ClientGoneError, OSError):
                _Session(self, connection, client.session_timeout).run()
            return True
        return False

    def _welcome(self, key: str) -> bool:
        if self._tracker is None and not self.options.key:
            return True
        expected = self._tracker.match_key if self._tracker is not None else self.options.key
        return expected != "" and hmac.compare_digest(key.encode(), expected.encode())

    # ---- the device -----------------------------------------------------------------------------------------------------------

    def open_device(self) -> tuple[DeviceLink | HostedDevice, int]:
        """A fresh session with the device and the longest packet it can be sent, bytes.

        Raises
        ------
        DeviceError
            There is none, or it does not answer.
        """
        link = self._spec if isinstance(self._spec, HostedDevice) else DeviceLink(self._open_line(self._spec))
        info = link.open_session(self.options.start_timeout)
        return link, info.arena_bytes + _BESIDES_TENSOR

    def reset_device(self) -> None:
        """Close the line and reset the board, if that can be done from here."""
        self._close_line()
        if self._reset is None:
            return
        try:
            self._reset()
        except Exception:
            logger.exception("resetting the device failed")

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def _open_line(self, spec: LineSpec) -> Line:
        if self._line is None:
            self._line = spec.open()
        return self._line

    def _close_line(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line = None


class _Session:
    """One client's session."""

    def __init__(self, bridge: Bridge, connection: socket.socket | PipeConnection, timeout: float | None) -> None:
        self._bridge, self._connection = bridge, connection
        self._timeout = timeout
        self._ends_at = None if timeout is None else time.monotonic() + timeout
        self._link: DeviceLink | HostedDevice | None = None
        self._longest_packet = _BESIDES_TENSOR

    def run(self) -> None:
        try:
            while self._client_has_more():
                request = receive_packet(self._connection, self._longest_packet, time.monotonic() + _PACKET_TIMEOUT)
                if code_of(request) == Code.SHUTDOWN:
                    break
                if code_of(request) != 0 and not self._carry(request):
                    return
        finally:
            self._free_device()

    def _client_has_more(self) -> bool:
        """Wait for the next packet; False when the session's or the bridge's time is over."""
        while not self._bridge.stopping:
            left = _TICK if self._ends_at is None else min(_TICK, self._ends_at - time.monotonic())
            if left <= 0:
                logger.info("session time-out of %g s", self._timeout)
                return False
            if select.select([self._connection], [], [], left)[0]:
                return True
        return False

    def _carry(self, request: bytes) -> bool:
        """Take a request to the device and its answer back; False when the device is lost and the session with it."""
        try:
            answer = self._ask(request)
        except DeviceError as error:
            self._link = None
            self._bridge.reset_device()
            self._send(exception_packet(self._describe(error)))
            return False
        self._send(answer)
        return True

    def _send(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise ClientGoneError(str(error)) from None

    def _ask(self, request: bytes) -> bytes:
        if self._link is None or code_of(request) == Code.INIT_SERVER:
            self._link, self._longest_packet = self._bridge.open_device()
        return self._link.request(request, self._time_for_a_call())

    def _time_for_a_call(self) -> float:
        timeout = self._bridge.options.call_timeout
        return timeout if self._ends_at is None else min(timeout, max(self._ends_at - time.monotonic(), 0.0))

    def _describe(self, error: DeviceError) -> str:
        """TVM's client makes its own class of a text that begins so."""
        late = self._ends_at is not None and time.monotonic() >= self._ends_at
        kind = "DeviceFault" if isinstance(error, DeviceFault) else "DeviceError"
        if late:
            kind = f"RPCSessionTimeoutError: the session's {self._timeout:g} s are over"
        return f"{kind}: {error}"

    def _free_device(self) -> None:
        """Whatever became of the client: let the device free what it held."""
        if self._link is None:
            return
        try:
            self._link.request(packet(Code.SHUTDOWN), min(self._bridge.options.call_timeout, self._bridge.options.start_timeout))
        except DeviceError as error:
            logger.warning("%s", error)
            self._bridge.reset_device()
