# SPDX-License-Identifier: Apache-2.0
"""Kernels that make one row of an operator's output from row pointers, for streamed stages. All have one C signature:

    void name(const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end, const void *packed, void *scratch)

for output rows [begin, end), in a stream one, in strips more. What `rows` points to depends on the operator's kind
(`tvm_tiny.memory.rows`):

  window   rows[i] is input row begin * stride - top + i; rows in the padding are never read
           (of a residual: the output's rows, after those)
  rows     rows[k] is the row of operand k
           (tiny.fetch: where the application's function is found)
  reduce   rows[k] is input row `begin` + k; int32 sums of every channel stay in `scratch` from row 0 to the last, which stores the result

Convolutions use the generated microkernels' row forms; the others are plain C, a small part of any network's work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.ops import registry
from tvm_tiny.schedules import add as add_rule
from tvm_tiny.schedules import conv2d as conv2d_rule
from tvm_tiny.schedules import depthwise as depthwise_rule
from tvm_tiny.schedules import fetch as fetch_rule
from tvm_tiny.schedules import mul as mul_rule
from tvm_tiny.schedules.band_costs import band_of
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels import (
    CFunction,
    Conv2DShape,
    Core,
    DepthwiseChoice,
    RegisterPressureError,
    add,
    conv2d,
    depthwise,
    gate_mul,
)
from tvm_tiny.schedules.microkernels.bands import band_kernel
from tvm_tiny.schedules.microkernels.channel_sums import MOST_PIXELS, TOGETHER, channel_sums
from tvm_tiny.schedules.microkernels.conv2d_shape import default_choice, shared_choice
from tvm_tiny.schedules.microkernels.gemm_layer import BlockChoice
from tvm_tiny.schedules.microkernels.residual import residual_sum
from tvm_tiny.schedules.microkernels.winograd_rows import winograd_rows
from tvm_tiny.schedules.residual import addition_of
from tvm_tiny.schedules.space import Choice
from tvm_tiny.schedules.stream_costs import RowBlock, conv_row_block, fetch_scratch, row_pixels, strip_block

BANDS = ", bands"
"""What kernels by bands say after their operands' form."""

SIGNATURE = "const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end, const void *packed, void *scratch"


@dataclass(frozen=True)
class RowKernel:
    """One operator's row kernel.

    Attributes
    ----------
    name : str
        The C function.
    functions : tuple of CFunction
        Callees first; exactly those `name` needs.
    packed : bytes
        Its constants; must lie at a multiple of four.
    scratch_bytes : int
        Scratch of one firing.
    sums_bytes : int
        Scratch that must survive from firing to firing (given to the kernel instead of `scratch`).
    kernel : str
        For reports.
    """

    name: str
    functions: tuple[CFunction, ...]
    packed: bytes = b""
    scratch_bytes: int = 0
    sums_bytes: int = 0
    kernel: str = "plain C"


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
        return _fetch(layer, core, column)
    if layer.op == "tiny.conv2d":
        return _conv2d(layer, core, together)
    if layer.op == "tiny.depthwise_conv2d":
        return _depthwise(layer, core, together)
    return _windowed_pool(layer) if layer.op in ("tiny.avg_pool2d", "tiny.max_pool2d") else row_kernel(layer, core)


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


