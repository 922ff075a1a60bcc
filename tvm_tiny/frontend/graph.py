# SPDX-License-Identifier: Apache-2.0
"""A TFLite model as plain data: what the checks read and the converter converts.

Everything here has been bounds-checked against the file (indices, vector lengths, buffer sizes against shapes), so later stages may index
freely. Meaning (is this operator supported, do the shapes agree) is the business of `tflite_check`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Quantization:
    """real = scale · (integer - zero_point); `axis` counts only when there are several scales.

    scale : float32 array (1,) or (channels,);  zero_point : int64 array of the same shape.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int

    @property
    def per_channel(self) -> bool:
        """Whether there is a scale a channel."""
        return self.scale.size > 1


@dataclass(frozen=True)
class Tensor:
    """One tensor of the source model. `data` is None for activations, otherwise an array of `shape` and `dtype`."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None = None
    quant: Quantization | None = None
    signature: tuple[int, ...] = ()
    variable: bool = False
    sparse: bool = False

    @property
    def values(self) -> np.ndarray:
        """The data of a tensor known to be constant."""
        if self.data is None:
            raise ValueError(f"tensor {self.name!r} is not constant")
        return self.data

    @property
    def quantization(self) -> Quantization:
        """The quantisation of a tensor known to be quantised."""
        if self.quant is None:
            raise ValueError(f"tensor {self.name!r} is not quantised")
        return self.quant

    @property
    def scale(self) -> float:
        """The per-tensor scale, exactly the float32 the file holds (only for quantised tensors)."""
        return float(self.quantization.scale[0])

    @property
    def zero_point(self) -> int:
        """The per-tensor zero point (only for quantised tensors)."""
        return int(self.quantization.zero_point[0])


@dataclass(frozen=True)
class Operator:
    """One operator: `kind` is the source format's name ("CONV_2D"), inputs are tensor indices (-1 = absent)."""

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Graph:
    """A whole model; `subgraphs` is how many the file holds (only the first is here)."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    subgraphs: int = 1

    def arg(self, op: Operator, position: int) -> Tensor | None:
        """The operator's input at `position`, None when absent (missing or -1)."""
        if position >= len(op.inputs) or op.inputs[position] < 0:
            return None
        return self.tensors[op.inputs[position]]

    def need(self, op: Operator, position: int) -> Tensor:
        """The operator's input at `position`, which is known to be there."""
        return self.tensors[op.inputs[position]]

    def out(self, op: Operator, position: int = 0) -> Tensor:
        """The operator's output at `position`."""
        return self.tensors[op.outputs[position]]
