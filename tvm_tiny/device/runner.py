# SPDX-License-Identifier: Apache-2.0
"""Run a compiled model on a board: generate, build, flash, talk, clean up."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from tvm_tiny.boards import Board, find_board
from tvm_tiny.device.artifact import Artifact, open_artifact, pack_inputs, unpack_outputs
from tvm_tiny.device.image_size import ImageSize, measure_image
from tvm_tiny.device.project import Project, ProjectOptions, find_handler
from tvm_tiny.device.session import LayerTimes, Reply, StandaloneSession
from tvm_tiny.errors import OptionError

TRANSPORTS = ("frames", "rpc")
Sample = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class RunResult:
    """What came back from a board.

    Attributes
    ----------
    outputs : list[dict[str, numpy.ndarray]]
        One dict a sample, by output name of the source model.
    seconds : list[float]
        Wall time of each sample with its transfers: no measure of the device's speed.
    stack_used, stack_size : int
        Deepest use of the stack over all samples, and its size; bytes, 0 where the board can't tell.
    image : ImageSize
        What the linker says of the image.
    board : Board
        Where it ran.
    layer_times : list[LayerTimes]
        Of each sample, by the device's own counter; empty without `ProjectOptions(hook="times")`. Emulators and native_sim keep no time.
    """

    outputs: list[dict[str, np.ndarray]]
    seconds: list[float]
    stack_used: int
    stack_size: int
    image: ImageSize
    board: Board
    layer_times: list[LayerTimes] = field(default_factory=list)

    @property
    def latency(self) -> float:
        """Median seconds of a sample, transfers included."""
        return float(np.median(self.seconds)) if self.seconds else 0.0

    @property
    def throughput(self) -> float:
        """Samples a second, transfers included."""
        return len(self.seconds) / sum(self.seconds) if self.seconds else 0.0


def run(
    mlf: str | Path,
    board: str | Board,
    inputs: Sample | Sequence[Sample],
    *,
    timeout: float = 60.0,
    options: ProjectOptions | None = None,
    project_dir: str | Path | None = None,
    transport: str = "frames",
) -> RunResult:
    """Run a compiled model on a board, all samples in one boot.

    Parameters
    ----------
    mlf
        Compiled model: directory or .tar in Model Library Format.
    board
        Name or alias of a board, see `tvm_tiny.boards`.
    inputs
        Arrays by input name of the source model, or a list of such dicts; shape and dtype must be the model's own.
    timeout
        Seconds one sample may take, transfers included. Booting has 30 s of its own, building 600 s.
    project_dir
        Keep the generated project here (new or empty directory); None builds in a temporary one.
    transport
        `frames`: the standalone application, which takes inputs and gives outputs. `rpc`: the RPC server, driven by TVM's client.

    Raises
    ------
    InputError
        An input is wrong (found before anything is built), or the artifact is.
    TargetError
        Unknown board, or one with another core than the model was compiled for.
    ToolchainError, DoesNotFitError
        The image can't be built.
    DeviceError
        Crash, hang, failed layer or a broken line; names fault, place and layer.
    """
    board = find_board(board)
    if transport not in TRANSPORTS:
        raise OptionError(f"transport={transport!r} is not known", remedy=f"known: {', '.join(TRANSPORTS)}")
    options = options or ProjectOptions()
    if options.app != "standalone":
        raise OptionError(f"app={options.app!r} takes no inputs at run time", remedy="use app='standalone', or build_image()")
    if not timeout > 0:
        raise OptionError(f"timeout={timeout} is not above zero")
    samples = [inputs] if isinstance(inputs, Mapping) else list(inputs)
    with open_artifact(mlf) as artifact:
        packed = [pack_inputs(artifact, sample, which=f"sample {i}") for i, sample in enumerate(samples)]
        if transport == "rpc":
            from tvm_tiny.device.rpc.boards import rpc_options, run_samples_over_rpc

            with built_project(artifact, board, rpc_options(options), project_dir) as project:
                outputs, seconds = run_samples_over_rpc(project, artifact, samples, timeout)
                return RunResult(outputs, seconds, 0, 0, measure_image(project.elf), board)
        with built_project(artifact, board, options, project_dir) as project:
            find_handler(board).flash(project)
            return run_samples(project, artifact, packed, timeout)


def run_samples(project: Project, artifact: Artifact, packed: Sequence[bytes], timeout: float) -> RunResult:
    """Run packed samples (`pack_inputs`) on a project that is built and flashed; errors as of `run`."""
    handler = find_handler(project.board)
    times: list[LayerTimes] = []
    replies: list[Reply] = []
    with handler.open_transport(project) as link:
        session = StandaloneSession(link, project, artifact)
        stack_size = session.hello()
        for data in packed:
            replies.append(session.run(data, timeout))
            if project.options.hook == "times":
                times.append(session.times())
        session.goodbye()
    return RunResult(
        outputs=[unpack_outputs(artifact.outputs, reply.outputs) for reply in replies],
        seconds=[reply.seconds for reply in replies],
        stack_used=max((reply.stack_used for reply in replies), default=0),
        stack_size=stack_size,
        image=measure_image(project.elf),
        board=project.board,
        layer_times=times,
    )


@contextlib.contextmanager
def built_project(artifact: Artifact, board: Board, options: ProjectOptions, directory: str | Path | None = None) -> Iterator[Project]:
    """A project generated and built; in a temporary directory that lasts as long as the context when `directory` is None."""
    handler = find_handler(board)
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_project_") as folder:
        where = Path(directory) if directory is not None else Path(folder) / artifact.name
        project = handler.generate(artifact, board, where, options)
        handler.build(project)
        yield project


def generate_project(mlf: str | Path, directory: str | Path, board: str | Board, **options: Any) -> Path:
    """Write a firmware project that holds the model and builds with make alone; returns its directory.

    Parameters
    ----------
    directory
        New or empty.
    options
        Fields of `ProjectOptions`.
    """
    board = find_board(board)
    try:
        chosen = ProjectOptions(**options)
    except TypeError as error:
        raise OptionError(
            f"unknown project option: {error}", remedy=f"known: {', '.join(f.name for f in fields(ProjectOptions))}"
        ) from None
    with open_artifact(mlf) as artifact:
        return find_handler(board).generate(artifact, board, Path(directory), chosen).directory


def build_image(
    mlf: str | Path,
    board: str | Board,
    directory: str | Path,
    *,
    inputs: Sample | None = None,
    hook: str | None = "profile",
    options: ProjectOptions | None = None,
) -> Path:
    """Build an image that runs one inference and ends: what a profiler counts. Boot it with `qemu_command(board, elf)`.

    Exit code of the image: 0, 100 when the model returned an error, 101 after a fault. No interrupt is ever on.

    Parameters
    ----------
    directory
        Where the project goes (new or empty); the image is `build/firmware.elf` in it.
    inputs
        Compiled into the image; None means zeros.
    hook
        `profile`: a `dbg #1` at every layer's border (`TVMGEN_LAYER_BEGIN(0)` is the first, `TVMGEN_LAYER_END` the last);
        `fault`: the layer's index in `tiny_current_layer`; None: nothing between the layers.

    Returns
    -------
    Path
        The ELF file.
    """
    board = find_board(board)
    base = options or ProjectOptions()
    chosen = ProjectOptions("oneshot", hook, base.line, base.stack_bytes, base.extra_flags)
    with open_artifact(mlf) as artifact:
        handler = find_handler(board)
        project = handler.generate(artifact, board, Path(directory), chosen, sample=inputs)
        return handler.build(project)
