# SPDX-License-Identifier: Apache-2.0
"""Kernels that make one row of an operator's output from row pointers, for streamed stages. All have one C signature:

    void name(const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end, const void *packed, void *scratch)

for output rows [begin, end), in a stream one, in strips more. What `rows` points to depends on the operator's kind
(`tvm_tiny.memory.rows`):

  window   rows[i] is input row begin * stride - top + i; rows in the padding are never read
           (of a residual: the output's rows, after those)
  rows     rows[k] is the row of operand k
           (tiny.fetch: where the application's function is found)
  resize   rows[0] is where the input's rows lie, row r in slot r mod their number
  reduce   rows[k] is input row `begin` + k; int32 sums of every channel stay in `scratch` from row 0 to the last, which stores the result

Convolutions use the generated microkernels' row forms; the others (`row_functions`) are mostly plain C, a small part of any network's work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules import conv2d as conv2d_rule
from tvm_tiny.schedules import depthwise as depthwise_rule
from tvm_tiny.schedules import fetch as fetch_rule
from tvm_tiny.schedules.band_costs import band_of
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels import CFunction, Conv2DShape, Core, DepthwiseChoice, RegisterPressureError, conv2d, depthwise
from tvm_tiny.schedules.microkernels.bands import band_kernel
from tvm_tiny.schedules.microkernels.conv2d_shape import default_choice, shared_choice
from tvm_tiny.schedules.microkernels.gemm_layer import BlockChoice
from tvm_tiny.schedules.microkernels.residual import residual_sum
from tvm_tiny.schedules.microkernels.winograd_rows import winograd_rows
from tvm_tiny.schedules.residual import addition_of
from tvm_tiny.schedules.row_blocks import RowBlock, conv_row_block, row_pixels, strip_block
from tvm_tiny.schedules.row_form import RowKernel, row_function
from tvm_tiny.schedules.row_functions import ROW_FUNCTIONS, fetch, windowed_pool
from tvm_tiny.schedules.space import Choice

BANDS = ", bands"
"""What kernels by bands say after their operands' form."""


def row_kernel(layer: Layer, core: Core, choice: Choice | None = None, group: int = 1) -> RowKernel:
    """The row kernel of an operator that `tvm_tiny.memory.tiny_rows.row_op` takes; shapes NHWC, output last.

    Parameters
    ----------
    choice : dict, optional
        Of a convolution: a candidate of `rows.space` instead of the default.
    group : int
        Output rows at once: of a convolution 2, which is Winograd's form, whose `begin` counts firings.

    Raises
    ------
    RegisterPressureError
        The candidate needs more registers than there are.
    """
    if group > 1:
        return _winograd(layer, core)
    if choice is not None and layer.op == "tiny.conv2d":
        channels, pixels, unroll = (int(choice[name]) for name in ("channels", "pixels", "unroll"))
        block = BlockChoice(channels, pixels, str(choice["operand"]), unroll, 1)
        return _conv2d_of(layer, core, block)
    if choice is not None and layer.op == "tiny.depthwise_conv2d":
        return _depthwise_of(layer, core, DepthwiseChoice(int(choice["pixels"]), 1))
    return _MAKERS[layer.op](layer, core)


def tile_kernel(layer: Layer, core: Core, together: int, column: int = 0) -> RowKernel:
    """The row kernel of a window or an elementwise operator on a tile that begins at `column`, for calls of up to `together` rows."""
    if layer.op == fetch_rule.NAME:
        return fetch(layer, core, column)
    if layer.op == "tiny.conv2d":
        return _conv2d(layer, core, together)
    if layer.op == "tiny.depthwise_conv2d":
        return _depthwise(layer, core, together)
    return windowed_pool(layer) if layer.op in ("tiny.avg_pool2d", "tiny.max_pool2d") else row_kernel(layer, core)


def strip_kernel(layer: Layer, core: Core, most: int, *, together: bool = False, over: bool = False) -> RowKernel:
    """The row kernel of an operator for calls of up to `most` rows.

    Parameters
    ----------
    together, over : bool
        The input rows of a call lie together, and the output may lie over them from the same byte on.
    """
    if layer.op == "tiny.conv2d":
        return _strip_conv2d(layer, core, most, together=together, over=over)
    if layer.op == "tiny.depthwise_conv2d":
        return _depthwise(layer, core, most)
    return row_kernel(layer, core)


