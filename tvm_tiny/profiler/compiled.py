# SPDX-License-Identifier: Apache-2.0
"""Profiling a compiled model on an emulated board: build the image, run one inference, join with the layers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from tvm_tiny.boards import Board, find_board
from tvm_tiny.device import build_image, qemu_command
from tvm_tiny.device.artifact import Artifact, open_artifact
from tvm_tiny.errors import InputError, TargetError
from tvm_tiny.profiler.layers import ModelProfile, profile_layers


class Savable(Protocol):
    """A compiled model that can write itself as Model Library Format."""

    def save(self, destination: Path) -> Path:
        """Write to a new directory."""


def profile_model(
    model: str | Path | Savable,
    board: str | Board = "mps2_an500",
    inputs: Mapping[str, np.ndarray] | np.ndarray | None = None,
    *,
    board_term: str = "none",
    timeout: float = 600.0,
) -> ModelProfile:
    """Build a compiled model for an emulated board, run one inference and profile it.

    Parameters
    ----------
    model : path or CompiledModel
        Model Library Format, a directory or an archive; or what `tvm_tiny.build` returns.
    board : str or Board
        An emulated board (``tvm-tiny boards``).
    inputs : dict or array, optional
        The sample: arrays by the model's input names, or the array itself when there is one input; zeros when None. Counts of
        data-dependent code follow it.
    board_term : str
        Add the flash of a real board, e.g. "stm32f746@216".

    Raises
    ------
    TargetError
        The board is not emulated, or not what the model was compiled for.
    InputError
        No such artifact, or the sample does not fit the model's inputs.
    ToolchainError, DeviceError
        A tool is missing; the run failed.
    """
    found = find_board(board)
    if not found.emulated:
        raise TargetError(f"{found.name} is not emulated, so nothing counts its instructions", remedy="profile on an mps2 board")
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_profile_") as scratch:
        where = Path(model) if isinstance(model, str | Path) else model.save(Path(scratch) / "model")
        with open_artifact(where) as artifact:
            sample = _by_name(artifact, inputs)
            elf = build_image(artifact.directory, found, Path(scratch) / "project", inputs=sample, hook="profile")
            command, about = qemu_command(found, elf), {"model": artifact.name, "board": found.name, "mcpu": found.mcpu}
            return profile_layers(elf, command, artifact.layers, **about, board_term=board_term, timeout=timeout)


def _by_name(artifact: Artifact, inputs: Mapping[str, np.ndarray] | np.ndarray | None) -> Mapping[str, np.ndarray] | None:
    """A bare array as the model's only input."""
    if not isinstance(inputs, np.ndarray):
        return inputs
    if len(artifact.inputs) != 1:
        raise InputError(f"{artifact.name} has {len(artifact.inputs)} inputs", remedy="give a dict of arrays by input name")
    return {artifact.inputs[0].name: inputs}