# -- convolutions


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
    name, own = _function(
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


# -- plain C


def _function(stem: str, body: str) -> tuple[str, tuple[CFunction, ...]]:
    """A static function of the common signature; unused parameters are cast to void."""
    name = f"{PREFIX}{stem}_row"
    unused = "".join(f"  (void){p};\n" for p in ("rows", "out", "begin", "end", "packed", "scratch") if not re.search(rf"\b{p}\b", body))
    return name, (CFunction(name, f"static void {name}({SIGNATURE}) {{\n{unused}{body}}}\n"),)


def _add(layer: Layer, core: Core) -> RowKernel:
    count = int(np.prod(layer.shapes[-1][2:]))
    made = add(f"{PREFIX}add", count, add_rule.layer_of(layer), core)
    name, own = _function("add", f"  {made.name}(rows[0], rows[1], out, packed, scratch);\n")
    # The whole-tensor function is called from here alone.
    functions = (*made.functions, *own)
    return RowKernel(name, functions, made.packed, made.scratch_bytes, kernel=str(made.choices["operand"]))


def _rescaled(attrs: registry.Attrs, value: str) -> str:
    """C statements storing `value` (int32) requantised and clamped to `out[i]`."""
    rescale = "tiny_rescale" if attrs["rounding"] == "gemmlowp" else "tiny_rescale_single"
    low, high = attrs.get("clamp_min", -128), attrs.get("clamp_max", 127)
    return f"(int8_t)tiny_clamp({rescale}({value}, {attrs['multiplier']}, {attrs['shift']}) + ({attrs['y_zp']}), {low}, {high})"


def _mul(layer: Layer, core: Core) -> RowKernel:
    _, _, width, channels = layer.shapes[-1]
    if 1 in layer.constants:
        product = f"(a - ({layer.attrs['a_zp']})) * (b - ({layer.attrs['b_zp']}))"
        return _of_two(layer, "mul_constant", _rescaled(layer.attrs, product))
    per_channel = layer.shapes[1] != layer.shapes[0]
    made = gate_mul(f"{PREFIX}mul", width, channels, mul_rule.layer_of(layer, 0), core) if per_channel else None
    if made is not None:
        name, own = _function("mul", f"  {made.name}(rows[0], rows[1], out, packed, scratch);\n")
        return RowKernel(name, (*made.functions, *own), made.packed, made.scratch_bytes, kernel=str(made.choices["operand"]))
    product = f"(rows[0][i] - ({layer.attrs['a_zp']})) * (rows[1][{'c' if per_channel else 'i'}] - ({layer.attrs['b_zp']}))"
    body = (
        f"  int32_t i = 0;\n  for (int32_t x = 0; x < {width}; ++x) {{\n"
        f"    for (int32_t c = 0; c < {channels}; ++c, ++i) out[i] = {_rescaled(layer.attrs, product)};\n  }}\n"
    )
    return RowKernel(*_function("mul", body))


def _extreme(layer: Layer, _core: Core) -> RowKernel:
    larger = layer.op == "tiny.maximum"
    return _of_two(layer, "maximum" if larger else "minimum", f"(int8_t)(a {'>' if larger else '<'} b ? a : b)")


def _prelu(layer: Layer, _core: Core) -> RowKernel:
    a = layer.attrs
    below = {**a, "multiplier": a["slope_multiplier"], "shift": a["slope_shift"]}
    value, product = f"a - ({a['x_zp']})", f"(a - ({a['x_zp']})) * (b - ({a['slope_zp']}))"
    return _of_two(layer, "prelu", f"a >= {a['x_zp']} ? {_rescaled(a, value)} : {_rescaled(below, product)}")


def _of_two(layer: Layer, stem: str, result: str) -> RowKernel:
    """An expression of an element `a` and one of another row, or of a constant a channel, `b`."""
    _, _, width, channels = layer.shapes[-1]
    constant = layer.constants.get(1)
    packed = b"" if constant is None else np.broadcast_to(constant.reshape(-1), (channels,)).tobytes()
    other = "rows[1][i]" if constant is None else f"((const {constant.dtype.name}_t *)packed)[c]"
    body = (
        f"  for (int32_t x = 0, i = 0; x < {width}; ++x) {{\n    for (int32_t c = 0; c < {channels}; ++c, ++i) {{\n"
        f"      const int32_t a = rows[0][i], b = {other};\n      out[i] = {result};\n    }}\n  }}\n"
    )
    return RowKernel(*_function(stem, body), packed=packed)


def _pad(layer: Layer, _core: Core) -> RowKernel:
    """Channels around those of every pixel."""
    before, after, value = layer.attrs["before"][3], layer.attrs["after"][3], layer.attrs["value"]
    (_, _, width, channels), wide = layer.shapes[0], layer.shapes[-1][3]
    parts = [f"    memset(out, {value}, {before}u);\n"] if before else []
    parts.append(f"    memcpy(out + {before}, rows[0] + x * {channels}, {channels}u);\n")
    parts += [f"    memset(out + {before + channels}, {value}, {after}u);\n"] if after else []
    body = f"  for (int32_t x = 0; x < {width}; ++x, out += {wide}) {{\n{''.join(parts)}  }}\n"
    return RowKernel(*_function("pad_channels", body))


def _table(layer: Layer, _core: Core) -> RowKernel:
    """Any function of one byte: its 256 values, computed by the operator's own meaning."""
    count = int(np.prod(layer.shapes[-1][2:]))
    every = np.arange(-128, 128).astype(np.int8).reshape(1, 1, 1, 256)
    constants = [layer.constants[i] for i in sorted(layer.constants)]
    table = registry.get(layer.op).numpy(every, *constants, **layer.attrs)
    body = f"  const int8_t *table = (const int8_t *)packed + 128;\n  for (int32_t i = 0; i < {count}; ++i) out[i] = table[rows[0][i]];\n"
    return RowKernel(*_function("table", body), packed=table.astype(np.int8).tobytes(), kernel="table")


def _pool(layer: Layer, core: Core) -> RowKernel:
    a, (_, height, width, _), (_, out_height, out_width, _) = layer.attrs, layer.shapes[0], layer.shapes[-1]
    everything = (out_height, out_width) == (1, 1) and tuple(a["kernel"]) == (height, width) and not any(a["padding"])
    return _global_average(layer, core) if everything and layer.op == "tiny.avg_pool2d" else _windowed_pool(layer)


def _windowed_pool(layer: Layer) -> RowKernel:
    a, (_, height, width, channels), out_width = layer.attrs, layer.shapes[0], layer.shapes[-1][2]
    average = layer.op == "tiny.avg_pool2d"
    (kh, kw), (sh, sw), (top, left, _, _) = a["kernel"], a["strides"], a["padding"]
    start, step = ("0", "total += value; ++count;") if average else ("-128", "total = value > total ? value : total;")
    mean = "(total + (total > 0 ? count / 2 : -(count / 2))) / count"
    body = (
        f"  const int32_t first = begin * {sh} - {top};\n"
        f"  for (int32_t x = 0; x < {out_width}; ++x) {{\n    for (int32_t c = 0; c < {channels}; ++c) {{\n"
        f"      int32_t total = {start}{', count = 0' if average else ''};\n"
        f"      for (int32_t ky = 0; ky < {kh}; ++ky) {{\n"
        f"        if (first + ky < 0 || first + ky >= {height}) continue;\n"
        f"        for (int32_t kx = 0; kx < {kw}; ++kx) {{\n"
        f"          const int32_t at = x * {sw} - {left} + kx;\n"
        f"          if (at < 0 || at >= {width}) continue;\n"
        f"          const int32_t value = rows[ky][at * {channels} + c];\n          {step}\n        }}\n      }}\n"
        f"      *out++ = (int8_t)tiny_clamp({mean if average else 'total'}, {a['clamp_min']}, {a['clamp_max']});\n    }}\n  }}\n"
    )
    return RowKernel(*_function("avg_pool" if average else "max_pool", body))


def _global_average(layer: Layer, _core: Core) -> RowKernel:
    a, count = layer.attrs, layer.shapes[0][1] * layer.shapes[0][2]
    result = f"(int8_t)tiny_clamp((sum + (sum > 0 ? {count // 2} : -{count // 2})) / {count}, {a['clamp_min']}, {a['clamp_max']})"
    return _reduction(layer, "global_average", result)


def _mean(layer: Layer, _core: Core) -> RowKernel:
    if sorted(layer.attrs["axes"]) == [2]:
        return _mean_of_row(layer)
    count = layer.shapes[0][1] * layer.shapes[0][2]
    return _reduction(layer, "mean", _rescaled(layer.attrs, f"sum - ({layer.attrs['x_zp'] * count})"))


def _mean_of_row(layer: Layer) -> RowKernel:
    _, _, width, channels = layer.shapes[0]
    body = (
        f"  for (int32_t c = 0; c < {channels}; ++c) {{\n    int32_t sum = {-layer.attrs['x_zp'] * width};\n"
        f"    for (int32_t x = 0; x < {width}; ++x) sum += rows[0][x * {channels} + c];\n"
        f"    out[c] = {_rescaled(layer.attrs, 'sum')};\n  }}\n"
    )
    return RowKernel(*_function("mean_of_row", body))


def _reduction(layer: Layer, stem: str, result: str) -> RowKernel:
    """Sums of all channels over the rows of a call, eight channels at once where rows that lie together are at most `MOST_PIXELS`."""
    _, height, width, channels = layer.shapes[0]
    eights = channels // TOGETHER * TOGETHER if width <= MOST_PIXELS else 0
    add = channel_sums(f"{PREFIX}reduce")
    runs = (
        f"  for (int32_t y = 0, n = 1; y < end - begin; y += n, n = 1) {{\n"
        f"    while (y + n < end - begin && n < {MOST_PIXELS // width} && rows[y + n] == rows[y] + n * {width * channels}) ++n;\n"
        f"    for (; c < {eights}; c += {TOGETHER}) {add.name}(rows[y] + c, sums + c, (uint32_t)n * {width}u, {channels}u);\n"
        f"    c = 0;\n  }}\n"
    )
    body = (
        f"  int32_t *sums = scratch;\n  int32_t c = 0;\n"
        f"  if (begin == 0) memset(sums, 0, {4 * channels}u);\n{runs if eights else ''}"
        f"  for (c = {eights}; c < {channels}; ++c) {{\n    for (int32_t i = 0; i < (end - begin) * {width}; ++i)\n"
        f"      sums[c] += rows[i / {width}][i % {width} * {channels} + c];\n  }}\n"
        f"  if (end != {height}) return;\n"
        f"  for (c = 0; c < {channels}; ++c) {{\n    const int32_t sum = sums[c];\n    out[c] = {result};\n  }}\n"
    )
    name, own = _function(stem, body)
    return RowKernel(name, (*([add] if eights else []), *own), sums_bytes=4 * channels)


def _fetch(layer: Layer, _core: Core, column: int = 0) -> RowKernel:
    functions = fetch_rule.row_functions(layer, SIGNATURE, column)
    return RowKernel(functions[-1].name, functions, scratch_bytes=fetch_scratch(layer.shapes[0], layer.dtypes[0]), kernel="callback")


_MAKERS: dict[str, Callable[[Layer, Core], RowKernel]] = {
    "tiny.fetch": _fetch,
    "tiny.conv2d": _conv2d,
    "tiny.depthwise_conv2d": _depthwise,
    "tiny.add": _add,
    "tiny.maximum": _extreme,
    "tiny.minimum": _extreme,
    "tiny.mul": _mul,
    "tiny.pad": _pad,
    "tiny.prelu": _prelu,
    "tiny.lookup": _table,
    "tiny.requantize": _table,
    "tiny.avg_pool2d": _pool,
    "tiny.max_pool2d": _pool,
    "tiny.mean": _mean,
}
