# SPDX-License-Identifier: Apache-2.0
"""Softmax of int8: a table of exponentials, three passes a row, one reciprocal."""

from __future__ import annotations

from tvm import tirx

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.ops import registry
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels import softmax
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget


def apply(func: tirx.PrimFunc, _target: TinyTarget, _tunable: bool) -> Applied:
    """Take `tiny.softmax` with a constant table."""
    layer = Layer.of(func)
    if layer is None or layer.op != "tiny.softmax" or 1 not in layer.constants:
        return None
    table, meaning = layer.constants[1], registry.get(layer.op).numpy
    kernel = softmax(f"{PREFIX}softmax", layer.shapes[0], table, lambda x: meaning(x, table))
    # The last pass reads an element just before it stores it; rows are in ascending order.
    return tensorized(kernel, func, "softmax", rights=[["in-place", 0], ["ascending", 0]])