def reachable(name: str, functions: Sequence[CFunction]) -> tuple[CFunction, ...]:
    """Those of `functions` (callees first) that `name` calls, itself included."""
    wanted, kept = {name}, []
    for function in reversed(functions):
        if function.name in wanted:
            kept.append(function)
            wanted |= set(re.findall(rf"\b{PREFIX}\w+", function.source))
    return tuple(reversed(kept))


def _conv2d(layer: Layer, core: Core, tile_rows: int | None = None) -> RowKernel:
    banded = _banded(layer, core) if tile_rows is None else None
    return banded or _conv2d_in_form(layer, core, conv_choice(layer, core, tile_rows))


def conv_choice(layer: Layer, core: Core, tile_rows: int | None = None) -> BlockChoice:
    """The block of a convolution for a row at a time, or for calls of up to `tile_rows` rows."""
    shape = conv2d_rule.shape_of(layer)
    assert shape is not None, layer
    choice = row_choice(shape, core) if tile_rows is None and not layer.small_code else tile_choice(shape, core, tile_rows or 1)
    return _shared_row_choice(shape, core, choice, tile_rows, fixed=bool(layer.short_code)) if layer.small_code else choice


def _strip_conv2d(layer: Layer, core: Core, most: int, *, together: bool, over: bool) -> RowKernel:
    choice = strip_choice(layer, core, most, over=over)
    return _banded(layer, core) or _conv2d_in_form(layer, core, choice, together=together, over=over)


def strip_choice(layer: Layer, core: Core, most: int, *, over: bool = False) -> BlockChoice:
    """The block of a convolution for calls of up to `most` rows of a strip, which it may write `over` those it reads."""
    shape = conv2d_rule.shape_of(layer)
    assert shape is not None, layer
    choice, cut = default_choice(shape, core), strip_block(shape, most, dual_issue=core.dual_issue)
    if choice.pixels > 1 or most * shape.out_width > 1:
        choice = replace(choice, pixels=cut.pixels, tile=cut.tile, weights=cut.weights, ends=None, pairs=cut.pairs)
        choice = replace(choice, runs=1 if over else cut.runs)
    if layer.small_code:
        room = cut.scratch(shape.k, shape.outputs, by_words=shape.channels % 4 == 0)
        choice = shared_choice(shape, core, choice, room, fixed=bool(layer.short_code))
    return choice


def _banded(layer: Layer, core: Core) -> RowKernel | None:
    """The kernel whose windows share widened columns, where there is one in code of its own."""
    shape = conv2d_rule.shape_of(layer)
    band = band_of(shape, core.dual_issue) if shape is not None and not layer.small_code else None
    if shape is None or band is None:
        return None
    made = band_kernel(f"{PREFIX}bands", shape, conv2d_rule.parameters_of(layer, shape), core, band)
    if made is None:
        return None
    kernel = RowKernel(made.functions[-1].name, made.functions, made.packed, made.scratch_bytes, kernel=f"{made.operand}{BANDS}")
    return _with_residual(kernel, layer, core)


def _conv2d_in_form(layer: Layer, core: Core, choice: BlockChoice, *, together: bool = False, over: bool = False) -> RowKernel:
    try:
        return _conv2d_of(layer, core, choice, together=together, over=over)
    except RegisterPressureError:  # the shared form needs more registers; wide blocks then keep code of their own
        return _conv2d_of(layer, core, replace(choice, shared=False), together=together, over=over)


def _shared_row_choice(shape: Conv2DShape, core: Core, choice: BlockChoice, tile_rows: int | None, *, fixed: bool) -> BlockChoice:
    """The shared block; for a row at a time with weights where, and in no more scratch than, the row's own block has them."""
    if tile_rows is not None or choice.pixels == 1:
        return shared_choice(shape, core, choice, fixed=fixed)
    cut = _cut(shape, core)
    row = replace(shape, height=1) if shape.is_pointwise else shape
    limit = cut.scratch(shape.k, shape.outputs, by_words=shape.channels % 4 == 0)
    return shared_choice(row, core, replace(choice, weights=cut.weights), limit, fixed=fixed)


