# SPDX-License-Identifier: Apache-2.0
"""A `tiny.stage` read back from its function: the inner operators as rows and as layers of their own.

Tensors are called "arg<i>" (argument i of the stage) and "node<j>" (result of inner operator j).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_tiny.memory.rows import RowGraph, RowOp, RowTensor
from tvm_tiny.memory.tiny_rows import geometry, row_op
from tvm_tiny.ops import stage as stage_op
from tvm_tiny.ops.registry import TensorInfo
from tvm_tiny.schedules.base import Layer


@dataclass(frozen=True)
class StageLayers:
    """The operators of a stage.

    Attributes
    ----------
    infos, results : list of TensorInfo
        Of the stage's arguments and of every inner result.
    activations : list of int
        Arguments that are no constants.
    """

    layer: Layer
    inner: list[stage_op.Inner]
    infos: list[TensorInfo]
    results: list[TensorInfo]
    activations: list[int]

    @staticmethod
    def of(layer: Layer) -> StageLayers:
        """Read the stage."""
        infos = [TensorInfo(s, d) for s, d in zip(layer.shapes, layer.dtypes, strict=True)][:-1]
        results = stage_op.inner_infos(layer.attrs, infos)
        activations = [i for i in range(len(infos)) if i not in layer.constants]
        return StageLayers(layer, stage_op.program_of(layer.attrs), infos, results, activations)

    def graph(self) -> RowGraph:
        """The operators on rows.

        Raises
        ------
        ValueError
            One of them is none.
        """
        infos = {f"arg{i}": self.infos[i] for i in self.activations} | {f"node{j}": r for j, r in enumerate(self.results)}
        tensors = {name: RowTensor(name, *geometry(t.shape), np.dtype(t.dtype).itemsize) for name, t in infos.items()}
        ops = tuple(self._row_op(j) for j in range(len(self.inner)))
        return RowGraph(tensors, ops, tuple(f"arg{i}" for i in self.activations), (f"node{len(ops) - 1}",))

    def _row_op(self, j: int) -> RowOp:
        node = self.inner[j]
        infos = [self._info(ref) for ref in node.args]
        computed = [self._is_computed(ref) for ref in node.args]
        names = tuple(f"{kind}{i}" for (kind, i), c in zip(node.args, computed, strict=True) if c)
        found = row_op(f"{node.op} {j}", node.op.removeprefix("tiny."), node.attrs, infos, names, f"node{j}", computed)
        if found is None:
            raise ValueError(f"{node.op} can't be computed row by row: {node.attrs}")
        return found

    @property
    def fetched(self) -> list[int]:
        """Numbers of the activations that the application hands over through a function."""
        sources = [node.args[0][1] for node in self.inner if node.op == "tiny.fetch"]
        return [k for k, i in enumerate(self.activations) if i in sources]

    def _is_computed(self, ref: tuple[str, int]) -> bool:
        return ref[0] == "node" or ref[1] not in self.layer.constants

    def _info(self, ref: tuple[str, int]) -> TensorInfo:
        return self.results[ref[1]] if ref[0] == "node" else self.infos[ref[1]]

    def layer_of(self, j: int, widths: Mapping[int, int] | None = None, attrs: Mapping[str, Any] | None = None) -> Layer:
        """Inner operator j as a layer of its own, computed by rows.

        Parameters
        ----------
        widths : mapping of int to int, optional
            Widths of activations that are not the tensor's own, by the argument's number; -1 is the output.
        attrs : mapping, optional
            Attributes that replace the operator's.
        """
        node = self.inner[j]
        infos = [*(self._info(ref) for ref in node.args), self.results[j]]
        for position, width in (widths or {}).items():
            batch, height, _, channels = infos[position].shape
            infos[position] = TensorInfo((batch, height, width, channels), infos[position].dtype)
        constants = {k: self.layer.constants[ref[1]] for k, ref in enumerate(node.args) if not self._is_computed(ref)}
        shapes, dtypes = tuple(i.shape for i in infos), tuple(i.dtype for i in infos)
        small, short = (frozenset({0} if j in chosen else ()) for chosen in (self.layer.small_code, self.layer.short_code))
        return Layer(node.op, {**node.attrs, **(attrs or {})}, constants, shapes, dtypes, small_code=small, short_code=short, by_rows=True)
