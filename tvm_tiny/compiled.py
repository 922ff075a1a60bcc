# SPDX-License-Identifier: Apache-2.0
"""A compiled network: its C, its plan, and what one does with it."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tvm_tiny
from tvm_tiny.boards import Board
from tvm_tiny.codegen.artifact import Files, write_artifact
from tvm_tiny.codegen.header import emit_header
from tvm_tiny.codegen.layers import describe_layer, emit_layers_header
from tvm_tiny.codegen.source import emit_entry, emit_kernels
from tvm_tiny.codegen.workspace import Workspace
from tvm_tiny.explain import Decision
from tvm_tiny.memory.plan import MemoryPlan
from tvm_tiny.memory.program import Program, TensorInfo
from tvm_tiny.report.report import Report, make_report
from tvm_tiny.target import TinyTarget

if TYPE_CHECKING:
    from tvm_tiny.profiler import ModelProfile

COMPILE_FLAGS = ("-std=c99", "-O2")
WORKSPACE_ALIGN = 16
EMULATED_M7 = "mps2_an500"


class CompiledModel:
    """What `build` returns.

    Attributes
    ----------
    program : Program
        The kernels, the order they run in, and the constants.
    plan : MemoryPlan
        Where every buffer lies in the arena.
    target : TinyTarget
    board : Board or None
        The board given to `build`.
    explanation : tuple of Decision
        Every candidate a pass considered, with the reason why it was taken or left (`tvm_tiny.explain`).
    """

    def __init__(
        self,
        program: Program,
        plan: MemoryPlan,
        target: TinyTarget,
        board: Board | None,
        phases: Mapping[str, str],
        explanation: tuple[Decision, ...] = (),
    ) -> None:
        self.program = program
        self.plan = plan
        self.target = target
        self.board = board
        self.explanation = explanation
        self._phases = dict(phases)

    @property
    def name(self) -> str:
        """The identifier every C symbol carries."""
        return self.program.name

    @property
    def inputs(self) -> list[TensorInfo]:
        """The model's inputs: names, shapes, dtypes, scales, zero points."""
        return self.program.inputs

    @property
    def outputs(self) -> list[TensorInfo]:
        """The model's outputs."""
        return self.program.outputs

    @property
    def workspace_size(self) -> int:
        """Bytes of the arena: activations, scratch, inputs and outputs."""
        return max(self.plan.arena_bytes, 1)

    @property
    def compile_flags(self) -> list[str]:
        """Flags the C was made for, as gcc takes them."""
        return [*self.target.cflags, *COMPILE_FLAGS]

    @cached_property
    def report(self) -> Report:
        """What was decided, layer by layer: memory, kernels, work."""
        return make_report(self.program, self.plan, self.target, self.board, self.explanation)

    @cached_property
    def files(self) -> Files:
        """The Model Library Format as {relative path: bytes}."""
        base = f"tvmgen_{self.name}"
        workspace = Workspace.of(self.plan)
        version = tvm_tiny.__version__
        kernels, prototypes = emit_kernels(self.program, self.target.tvm_target(), version)
        texts = {
            f"codegen/host/include/{base}.h": emit_header(self.program, workspace, version, target=str(self.target)),
            f"codegen/host/include/{base}_layers.h": emit_layers_header(self.program, workspace, version),
            f"codegen/host/src/{base}.c": emit_entry(self.program, workspace, version),
            f"codegen/host/src/{base}_kernels.c": kernels,
            f"codegen/host/src/{base}_kernels.h": prototypes,
            "metadata.json": json.dumps(self.metadata(), indent=2) + "\n",
            "report.json": json.dumps(self.report.to_dict(), indent=2) + "\n",
            **{f"src/{name}.py": text for name, text in self._phases.items()},
        }
        return {**{name: text.encode() for name, text in texts.items()}, f"parameters/{self.name}.npz": _npz(self.program.constants)}

    def metadata(self) -> dict[str, Any]:
        """The contents of `metadata.json`."""
        base = f"tvmgen_{self.name}"
        return {
            "name": self.name,
            "version": 1,
            "generator": f"tvm_tiny {tvm_tiny.__version__}",
            "target": {"mcpu": self.target.mcpu, "march": self.target.march, "features": sorted(self.target.features)},
            "board": self.board.name if self.board else None,
            "workspace_size": self.workspace_size,
            "workspaces": {r: n for r, n in Workspace.of(self.plan).sizes.items() if r},
            "workspace_align": WORKSPACE_ALIGN,
            "compile_flags": self.compile_flags,
            "inputs": [_tensor(t, self._offset(t)) for t in self.inputs],
            "outputs": [_tensor(t, self._offset(t)) for t in self.outputs],
            "layers": [
                layer.to_dict() | describe_layer(self.program, call)
                for layer, call in zip(self.report.layers, self.program.calls, strict=True)
            ],
            "memory": self.plan.to_dict(),
            "sources": [f"codegen/host/src/{base}.c", f"codegen/host/src/{base}_kernels.c"],
        }

    def _offset(self, tensor: TensorInfo) -> int | None:
        """Where a tensor lies in the workspace; None for float tensors that stay in the caller's memory."""
        return self.plan.placements[tensor.buffer].offset if tensor.buffer in self.plan.placements else None

    def save(self, destination: str | Path) -> Path:
        """Write the Model Library Format to a directory, or to an archive when the name ends in `.tar`; all or nothing."""
        return write_artifact(self.files, destination)

    def project(self, board: str | Board, directory: str | Path, **options: Any) -> Path:
        """Write a firmware project for `board` that holds this model and builds on its own."""
        from tvm_tiny.device import generate_project

        with tempfile.TemporaryDirectory(prefix="tvm_tiny_") as temp:
            return generate_project(self.save(Path(temp) / "model"), directory, board, **options)

    def run(
        self,
        inputs: Mapping[str, np.ndarray] | np.ndarray | Sequence[Mapping[str, np.ndarray]],
        *,
        board: str | Board | None = None,
        **options: Any,
    ) -> Any:
        """Run on a board (the host by default, or the board given to `build`).

        Parameters
        ----------
        inputs : dict, array or list
            One sample: arrays by the model's input names, or the array itself when there is one input. A list: several samples in one boot.

        Returns
        -------
        dict or list of dict
            Outputs by name, for each sample.
        """
        from tvm_tiny.device import run as run_on_device

        many = isinstance(inputs, list | tuple)
        samples = [self._named(s) for s in inputs] if many else [self._named(inputs)]
        with tempfile.TemporaryDirectory(prefix="tvm_tiny_") as temp:
            result = run_on_device(self.save(Path(temp) / "model"), board or self.board or "native", samples, **options)
        return result.outputs if many else result.outputs[0]

    def profile(
        self,
        board: str | Board | None = None,
        inputs: Mapping[str, np.ndarray] | np.ndarray | None = None,
        *,
        board_term: str = "none",
        timeout: float = 600.0,
    ) -> ModelProfile:
        """Count instructions and estimate cycles of one inference, per layer and in total, on an emulated board.

        Parameters
        ----------
        board : str, optional
            An emulated board; by default the one given to `build`, else the emulated Cortex-M7.
        inputs : dict or array, optional
            The sample; zeros when left out.
        board_term, timeout
            As in `tvm_tiny.profiler.profile_model`.
        """
        from tvm_tiny.profiler import profile_model

        return profile_model(self, board or self.board or EMULATED_M7, inputs, board_term=board_term, timeout=timeout)

    def _named(self, sample: Any) -> Mapping[str, np.ndarray]:
        if isinstance(sample, np.ndarray) and len(self.inputs) == 1:
            return {self.inputs[0].name: sample}
        return sample


def _tensor(tensor: TensorInfo, offset: int | None) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "c_name": tensor.c_name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "scale": tensor.scale,
        "zero_point": tensor.zero_point,
        "nbytes": tensor.nbytes,
        "buffer": tensor.buffer,
        "offset": offset,
        "fetched": tensor.fetched,
    }


def _npz(constants: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **dict[str, Any](constants))
    return buffer.getvalue()
