# SPDX-License-Identifier: Apache-2.0
"""Interval analysis of quantised networks: per channel, the least and greatest int8 value that any input can produce.

Every operator's exact arithmetic is applied to the bounds. A window that reaches into the padding reads fewer elements there: the positions
of an output at which the same taps lie inside the image are one *border class* (nine for a 3x3 kernel on a large image), and the bounds are
those over all classes. So what is constant before a padded convolution, of whatever value, may be found constant behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvm_tiny.ops import add, registry
from tvm_tiny.ops.graph import Node, TinyGraph
from tvm_tiny.ops.requantize_math import requantize
from tvm_tiny.ops.residual import residual_of
from tvm_tiny.passes._linked_channels import MOVING, moved

_MONOTONE = frozenset({"avg_pool2d", "max_pool2d", "mean", "requantize", "resize_nearest", "resize_bilinear"})
_INT8 = (-128, 127)
_ACC_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Range:
    """Least and greatest value of each channel, int64 arrays of shape (C,)."""

    low: np.ndarray
    high: np.ndarray

    @property
    def constant(self) -> np.ndarray:
        """Which channels have one value only."""
        return self.low == self.high


def channel_ranges(graph: TinyGraph) -> dict[relax.Var, Range]:
    """The range of every int8 value with a last (channel) axis, for all inputs whatever."""
    ranges: dict[relax.Var, Range] = {}
    for param in graph.params:
        ranges[param] = _full(graph.shape(param))
    for node in graph.nodes:
        if isinstance(node.var.ty, relax.TensorType):
            ranges[node.var] = _range_of(graph, node, ranges)
    return ranges


def _full(shape: tuple[int, ...]) -> Range:
    channels = shape[-1] if shape else 1
    return Range(np.full(channels, _INT8[0], np.int64), np.full(channels, _INT8[1], np.int64))


def _range_of(graph: TinyGraph, node: Node, ranges: Mapping[relax.Var, Range]) -> Range:
    shape = graph.shape(node.var)
    known = [ranges[a] if isinstance(a, relax.Var) and a in ranges else _constant_range(a) for a in node.args]
    if str(node.var.ty.dtype) != "int8" or not node.op or not known or known[0] is None:
        return _full(shape)
    if node.op in ("conv2d", "dense", "depthwise_conv2d"):
        return _with_residual(graph, node, _weighted(graph, node, known[0]), known[5:])
    if node.op in ("add", "sub", "mul", "maximum", "minimum") and known[1] is not None:
        return _binary(graph, node, known[0], known[1])
    if node.op == "lookup":
        return _looked_up(node, known[0])
    if node.op in _MONOTONE and (node.op != "mean" or moved(graph, node) is not None):
        return _monotone(graph, node, known[0])
    if node.op == "concat":
        return _joined(graph, node, [r if r is not None else _full(graph.shape(a)) for a, r in zip(node.args, known, strict=True)])
    sources = moved(graph, node) if node.op in MOVING - {"mean"} else None
    return _full(shape) if sources is None else _taken(node, known[0], sources)


def _constant_range(expr: relax.Expr) -> Range | None:
    if not isinstance(expr, tvm.ir.GenericConst) or str(expr.ty.dtype) != "int8":
        return None
    array = expr.value.numpy().astype(np.int64)
    flat = array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)
    return Range(flat.min(axis=0), flat.max(axis=0))


def _joined(graph: TinyGraph, node: Node, parts: Sequence[Range]) -> Range:
    """Side by side along the channels; else every channel is any of the arguments' there."""
    if node.attrs["axis"] == len(graph.shape(node.var)) - 1:
        return Range(np.concatenate([p.low for p in parts]), np.concatenate([p.high for p in parts]))
    return Range(np.min([p.low for p in parts], axis=0), np.max([p.high for p in parts], axis=0))


def _taken(node: Node, x: Range, sources: np.ndarray) -> Range:
    """Channels from elsewhere in `x`, and what is padded."""
    low, high = x.low[sources], x.high[sources]
    if node.op == "pad" and any((*node.attrs["before"], *node.attrs["after"])):
        low, high = np.minimum(low, node.attrs["value"]), np.maximum(high, node.attrs["value"])
    return Range(low, high)


