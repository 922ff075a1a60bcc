# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the generated kernels as `TensorIntrin`s: what each computes, in TIR, and the call of its C function.

A block is made from the same small description that generates its assembly and its portable C (`schedules/microkernels`). Its meaning is
TIR over packed operands: parameter streams, widened columns, planes. So a nest of loops over such operands can be split and reordered by
TVM's schedule primitives, and TVM itself puts the block in the place of a part that means the same (`sch.tensorize`).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True)
class Family:
    """Blocks of one kind: what they are made from, and what for; docs/kernels.md lists them."""

    made_from: str
    does: str
    used_by: str


FAMILIES = {
    "gemm": Family("GemmBlock", "channels × pixels of int8 from widened columns, several blocks a call", "conv2d, pointwise, first_layer"),
    "expand": Family("Expand", "activations of some pixels widened into columns", "conv2d, pointwise, dense"),
    "fill": Family("fill_function", "columns of padding", "conv2d"),
    "gather": Family("Gather", "columns of windows over few channels", "first_layer"),
    "copy": Family("copy_function", "packed weights that are read more than once, to scratch", "conv2d, pointwise"),
    "plane_rows": Family("PlaneRow", "rows of four channels to padded planes of int16", "depthwise"),
    "plane_lines": Family("PlaneLines", "rows of one plane to padded rows of int16", "depthwise, planar"),
    "depthwise": Family("DepthwiseBlock", "output rows of one to four channels from their planes", "depthwise, planar"),
    "dense": Family("DenseBlock", "channels of one input vector, in pairs", "dense"),
    "common": Family("common_function", "the inputs' share of all pairs' sums", "dense"),
    "transform": Family("TileGroup", "Winograd's input transform of a group of tiles", "winograd"),
    "products": Family("ProductBlock", "sixteen products, output transform, requantisation", "winograd"),
    "pool": Family("PoolBlock", "maxima or requantised sums of one window", "pool"),
}
