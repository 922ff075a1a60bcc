# SPDX-License-Identifier: Apache-2.0
"""A server's side of TVM's RPC tracker (`python -m tvm.exec.rpc_tracker`): a device waits there under a key until a client asks for one."""

from __future__ import annotations

import json
import secrets
import socket
import struct
import time
from typing import Any

from tvm_tiny.errors import OptionError

_MAGIC = 0x2F271
_PUT, _UPDATE_INFO, _PENDING = 3, 5, 7
_TIMEOUT = 5.0
# How long a device given out may stay unused before it is offered again, and how often the tracker is asked, seconds.
_UNUSED = 6.0
_INTERVAL = 2.0
_MAX_ANSWER = 1 << 20


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
        self._socket: socket.socket | None = None
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
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._offered_at = 0.0

    def _connect(self) -> socket.socket:
        if self._socket is None:
            tracker = socket.create_connection(self._address, timeout=_TIMEOUT)
            self._socket = tracker
            tracker.sendall(struct.pack("<i", _MAGIC))
            if self._receive(4) != struct.pack("<i", _MAGIC):
                raise OSError("what answers is no RPC tracker")
            self._ask([_UPDATE_INFO, {"key": f"server:{self._key}", "addr": list(self._server)}])
        return self._socket

    def _call(self, message: list[Any]) -> Any | None:
        """Answer of the tracker; None when it can't be reached."""
        try:
            self._connect()
            return self._ask(message)
        except (OSError, ValueError) as error:
            self.last_error = str(error)
            self._disconnect()
            return None

    def _ask(self, message: list[Any]) -> Any:
        assert self._socket is not None
        text = json.dumps(message).encode()
        self._socket.sendall(struct.pack("<i", len(text)) + text)
        (count,) = struct.unpack("<i", self._receive(4))
        if not 0 <= count <= _MAX_ANSWER:
            raise ValueError(f"an answer of {count} bytes")
        return json.loads(self._receive(count))

    def _receive(self, count: int) -> bytes:
        assert self._socket is not None
        data = bytearray()
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                raise OSError("the tracker closed the connection")
            data += part
        return bytes(data)