def _conv2d_of(layer: Layer, core: Core, choice: BlockChoice, *, together: bool = False, over: bool = False) -> RowKernel:
    shape = conv2d_rule.shape_of(layer)
    assert shape is not None, layer
    parameters = conv2d_rule.parameters_of(layer, shape)
    made = conv2d(f"{PREFIX}gemm", shape, parameters, core, choice=choice, row_form=True, together=together, over=over)
    assert made.row_name is not None
    functions = reachable(made.row_name, made.functions)
    kernel = RowKernel(made.row_name, functions, made.packed, made.scratch_bytes, kernel=str(made.choices["operand"]))
    return _with_residual(kernel, layer, core)


def _winograd(layer: Layer, core: Core) -> RowKernel:
    shape = conv2d_rule.shape_of(layer)
    assert shape is not None, layer
    made = winograd_rows(f"{PREFIX}winograd_rows", shape, conv2d_rule.parameters_of(layer, shape), core)
    kernel = RowKernel(made.functions[-1].name, made.functions, made.packed, made.scratch_bytes, kernel="winograd")
    return _with_residual(kernel, layer, core, group=2)


def _with_residual(kernel: RowKernel, layer: Layer, core: Core, group: int = 1) -> RowKernel:
    """The kernel, and then the sum of the rows it made with the residual's, whose pointers follow those of the window's rows."""
    addition = addition_of(layer)
    if addition is None:
        return kernel
    added = residual_sum(f"{PREFIX}residual", addition, core)
    shape = conv2d_rule.shape_of(layer)
    assert shape is not None, layer
    extent, row = (shape.kernel[0] - 1) * shape.dilation[0] + 1, shape.out_width * shape.outputs
    made = "end - begin" if group == 1 else f"(end - begin) * {group}"
    name, own = row_function(
        "residual",
        f"  const int32_t made = {made};\n"
        f"  const int8_t *const *residual = rows + (made - 1) * {shape.stride[0]} + {extent};\n"
        f"  {kernel.name}(rows, out, begin, end, packed, scratch);\n"
        f"  for (int32_t i = 0; i < made; ++i, out += {row})\n"
        f"    {added.name}(out, residual[i], (const uint8_t *)packed + {len(kernel.packed)}, {row}u);\n",
    )
    functions, told = (*kernel.functions, added.function, *own), f"{kernel.kernel}, {added.operand} sum"
    return replace(kernel, name=name, functions=functions, packed=kernel.packed + added.packed, kernel=told)


def row_choice(shape: Conv2DShape, core: Core) -> BlockChoice:
    """The block for a row of `out_width` pixels at a time."""
    choice = default_choice(shape, core)
    if choice.pixels == 1:
        return choice
    cut = _cut(shape, core)
    return replace(choice, pixels=cut.pixels, tile=cut.tile, weights=cut.weights, ends=(cut.tail, cut.group), runs=cut.runs)


def _cut(shape: Conv2DShape, core: Core) -> RowBlock:
    return conv_row_block(shape, dual_issue=core.dual_issue)


def tile_choice(shape: Conv2DShape, core: Core, together: int) -> BlockChoice:
    """The block for `together` rows of `out_width` pixels: pixels left over at the end are computed one by one, so their number matters."""
    choice = default_choice(shape, core)
    if choice.pixels == 1:
        return choice
    pixels = row_pixels(shape.out_width * together, shape.k, by_words=shape.channels % 4 == 0)
    return replace(choice, pixels=pixels, tile=1, weights="flash")


def _depthwise(layer: Layer, core: Core, together: int = 1) -> RowKernel:
    return _depthwise_of(layer, core, DepthwiseChoice(strip=together, shared=bool(layer.small_code), fixed=bool(layer.short_code)))


def _depthwise_of(layer: Layer, core: Core, choice: DepthwiseChoice) -> RowKernel:
    shape = depthwise_rule.shape_of(layer)
    made = depthwise(f"{PREFIX}depthwise", shape, depthwise_rule.parameters_of(layer), core, choice=choice, row_form=True)
    assert made.row_name is not None
    return RowKernel(
        made.row_name, reachable(made.row_name, made.functions), made.packed, made.scratch_bytes, kernel=str(made.choices["operand"])
    )


_MAKERS: dict[str, Callable[[Layer, Core], RowKernel]] = {
    "tiny.conv2d": _conv2d,
    "tiny.depthwise_conv2d": _depthwise,
    **ROW_FUNCTIONS,
}
