# SPDX-License-Identifier: Apache-2.0
"""The reference: TensorFlow Lite Micro's own interpreter (PyPI tflite-micro), run on the bytes of a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import tflite

LARGEST_ARENA = 1 << 28


class Oracle:
    """A model loaded into the reference interpreter.

    The arena starts with room for every tensor at once and grows until the model fits: the interpreter does not survive every arena that is
    too small, some end the process.

    Raises
    ------
    RuntimeError
        The interpreter refuses the model whatever the arena.
    """

    def __init__(self, model: bytes) -> None:
        runtime = pytest.importorskip("tflite_micro").runtime
        arena = _room_for_everything(model)
        while True:
            try:
                self._interpreter = runtime.Interpreter.from_bytes(model, arena_size=arena)
                break
            except RuntimeError:
                if arena >= LARGEST_ARENA:
                    raise
                arena *= 8
        self._outputs = _count_outputs(model)

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for inputs in the model's order."""
        for index, value in enumerate(inputs):
            self._interpreter.set_input(np.ascontiguousarray(value), index)
        self._interpreter.invoke()
        return [np.array(self._interpreter.get_output(i)) for i in range(self._outputs)]


def run(model: bytes, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the only output of a model."""
    (output,) = Oracle(model).run(*inputs)
    return output


def _count_outputs(model: bytes) -> int:
    return tflite.Model.GetRootAs(model, 0).Subgraphs(0).OutputsLength()


def _room_for_everything(model: bytes) -> int:
    """Bytes of all tensors at four a value, and of the interpreter's structures for tensors and operators."""
    graph = tflite.Model.GetRootAs(model, 0).Subgraphs(0)
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    values = sum(int(np.prod(t.ShapeAsNumpy())) if t.ShapeLength() else 1 for t in tensors)
    return (1 << 17) + 4 * values + 1024 * (len(tensors) + graph.OperatorsLength())
