# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny device-server`: a board as a server of TVM's RPC, alone or in a tracker's fleet, until it is interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_tiny.cli.build_options import DEFAULTS, BuildOptions, takes_build_options
from tvm_tiny.cli.building import Target, artifact_of, progress
from tvm_tiny.cli.guard import AsJson, Debug
from tvm_tiny.errors import DeviceError, OptionError

if TYPE_CHECKING:
    from typing import TypeAlias

    from tvm_tiny.boards import Board
    from tvm_tiny.device.rpc.line import LineSpec
    from tvm_tiny.device.rpc.session import RunningBridge
    from tvm_tiny.tuning.emulator import EmulatorSpec

    Device: TypeAlias = LineSpec | EmulatorSpec


@takes_build_options
def device_server(
    model: Annotated[
        Path | None, typer.Argument(help="A trained int8 model, or what `compile` wrote. Without: an emulator to tune on.")
    ] = None,
    board: Annotated[str, typer.Option("--board", "-b", help="A board of `tvm-tiny boards`; a real one is flashed.")] = "native",
    line: Annotated[str, typer.Option("--line", help="Instead of a model: a running device, e.g. serial:/dev/ttyACM0@115200.")] = "",
    host: Annotated[str, typer.Option("--host", help="Address to listen on; beyond loopback a --key is needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 leaves the choice to the system.")] = 0,
    key: Annotated[str, typer.Option("--key", help="What clients must say; with --tracker by default the board's name.")] = "",
    tracker: Annotated[str, typer.Option("--tracker", help="HOST:PORT of `python -m tvm.exec.rpc_tracker`.")] = "",
    call_timeout: Annotated[float, typer.Option("--call-timeout", help="Seconds a function may run.")] = 30.0,
    reset_command: Annotated[str, typer.Option("--reset-command", help="Command that resets the board when it hangs.")] = "",
    run_code: Annotated[bool, typer.Option("--run-code", help="Clients may send code and have it run, as tuning does.")] = False,
    target: Target = None,
    options: BuildOptions = DEFAULTS,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Serve a device to TVM's RPC clients until interrupted: a board with MODEL, a running device, or an emulator to tune on."""
    from tvm_tiny.device.rpc.session import running_bridge

    with contextlib.ExitStack() as stack:
        spec = _line(stack, model, board, line, target, options, run_code)
        where: dict[str, Any] = {"host": host, "port": port, "tracker": tracker, "call_timeout": call_timeout}
        key = key or (board if tracker and not line else "")
        bridge = stack.enter_context(running_bridge(spec, key=key, reset_command=reset_command, **where))
        _announce(bridge, as_json)
        _wait(bridge.pid)


def _line(
    stack: contextlib.ExitStack, model: Path | None, board: str, line: str, target: str | None, options: BuildOptions, run_code: bool
) -> Device:
    """The line that is named, that of the model's firmware, built and kept as long as `stack`, or an emulator without firmware."""
    from tvm_tiny.boards import find_board
    from tvm_tiny.device.artifact import open_artifact
    from tvm_tiny.device.rpc.boards import RPC_OPTIONS, flashed_line
    from tvm_tiny.device.rpc.line import parse_line
    from tvm_tiny.device.runner import built_project

    if model is not None and line:
        raise OptionError("a device server takes a model and a board, or a line", remedy="give one of the two")
    if model is None and (needless := options.given()):
        raise OptionError(f"{', '.join(needless)}: without a model nothing is compiled", remedy="give the model file, or leave it out")
    if line:
        return parse_line(line)
    if model is None:
        return _emulator(find_board(board))
    artifact = stack.enter_context(open_artifact(stack.enter_context(artifact_of(model, target, board, options))))
    with progress(f"building for {board}"):
        return flashed_line(stack.enter_context(built_project(artifact, find_board(board), replace(RPC_OPTIONS, run_code=run_code))))


def _emulator(board: Board) -> Device:
    from tvm_tiny.tuning.emulator import EmulatorSpec, LocalEmulator

    if not board.emulated:
        remedy = "give a model, or --line for a device whose firmware runs already"
        raise OptionError(f"{board.name} is not emulated: its server needs firmware", remedy=remedy)
    LocalEmulator(board)
    return EmulatorSpec(board.name)


def _announce(bridge: RunningBridge, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"host": bridge.host, "port": bridge.port, "key": bridge.key}), flush=True)
    else:
        arguments = f"{bridge.host!r}, {bridge.port}" + (f", key={bridge.key!r}" if bridge.key else "")
        print(f"serving: tvm.rpc.connect({arguments}). Interrupt to end.", flush=True)


def _wait(bridge: int) -> None:
    """Until an interrupt, which is how a server ends; or until its bridge does, which is a failure."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        while os.waitpid(bridge, os.WNOHANG) == (0, 0):
            time.sleep(0.2)
        raise DeviceError("the bridge to the device has ended", remedy="its last message is above")
