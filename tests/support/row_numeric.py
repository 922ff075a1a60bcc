# SPDX-License-Identifier: Apache-2.0
"""Numbers for row graphs: every operator as an exact integer function, on whole tensors and on regions of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvm_tiny.memory.patch_choice import PatchCosts
from tvm_tiny.memory.patches import patched_macs
from tvm_tiny.memory.rows import RowGraph, RowOp
from tvm_tiny.memory.stream_choice import Costs

BORDER = 5  # what lies outside a tensor: a zero point that is not zero


@dataclass
class Region:
    """Part of a tensor: `data` holds rows row… and columns column… of it. Reading outside is an error, not a border."""

    data: np.ndarray
    row: int
    column: int

    def pixel(self, r: int, c: int) -> np.ndarray:
        assert 0 <= r - self.row < self.data.shape[0], f"row {r} is outside the region {self.row}+{self.data.shape[0]}"
        assert 0 <= c - self.column < self.data.shape[1], f"column {c} is outside the region"
        return self.data[r - self.row, c - self.column]


def run_whole(graph: RowGraph, image: np.ndarray, depth: int) -> dict[str, np.ndarray]:
    """Values of all tensors of the first `depth` operators."""
    values = {graph.inputs[0]: image}
    for op in graph.ops[:depth]:
        out = graph.tensors[op.output]
        regions = [Region(values[t], 0, 0) for t in op.inputs]
        values[op.output] = run_region(graph, op, regions, (0, out.height), (0, out.width))
    return values


def run_region(graph: RowGraph, op: RowOp, inputs: list[Region], rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Output rows × columns of `op` from regions of its inputs."""
    out = graph.tensors[op.output]
    result = np.zeros((rows[1] - rows[0], columns[1] - columns[0], out.channels), np.int64)
    for r in range(*rows):
        for c in range(*columns):
            result[r - rows[0], c - columns[0]] = _pixel(graph, op, inputs, r, c)
    return result


def _pixel(graph: RowGraph, op: RowOp, inputs: list[Region], r: int, c: int) -> np.ndarray:
    channels = graph.tensors[op.output].channels
    if op.kind == "rows":
        return sum(region.pixel(r, c) for region in inputs) % 251
    if op.kind == "resize":
        return sum((k + 2) * inputs[0].pixel(row, c) for k, row in enumerate(range(*op.sources[r]))) % 251
    data = graph.tensors[op.inputs[0]]
    total = 0
    for i in range(op.rows.kernel):
        for j in range(op.columns.kernel):
            y = r * op.rows.stride - op.rows.before + i * op.rows.dilation
            x = c * op.columns.stride - op.columns.before + j * op.columns.dilation
            inside = 0 <= y < data.height and 0 <= x < data.width
            value = int(inputs[0].pixel(y, x).sum()) if inside else BORDER * data.channels
            total += (3 * i + 7 * j + 1) * value
    return (total + np.arange(channels) * 13) % 251


def by_macs() -> PatchCosts:
    """Costs of ideal kernels: no scratch, work is multiply-accumulates."""
    layers = Costs(lambda node, streamed: 0, lambda graph, op, node: (op.macs, op.macs), lambda node: False)
    return PatchCosts(
        lambda graph, stage, op, node: 0,
        lambda graph, stage, op, node: 1,
        lambda graph, stage, op, node: (op.macs, patched_macs(graph, op, stage.rows, stage.columns)),
        layers,
    )
