# SPDX-License-Identifier: Apache-2.0
"""The serial port of a real board."""

from __future__ import annotations

import os
import termios
import time
from pathlib import Path

from tvm_tiny.device.frame import FrameType, encode
from tvm_tiny.device.link import Link
from tvm_tiny.device.project import Project
from tvm_tiny.device.rpc.line import DEFAULT_BAUD, SerialSpec
from tvm_tiny.device.transport import FileTransport
from tvm_tiny.errors import DeviceError, OptionError

_PORT_FOLDER = Path("/dev/serial/by-id")
# A board that opening the port has reset (DTR) boots meanwhile; one that was just flashed too.
_SETTLE = 1.0


def open_serial(project: Project) -> Link:
    """Open the board's port and ask the program for its hello, which it may have said long before.

    Raises
    ------
    OptionError
        No port is named, and not exactly one is plugged in.
    DeviceError
        The port can't be opened.
    """
    spec = find_port(project)
    descriptor = spec.open().detach()[0]
    transport = FileTransport(descriptor, descriptor, lambda: os.path.exists(spec.path))
    time.sleep(_SETTLE)
    termios.tcflush(descriptor, termios.TCIFLUSH)
    transport.write(encode(FrameType.HELLO, 0, b""), time.monotonic() + _SETTLE)
    return Link(transport, None)


def find_port(project: Project, folder: Path = _PORT_FOLDER) -> SerialSpec:
    """The port the options name, else the only one in `folder`; see open_serial for errors."""
    if project.options.serial:
        path, _, baud = project.options.serial.partition("@")
        if not path or (baud and not baud.isdecimal()):
            raise OptionError(f"serial={project.options.serial!r} is not PATH[@BAUD]", remedy="such as /dev/ttyACM0@115200")
        return SerialSpec(path, int(baud) if baud else DEFAULT_BAUD)
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    if len(found) == 1:
        return SerialSpec(str(found[0]))
    if not found:
        raise DeviceError(f"{project.board.name}: no serial port is plugged in", remedy="connect the board, or name its port: /dev/ttyACM0")
    names = ", ".join(path.name for path in found)
    raise OptionError(f"{project.board.name}: {len(found)} serial ports are plugged in: {names}", remedy="name one: --serial PATH")
