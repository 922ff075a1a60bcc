# SPDX-License-Identifier: Apache-2.0
"""Shapes that a TFLite model computes from constants: folded away before the checks.

Keras writes `Reshape` and `Flatten` of a network with an unknown batch as SHAPE → STRIDED_SLICE → PACK → RESHAPE, although every extent is
fixed. What depends on nothing but constants and the extents of tensors becomes a constant, its operators vanish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tvm_tiny.frontend.graph import Graph, Operator, Tensor
from tvm_tiny.frontend.tflite_rules import reduction_axes, slice_bounds

MAX_ELEMENTS = 4096  # of a folded constant: shapes are short, and a file must not make us compute long
_INTEGERS = ("int32", "int64")


def fold_shapes(graph: Graph) -> Graph:
    """The graph with every integer that is known beforehand as a constant; operators keep their numbers in the file."""
    tensors = list(graph.tensors)
    kept = []
    for op in graph.operators:
        value = _value(replace(graph, tensors=tuple(tensors)), op)
        if value is None or set(op.outputs) & set(graph.outputs):
            kept.append(op)
        else:
            tensors[op.outputs[0]] = replace(tensors[op.outputs[0]], data=value, shape=value.shape)
    return replace(graph, tensors=tuple(tensors), operators=tuple(kept))


def _value(graph: Graph, op: Operator) -> np.ndarray | None:
    """What the operator computes; None where that is not known, or not sound (the checks say so)."""
    out = graph.out(op) if op.outputs else None
    if op.kind not in _FOLDS or len(op.outputs) != 1 or out is None or out.dtype not in _INTEGERS or out.data is not None:
        return None
    operands = [graph.arg(op, i) for i in range(len(op.inputs))]
    if op.kind != "SHAPE" and any(t is None or t.data is None for t in operands):
        return None
    try:
        value = np.asarray(_FOLDS[op.kind](graph, op, [t for t in operands if t is not None]))
    except (IndexError, ValueError, KeyError):
        return None
    fits = value.size <= MAX_ELEMENTS and (-1 in out.shape or value.shape == out.shape)
    return value.astype(out.dtype) if fits else None


def _shape(_graph: Graph, _op: Operator, operands: list[Tensor]) -> np.ndarray:
    shape = operands[0].shape
    if -1 in shape:
        raise ValueError("an extent is unknown")
    return np.array(shape)


def _strided_slice(graph: Graph, op: Operator, operands: list[Tensor]) -> np.ndarray:
    if op.options["ellipsis_mask"] or op.options["new_axis_mask"] or np.any(operands[3].values < 1):
        raise ValueError("a form that is not folded")
    parts = tuple(slice(b, e, s) for b, e, s in zip(*slice_bounds(graph, op), strict=True))
    value = operands[0].values[parts]
    return value.squeeze(tuple(a for a in range(value.ndim) if op.options["shrink_axis_mask"] >> a & 1))


def _slice(_graph: Graph, _op: Operator, operands: list[Tensor]) -> np.ndarray:
    begins, sizes = (t.values.ravel() for t in operands[1:3])
    return operands[0].values[tuple(slice(b, None if n == -1 else b + n) for b, n in zip(begins, sizes, strict=True))]


def _reshape(graph: Graph, op: Operator, operands: list[Tensor]) -> np.ndarray:
    if op.kind == "RESHAPE" and len(operands) > 1:
        return operands[0].values.reshape(operands[1].values.ravel())
    return operands[0].values.reshape(graph.out(op).shape)


def _of_two(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Graph, Operator, list[Tensor]], np.ndarray]:
    return lambda _graph, _op, operands: function(operands[0].values, operands[1].values)


_FOLDS: dict[str, Callable[[Graph, Operator, list[Tensor]], np.ndarray]] = {
    "ADD": _of_two(np.add),
    "CAST": lambda _graph, _op, operands: operands[0].values,
    "CONCATENATION": lambda _graph, op, operands: np.concatenate([t.values for t in operands], op.options["axis"]),
    "EXPAND_DIMS": _reshape,
    "GATHER": lambda _graph, op, operands: operands[0].values.take(operands[1].values, op.options["axis"]),
    "MAXIMUM": _of_two(np.maximum),
    "MINIMUM": _of_two(np.minimum),
    "MUL": _of_two(np.multiply),
    "PACK": lambda _graph, op, operands: np.stack([t.values for t in operands], op.options["axis"]),
    "REDUCE_PROD": lambda graph, op, operands: operands[0].values.prod(
        tuple(reduction_axes(graph, op)), keepdims=bool(op.options["keep_dims"])
    ),
    "RESHAPE": _reshape,
    "SHAPE": _shape,
    "SLICE": _slice,
    "SQUEEZE": _reshape,
    "STRIDED_SLICE": _strided_slice,
    "SUB": _of_two(np.subtract),
}
