# SPDX-License-Identifier: Apache-2.0
"""From a board to a session: build the firmware with the RPC server, boot it, connect."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_tiny.boards import Board, find_board
from tvm_tiny.device.artifact import Artifact, open_artifact
from tvm_tiny.device.project import Project, ProjectOptions, find_handler
from tvm_tiny.device.qemu import qemu_command
from tvm_tiny.device.rpc.line import LineSpec, PipesSpec, ProcessSpec, parse_line
from tvm_tiny.device.rpc.session import connect as connect_line
from tvm_tiny.device.runner import built_project
from tvm_tiny.device.serial import find_port
from tvm_tiny.errors import DeviceError, OptionError

RPC_OPTIONS = ProjectOptions(app="rpc")


def rpc_options(options: ProjectOptions) -> ProjectOptions:
    """The same options for the RPC server."""
    return dataclasses.replace(options, app="rpc")


def project_line(project: Project) -> LineSpec:
    """The line to a built project's program: a host process, an emulated board's UART or semihosting, or the serial port of a real board.

    Opening it starts the program of the first two; a board must have been flashed.

    Raises
    ------
    OptionError
        The project holds another application, or several serial ports are plugged in and none is named.
    DeviceError
        No serial port is plugged in.
    """
    if project.options.app != "rpc":
        raise OptionError(f"{project.directory} holds the application {project.options.app!r}", remedy="generate it with app='rpc'")
    if project.board.target.is_host:
        return ProcessSpec((str(project.elf),))
    if not project.board.emulated:
        return find_port(project)
    if project.options.line == "semihosting" and project.board.template != "zephyr":
        return PipesSpec(tuple(qemu_command(project.board, project.elf)))
    return ProcessSpec(tuple(qemu_command(project.board, project.elf, ("-serial", "stdio"))))


def flashed_line(project: Project) -> LineSpec:
    """The line to a built project's program, which is put on the board first, if it is a real one; see `project_line`.

    Raises
    ------
    ToolchainError
        Nothing is installed that can flash the board, or it failed.
    """
    line = project_line(project)
    find_handler(project.board).flash(project)
    return line


@contextlib.contextmanager
def connect(
    mlf: str | Path | None = None, board: str | Board = "native", *, line: str = "", options: ProjectOptions = RPC_OPTIONS, **bridge: Any
) -> Iterator[Any]:
    """A stock TVM RPC session with a board; on leaving, whatever was started is gone.

    Parameters
    ----------
    mlf
        Compiled model (directory or .tar in Model Library Format): its firmware is built and started on `board`: a host process, an
        emulated board, or a real one, which is flashed and found at `options.serial` or the only serial port that is plugged in.
    line
        Instead of `mlf` and `board`: the line to a device whose firmware runs already, e.g. `serial:/dev/ttyACM0@115200`.
    options
        Options of the firmware project; `app` is that of RPC in any case. On bare-metal emulated boards bytes go through semihosting, or
        with `line="uart"` through the slower UART, as on a real board.
    bridge
        Options of `tvm_tiny.device.rpc.session.running_bridge`, e.g. `call_timeout=60`.

    Yields
    ------
    tvm.rpc.RPCSession
        With `get_function("tvmgen_<name>_run")`, which takes the model's inputs and then its outputs, all tensors on `session.cpu(0)`.

    Raises
    ------
    OptionError
        Neither or both of `mlf` and `line` are given, or a real board's port is not clear.
    ToolchainError, DoesNotFitError
        The firmware can't be built or flashed.
    DeviceError
        The device does not answer.
    """
    if (mlf is None) == (not line):
        raise OptionError("connect() takes a compiled model and a board, or a line", remedy="give one of the two")
    with contextlib.ExitStack() as stack:
        if mlf is None:
            spec = parse_line(line)
        else:
            artifact = stack.enter_context(open_artifact(mlf))
            spec = flashed_line(stack.enter_context(built_project(artifact, find_board(board), rpc_options(options))))
        yield stack.enter_context(connect_line(spec, **bridge))


def run_samples_over_rpc(
    project: Project, artifact: Artifact, samples: Sequence[Mapping[str, np.ndarray]], timeout: float
) -> tuple[list[dict[str, np.ndarray]], list[float]]:
    """Outputs by name, and seconds with transfers, of each sample, in one session with a built project.

    Raises
    ------
    DeviceError
        The device crashed, hung or reported a failed layer.
    """
    outputs, seconds = [], []
    with connect_line(flashed_line(project), call_timeout=timeout) as session:
        for sample in samples:
            start = time.monotonic()
            try:
                outputs.append(_run_sample(session, artifact, sample))
            except RuntimeError as error:  # TVM's RPCError
                text = str(error).removeprefix("RPCError: Error caught from RPC call:\n")
                raise DeviceError(f"{artifact.name} on {project.board.name}: {text}") from None
            seconds.append(time.monotonic() - start)
    return outputs, seconds


def _run_sample(session: Any, artifact: Artifact, sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    from tvm import runtime

    device = session.cpu(0)
    given = [runtime.tensor(np.ascontiguousarray(sample[tensor.name]), device=device) for tensor in artifact.inputs]
    got = [runtime.empty(tensor.shape, tensor.dtype, device) for tensor in artifact.outputs]
    session.get_function(f"tvmgen_{artifact.name}_run")(*given, *got)
    return {tensor.name: array.numpy() for tensor, array in zip(artifact.outputs, got, strict=True)}
