# SPDX-License-Identifier: Apache-2.0
"""Lines: streams of bytes to a device, said in one word: `exec:COMMAND`, `pipes:COMMAND`, `tcp:HOST:PORT`, `serial:PATH[@BAUD]`."""

from __future__ import annotations

import ctypes
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_tiny.errors import DeviceError, OptionError

DEFAULT_BAUD = 115200
# Bytes a second below which no pipe, socket or emulated UART was seen to fall (QEMU: about 20 kB/s).
_UNPACED_RATE = 10_000.0
_KILL_AFTER = 2.0
_LOOK_AFTER = 0.2


class LineClosedError(DeviceError):
    """The other end of the line has gone: the process ended, the socket closed, the board was unplugged."""

    code = "TINY502"


class Line:
    """A stream over two file descriptors, which it owns. It never blocks past the time it is given.

    Attributes
    ----------
    bytes_per_second : float
        What the line carries at least; deadlines are scaled by it.
    boots : bool
        Whether opening the line has started the device: it says so when it is ready, and may not hear what comes before.
    """

    boots = False

    def __init__(self, read_fd: int, write_fd: int, bytes_per_second: float, name: str) -> None:
        self.bytes_per_second = bytes_per_second
        self._read_fd, self._write_fd, self._name = read_fd, write_fd, name
        self._open = True
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

    def read(self, timeout: float) -> bytes:
        """What has come, after waiting for at most `timeout` seconds for the first byte; empty when nothing has.

        Raises
        ------
        LineClosedError
            The other end has gone.
        """
        if not select.select([self._read_fd], [], [], max(timeout, 0.0))[0]:
            return b""
        try:
            data = os.read(self._read_fd, 65536)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise LineClosedError(f"{self._name}: {error}") from None
        if not data:
            raise LineClosedError(f"{self._name}: the device's end of the line has closed")
        return data

    def write(self, data: bytes, timeout: float) -> None:
        """All of `data`, or as much as the line takes within `timeout` seconds: the rest is lost, as on a wire.

        Raises
        ------
        LineClosedError
            The other end has gone.
        """
        deadline = time.monotonic() + timeout
        view = memoryview(data)
        while view and select.select([], [self._write_fd], [], max(deadline - time.monotonic(), 0.0))[1]:
            try:
                view = view[os.write(self._write_fd, view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise LineClosedError(f"{self._name}: {error}") from None

    def detach(self) -> tuple[int, int]:
        """Hand the descriptors for reading and writing to the caller, who closes them."""
        self._open = False
        return self._read_fd, self._write_fd

    def close(self) -> None:
        """Give up the line; may be called twice."""
        if self._open:
            self._open = False
            for fd in {self._read_fd, self._write_fd}:
                os.close(fd)


class LineSpec(ABC):
    """How to reach a device; `open` may be called again after the line was closed."""

    @abstractmethod
    def open(self) -> Line:
        """Open the line.

        Raises
        ------
        DeviceError
            There is nothing at the other end.
        """


class _ProcessLine(Line):
    boots = True

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        # The pipes' ends become this object's own: Popen must not close them again.
        super().__init__(os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno()), _UNPACED_RATE, name)
        process.stdin.close()
        process.stdout.close()
        self._process = process

    def close(self) -> None:
        super().close()
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_KILL_AFTER)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True)
class ProcessSpec(LineSpec):
    """A process (a native server, or an emulator with `-serial stdio`) whose standard input and output are the line.

    Opening starts it, closing ends it: that is its reset. On Linux it also ends when its parent is killed.
    """

    command: tuple[str, ...]

    def open(self) -> Line:
        """Start the process."""
        process = _started(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return _ProcessLine(process, self.command[0])

    def __str__(self) -> str:
        return "exec:" + shlex.join(self.command)


class _PipesLine(Line):
    boots = True

    def __init__(self, process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str], read_fd: int, write_fd: int) -> None:
        super().__init__(read_fd, write_fd, _UNPACED_RATE, "the emulator")
        self._process, self._folder = process, folder

    def read(self, timeout: float) -> bytes:
        """As of `Line`; this end holds the pipes open, so it looks after the process itself."""
        data = super().read(min(timeout, _LOOK_AFTER))
        if not data and self._process.poll() is not None:
            raise LineClosedError("the emulator has ended")
        return data

    def close(self) -> None:
        """Kill the process: an emulator that waits for a byte takes no other signal."""
        super().close()
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


