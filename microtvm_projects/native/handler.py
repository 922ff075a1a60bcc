# SPDX-License-Identifier: Apache-2.0
"""Template `native`: the application as a process of this machine, frames on its standard input and output."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

from tvm_tiny.boards import Board
from tvm_tiny.device import faults
from tvm_tiny.device.artifact import Artifact
from tvm_tiny.device.frame import FrameError, FrameType, receive
from tvm_tiny.device.link import Link
from tvm_tiny.device.process import start_process
from tvm_tiny.device.project import Project, ProjectHandler, ProjectOptions, model_variables, write_make_project
from tvm_tiny.device.toolchain import find_tool
from tvm_tiny.device.transport import TransportClosed

_ASK_TIMEOUT = 2.0


class Handler(ProjectHandler):
    """Handler of the `native` template."""

    template = "native"

    def tools(self, board: Board) -> tuple[str, ...]:
        """Make and the host's compiler."""
        return ("make", "host-cc")

    def write_template(self, artifact: Artifact, board: Board, directory: Path, options: ProjectOptions) -> None:
        """Add Makefile, config.mk and the port."""
        write_make_project("native", directory, {"CC": find_tool("host-cc").name, **model_variables(artifact, board, options)})

    def flash(self, project: Project) -> None:
        """Nothing to do: the process starts when the line opens."""

    def open_transport(self, project: Project) -> Link:
        """Start the process with a pipe each way."""
        return start_process([str(project.elf)], cwd=project.directory, ask_hung=_ask)


def _ask(link: Link) -> faults.Fault | None:
    """A hung process answers SIGUSR1 with a fault record of where it is."""
    assert link.process is not None
    link.process.signal(signal.SIGUSR1)
    with contextlib.suppress(FrameError, TransportClosed, TimeoutError):
        frame = receive(link.transport, time.monotonic() + _ASK_TIMEOUT)
        if frame.type == FrameType.FAULT:
            return faults.decode(frame.payload)
    return None