def _weighted(graph: TinyGraph, node: Node, x: Range) -> Range:
    """Bounds of `bias + Σ w * (x - x_zp)` over the taps inside the image, for every border class; then the exact requantisation."""
    weight, bias, multiplier, shift = (node.constant(i).astype(np.int64) for i in (1, 2, 3, 4))
    low, high = x.low - node.attrs["x_zp"], x.high - node.attrs["x_zp"]
    if node.op == "depthwise_conv2d":
        terms = weight.transpose(2, 0, 1)[..., None]
        low, high = (np.repeat(v, weight.shape[2] // low.size)[:, None, None, None] for v in (low, high))
    else:
        terms = _grouped(weight, low.size) if node.op == "conv2d" else weight[:, None, None, :]
    small, large = np.minimum(terms * low, terms * high).sum(axis=-1), np.maximum(terms * low, terms * high).sum(axis=-1)
    acc_low, acc_high = sums_by_class(graph, node, small).min(axis=1) + bias, sums_by_class(graph, node, large).max(axis=1) + bias
    if max(abs(int(acc_low.min())), abs(int(acc_high.max()))) > _ACC_LIMIT:
        return _full(graph.shape(node.var))
    clamp = (node.attrs["clamp_min"], node.attrs["clamp_max"])
    results = [
        requantize(acc, multiplier, shift, node.attrs["y_zp"], clamp, node.attrs["rounding"]).astype(np.int64)
        for acc in (acc_low, acc_high)
    ]
    return Range(*results)


def _with_residual(graph: TinyGraph, node: Node, y: Range, others: Sequence[Range | None]) -> Range:
    """Bounds of the sum that a convolution with a residual ends in."""
    params = residual_of(node.attrs)
    if params is None:
        return y
    if others[0] is None:
        return _full(graph.shape(node.var))
    mine, theirs = ([v.astype(np.int8) for v in (r.low, r.high)] for r in (y, others[0]))
    corners = [add.OP.numpy(p, q, **params).astype(np.int64) for p in mine for q in theirs]
    return Range(np.min(corners, axis=0), np.max(corners, axis=0))


def _grouped(weight: np.ndarray, channels: int) -> np.ndarray:
    """OHWI weights of a grouped convolution as if ungrouped: zeros outside the group."""
    per_group = weight.shape[3]
    if per_group == channels:
        return weight
    groups = channels // per_group
    full = np.zeros((*weight.shape[:3], channels), weight.dtype)
    outs = weight.shape[0] // groups
    for g in range(groups):
        full[g * outs : (g + 1) * outs, :, :, g * per_group : (g + 1) * per_group] = weight[g * outs : (g + 1) * outs]
    return full


def sums_by_class(graph: TinyGraph, node: Node, taps: np.ndarray) -> np.ndarray:
    """Sums over the taps that lie inside the image: (channels, border classes) of (channels, KH, KW), int64."""
    rows, columns = _border_classes(graph, node, taps.shape[1:])
    return np.einsum("ri,sj,oij->ors", rows, columns, taps).reshape(len(taps), len(rows) * len(columns))


def _border_classes(graph: TinyGraph, node: Node, kernel: tuple[int, ...]) -> list[np.ndarray]:
    """For rows and for columns, int64 (classes, taps): 1 where a tap lies inside the image; each different set of such taps once."""
    if node.op == "dense":
        return [np.ones((1, 1), np.int64)] * 2
    found = []
    for axis in (0, 1):
        size, out = (graph.shape(v)[1 + axis] for v in (node.args[0], node.var))
        first = np.arange(out)[:, None] * node.attrs["strides"][axis] - node.attrs["padding"][axis]
        at = first + np.arange(kernel[axis])[None, :] * node.attrs["dilation"][axis]
        found.append(np.unique((at >= 0) & (at < size), axis=0).astype(np.int64))
    return found


def _evaluate(graph: TinyGraph, node: Node, *values: np.ndarray) -> np.ndarray:
    """The operator on tensors whose channels are constant planes; per-channel minimum and maximum of the result."""
    arrays = []
    for arg, value in zip(node.args, values, strict=False):
        shape = graph.shape(arg)
        arrays.append(np.broadcast_to(value if shape else value[0], shape).astype(np.int8))
    out = registry.get(node.op).numpy(*arrays, **node.attrs).astype(np.int64)
    return out.reshape(-1, out.shape[-1])


def _monotone(graph: TinyGraph, node: Node, x: Range) -> Range:
    return Range(_evaluate(graph, node, x.low).min(axis=0), _evaluate(graph, node, x.high).max(axis=0))


def _binary(graph: TinyGraph, node: Node, a: Range, b: Range) -> Range:
    """Every result lies between those of the corners: operands enter through monotone rescalings, sums and products are extreme there."""
    corners = [_evaluate(graph, node, p, q) for p in (a.low, a.high) for q in (b.low, b.high)]
    return Range(np.min([c.min(axis=0) for c in corners], axis=0), np.max([c.max(axis=0) for c in corners], axis=0))


def _looked_up(node: Node, x: Range) -> Range:
    table = node.constant(1).astype(np.int64)
    spans = [table[low + 128 : high + 129] for low, high in zip(x.low, x.high, strict=True)]
    return Range(np.array([s.min() for s in spans]), np.array([s.max() for s in spans]))
