# SPDX-License-Identifier: Apache-2.0
"""Row kernels of operators without products of weights: sums, products of two tensors, tables, padding, tensors beside each other, pools,
means, and rows that the application hands over."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.ops import registry
from tvm_tiny.schedules import add as add_rule
from tvm_tiny.schedules import fetch as fetch_rule
from tvm_tiny.schedules import mul as mul_rule
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels import Core, add, gate_mul
from tvm_tiny.schedules.microkernels.channel_maxima import FEWEST, larger_channels
from tvm_tiny.schedules.microkernels.channel_sums import MOST_PIXELS, TOGETHER, channel_sums
from tvm_tiny.schedules.microkernels.concat import in_turns
from tvm_tiny.schedules.row_form import SIGNATURE, RowKernel, row_function
from tvm_tiny.schedules.stream_costs import fetch_scratch


def _add(layer: Layer, core: Core) -> RowKernel:
    count = int(np.prod(layer.shapes[-1][2:]))
    made = add(f"{PREFIX}add", count, add_rule.layer_of(layer), core)
    name, own = row_function("add", f"  {made.name}(rows[0], rows[1], out, packed, scratch);\n")
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
        name, own = row_function("mul", f"  {made.name}(rows[0], rows[1], out, packed, scratch);\n")
        return RowKernel(name, (*made.functions, *own), made.packed, made.scratch_bytes, kernel=str(made.choices["operand"]))
    product = f"(rows[0][i] - ({layer.attrs['a_zp']})) * (rows[1][{'c' if per_channel else 'i'}] - ({layer.attrs['b_zp']}))"
    body = (
        f"  int32_t i = 0;\n  for (int32_t x = 0; x < {width}; ++x) {{\n"
        f"    for (int32_t c = 0; c < {channels}; ++c, ++i) out[i] = {_rescaled(layer.attrs, product)};\n  }}\n"
    )
    return RowKernel(*row_function("mul", body))


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
    return RowKernel(*row_function(stem, body), packed=packed)


def _pad(layer: Layer, _core: Core) -> RowKernel:
    """Channels around those of every pixel."""
    before, after, value = layer.attrs["before"][3], layer.attrs["after"][3], layer.attrs["value"]
    (_, _, width, channels), wide = layer.shapes[0], layer.shapes[-1][3]
    parts = [f"    memset(out, {value}, {before}u);\n"] if before else []
    parts.append(f"    memcpy(out + {before}, rows[0] + x * {channels}, {channels}u);\n")
    parts += [f"    memset(out + {before + channels}, {value}, {after}u);\n"] if after else []
    body = f"  for (int32_t x = 0; x < {width}; ++x, out += {wide}) {{\n{''.join(parts)}  }}\n"
    return RowKernel(*row_function("pad_channels", body))


def _concat(layer: Layer, _core: Core) -> RowKernel:
    """The channels of every pixel of the operands, one after the other."""
    channels = [shape[3] for shape in layer.shapes[:-1]]
    names = [f"x{k}" for k in range(len(channels))]
    pointers = "".join(f"  const int8_t *{name} = rows[{k}];\n" for k, name in enumerate(names))
    return RowKernel(*row_function("concat", pointers + in_turns(names, channels, layer.shapes[-1][2])), kernel="words")


def _table(layer: Layer, _core: Core) -> RowKernel:
    """Any function of one byte: its 256 values, computed by the operator's own meaning."""
    count = int(np.prod(layer.shapes[-1][2:]))
    every = np.arange(-128, 128).astype(np.int8).reshape(1, 1, 1, 256)
    constants = [layer.constants[i] for i in sorted(layer.constants)]
    table = registry.get(layer.op).numpy(every, *constants, **layer.attrs)
    body = f"  const int8_t *table = (const int8_t *)packed + 128;\n  for (int32_t i = 0; i < {count}; ++i) out[i] = table[rows[0][i]];\n"
    return RowKernel(*row_function("table", body), packed=table.astype(np.int8).tobytes(), kernel="table")


