# SPDX-License-Identifier: Apache-2.0
"""Dilated convolutions that a TFLite model writes as batches: SPACE_TO_BATCH_ND → convolution → BATCH_TO_SPACE_ND becomes one operator.

Every image of the batch holds the pixels that lie a block apart, so that a window over neighbours there is a window with gaps, the
dilation, in the original image. What the blocks' padding and crops leave around the image stands in a PAD before the convolution.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tvm_tiny.frontend.graph import Graph, Operator, Tensor
from tvm_tiny.frontend.tflite_rules import VALID, block_axes, kernel_size

_CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})


def fold_batches(graph: Graph) -> Graph:
    """The graph, which has passed the checks, with dilated convolutions said as such; operators keep the convolution's number."""
    readers: dict[int, list[Operator]] = {}
    for op in graph.operators:
        for index in op.inputs:
            readers.setdefault(index, []).append(op)
    tensors, changed, gone = list(graph.tensors), dict[int, list[Operator]](), set[int]()
    for split in (op for op in graph.operators if op.kind == "SPACE_TO_BATCH_ND"):
        conv = _only_reader(graph, readers, split)
        join = _only_reader(graph, readers, conv) if conv is not None else None
        if conv is None or join is None or (widths := _padding(graph, split, conv, join)) is None:
            continue
        changed[conv.index] = _dilated(graph, tensors, (split, conv, join), widths)
        gone |= {split.index, join.index}
    operators = [new for op in graph.operators if op.index not in gone for new in changed.get(op.index, [op])]
    return replace(graph, tensors=tuple(tensors), operators=tuple(operators))


def _only_reader(graph: Graph, readers: dict[int, list[Operator]], op: Operator) -> Operator | None:
    found = readers.get(op.outputs[0], [])
    return found[0] if len(found) == 1 and op.outputs[0] not in graph.outputs else None


def _padding(graph: Graph, split: Operator, conv: Operator, join: Operator) -> list[tuple[int, int]] | None:
    """(before, after) along height and width of the dilated convolution; None where the three are none."""
    options = conv.options
    if (
        conv.kind not in _CONVOLUTIONS
        or join.kind != "BATCH_TO_SPACE_ND"
        or options["padding"] != VALID
        or conv.inputs[0] != split.outputs[0]
    ):
        return None
    if any(options[k] != 1 for k in ("stride_h", "stride_w", "dilation_h", "dilation_w")) or len(graph.need(split, 0).shape) != 4:
        return None
    (blocks, padding), (others, crops) = block_axes(graph, split), block_axes(graph, join)
    if blocks != others:
        return None
    x, y = graph.need(split, 0).shape, graph.out(join).shape
    found = []
    for axis, (block, pad, crop, kernel) in enumerate(zip(blocks, padding, crops, kernel_size(graph, conv), strict=False), 1):
        before = int(pad[0]) - int(crop[0])
        found.append((before, y[axis] + (kernel - 1) * block - x[axis] - before))
    found += [(0, 0)] * (2 - len(found))
    return found if all(n >= 0 for pair in found for n in pair) else None


def _dilated(
    graph: Graph, tensors: list[Tensor], three: tuple[Operator, Operator, Operator], widths: list[tuple[int, int]]
) -> list[Operator]:
    """PAD, where there is something to pad, and the convolution of `x` itself."""
    split, conv, join = three
    blocks = [*block_axes(graph, split)[0], 1][:2]
    source, made = split.inputs[0], []
    if any(n for pair in widths for n in pair):
        x = graph.tensors[source]
        extents = [e + sum(w) for e, w in zip(x.shape, [(0, 0), *widths, (0, 0)], strict=True)]
        amounts = np.array([(0, 0), *widths, (0, 0)], np.int32)
        tensors.append(replace(graph.out(split), index=len(tensors), shape=tuple(extents), signature=()))
        tensors.append(Tensor(len(tensors), "", amounts.shape, "int32", amounts))
        made = [Operator(split.index, "PAD", (source, len(tensors) - 1), (len(tensors) - 2,), {})]
        source = len(tensors) - 2
    options = {**conv.options, "dilation_h": blocks[0], "dilation_w": blocks[1]}
    return [*made, replace(conv, inputs=(source, *conv.inputs[1:]), outputs=join.outputs, options=options)]
