# SPDX-License-Identifier: Apache-2.0
"""Bytes to and from a device, with a deadline on every call."""

from __future__ import annotations

import os
import select
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

# How often a waiting call looks whether the other end still lives, seconds.
_TICK = 0.025


class TransportClosed(Exception):
    """The other end has gone."""


class Transport(ABC):
    """A byte stream. Deadlines are points of `time.monotonic()`; a call that passes its deadline raises TimeoutError."""

    @abstractmethod
    def read(self, n: int, deadline: float) -> bytes:
        """Exactly n bytes."""

    @abstractmethod
    def write(self, data: bytes, deadline: float) -> None:
        """All of data."""

    @abstractmethod
    def close(self) -> None:
        """Give up the line; may be called twice."""


class FileTransport(Transport):
    """A stream over two file descriptors (pipes, named pipes, a socket or a terminal), which it owns.

    Parameters
    ----------
    read_fd, write_fd
        The descriptors; the same one for a socket.
    alive
        Tells whether the other end lives. Asked while waiting, because a named pipe held open for writing never ends.
    """

    def __init__(self, read_fd: int, write_fd: int, alive: Callable[[], bool]) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._alive = alive
        self._open = True
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

    def read(self, n: int, deadline: float) -> bytes:
        """Exactly n bytes; see Transport."""
        parts: list[bytes] = []
        while n > 0:
            self._wait(self._read_fd, select.POLLIN, deadline)
            try:
                part = os.read(self._read_fd, min(n, 1 << 20))
            except BlockingIOError:
                continue
            except OSError as error:
                raise TransportClosed(str(error)) from None
            if not part:
                raise TransportClosed("end of stream")
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def write(self, data: bytes, deadline: float) -> None:
        """All of data; see Transport."""
        view = memoryview(data)
        while view:
            self._wait(self._write_fd, select.POLLOUT, deadline)
            try:
                view = view[os.write(self._write_fd, view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise TransportClosed(str(error)) from None

    def close(self) -> None:
        """Close both descriptors."""
        if self._open:
            self._open = False
            for fd in {self._read_fd, self._write_fd}:
                os.close(fd)

    def _wait(self, fd: int, event: int, deadline: float) -> None:
        if not self._open:
            raise TransportClosed("closed by this side")
        poll = select.poll()
        poll.register(fd, event)
        while True:
            # Asked before the poll: what a dying device wrote last is still read.
            alive = self._alive()
            left = deadline - time.monotonic()
            if poll.poll(1000 * max(0.0, min(_TICK, left)) if alive else 0):
                return
            if not alive:
                raise TransportClosed("the other end has ended")
            if left <= 0:
                raise TimeoutError("no answer in time")
