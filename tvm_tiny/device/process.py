# SPDX-License-Identifier: Apache-2.0
"""A host process whose standard input and output are the line."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tvm_tiny.device.faults import Fault
from tvm_tiny.device.link import ChildProcess, Link
from tvm_tiny.device.transport import FileTransport


def start_process(command: Sequence[str], *, cwd: Path, ask_hung: Callable[[Link], Fault | None] = lambda _: None) -> Link:
    """Start a program with a pipe each way; closing the link ends it."""
    device_in, to_device = os.pipe()
    from_device, device_out = os.pipe()
    try:
        process = ChildProcess(command, cwd=cwd, stdin=device_in, stdout=device_out)
    except BaseException:
        os.close(to_device)
        os.close(from_device)
        raise
    finally:
        os.close(device_in)
        os.close(device_out)
    return Link(FileTransport(from_device, to_device, process.alive), process, ask_hung)