def _pool(layer: Layer, core: Core) -> RowKernel:
    a, (_, height, width, _), (_, out_height, out_width, _) = layer.attrs, layer.shapes[0], layer.shapes[-1]
    everything = (out_height, out_width) == (1, 1) and tuple(a["kernel"]) == (height, width) and not any(a["padding"])
    return _global_average(layer, core) if everything and layer.op == "tiny.avg_pool2d" else windowed_pool(layer)


def windowed_pool(layer: Layer) -> RowKernel:
    """A pool whose windows lie in the rows of one firing."""
    a, (_, height, width, channels), out_width = layer.attrs, layer.shapes[0], layer.shapes[-1][2]
    average = layer.op == "tiny.avg_pool2d"
    if not average and channels >= FEWEST:
        return _maxima(layer)
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
    return RowKernel(*row_function("avg_pool" if average else "max_pool", body))


def _global_average(layer: Layer, _core: Core) -> RowKernel:
    a, count = layer.attrs, layer.shapes[0][1] * layer.shapes[0][2]
    result = f"(int8_t)tiny_clamp((sum + (sum > 0 ? {count // 2} : -{count // 2})) / {count}, {a['clamp_min']}, {a['clamp_max']})"
    return _reduction(layer, "global_average", result)


def _maxima(layer: Layer) -> RowKernel:
    """Maxima of windows of at least four channels, four at once."""
    a, (_, height, width, channels), out_width = layer.attrs, layer.shapes[0], layer.shapes[-1][2]
    (kh, kw), (sh, sw), (top, left, _, _) = a["kernel"], a["strides"], a["padding"]
    low, high = a["clamp_min"], a["clamp_max"]
    larger = larger_channels(f"{PREFIX}max_pool")
    clamp = f"    for (int32_t c = 0; c < {channels}; ++c) out[c] = (int8_t)tiny_clamp(out[c], {low}, {high});\n"
    tail = f"        for (int32_t c = {channels // 4 * 4}; c < {channels}; ++c) out[c] = p[c] > out[c] ? p[c] : out[c];\n"
    body = (
        f"  const int32_t start = begin * {sh} - {top}, last = start + {kh} < {height} ? start + {kh} : {height};\n"
        f"  for (int32_t x = 0; x < {out_width}; ++x, out += {channels}) {{\n"
        f"    const int32_t at = x * {sw} - {left}, left = at < 0 ? 0 : at, right = at + {kw} < {width} ? at + {kw} : {width};\n"
        f"    memset(out, -128, {channels}u);\n"
        f"    for (int32_t y = start < 0 ? 0 : start; y < last; ++y) {{\n"
        f"      const int8_t *p = rows[y - start] + left * {channels};\n"
        f"      for (int32_t i = left; i < right; ++i, p += {channels}) {{\n"
        f"        {larger.name}(out, p, {channels // 4}u);\n{tail if channels % 4 else ''}      }}\n    }}\n"
        f"{clamp if (low, high) != (-128, 127) else ''}  }}\n"
    )
    name, own = row_function("max_pool", body)
    return RowKernel(name, (larger, *own), kernel="maximum")


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
    return RowKernel(*row_function("mean_of_row", body))


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
    name, own = row_function(stem, body)
    return RowKernel(name, (*([add] if eights else []), *own), sums_bytes=4 * channels)


def fetch(layer: Layer, _core: Core, column: int = 0) -> RowKernel:
    """The row the application hands over, from `column` on."""
    functions = fetch_rule.row_functions(layer, SIGNATURE, column)
    return RowKernel(functions[-1].name, functions, scratch_bytes=fetch_scratch(layer.shapes[0], layer.dtypes[0]), kernel="callback")


ROW_FUNCTIONS: dict[str, Callable[[Layer, Core], RowKernel]] = {
    "tiny.fetch": fetch,
    "tiny.add": _add,
    "tiny.concat": _concat,
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
"""The row kernels by operator."""
