# SPDX-License-Identifier: Apache-2.0
"""uint8 ↔ int8: four bytes a turn, the top bit of each turned over."""

from __future__ import annotations

import math

from tvm import tirx

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.ops import registry
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels import CFunction, MicroKernel
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget


def apply(func: tirx.PrimFunc, _target: TinyTarget, _tunable: bool) -> Applied:
    """Take `tiny.flip_sign`."""
    layer = Layer.of(func)
    if layer is None or layer.op != "tiny.flip_sign":
        return None
    name = f"{PREFIX}flip_sign"
    kernel = MicroKernel(
        name=name,
        functions=(CFunction(name, _source(name, math.prod(layer.shapes[0]), *layer.dtypes)),),
        packed=b"",
        scratch_bytes=0,
        input_shape=layer.shapes[0],
        output_shape=layer.shapes[-1],
        macs=0,
        reference=registry.get("flip_sign").numpy,
        choices={"operand": "words"},
    )
    # Four bytes are read whole before their first is stored, in ascending order.
    return tensorized(kernel, func, "flip_sign", rights=[["in-place", 0], ["ascending", 0]])


def _source(name: str, count: int, source: str, result: str) -> str:
    """`void name(const T *x, U *out, const void *packed, void *scratch)`; the bytes may lie anywhere."""
    signature = f"void {name}(const {source}_t *x, {result}_t *out, const void *packed, void *scratch)"
    return (
        f"{signature};\n{signature} {{\n  uint32_t i = 0;\n  (void)packed;\n  (void)scratch;\n"
        f"  for (; i + 4u <= {count}u; i += 4u) {{\n"
        f"    uint32_t four;\n    memcpy(&four, x + i, 4);\n    four ^= 0x80808080u;\n    memcpy(out + i, &four, 4);\n  }}\n"
        f"  for (; i < {count}u; ++i) out[i] = ({result}_t)(x[i] ^ 0x80);\n}}\n"
    )
