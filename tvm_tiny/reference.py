# SPDX-License-Identifier: Apache-2.0
"""The reference interpreter (TensorFlow Lite Micro, PyPI tflite-micro) with every intermediate tensor kept, for comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from tvm_tiny.errors import ToolchainError

_ARENAS = (1 << 20, 1 << 23, 1 << 26)


@dataclass(frozen=True)
class ReferenceTensor:
    """One tensor of the source model after an inference."""

    name: str
    data: np.ndarray


class Reference:
    """A .tflite model in the reference interpreter.

    Raises
    ------
    ToolchainError
        The interpreter is not installed, or refuses the model.
    """

    def __init__(self, model: bytes, *, keep_intermediates: bool = False) -> None:
        runtime = _runtime()
        config = runtime.InterpreterConfig
        kind = config.kPreserveAllTensors if keep_intermediates else config.kAllocationRecording
        self._interpreter = _open(runtime, model, kind)
        self._model = model

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs for inputs in the model's order, of the model's dtypes."""
        for index, array in enumerate(inputs):
            details = self._interpreter.get_input_details(index)
            self._interpreter.set_input(np.ascontiguousarray(array).reshape(details["shape"]), index)
        self._interpreter.invoke()
        return [self._interpreter.get_output(i) for i in range(self._count_outputs())]

    def tensors(self) -> list[ReferenceTensor]:
        """Every tensor an operator wrote in the last run, in order of execution (needs `keep_intermediates`)."""
        import tflite

        graph = tflite.Model.GetRootAs(self._model, 0).Subgraphs(0)
        found = []
        for index in (int(t) for i in range(graph.OperatorsLength()) for t in graph.Operators(i).OutputsAsNumpy()):
            tensor = self._interpreter.GetTensor(index, 0)
            found.append(ReferenceTensor(graph.Tensors(index).Name().decode(errors="replace"), np.asarray(tensor["tensor_data"])))
        return found

    def _count_outputs(self) -> int:
        import tflite

        return int(tflite.Model.GetRootAs(self._model, 0).Subgraphs(0).OutputsLength())


def _runtime() -> ModuleType:
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError as error:
        raise ToolchainError("the reference interpreter is not installed", remedy="pip install 'tvm_tiny[reference]'") from error
    return runtime


def _open(runtime: ModuleType, model: bytes, kind: object) -> Any:
    """Too small an arena is an exception at construction or at the first run; the sizes below fit every model the compiler takes."""
    last: Exception | None = None
    for arena in _ARENAS:
        try:
            return runtime.Interpreter.from_bytes(model, arena_size=arena, intrepreter_config=kind)
        except Exception as error:  # the binding raises bare RuntimeError
            last = error
    raise ToolchainError(
        f"the reference interpreter refuses the model: {last}", remedy="check that the file runs in TensorFlow Lite Micro"
    ) from last
