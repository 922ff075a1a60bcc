# SPDX-License-Identifier: Apache-2.0
"""Both sides of TVM's RPC tracker (`python -m tvm.exec.rpc_tracker`): a device waits there under a key until a client asks for one."""

from __future__ import annotations

import contextlib
import json
import secrets
import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from tvm_tiny.errors import DeviceError, OptionError

_MAGIC = 0x2F271
_PUT, _REQUEST, _UPDATE_INFO, _SUMMARY, _PENDING = 3, 4, 5, 6, 7
_TIMEOUT = 5.0
# How long a device given out may stay unused before it is offered again, and how often the tracker is asked, seconds.
_UNUSED = 6.0
_INTERVAL = 2.0
_MAX_ANSWER = 1 << 20
# How often a client that waits for a device looks whether there are any, seconds.
_LOOK = 1.0


def parse_tracker(text: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT".

    Raises
    ------
    OptionError
        It is none.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise OptionError(f"tracker={text!r} is no address", remedy="say HOST:PORT")
    return host, int(port)


class _Connection:
    """A connection with a tracker, which answers each message with one; OSError and ValueError where it does not."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=_TIMEOUT)
        try:
            self.socket.sendall(struct.pack("<i", _MAGIC))
            if self._receive(4) != struct.pack("<i", _MAGIC):
                raise OSError("what answers is no RPC tracker")
        except BaseException:
            self.socket.close()
            raise

    def ask(self, message: list[Any]) -> Any:
        """The answer to a message."""
        self.send(message)
        return self.answer()

    def send(self, message: list[Any]) -> None:
        """Send a message whose answer is taken later."""
        text = json.dumps(message).encode()
        self.socket.sendall(struct.pack("<i", len(text)) + text)

    def answer(self) -> Any:
        """The next answer."""
        (count,) = struct.unpack("<i", self._receive(4))
        if not 0 <= count <= _MAX_ANSWER:
            raise ValueError(f"an answer of {count} bytes")
        return json.loads(self._receive(count))

    def close(self) -> None:
        """Leave the tracker."""
        self.socket.close()

    def _receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise OSError("the tracker closed the connection")
            data += part
        return bytes(data)


@dataclass(frozen=True)
class Offer:
    """A device the tracker has given out: where its server is, and what to say there."""

    host: str
    port: int
    match_key: str


def request_device(address: tuple[str, int], key: str, patience: float) -> Offer:
    """Wait for a free device. One that is busy is waited for; TVM's own client also waits where there is none, and for ever.

    Raises
    ------
    DeviceError
        The tracker can't be reached, or for `patience` seconds no device was registered under the key.
    """
    try:
        with contextlib.closing(_Connection(address)) as waiting:
            waiting.send([_REQUEST, key, "", 1])
            deadline = time.monotonic() + patience
            while not select.select([waiting.socket], [], [], _LOOK)[0]:
                if _registered(address, key):
                    deadline = time.monotonic() + patience
                elif time.monotonic() > deadline:
                    what = f"no device under {key!r} for {patience:g} s"
                    raise DeviceError(what, remedy="start one, or see why it does not answer")
            _, (host, port, match_key) = waiting.answer()
            return Offer(host, port, match_key)
    except (OSError, ValueError) as error:
        where = f"{address[0]}:{address[1]}"
        raise DeviceError(f"no tracker at {where}: {error}", remedy="start `python -m tvm.exec.rpc_tracker`") from None


def _registered(address: tuple[str, int], key: str) -> int:
    """How many servers are registered under a key."""
    with contextlib.closing(_Connection(address)) as connection:
        _, summary = connection.ask([_SUMMARY])
        return sum(info.get("key") == f"server:{key}" for info in summary.get("server_info", []))


class TrackerClient:
    """Keeps one device registered. A tracker that is away is asked again at each tick; the device meanwhile serves who knows its port.

    Attributes
    ----------
    match_key : str
        What the next client must say: `KEY:RANDOM`, new for every session.
    """

    def __init__(self, address: tuple[str, int], key: str, server_address: tuple[str | None, int]) -> None:
        if not key or any(c in key for c in " :\n\t"):
            raise OptionError(f"{key!r} is no key for a tracker", remedy="use a name without blanks and colons, such as the board's")
        self.match_key = ""
        self.last_error = ""
        self._address, self._key, self._server = address, key, server_address
        self._connection: _Connection | None = None
        self._next_tick = 0.0
        self._offered_at = 0.0

    def offer(self) -> None:
        """Say that the device is free, under a new match key."""
        self.match_key = f"{self._key}:{secrets.token_hex(8)}"
        host, port = self._server
        if self._call([_PUT, self._key, [port, self.match_key], host]) is not None:
            self._offered_at = time.monotonic()
        self._next_tick = time.monotonic() + _INTERVAL

    def tick(self) -> None:
        """While idle: offer the device again when the tracker lost it, or gave it to a client that never came."""
        now = time.monotonic()
        if now < self._next_tick or not self.match_key:
            return
        self._next_tick = now + _INTERVAL
        pending = self._call([_PENDING])
        if pending is None or (self.match_key not in pending and now - self._offered_at > _UNUSED):
            self.offer()

    def close(self) -> None:
        """Leave the tracker: it forgets the device when the connection closes."""
        self._disconnect()
        self.match_key = ""

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._offered_at = 0.0

    def _connect(self) -> _Connection:
        if self._connection is None:
            self._connection = _Connection(self._address)
            self._connection.ask([_UPDATE_INFO, {"key": f"server:{self._key}", "addr": list(self._server)}])
        return self._connection

    def _call(self, message: list[Any]) -> Any | None:
        """Answer of the tracker; None when it can't be reached."""
        try:
            return self._connect().ask(message)
        except (OSError, ValueError) as error:
            self.last_error = str(error)
            self._disconnect()
            return None
