# SPDX-License-Identifier: Apache-2.0
"""Rows of a network in tiny form: every `tiny.*` node as an operator on rows (`tvm_tiny.memory.rows`), where it is one.

A tensor (1, H, W, C) in NHWC is H rows of W pixels; any other is one row. `tiny.reshape` is another name of the same tensor. What can't
be computed row by row (dense layers, softmax, float islands, other layouts, broadcasts that are not per channel, windows and tensors taller
than the tables in the generated C can say) is of kind "whole".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor
from tvm_tiny.ops import registry, resize_bilinear, resize_nearest
from tvm_tiny.ops.graph import Node, TinyGraph
from tvm_tiny.ops.registry import TensorInfo

ALIASES = frozenset({"reshape"})
_KERNEL_AXES = {"conv2d": 1, "depthwise_conv2d": 0}  # where (kh, kw) stand in the shape of the weights
_ELEMENTWISE = frozenset({"add", "lookup", "maximum", "minimum", "mul", "prelu", "requantize"})
_OVER = frozenset({"flip_sign"})  # of tensors as a whole, over what they read
_MOST_READ = 255  # rows a window spans, and from one window to the next: bytes in C (`tvm_tiny.schedules.stream`, `strips`)
_MOST_HEIGHT = 65535  # rows are counted with 16 bits there
_WITH_CONSTANT = frozenset({"maximum", "minimum", "mul", "prelu"})  # that take one number a channel, known beforehand


@dataclass(frozen=True)
class TinyRows:
    """The row graph of a network.

    Attributes
    ----------
    nodes : list of Node
        The node behind every operator of `graph`, in its order.
    tensor : dict
        Name of the tensor in `graph` for every variable; a reshaped variable has its source's.
    """

    graph: RowGraph
    nodes: list[Node]
    tensor: dict[relax.Var, str]


def geometry(shape: Sequence[int]) -> tuple[int, int, int]:
    """(height, width, channels) of a tensor as rows."""
    if len(shape) == 4 and shape[0] == 1:
        return shape[1], shape[2], shape[3]
    return 1, 1, int(np.prod(shape, dtype=np.int64))


def tiny_rows(tiny: TinyGraph) -> TinyRows | None:
    """Read a network as rows; None when some variable is no tensor."""
    variables = [*tiny.params, *(n.var for n in tiny.nodes)]
    if not all(isinstance(v.ty, relax.TensorType) for v in variables):
        return None
    names: dict[relax.Var, str] = {}
    shapes: dict[str, tuple[int, int, int]] = {}
    itemsize: dict[str, int] = {}
    free: set[str] = set()  # tensors whose shape nobody has fixed yet: model inputs and what whole-tensor operators make
    for var in variables:
        node = tiny.producer.get(var)
        source = _aliased(node)
        name = names[source] if source is not None else f"{len(itemsize)}:{var.name}"
        names[var] = name
        shape = tiny.shape(var)
        if source is None:
            shapes[name], itemsize[name] = geometry(shape), np.dtype(str(var.ty.dtype)).itemsize
            free |= {name} if node is None or shapes[name][0] == 1 else set()
        elif name in free and len(shape) == 4:
            shapes[name] = geometry(shape)
            free.discard(name)
    nodes = [n for n in tiny.nodes if _aliased(n) is None]
    tensors = {name: RowTensor(name, *shapes[name], itemsize[name]) for name in itemsize}
    ops = tuple(_op(tiny, n, names, tensors) for n in nodes)
    outputs = tuple(dict.fromkeys(names[v] for v in tiny.outputs))
    return TinyRows(RowGraph(tensors, ops, tuple(names[p] for p in tiny.params), outputs), nodes, names)


def _aliased(node: Node | None) -> relax.Var | None:
    """The variable that `node` only renames."""
    if node is None:
        return None
    if isinstance(node.value, relax.Var):
        return node.value
    return node.args[0] if node.op in ALIASES else None


def _op(tiny: TinyGraph, node: Node, names: Mapping[relax.Var, str], tensors: Mapping[str, RowTensor]) -> RowOp:
    variables = [a for a in node.args if isinstance(a, relax.Var)]
    inputs = tuple(names[v] for v in variables)
    name, output = f"{node.op or 'float'} {node.name}", names[node.var]
    agree = all(geometry(tiny.shape(v)) == _shape_of(tensors[names[v]]) for v in (*variables, node.var))
    if node.op and agree and len(set(inputs)) == len(inputs):
        infos = [TensorInfo(tiny.shape(a), str(a.ty.dtype)) for a in node.args]
        found = row_op(name, node.op, node.attrs, infos, inputs, output, [isinstance(a, relax.Var) for a in node.args])
        if found is not None and _can_be_counted(found, tensors):
            return found
    macs = registry.get(node.op).macs([tiny.shape(a) for a in node.args], node.attrs) if node.op else 0
    return RowOp(name, "whole", tuple(dict.fromkeys(inputs)), output, macs=macs, in_place=(0,) if node.op in _OVER else ())


def _can_be_counted(op: RowOp, tensors: Mapping[str, RowTensor]) -> bool:
    """Whether its numbers fit the tables of the generated C."""
    window = max(op.rows.extent, op.rows.stride) if op.kind == "window" else 0
    return window <= _MOST_READ and all(tensors[t].height <= _MOST_HEIGHT for t in (*op.inputs, op.output))


def _shape_of(tensor: RowTensor) -> tuple[int, int, int]:
    return tensor.height, tensor.width, tensor.channels


def row_op(
    name: str,
    op: str,
    attrs: Mapping[str, Any],
    infos: Sequence[TensorInfo],
    inputs: tuple[str, ...],
    output: str,
    computed: Sequence[bool],
) -> RowOp | None:
    """The operator as one on rows, or None when it is not.

    Parameters
    ----------
    op : str
        Short name, "conv2d".
    infos : sequence of TensorInfo
        Of all arguments; `computed` tells which of them are activations, whose names are `inputs`.
    """
    if any(attrs.get(k, "NHWC") != "NHWC" for k in ("x_layout", "y_layout")):
        return None
    activations = [i for i, c in zip(infos, computed, strict=True) if c]
    if op == "fetch":
        return RowOp(name, "rows", inputs, output)
    if not computed[0] or any(i.dtype != "int8" or len(i.shape) != 4 or i.shape[0] != 1 for i in activations):
        return None
    macs = registry.get(op).macs([i.shape for i in infos], dict(attrs))
    if op in _KERNEL_AXES:
        at = _KERNEL_AXES[op]
        if attrs.get("groups", 1) != 1 or len(activations) != 1 + bool(attrs.get("residual")):
            return None
        return _window(name, op, attrs, infos[1].shape[at : at + 2], inputs, output, macs)
    if op in ("avg_pool2d", "max_pool2d"):
        if op == "avg_pool2d" and tuple(attrs["kernel"]) == tuple(infos[0].shape[1:3]) and not any(attrs["padding"]):
            return RowOp(name, "reduce", inputs, output, macs=macs)
        return _window(name, op, attrs, attrs["kernel"], inputs, output, macs)
    if op == "mean":
        return _mean(name, attrs, infos[0].shape, inputs, output, macs)
    if op in ("resize_nearest", "resize_bilinear"):
        return RowOp(name, "resize", inputs, output, sources=sources_of(op, attrs, infos[0].shape[1]))
    return _of_elements(name, op, attrs, infos, inputs, output, computed, macs)


def sources_of(op: str, attrs: Mapping[str, Any], height: int) -> tuple[tuple[int, int], ...]:
    """Rows of `height` that every row of a resized tensor reads."""
    of_rows = (height, attrs["size"][0], attrs["align_corners"], attrs["half_pixel"])
    if op == "resize_nearest":
        return tuple((row, row + 1) for row in resize_nearest.source_rows(*of_rows).tolist())
    low, high, _ = resize_bilinear.neighbours(*of_rows)
    return tuple((a, b + 1) for a, b in zip(low.tolist(), high.tolist(), strict=True))


def _of_elements(
    name: str,
    op: str,
    attrs: Mapping[str, Any],
    infos: Sequence[TensorInfo],
    inputs: tuple[str, ...],
    output: str,
    computed: Sequence[bool],
    macs: int,
) -> RowOp | None:
    """Functions of single elements, and channels put beside those of every pixel, of a constant or of other tensors."""
    activations = [i for i, c in zip(infos, computed, strict=True) if c]
    if op == "pad" and not any((*attrs["before"][:3], *attrs["after"][:3])):
        return RowOp(name, "rows", inputs, output, pointwise=True)
    if op == "concat" and attrs["axis"] == 3 and all(computed):
        return RowOp(name, "rows", inputs, output, pointwise=True)
    if op in _ELEMENTWISE and _row_by_row(infos, computed, op):
        same = tuple(i for i, info in enumerate(activations) if info.shape == activations[0].shape)
        return RowOp(name, "rows", inputs, output, macs=macs, in_place=same, pointwise=True)
    return None


def _mean(name: str, attrs: Mapping[str, Any], shape: Sequence[int], inputs: tuple[str, ...], output: str, macs: int) -> RowOp | None:
    """Over height and width (or the height of a single column): a reduction; over the width alone: row by row."""
    axes = sorted(attrs["axes"])
    if axes == [1, 2] or (axes == [1] and shape[2] == 1):
        return RowOp(name, "reduce", inputs, output, macs=macs)
    return RowOp(name, "rows", inputs, output, macs=macs) if axes == [2] and attrs["keepdims"] else None


def _row_by_row(infos: Sequence[TensorInfo], computed: Sequence[bool], op: str) -> bool:
    """Operands of equal shape; the second may be one constant a channel, or of a product a computed one (squeeze-and-excite)."""
    if op in ("lookup", "requantize"):
        return sum(computed) == 1
    first, second = infos[0].shape, infos[1].shape
    if not computed[1]:
        return op in _WITH_CONSTANT and int(np.prod(second)) == (second[-1] if second else 1) and (second or (1,))[-1] in (1, first[3])
    if not all(computed) or op == "prelu":
        return False
    return first == second or (op == "mul" and second == (1, 1, 1, first[3]) and first[1] > 1)


def _window(name: str, op: str, attrs: Mapping[str, Any], kernel: Sequence[int], inputs: tuple[str, ...], output: str, macs: int) -> RowOp:
    (top, left, bottom, right), strides, dilation = attrs["padding"], attrs["strides"], attrs.get("dilation", [1, 1])
    rows = Axis(int(kernel[0]), strides[0], top, bottom, dilation[0])
    columns = Axis(int(kernel[1]), strides[1], left, right, dilation[1])
    return RowOp(name, "window", inputs, output, rows, columns, macs, pointwise=op == "conv2d" and rows == columns == Axis())
