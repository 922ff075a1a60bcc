# SPDX-License-Identifier: Apache-2.0
"""A layer computed through its row kernel, row after row, as streamed stages do it: so that those kernels can be measured and tuned.

No network's layer is scheduled so. A function asks for it with the attribute `tiny.by_rows`; what is found for it is used by `stream`.
"""

from __future__ import annotations

from dataclasses import replace

from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules import conv2d as conv2d_rule
from tvm_tiny.schedules import depthwise as depthwise_rule
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels import CFunction, Core, MicroKernel
from tvm_tiny.schedules.nests.planes import in_strips
from tvm_tiny.schedules.nests.products import TILED
from tvm_tiny.schedules.row_blocks import MAX_COLUMNS, column_bytes
from tvm_tiny.schedules.row_form import RowKernel
from tvm_tiny.schedules.row_kernels import row_kernel
from tvm_tiny.schedules.space import Choice, Space
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget

_OPS = ("tiny.conv2d", "tiny.depthwise_conv2d")


def apply(func: tirx.PrimFunc, target: TinyTarget, tunable: bool) -> Applied:
    """Take convolutions that ask for rows."""
    layer = Layer.of(func)
    if layer is None or not layer.by_rows or layer.op not in _OPS:
        return None
    if tunable:
        found = space(func, target)
        return None if found is None else found.sample(func)
    return _schedule(func, layer, row_kernel(layer, Core.of(target.mcpu)))


def space(func: tirx.PrimFunc, _target: TinyTarget) -> Space | None:
    """What a row kernel has to choose; None when the function does not ask for rows."""
    layer = Layer.of(func)
    if layer is None or not layer.by_rows or layer.op not in _OPS:
        return None
    if layer.op == "tiny.depthwise_conv2d":
        of_a_row = depthwise_rule.shape_of(layer)
        decisions = {"pixels": depthwise_rule.space_of(of_a_row).decisions["pixels"]}
        return Space("rows", decisions, loops=in_strips(padded=any(of_a_row.padding), strip=1))
    shape = conv2d_rule.shape_of(layer)
    if shape is None:
        return None
    gemm, by_words = conv2d_rule.space_of(shape), shape.channels % 4 == 0
    decisions = {name: gemm.decisions[name] for name in ("channels", "pixels", "operand", "unroll")}

    def legal(choice: Choice) -> bool:
        pixels = int(choice["pixels"])
        columns = pixels * column_bytes(shape.k, by_words=by_words)
        return pixels <= shape.out_width and columns <= MAX_COLUMNS and gemm.legal({**choice, "tile": 1})

    return Space("rows", decisions, legal, gemm.form, replace(TILED, fixed={"tile": 1}))


def realise(func: tirx.PrimFunc, target: TinyTarget, choice: Choice) -> Schedule | None:
    """The schedule of one candidate of `space`; None when the function does not ask for rows.

    Raises
    ------
    RegisterPressureError
        The block needs more registers than there are.
    """
    layer = Layer.of(func)
    if layer is None or not layer.by_rows or layer.op not in _OPS:
        return None
    return _schedule(func, layer, row_kernel(layer, Core.of(target.mcpu), choice))


def _schedule(func: tirx.PrimFunc, layer: Layer, made: RowKernel) -> Schedule:
    kernel = MicroKernel(
        name=f"{PREFIX}by_rows",
        functions=(*made.functions, CFunction(f"{PREFIX}by_rows", _driver(layer, made.name))),
        packed=made.packed,
        scratch_bytes=made.scratch_bytes,
        input_shape=layer.shapes[0],
        output_shape=layer.shapes[-1],
        macs=0,
        reference=lambda x: x,
        choices={"operand": made.kernel},
    )
    return tensorized(kernel, func, "rows")


def _driver(layer: Layer, row: str) -> str:
    """C that calls the row kernel for every row; rows in the padding are never read, so any address does for them."""
    depthwise = layer.op == "tiny.depthwise_conv2d"
    shape = depthwise_rule.shape_of(layer) if depthwise else conv2d_rule.shape_of(layer)
    assert shape is not None, layer.op
    extent = (shape.kernel[0] - 1) * shape.dilation[0] + 1
    signature = f"void {PREFIX}by_rows(const int8_t *in, int8_t *out, const void *packed, void *scratch)"
    return (
        f"{signature};\n{signature} {{\n  const int8_t *rows[{extent}];\n"
        f"  for (int32_t y = 0; y < {shape.out_height}; ++y) {{\n"
        f"    for (int32_t i = 0, r = y * {shape.stride[0]} - {shape.padding[0]}; i < {extent}; ++i, ++r)\n"
        f"      rows[i] = in + (r < 0 || r >= {shape.height} ? 0 : r) * {shape.width * shape.channels};\n"
        f"    {row}(rows, out + y * {shape.out_width * shape.outputs}, y, y + 1, packed, scratch);\n  }}\n}}\n"
    )