@dataclass(frozen=True)
class PipesSpec(LineSpec):
    """A process that opens the named pipes `to_device` and `from_device` in its working directory: an emulator's semihosting."""

    command: tuple[str, ...]

    def open(self) -> Line:
        """Start the process in a folder of its own."""
        folder = tempfile.TemporaryDirectory(prefix="tvm_tiny_line_")
        descriptors = []
        for name in ("from_device", "to_device"):
            path = os.path.join(folder.name, name)
            os.mkfifo(path)
            descriptors.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))  # for both: neither side then waits for a partner
        try:
            return _PipesLine(
                _started(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=folder.name), folder, *descriptors
            )
        except DeviceError:
            for descriptor in descriptors:
                os.close(descriptor)
            folder.cleanup()
            raise

    def __str__(self) -> str:
        return "pipes:" + shlex.join(self.command)


def _started(command: Sequence[str], *, stdin: int, stdout: int, cwd: str | None = None) -> subprocess.Popen[bytes]:
    """A process that ends with this one (Linux)."""
    die_with_parent = _die_with_parent if sys.platform == "linux" else None
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=stdout, bufsize=0, cwd=cwd, preexec_fn=die_with_parent)
    except OSError as error:
        raise DeviceError(f"can't start the device {command[0]}: {error}", remedy="build it first, or mend the command") from None


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Runs in the child, between fork and exec: prctl(PR_SET_PDEATHSIG, SIGKILL)."""
    if _libc is not None:
        _libc.prctl(1, signal.SIGKILL)


@dataclass(frozen=True)
class TcpSpec(LineSpec):
    """A TCP port that carries the line's bytes: `-serial tcp:` of QEMU, ser2net, a native server."""

    host: str
    port: int

    def open(self) -> Line:
        """Connect."""
        try:
            connection = socket.create_connection((self.host, self.port), timeout=10)
        except OSError as error:
            raise DeviceError(f"no device at {self}: {error}", remedy="start it, or name another port") from None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        descriptor = connection.detach()
        return Line(descriptor, descriptor, _UNPACED_RATE, str(self))

    def __str__(self) -> str:
        return f"tcp:{self.host}:{self.port}"


@dataclass(frozen=True)
class SerialSpec(LineSpec):
    """A serial port, 8N1 without flow control. Opening it resets boards that wire DTR to reset."""

    path: str
    baud: int = DEFAULT_BAUD

    def open(self) -> Line:
        """Open and set the port; what came before is dropped."""
        import termios

        speed = getattr(termios, f"B{self.baud}", None)
        if speed is None:
            raise OptionError(f"{self}: the system knows no {self.baud} baud", remedy="use a standard rate, e.g. 115200 or 921600")
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceError(f"no device at {self}: {error}", remedy="plug it in, or name another port") from None
        try:
            control = [0] * len(termios.tcgetattr(descriptor)[6])
            raw = termios.CS8 | termios.CREAD | termios.CLOCAL
            termios.tcsetattr(descriptor, termios.TCSANOW, [0, 0, raw, 0, speed, speed, control])
            termios.tcflush(descriptor, termios.TCIOFLUSH)
        except termios.error as error:
            os.close(descriptor)
            raise DeviceError(f"{self} is no serial port: {error}") from None
        return Line(descriptor, descriptor, self.baud / 10, str(self))

    def __str__(self) -> str:
        return f"serial:{self.path}@{self.baud}"


def parse_line(text: str) -> LineSpec:
    """The line that `text` names.

    Raises
    ------
    OptionError
        It is none of the four forms.
    """
    kind, _, rest = text.partition(":")
    if kind in ("exec", "pipes") and (command := shlex.split(rest)):
        return (ProcessSpec if kind == "exec" else PipesSpec)(tuple(command))
    if kind == "tcp":
        host, _, port = rest.rpartition(":")
        if host and port.isdecimal() and 0 < int(port) < 65536:
            return TcpSpec(host, int(port))
    if kind == "serial" and rest:
        path, _, baud = rest.partition("@")
        if not baud or baud.isdecimal():
            return SerialSpec(path, int(baud or DEFAULT_BAUD))
    raise OptionError(f"{text!r} names no line to a device", remedy="say exec:COMMAND, pipes:COMMAND, tcp:HOST:PORT or serial:PATH[@BAUD]")
