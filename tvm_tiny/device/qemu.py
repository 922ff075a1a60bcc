# SPDX-License-Identifier: Apache-2.0
"""QEMU: the command line of a board, and a look into an emulated program that hangs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm_tiny.boards import Board, find_board
from tvm_tiny.device.faults import LAYER_NONE, Fault
from tvm_tiny.device.image_size import measure_image
from tvm_tiny.device.link import ChildProcess, Link
from tvm_tiny.device.toolchain import find_tool
from tvm_tiny.device.transport import FileTransport, TransportClosed
from tvm_tiny.errors import DeviceError, TargetError

_START_TIMEOUT = 20.0
_MONITOR_TIMEOUT = 3.0
_NUDGE = 0.02


def qemu_command(board: str | Board, elf: str | Path, extra_args: Sequence[str] = ()) -> list[str]:
    """Command that boots an image on an emulated board, without display, network or serial lines, with semihosting on.

    The program ends the emulator itself (exit code of `port_exit`); interrupts are never on in our images.

    Raises
    ------
    TargetError
        The board is not an emulated one.
    ToolchainError
        QEMU is not installed.
    """
    board = find_board(board)
    if not board.emulated:
        raise TargetError(f"{board.name} is no emulated board", remedy="see `tvm-tiny boards`")
    core = ["-cpu", board.qemu["cpu"]] if "cpu" in board.qemu else []
    return [
        str(find_tool("qemu")),
        *("-M", board.qemu["machine"], *core, "-display", "none", "-monitor", "none", "-nic", "none"),
        *("-semihosting-config", "enable=on,target=native", "-kernel", str(elf)),
        *(extra_args if "-serial" in extra_args else ("-serial", "none", *extra_args)),
    ]


def boot_with_pipes(board: Board, elf: Path) -> Link:
    """Boot an image whose line is a pair of named pipes, opened by semihosting in QEMU's working directory."""
    folder = Path(tempfile.mkdtemp(prefix="tvm_tiny_"))
    descriptors: list[int] = []
    try:
        for name in ("to_device", "from_device"):
            os.mkfifo(folder / name)
            # Open for reading and writing: neither our open nor the device's can then block for want of a partner.
            descriptors.append(os.open(folder / name, os.O_RDWR | os.O_CLOEXEC))
        process = ChildProcess(qemu_command(board, elf, _monitor_option()), cwd=folder)
    except BaseException:
        _close_all(descriptors)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    transport = FileTransport(descriptors[1], descriptors[0], process.alive)
    return Link(transport, process, lambda _: _look_from_outside(folder, elf), lambda: _clean_up(folder))


def boot_with_uart(board: Board, elf: Path) -> Link:
    """Boot an image whose line is the board's first UART, a Unix socket on our side."""
    folder = Path(tempfile.mkdtemp(prefix="tvm_tiny_"))
    process = line = None
    try:
        serial = ("-chardev", "socket,id=line,path=uart.sock,server=on,wait=on", "-serial", "chardev:line")
        process = ChildProcess(qemu_command(board, elf, (*_monitor_option(), *serial)), cwd=folder)
        line = _connect(folder / "uart.sock", process)
        monitor = Monitor(folder / "qmp.sock")
    except BaseException:
        for opened in (process, line):
            if opened is not None:
                opened.close()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    descriptor = line.detach()
    transport = FileTransport(descriptor, descriptor, lambda: process.alive() and monitor.nudge())
    return Link(transport, process, lambda _: _look(monitor, elf), lambda: _clean_up(folder, monitor))


def _clean_up(folder: Path, monitor: Monitor | None = None) -> None:
    if monitor is not None:
        monitor.close()
    shutil.rmtree(folder, ignore_errors=True)


def _look_from_outside(folder: Path, elf: Path) -> Fault | None:
    """As _look, over a connection of its own; None when the monitor does not answer."""
    try:
        monitor = Monitor(folder / "qmp.sock")
    except (OSError, ValueError, TransportClosed):
        return None
    with contextlib.closing(monitor):
        return _look(monitor, elf)


def _monitor_option() -> tuple[str, ...]:
    return ("-qmp", "unix:qmp.sock,server=on,wait=off")


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _connect(path: Path, process: ChildProcess) -> socket.socket:
    """Connect to a socket QEMU is about to open."""
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _connect_unix(line, path)
            return line
        except OSError:
            line.close()
        if not process.alive():
            raise DeviceError(f"QEMU ended at once\n{process.messages()}")
        if time.monotonic() > deadline:
            raise DeviceError(f"QEMU opened no line within {_START_TIMEOUT:g} s")
        time.sleep(0.01)


def _connect_unix(line: socket.socket, path: Path) -> None:
    """Connect to a Unix socket however long its path is: the address itself holds 107 bytes at most."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        short = Path(f"/proc/self/fd/{folder}")
        line.connect(str((short if short.exists() else path.parent) / path.name))
    finally:
        os.close(folder)


def _look(monitor: Monitor, elf: Path) -> Fault | None:
    """Program counter and layer of a hung program, through QEMU's monitor; None when it does not answer."""
    with contextlib.suppress(OSError, TransportClosed, ValueError, KeyError):
        return Fault("", pc=_pc(monitor.human("info registers")), layer=_layer(monitor, elf))
    return None


def _pc(registers: str) -> int | None:
    found = re.search(r"\bR15=([0-9a-f]{8})", registers)
    return int(found.group(1), 16) if found else None


def _layer(monitor: Monitor, elf: Path) -> int | None:
    symbol = measure_image(elf).symbol("tiny_current_layer")
    if symbol is None:
        return None
    found = re.search(r":\s*0x([0-9a-f]+)", monitor.human(f"x /1wx {symbol.address:#x}"))
    layer = int(found.group(1), 16) if found else LAYER_NONE
    return None if layer == LAYER_NONE else layer


class Monitor:
    """QEMU's machine protocol (QMP) on a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_MONITOR_TIMEOUT)
        self._nudged = 0.0
        try:
            _connect_unix(self._socket, path)
            self._file = self._socket.makefile("rw", encoding="utf-8")
            self._file.readline()
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its answer; events in between are dropped."""
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        while line := self._file.readline():
            answer = json.loads(line)
            if "return" in answer or "error" in answer:
                return answer["return"]
        raise TransportClosed("QEMU closed its monitor")

    def human(self, command: str) -> str:
        """Run a command of the interactive monitor and return its text."""
        return str(self.execute("human-monitor-command", **{"command-line": command}))

    def nudge(self) -> bool:
        """Make QEMU's main loop go round once; at most every 20 ms. Returns True.

        While an emulated UART is read by polling, QEMU 7.2 now and then misses that it has room again, and leaves the next byte in the
        socket until anything else wakes it (seen on the CMSDK UARTs: a transfer stood still until a monitor command came).
        """
        now = time.monotonic()
        if now - self._nudged > _NUDGE:
            self._nudged = now
            with contextlib.suppress(OSError, TransportClosed, ValueError, KeyError):
                self.execute("query-status")
        return True

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._socket.close()
