# SPDX-License-Identifier: Apache-2.0
"""Where the C of the RPC server lies, for whoever builds firmware with it."""

from __future__ import annotations

from pathlib import Path

import tvm_tiny.microtvm_projects
from tvm_tiny.errors import OptionError

RPC_FOLDER = Path(tvm_tiny.microtvm_projects.__file__).resolve().parent / "rpc"
NATIVE_PORTS = ("stdio", "tcp")


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
