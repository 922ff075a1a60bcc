# SPDX-License-Identifier: Apache-2.0
"""Where images of candidates run: an emulated board here, or one that a device server offers over TVM's RPC.

`tvm-tiny device-server --board mps2_an500 --tracker HOST:PORT` without a model is such a server: it takes images and answers with what
they printed, or with their instructions and cycles.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tvm_tiny.boards import Board, find_board
from tvm_tiny.device.qemu import qemu_command
from tvm_tiny.device.rpc.hosted import HostedDevice
from tvm_tiny.errors import DeviceError, OptionError, TargetError, TinyError, ToolchainError
from tvm_tiny.profiler import model_for, profile_elf
from tvm_tiny.profiler.qemu_plugin import RunFailedError

RUN, PROFILE, BOARD = "tvm_tiny.run_image", "tvm_tiny.profile_image", "tvm_tiny.board"
# How an emulator ends that somebody else has ended; other signals are the image's doing.
_KILLED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)


@dataclass(frozen=True)
class Timed:
    """A segment of a profiled run (`tvm_tiny.profiler.Segment`): the marker that opened it, instructions, estimated cycles of the core."""

    opened_by: int | None
    instructions: int
    cycles: float


class Emulator(Protocol):
    """Runs images of one board. A DeviceError says that the emulator itself was lost."""

    def run(self, image: bytes, timeout: float) -> tuple[str, str]:
        """What an image printed, and how it ended when not well ("timeout" after `timeout` seconds)."""

    def profile(self, image: bytes, board_term: str, timeout: float) -> list[Timed] | str:
        """Segments of an image's run, or why there are none."""


class LocalEmulator:
    """An emulator of this machine.

    Raises
    ------
    TargetError
        The board is not emulated, or its core has no cycle model.
    """

    def __init__(self, board: Board) -> None:
        if not board.emulated:
            raise TargetError(f"{board.name} is not emulated, so nothing counts its instructions", remedy="tune on an mps2 board")
        model_for(board.mcpu)
        self.board = board

    def run(self, image: bytes, timeout: float) -> tuple[str, str]:
        """See `Emulator`."""
        with tempfile.TemporaryDirectory(prefix="tvm_tiny_image_") as folder:
            command = qemu_command(self.board, _written(image, folder))
            try:
                done = subprocess.run(command, capture_output=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)
            except subprocess.TimeoutExpired as late:
                return ((late.stdout or b"") + (late.stderr or b"")).decode(errors="replace"), "timeout"
        _check_not_killed(done.returncode)
        return (done.stdout + done.stderr).decode(errors="replace"), "" if done.returncode == 0 else f"QEMU ended with {done.returncode}"

    def profile(self, image: bytes, board_term: str, timeout: float) -> list[Timed] | str:
        """See `Emulator`."""
        core = self.board.mcpu
        with tempfile.TemporaryDirectory(prefix="tvm_tiny_image_") as folder:
            path = _written(image, folder)
            try:
                profile = profile_elf(path, qemu_command(self.board, path), core, board_term, timeout=timeout)
            except TinyError as error:
                _check_not_killed(error.exit_status if isinstance(error, RunFailedError) else 0)
                return error.message
        return [Timed(s.opened_by, s.instructions, s.cycles[core]) for s in profile.segments]


def _written(image: bytes, folder: str) -> Path:
    path = Path(folder) / "image.elf"
    path.write_bytes(image)
    return path


def _check_not_killed(status: int) -> None:
    if status in _KILLED:
        raise DeviceError(f"the emulator was ended by signal {-status}")


class RemoteEmulator:
    """An emulator behind a session of TVM's RPC.

    Parameters
    ----------
    session : tvm.rpc.RPCSession
    board : Board
        What it must emulate.

    Raises
    ------
    OptionError
        It emulates another board, or none.
    """

    def __init__(self, session: Any, board: Board) -> None:
        self._session = session
        remedy = f"start `tvm-tiny device-server --board {board.name}` without a model, under a key of its own"
        try:
            name = str(session.get_function(BOARD)())
        except AttributeError:
            raise OptionError("the device takes no images: it is no emulator", remedy=remedy) from None
        if name != board.name:
            raise OptionError(f"the device emulates {name}, not {board.name}", remedy=remedy)

    def run(self, image: bytes, timeout: float) -> tuple[str, str]:
        """See `Emulator`."""
        printed, end = json.loads(self._session.get_function(RUN)(image, timeout))
        return str(printed), str(end)

    def profile(self, image: bytes, board_term: str, timeout: float) -> list[Timed] | str:
        """See `Emulator`."""
        answer = json.loads(self._session.get_function(PROFILE)(image, board_term, timeout))
        return answer if isinstance(answer, str) else [Timed(*row) for row in answer]


@dataclass(frozen=True)
class EmulatorSpec:
    """An emulated board as the bridge's command line names it (`--device`)."""

    board: str

    def __str__(self) -> str:
        return f"emulator:{self.board}"


def hosted_emulator(board: str) -> HostedDevice:
    """The device that serves an emulated board of this machine to `RemoteEmulator`.

    Raises
    ------
    TargetError
        No such board, or it is not emulated.
    """
    local = LocalEmulator(find_board(board))

    def run(image: bytes, timeout: float) -> str:
        return json.dumps(local.run(image, timeout))

    def profile(image: bytes, board_term: str, timeout: float) -> str:
        found = local.profile(image, board_term, timeout)
        return json.dumps(found if isinstance(found, str) else [[t.opened_by, t.instructions, t.cycles] for t in found])

    def probe() -> None:
        try:
            qemu_command(local.board, "")
        except ToolchainError as error:
            raise DeviceError(error.message, remedy=error.remedy) from None

    return HostedDevice({RUN: run, PROFILE: profile, BOARD: lambda: local.board.name}, probe)
