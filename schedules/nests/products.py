# SPDX-License-Identifier: Apache-2.0
"""Convolutions and fully connected layers as products of columns, and the schedule of those that a tuning trace holds.

    columns[P, K] = windows of x, padding written in              P output pixels, K products each
    y[P, M] = requantise(columns · weights[M, K])                 M output channels

It is what nests are (`nests/gemm.py`), over operands as the model has them: no packing, so that one function serves every block of channels
and pixels, and every decision can be sampled. A decision that is about loops is their split; which form a block takes its operands in, and
how many rows one call of it gets, are no loops.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm import s_tir, te, tirx
from tvm.s_tir import Schedule

from tvm_tiny.errors import OptionError
from tvm_tiny.ops import registry
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels import Conv2DShape
from tvm_tiny.schedules.nests.loops import REMEDY, loops_around
from tvm_tiny.schedules.space import Tiling

Decisions = Mapping[str, Any]
"""Random variables of a traced schedule, or numbers, by the name of the decision."""

_WORD = 4  # products of a packed word


def products(layer: Layer, shape: Conv2DShape) -> tirx.PrimFunc:
    """The layer as columns and products.

    Parameters of the function: x int8 (height, width, channels), weight int8 (M, K), bias, multiplier and shift int32 (M,), y int8 (P, M);
    the bytes of the layer's own. A residual that is added afterwards is left out.
    """
    s, zero = shape, layer.attrs["x_zp"]
    x = te.placeholder((s.height, s.width, s.channels), "int8", "x")
    params = [te.placeholder((s.outputs,), "int32", name) for name in ("bias", "multiplier", "shift")]
    weight = te.placeholder((s.outputs, s.k), "int8", "weight")

    def window(pixel: Any, k: Any) -> Any:
        (row, column), (tap, channel) = (pixel // s.out_width, pixel % s.out_width), (k // s.channels, k % s.channels)
        y = row * s.stride[0] + tap // s.kernel[1] * s.dilation[0] - s.padding[0]
        z = column * s.stride[1] + tap % s.kernel[1] * s.dilation[1] - s.padding[1]
        inside = tirx.all(y >= 0, y < s.height, z >= 0, z < s.width)
        return x[y, z, channel] if not any(s.padding) else tirx.if_then_else(inside, x[y, z, channel], tirx.const(zero, "int8"))

    columns = te.compute((s.out_height * s.out_width, s.k), window, name="columns")
    dense = registry.get("tiny.dense")
    attrs = dense.complete_attrs({k: v for k, v in layer.attrs.items() if k in ("x_zp", "y_zp", "clamp_min", "clamp_max", "rounding")})
    return te.create_prim_func([x, weight, *params, dense.te_fn([columns, weight, *params], attrs)])


def tiled(sch: Schedule, found: Decisions) -> None:
    """Schedule `products`: tiles of groups of pixels, blocks of channels, words unrolled; columns a tile at a time, outputs a block."""
    pixel, channel, k = sch.get_loops(sch.get_sblock("acc"))
    groups, pixels = sch.split(pixel, [None, found["pixels"]])
    blocks, channels = sch.split(channel, [None, found["channels"]])
    words, products_of_a_word = sch.split(k, [None, _WORD])
    steps, unrolled = sch.split(words, [None, found["unroll"]])
    sch.reorder(groups, blocks, steps, unrolled, channels, pixels, products_of_a_word)
    tiles, group = walk(sch, groups, blocks, found["tile"])
    sch.compute_at(sch.get_sblock("columns"), tiles)
    sch.reverse_compute_at(sch.get_sblock("y"), group)
    sch.unroll(unrolled)


_LOOPS = ("tiles", "blocks", "groups", "steps", "unroll", "channels", "pixels", "products of a word")
_AXES = (("tiles", "groups", "pixels"), ("blocks", "channels"), ("steps", "unroll", "products of a word"))


def tiles(func: tirx.PrimFunc) -> dict[str, int]:
    """The decisions that `tiled` was called with, read off the loops of what it scheduled.

    Raises
    ------
    OptionError
        The loops are not those of `tiled`: no kernel computes in that order.
    """
    found = loops_around(func, "acc").named(_LOOPS, _AXES, "unroll")
    if found["products of a word"] != _WORD:
        raise OptionError(f"words of {found['products of a word']} products: a packed word has {_WORD}", remedy=REMEDY)
    return {"channels": found["channels"], "pixels": found["pixels"], "unroll": found["unroll"], "tile": found["groups"]}


TILED = Tiling(tiled, tiles, ("channels", "pixels", "unroll", "tile"))


def walk(
    sch: Schedule, groups: s_tir.schedule.LoopRV, blocks: s_tir.schedule.LoopRV | None, tile: Any
) -> tuple[s_tir.schedule.LoopRV, s_tir.schedule.LoopRV]:
    """The loops over tiles of `tile` groups of pixels and over the groups of one, that over blocks of channels (if any) between them."""
    tiles, group = sch.split(groups, [None, tile])
    sch.reorder(tiles, *([] if blocks is None else [blocks]), group)
    return tiles, group
