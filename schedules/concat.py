# SPDX-License-Identifier: Apache-2.0
"""Tensors one after the other along any axis: copies by words, turn by turn."""

from __future__ import annotations

import math

from tvm import tirx

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels.concat import concat, distance
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget


def apply(func: tirx.PrimFunc, _target: TinyTarget, _tunable: bool) -> Applied:
    """Take `tiny.concat` of int8 that are all computed at run time."""
    layer = Layer.of(func)
    if layer is None or layer.op != "tiny.concat" or layer.constants or set(layer.dtypes) != {"int8"}:
        return None
    sizes, turns = pieces_of(layer)
    rights = {k: [["ascending", distance(sizes, turns, k)]] for k in range(len(sizes)) if turns > 1}
    return tensorized(concat(f"{PREFIX}concat", sizes, turns), func, "concat", rights=rights)


def pieces_of(layer: Layer) -> tuple[list[int], int]:
    """Bytes of every input in one turn, and the turns."""
    axis = layer.attrs["axis"]
    return [math.prod(shape[axis:]) for shape in layer.shapes[:-1]], math.prod(layer.shapes[0][:axis])
