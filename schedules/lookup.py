# SPDX-License-Identifier: Apache-2.0
"""Functions of a single int8: lookups, and changes of scale, which have no more than 256 values either."""

from __future__ import annotations

import numpy as np
from tvm import tirx

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.ops import registry
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels import table_map
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget

_WORTH_A_TABLE = 256  # elements: below, a change of scale is cheaper computed than its table stored


def apply(func: tirx.PrimFunc, _target: TinyTarget, _tunable: bool) -> Applied:
    """Take `tiny.lookup`, and `tiny.requantize` of many int8, that keep their layout."""
    layer = Layer.of(func)
    if layer is None or layer.op not in ("tiny.lookup", "tiny.requantize") or layer.attrs["x_layout"] != layer.attrs["y_layout"]:
        return None
    shape = layer.shapes[0]
    if layer.dtypes[0] != "int8" or (layer.op == "tiny.requantize" and np.prod(shape) < _WORTH_A_TABLE):
        return None
    if layer.op == "tiny.lookup" and 1 not in layer.constants:
        return None
    kernel = table_map(f"{PREFIX}lookup", shape, _table(layer))
    # A block of eight is read whole before its first byte is stored, blocks in ascending order.
    return tensorized(kernel, func, "lookup", rights=[["ascending", 0]])


def _table(layer: Layer) -> np.ndarray:
    """The results of -128, -127, … 127."""
    every = np.arange(-128, 128).astype(np.int8)
    return layer.constants[1] if layer.op == "tiny.lookup" else registry.get(layer.op).numpy(every, **layer.attrs)
