# SPDX-License-Identifier: Apache-2.0
"""float32 → int8: by a multiplication with the reciprocal, and by the reference's division only where the two could round differently.

With 16 bits of fraction the product differs from the quotient by at most a few units in the range that matters (|q| ≤ 500: three
roundings, each of 2^-24 of it, and the cut to an integer), so both round to the same integer unless the fraction lies that close to one
half; there, and beyond the range, the quotient itself is computed. Cores with a floating-point unit do six at a time in assembly, and
leave the groups with such a value to C.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx

from tvm_tiny.codegen.c_text import float_literal
from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.ops import registry
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels import CFunction, MicroKernel
from tvm_tiny.schedules.microkernels.quantize_block import GROUP, MARGIN, quantize_function
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget

_REACH = 500  # beyond it, every rounding saturates


def apply(func: tirx.PrimFunc, _target: TinyTarget, _tunable: bool) -> Applied:
    """Take `tiny.quantize` that keeps its layout."""
    layer = Layer.of(func)
    if layer is None or layer.op != "tiny.quantize" or layer.attrs["x_layout"] != layer.attrs["y_layout"]:
        return None
    count = int(np.prod(layer.shapes[0]))
    name = f"{PREFIX}quantize"
    kernel = MicroKernel(
        name=name,
        functions=quantize_functions(name, count, layer.attrs),
        packed=b"",
        scratch_bytes=0,
        input_shape=layer.shapes[0],
        output_shape=layer.shapes[-1],
        macs=0,
        reference=lambda x: registry.get("quantize").numpy(x, **layer.attrs),
        choices={"operand": "float"},
    )
    return tensorized(kernel, func, "quantize", rights=[["ascending", 0]])  # an element is read before its byte, below it, is stored


def quantize_functions(name: str, count: int, attrs: dict[str, Any]) -> tuple[CFunction, ...]:
    """`void name(const float *x, int8_t *out, const void *packed, void *scratch)` for `count` elements; what it calls comes first."""
    return (
        CFunction(f"{name}_divide", _divide(name, attrs)),
        CFunction(f"{name}_element", _element(name, attrs)),
        quantize_function(f"{name}_groups"),
        CFunction(name, _source(name, count, attrs)),
    )


def _divide(name: str, attrs: dict[str, Any]) -> str:
    """The reference's arithmetic for one element, without the zero point."""
    exact, limit = (float_literal(float(np.float32(v)), "f") for v in (attrs["scale"], 512.0))
    even = attrs["rounding"] == "half_even"
    up, down = (" && (rest > 0.5f || (whole & 1) != 0)", " && (rest < -0.5f || (whole & 1) != 0)") if even else ("", "")
    return (
        f"static int32_t {name}_divide(float x) {{\n"
        f"  float q = x / {exact};\n"
        f"  q = q > -{limit} ? q : -{limit}; /* a NaN becomes the least */\n  q = q < {limit} ? q : {limit};\n"
        f"  const int32_t whole = (int32_t)q;\n  const float rest = q - (float)whole;\n"
        f"  const int32_t up = rest >= 0.5f{up}, down = rest <= -0.5f{down};\n"
        f"  return whole + up - down;\n}}\n"
    )


def _element(name: str, attrs: dict[str, Any]) -> str:
    """One element in C, by the product where that is safe."""
    reach = float_literal(float(np.float32(_REACH) * np.float32(attrs["scale"])), "f")
    return (
        f"static int8_t {name}_element(float v) {{\n"
        f"  int32_t y;\n"
        f"  if (v > -{reach} && v < {reach}) {{ /* 16 bits of fraction; rounds like the quotient unless it is that close to a tie */\n"
        f"    const int32_t fixed = (int32_t)(v * {_factor(attrs)}) + 0x8000;\n"
        f"    y = ((fixed + {MARGIN}) & 0xffff) < {2 * MARGIN} ? {name}_divide(v) : fixed >> 16;\n"
        f"  }} else {{\n    y = {name}_divide(v);\n  }}\n"
        f"  y += {attrs['zp']};\n  return (int8_t)(y < -128 ? -128 : y > 127 ? 127 : y);\n}}\n"
    )


def _factor(attrs: dict[str, Any]) -> str:
    return float_literal(float(np.float32(65536) / np.float32(attrs["scale"])), "f")


def _source(name: str, count: int, attrs: dict[str, Any]) -> str:
    """Groups by the block function until it meets one it can't do; that one, and the rest, element by element."""
    signature = f"void {name}(const float *x, int8_t *out, const void *packed, void *scratch)"
    addend = (int(attrs["zp"]) * 65536 + 0x8000) & 0xFFFFFFFF
    return (
        f"{signature};\n{signature} {{\n  const float factor = {_factor(attrs)};\n  uint32_t constants[2] = {{0, {addend:#x}u}};\n"
        f"  int32_t i = 0;\n  (void)packed;\n  (void)scratch;\n  memcpy(constants, &factor, 4);\n"
        f"  while (i < {count}) {{\n"
        f"    const int32_t groups = ({count} - i) / {GROUP};\n"
        f"    if (groups != 0) i += {GROUP} * (groups - (int32_t){name}_groups(x + i, out + i, constants, (uint32_t)groups));\n"
        f"    const int32_t end = {count} - i < {GROUP} ? {count} : i + {GROUP};\n"
        f"    for (; i < end; ++i) out[i] = {name}_element(x[i]);\n  }}\n}}\n"
    )
