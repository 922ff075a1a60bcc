# SPDX-License-Identifier: Apache-2.0
"""Where the C of the RPC server lies, for whoever builds firmware with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import tvm_tiny.microtvm_projects
from tvm_tiny.device.rpc.layers import live_bytes
from tvm_tiny.errors import OptionError

if TYPE_CHECKING:
    from tvm_tiny.boards import Board
    from tvm_tiny.device.artifact import Artifact

RPC_FOLDER = Path(tvm_tiny.microtvm_projects.__file__).resolve().parent / "rpc"
NATIVE_PORTS = ("stdio", "tcp")
_BESIDE_ARENA = 32768  # the server's variables, the stack


def server_sources() -> list[Path]:
    """The server without application and port: portable C99; its include folder is `RPC_FOLDER / "include"`."""
    return [path for path in sorted((RPC_FOLDER / "src").glob("*.c")) if path.name != "rpc_server.c"]


def native_sources(port: str = "stdio") -> list[Path]:
    """All of a host process but the table of functions (`tiny_rpc_functions`).

    Raises
    ------
    OptionError
        `port` is not one of NATIVE_PORTS.
    """
    if port not in NATIVE_PORTS:
        raise OptionError(f"no native port {port!r}", remedy=f"use one of {', '.join(NATIVE_PORTS)}")
    return [*server_sources(), RPC_FOLDER / "src/rpc_server.c", RPC_FOLDER / "ports/posix_line.c", RPC_FOLDER / f"ports/port_{port}.c"]


def app_sources() -> list[str]:
    """The server as an application of a project template, relative to the project: see `copy_server`."""
    names = [*(path.name for path in server_sources()), "rpc_server.c", "port_app.c"]
    return [f"src/rpc/{name}" for name in names]


def copy_server(folder: Path) -> None:
    """Copy server, application and headers into one folder of a project."""
    folder.mkdir(parents=True)
    for part in ("include", "src"):
        for path in sorted((RPC_FOLDER / part).iterdir()):
            shutil.copyfile(path, folder / path.name)
    shutil.copyfile(RPC_FOLDER / "ports/port_app.c", folder / "port_app.c")


def default_arena_bytes(artifact: Artifact, board: Board, *, all_room: bool = False) -> int:
    """Memory for the host's tensors: two sets of the model's inputs and outputs, or all that `run_layers` holds, and 16 KB.

    At least 64 KB; less where the board has not so much. With `all_room` all that is left beside the model.

    `-DTINY_RPC_ARENA_BYTES=n` in a project's extra flags overrides it (n a multiple of 16).
    """
    tensors = sum(tensor.nbytes + 32 for tensor in (*artifact.inputs, *artifact.outputs))
    wanted = max(65536, 2 * tensors + 16384, live_bytes(artifact) + 16384)
    room = board.limits.arena
    if all_room and room is not None:
        wanted = max(wanted, room - artifact.workspace_size - _BESIDE_ARENA)
    elif room is not None:
        wanted = min(wanted, max((room - artifact.workspace_size) // 2, 2 * tensors))
    return wanted // 16 * 16
