# SPDX-License-Identifier: Apache-2.0
"""What the checks of TFLite operators are written with: one operator and its tensors (`Site`), and an entry of the table (`Rule`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_tiny.errors import Problem
from tvm_tiny.frontend.graph import Graph, Operator, Tensor
from tvm_tiny.frontend.problems import Report
from tvm_tiny.frontend.tflite_rules import ACTIVATIONS

AGAIN = "convert the model again"
SHARED = "input and output share scale and zero point"


@dataclass(frozen=True)
class Site:
    """One operator under check, and where findings go."""

    graph: Graph
    op: Operator
    report: Report

    def arg(self, position: int) -> Tensor | None:
        """The operand at `position`, None when absent."""
        return self.graph.arg(self.op, position)

    def need(self, position: int) -> Tensor:
        """An input whose presence the operand check has established."""
        return self.graph.need(self.op, position)

    @property
    def out(self) -> Tensor:
        """The first output."""
        return self.graph.out(self.op)

    def tensors(self) -> list[Tensor]:
        """Every operand and output."""
        return [self.graph.tensors[i] for i in (*self.op.inputs, *self.op.outputs) if i >= 0]

    def problem(self, reason: str, remedy: str = "", *tensors: Tensor) -> None:
        """Something unsupported, about `tensors` (the outputs when none are given)."""
        shown = tensors or tuple(self.graph.tensors[i] for i in self.op.outputs)
        name = f"operator {self.op.index} {self.op.kind}"
        self.report.problems.append(Problem(name, tuple(t.name for t in shown), reason, remedy))

    def contradiction(self, text: str) -> None:
        """Something no sound model says."""
        self.report.contradictions.append(f"operator {self.op.index} {self.op.kind}: {text}")

    def expect_shape(self, shape: Sequence[int], tensor: Tensor | None = None) -> None:
        """The output (or `tensor`) must have `shape`."""
        tensor = tensor or self.out
        if tuple(shape) != tensor.shape:
            self.contradiction(f"{tensor.name!r} has shape {list(tensor.shape)}, but {list(shape)} follows from the operator")

    def constant(self, position: int, what: str, dtype: str = "int32") -> np.ndarray | None:
        """The data of a constant operand, or None after reporting why there is none."""
        tensor = self.need(position)
        if tensor.data is None:
            self.problem(f"{what} must be constant, but is computed at run time", "export with constant attributes", tensor)
        elif tensor.dtype != dtype:
            self.problem(f"{what} must be {dtype}, but is {tensor.dtype}", AGAIN, tensor)
        else:
            return tensor.data
        return None

    def same_quantisation(self, *tensors: Tensor) -> None:
        """Data movement keeps the integers, so every operand must mean the same by them."""
        first = tensors[0]
        for other in tensors[1:]:
            if first.quant is None or other.quant is None:
                continue
            if first.zero_point != other.zero_point or not math.isclose(first.scale, other.scale, rel_tol=1e-6):
                here, there = ((t.scale, t.zero_point) for t in (first, other))
                reason = f"operands must share scale and zero point, but have {here} and {there}"
                self.problem(reason, "convert again with a converter that follows the TFLite quantisation specification", first, other)

    def reduced(self) -> list[int] | None:
        """The constant axes of a reduction that leaves a dimension, with the output's shape checked; None after reporting."""
        x, data = self.need(0), self.constant(1, "the axes")
        axes = None if data is None else axes_of(self, data, len(x.shape))
        if axes is None:
            return None
        keep = self.op.options["keep_dims"]
        shape = [1 if i in axes else e for i, e in enumerate(x.shape) if keep or i not in axes]
        if not axes or not shape:
            self.problem(f"reducing {list(x.shape)} along {axes} to {shape} is not supported", "keep at least one dimension")
            return None
        self.expect_shape(shape)
        return axes

    def activation(self, *, none: bool = False) -> None:
        """The fused activation must be one with a clamp (or none at all)."""
        code = self.op.options["activation"]
        if code not in ACTIVATIONS:
            self.contradiction(f"fused activation code {code}")
        elif code > (0 if none else 3):
            self.problem(f"fused activation {ACTIVATIONS[code]} is not supported here", "put the activation into an operator of its own")


@dataclass(frozen=True)
class Rule:
    """What is supported of one operator.

    inputs : fewest and most operands;  data : positions of operands that carry activations;  outputs : their number, 0 = any above none;
    mixed : input and output may differ in dtype, and be uint8;  results : the dtype of outputs that carry no activations;
    notes : the restrictions, for people.
    """

    check: Callable[[Site], None]
    inputs: tuple[int, int]
    data: Sequence[int] = (0,)
    outputs: int = 1
    mixed: bool = False
    results: str = ""
    notes: str = ""


def axes_of(site: Site, axes: np.ndarray, rank: int) -> list[int] | None:
    """The axes, non-negative, sorted, without duplicates; None after reporting that there are no such axes."""
    values = [int(a) for a in axes.ravel()]
    if any(not -rank <= a < rank for a in values):
        site.contradiction(f"axes {values} of {rank} dimensions")
        return None
    return sorted({a % rank for a in values})
