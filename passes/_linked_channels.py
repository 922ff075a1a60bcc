# SPDX-License-Identifier: Apache-2.0
"""Which channels of a network stand or fall together: those that operators take over from their arguments as they are, each to its place.

An operator's links say, for every channel of its result, which channel of an argument it is made from:

    depthwise, additions, pooling, resizing, …   channel i from channel i
    concatenation of channels                    channel i of an argument to its place behind the arguments before it
    a slice                                      channel i from its first on
    a reshape that joins axes with the channels  channel i from channel i modulo their number
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from tvm import relax

from tvm_tiny.ops.graph import Node, TinyGraph
from tvm_tiny.ops.residual import ARGUMENT as RESIDUAL
from tvm_tiny.ops.residual import residual_of

Links = list[tuple[relax.Var, np.ndarray]]
"""By argument: for every channel of the result the argument's channel that it is made from, or -1."""

_ELEMENTWISE = frozenset({"add", "sub", "mul", "maximum", "minimum", "lookup", "requantize"})
_OF_PLANES = frozenset({"avg_pool2d", "max_pool2d", "resize_nearest", "resize_bilinear"})
MOVING = frozenset({"reshape", "transpose", "mean", "pad", "strided_slice"})


def channels_of(graph: TinyGraph, expr: relax.Expr) -> int:
    """The last dimension; 1 where there is none."""
    shape = graph.shape(expr) if isinstance(expr.ty, relax.TensorType) else ()
    return shape[-1] if shape else 1


def links_of(graph: TinyGraph, node: Node) -> Links:
    """The arguments whose channels an operator hands on; none for those that mix channels."""
    if residual_of(node.attrs) is not None:
        return _alike(graph, node, node.args[RESIDUAL:])
    if node.op in _ELEMENTWISE:
        return _alike(graph, node, node.args)
    if node.op in _OF_PLANES or node.op == "depthwise_conv2d":
        return _alike(graph, node, node.args[:1])
    if node.op == "concat":
        return list(_joined(graph, node))
    sources = moved(graph, node) if node.op in MOVING else None
    if sources is not None and node.op == "strided_slice" and node.attrs["strides"][-1] != 1:
        return []  # of fewer channels it might take none in order
    return [(node.args[0], sources)] if sources is not None and isinstance(node.args[0], relax.Var) else []


def _alike(graph: TinyGraph, node: Node, args: list[relax.Expr]) -> Links:
    """Those of `args` that have as many channels as the result."""
    channels = channels_of(graph, node.var)
    found = dict.fromkeys(a for a in args if isinstance(a, relax.Var) and channels_of(graph, a) == channels)
    return [(a, np.arange(channels)) for a in found]


def _joined(graph: TinyGraph, node: Node) -> Iterator[tuple[relax.Var, np.ndarray]]:
    channels, start = channels_of(graph, node.var), 0
    for arg in node.args:
        own = channels_of(graph, arg)
        sources = np.arange(channels) - start
        if node.attrs["axis"] == len(graph.shape(node.var)) - 1:
            sources[(sources < 0) | (sources >= own)] = -1
            start += own
        if isinstance(arg, relax.Var):
            yield arg, sources


def moved(graph: TinyGraph, node: Node) -> np.ndarray | None:
    """For every channel of the result the argument's channel it holds, of operators that move, pad or average whole channels; else None."""
    before, after = graph.shape(node.args[0]), graph.shape(node.var)
    if not before or not after:
        return None
    last = len(before) - 1
    if node.op == "reshape":
        return np.arange(after[-1]) % before[-1] if _joins_whole_axes(before, after[-1]) else None
    if node.op == "strided_slice":
        step = node.attrs["strides"][last]
        return node.attrs["begin"][last] + step * np.arange(after[-1]) if step > 0 else None
    kept = {
        "transpose": lambda: node.attrs["axes"][-1] == last,
        "mean": lambda: last not in [a % len(before) for a in node.attrs["axes"]],
        "pad": lambda: after[-1] == before[-1],
    }
    return np.arange(after[-1]) if kept[node.op]() else None


def _joins_whole_axes(before: tuple[int, ...], channels: int) -> bool:
    """A reshape's new channels are some last axes of what it reads, taken together."""
    return channels in [math.prod(before[k:]) for k in range(len(before))] and math.prod(before) % channels == 0


def labels_of(graph: TinyGraph) -> dict[relax.Var, np.ndarray]:
    """Of every channel the number of those it stands or falls with."""
    labels: dict[relax.Var, np.ndarray] = {}
    start = 0
    for var in [*graph.params, *(n.var for n in graph.nodes)]:
        labels[var] = np.arange(start, start := start + channels_of(graph, var))
    links = [(labels[node.var], labels[arg], sources) for node in graph.nodes for arg, sources in links_of(graph, node)]
    changed = True
    while changed:
        changed = False
        for mine, theirs, sources in (*links, *reversed(links)):
            inside = sources >= 0
            least = np.minimum(mine[inside], theirs[sources[inside]])
            changed |= bool((mine[inside] != least).any() or (theirs[sources[inside]] != least).any())
            np.minimum.at(theirs, sources[inside], least)
            mine[inside] = np.minimum(least, theirs[sources[inside]])
    return labels
