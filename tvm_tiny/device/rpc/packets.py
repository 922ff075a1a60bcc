# SPDX-License-Identifier: Apache-2.0
"""TVM's RPC packets as far as the bridge must know them (docs/rpc.md): lengths, three codes, exceptions, the TCP handshake."""

from __future__ import annotations

import enum
import os
import select
import socket
import struct
import time
from dataclasses import dataclass

MAGIC = 0xFF271
MISMATCH = MAGIC + 2
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
_RAW_STR = 8
_MAX_KEY = 4096


class Code(enum.IntEnum):
    """Packet codes the bridge or a hosted device acts upon; all others are only carried."""

    SHUTDOWN = 1
    INIT_SERVER = 2
    CALL_FUNC = 3
    RETURN = 4
    EXCEPTION = 5
    GET_GLOBAL_FUNC = 9
    FREE_HANDLE = 10
    STREAM_SYNC = 15


class ClientGoneError(Exception):
    """The client closed its connection, stopped inside a packet, or does not speak the protocol."""


def packet(code: Code, body: bytes = b"") -> bytes:
    """A packet with its length in front."""
    return _U64.pack(_I32.size + len(body)) + _I32.pack(code) + body


def exception_packet(message: str) -> bytes:
    """The packet that arrives in Python as an exception with this text."""
    text = message.encode()
    return packet(Code.EXCEPTION, struct.pack("<iiQ", 1, _RAW_STR, len(text)) + text)


def code_of(data: bytes) -> int:
    """Code of a whole packet; 0 for one without."""
    return int(_I32.unpack_from(data, _U64.size)[0]) if len(data) >= _U64.size + _I32.size else 0


@dataclass(frozen=True)
class ClientKey:
    """What a client says in the handshake: the key it wants, and after how many seconds its session is to end (None: never)."""

    key: str
    session_timeout: float | None


class PipeConnection:
    """Two pipes, as much like a socket as packets need."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd

    def fileno(self) -> int:
        """What to wait for."""
        return self._read_fd

    def recv(self, count: int) -> bytes:
        """Up to `count` bytes; none when the other end has closed."""
        return os.read(self._read_fd, count)

    def sendall(self, data: bytes) -> None:
        """Write all of it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._write_fd, view) :]


def receive_exactly(connection: socket.socket | PipeConnection, count: int, deadline: float) -> bytes:
    """`count` bytes by `deadline` (of time.monotonic()).

    Raises
    ------
    ClientGoneError
        They did not come.
    """
    parts = bytearray()
    while len(parts) < count:
        if not select.select([connection], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise ClientGoneError("the client stopped inside a packet")
        try:
            data = connection.recv(min(count - len(parts), 1 << 20))
        except OSError as error:
            raise ClientGoneError(str(error)) from None
        if not data:
            raise ClientGoneError("the client closed its connection")
        parts += data
    return bytes(parts)


def receive_client_key(connection: socket.socket, deadline: float) -> ClientKey:
    """First half of the handshake: `i32 magic, i32 n, key`, the key being `client:KEY` and, maybe, ` -timeout=SECONDS`."""
    magic, count = struct.unpack("<ii", receive_exactly(connection, 8, deadline))
    if magic != MAGIC or not 0 <= count <= _MAX_KEY:
        raise ClientGoneError("not a client of TVM's RPC")
    key, *options = receive_exactly(connection, count, deadline).decode("utf-8", "replace").split(" ")
    timeout = None
    for option in options:
        name, _, value = option.partition("=")
        if name == "-timeout" and value.replace(".", "", 1).isdecimal():
            timeout = float(value)
    if not key.startswith("client:"):
        raise ClientGoneError("not a client of TVM's RPC")
    return ClientKey(key.removeprefix("client:"), timeout)


def send_server_key(connection: socket.socket, key: str) -> None:
    """Second half of the handshake: accepted."""
    text = f"server:{key}".encode()
    connection.sendall(struct.pack("<ii", MAGIC, len(text)) + text)


def send_mismatch(connection: socket.socket) -> None:
    """Second half of the handshake: the key is wrong."""
    connection.sendall(_I32.pack(MISMATCH))


def receive_packet(connection: socket.socket | PipeConnection, longest: int, deadline: float) -> bytes:
    """The next packet, whole, its length in front.

    Raises
    ------
    ClientGoneError
        It did not come whole, or is longer than `longest` bytes: what follows could not be told from its content.
    """
    head = receive_exactly(connection, _U64.size, deadline)
    (count,) = _U64.unpack(head)
    if count > longest:
        raise ClientGoneError(f"a packet of {count} bytes; the device takes {longest}")
    return head + receive_exactly(connection, count, deadline)
