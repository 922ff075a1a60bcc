# SPDX-License-Identifier: Apache-2.0
"""A device for as long as a `with` block lasts.

The bridge runs in a process of its own: TVM's client sends packets from destructors while it holds Python's interpreter lock, so a
bridge in a thread of the same process would never get to answer them.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tvm_tiny.device.rpc.line import LineSpec
from tvm_tiny.errors import DeviceError

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 10.0


@dataclass(frozen=True)
class RunningBridge:
    """Where clients find the device: the arguments of `tvm.rpc.connect`, and the bridge's process."""

    host: str
    port: int
    key: str
    pid: int


@contextlib.contextmanager
def running_bridge(
    line: object,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    key: str = "",
    tracker: str = "",
    call_timeout: float = 30.0,
    start_timeout: float = 10.0,
    health_interval: float = 10.0,
    reset_command: str = "",
) -> Iterator[RunningBridge]:
    """Run a bridge to the device; on leaving, bridge, line and (if it is one) device process are gone.

    Parameters
    ----------
    line
        The device as the bridge's option `--device` names it: a LineSpec, or an emulator (`tvm_tiny.tuning.emulator.EmulatorSpec`).

    Raises
    ------
    DeviceError
        The bridge did not start: the message holds what it said.
    """
    options = {"host": host, "port": port, "key": key, "tracker": tracker}
    options |= {"call-timeout": call_timeout, "start-timeout": start_timeout, "health-interval": health_interval}
    command = [sys.executable, "-m", "tvm_tiny.device.rpc", "--device", str(line), "--until-stdin-closes", "--reset-command", reset_command]
    command += [f"--{name}={value}" for name, value in options.items()]
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as process:
        try:
            yield _wait_until_ready(process)
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes]) -> RunningBridge:
    output: IO[bytes] | None = process.stdout
    assert output is not None
    ready = select.select([output], [], [], _START_TIMEOUT)[0]
    line = output.readline() if ready else b""
    if not line:
        raise DeviceError("the bridge to the device did not start", remedy="its message is above, on standard error")
    return RunningBridge(**json.loads(line), pid=process.pid)


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def connect(line: LineSpec, **options: Any) -> Iterator[Any]:
    """Connect TVM's own RPC client to a device.

    Parameters
    ----------
    line
        How to reach it, e.g. `parse_line("serial:/dev/ttyACM0")`.
    options
        Those of `running_bridge`.

    Yields
    ------
    tvm.rpc.RPCSession
        A stock session: `get_function`, `cpu(0)`, `system_lib()`.

    Raises
    ------
    DeviceError
        The device does not answer.
    """
    from tvm import rpc

    with running_bridge(line, **options) as bridge:
        try:
            session = rpc.connect(bridge.host, bridge.port, bridge.key)
        except RuntimeError as error:
            raise DeviceError(f"no session with the device at {line}: {error}", remedy="is it running the RPC server, and reset?") from None
        try:
            yield session
        finally:
            with contextlib.suppress(RuntimeError, AttributeError):
                session._sess.get_function("CloseRPCConnection")()
