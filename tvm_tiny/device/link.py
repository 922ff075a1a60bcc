# SPDX-License-Identifier: Apache-2.0
"""A running program and the line to it: one context manager that leaves nothing running."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from tvm_tiny.device.faults import Fault
from tvm_tiny.device.transport import Transport
from tvm_tiny.errors import ToolchainError


class ChildProcess:
    """A program we started; `kill` ends it for sure, and on Linux the kernel does so when this process dies.

    Linux ties the latter to the thread that started the program: a thread that hands an open link to another must outlive it.
    What it prints to standard error goes to a file, so that it can never block on a full pipe.
    """

    def __init__(self, command: Sequence[str], *, cwd: Path, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL) -> None:
        # setpriv (util-linux) sets the parent-death signal and then becomes the program, keeping its process id.
        setpriv = shutil.which("setpriv")
        guarded = [setpriv, "--pdeathsig", "KILL", "--", *command] if setpriv else list(command)
        self._log = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(guarded, cwd=cwd, stdin=stdin, stdout=stdout, stderr=self._log, start_new_session=True)
        except OSError as error:
            self._log.close()
            raise ToolchainError(f"{command[0]} can't be started: {error.strerror}") from None

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def wait(self, timeout: float) -> int:
        """Exit code; negative for a signal. TimeoutError when it does not end in time."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it and collect it."""
        self._process.kill()
        self._process.wait()

    def messages(self, limit: int = 2000) -> str:
        """The end of what it printed to standard error."""
        if self._log.closed:
            return ""
        size = self._log.seek(0, 2)
        self._log.seek(max(0, size - limit))
        return self._log.read().decode(errors="replace").strip()

    def close(self) -> None:
        """Kill it and drop its log."""
        self.kill()
        self._log.close()


class Link:
    """The line to a running program.

    Parameters
    ----------
    transport
        Bytes both ways.
    process
        The host process or emulator behind it; None for a real board.
    ask_hung
        Called when there is no answer in time: says where the program is.
    cleanup
        Called once at the end, after the process has ended.
    """

    def __init__(
        self,
        transport: Transport,
        process: ChildProcess | None,
        ask_hung: Callable[[Link], Fault | None] = lambda _: None,
        cleanup: Callable[[], None] = lambda: None,
    ) -> None:
        self.transport = transport
        self.process = process
        self._ask_hung = ask_hung
        self._cleanup = cleanup
        self._open = True

    def where_hung(self) -> Fault | None:
        """Where a program that does not answer is; None when that can't be told."""
        return self._ask_hung(self)

    def close(self) -> None:
        """End the program and free everything; may be called twice."""
        if not self._open:
            return
        self._open = False
        try:
            if self.process is not None:
                self.process.close()
        finally:
            self.transport.close()
            self._cleanup()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
