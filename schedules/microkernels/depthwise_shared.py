# SPDX-License-Identifier: Apache-2.0
"""Depthwise layers whose code other layers share: geometry is data, so one driver, one way into planes, and a block for each kernel width.

The block holds one row of taps and walks it down the kernel; a row's left-over outputs are a narrower block. It is slower than code made
for the layer, which is left with a table of a hundred bytes. Planes, scratch and the parameter stream are those of `depthwise`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import lru_cache

from .assembly import CORE_REGISTERS, Body
from .c_source import CFunction, add_immediate, function_name, naked_function
from .depthwise_block import DepthwiseBlock, multiply
from .planes import PlaneRow
from .scheduler import RegisterPressureError, schedule

_X, _W = "r0", "r1"
# Fields of `tiny_depthwise` that assembly reads, in bytes from its start.
_TAP_STEP, _ROW_STEP, _PIXEL_STRIDE, _OUT_STEP, _PLANE_BYTES, _WIDTH, _SOURCE_STRIDE = range(0, 28, 4)
# The block's frame: where x, y and the groups of this row stand; the same at its start; constants of the call.
_AT_X, _AT_Y, _LEFT, _START_X, _START_Y, _ROWS, _START_W, _END_W, _STEP, _STRIDE, _FRAME = range(0, 44, 4)
_GROUPS, _GEOMETRY = _FRAME + 36, _FRAME + 40  # arguments on the stack, above nine saved registers

_COPY_WORDS = 64

_STRUCT = """\
#ifndef TINY_DEPTHWISE
#define TINY_DEPTHWISE
/* Geometry of a depthwise layer; steps in bytes. The first seven fields are read by assembly. */
typedef struct tiny_depthwise tiny_depthwise;
typedef void tiny_depthwise_block(const uint8_t *x, const uint8_t *w, int8_t *y, uint32_t rows, uint32_t groups, const tiny_depthwise *g);
struct tiny_depthwise {
  uint32_t tap_step, row_step, pixel_stride, out_step, plane_bytes, width, source_stride;
  uint32_t row_bytes, source_row, left, channels, stream_bytes, padding, groups, rest_x, rest_y, copied;
  int32_t height, top, stride, window, strip;
  tiny_depthwise_block *block, *rest;
};
#endif
"""


@dataclass(frozen=True)
class SharedBlock:
    """Description of a block: one row of `taps` for `pixels` neighbouring outputs, `rows` times."""

    pixels: int
    rows: int
    taps: DepthwiseBlock  # what of it is geometry plays no part
    dual_issue: bool


def shared_functions(prefix: str, block: DepthwiseBlock) -> tuple[dict[int, CFunction], CFunction, CFunction] | None:
    """Block functions by number of outputs (the widest first), the way into planes, and the driver; None without an assembly form."""
    anonymous = replace(block, width=0, row_bytes=0, pixel_stride=0, pixels=0, planes=1, plane_bytes=0, copied=False, together=1)

    def functions(pixels: int) -> dict[int, CFunction]:
        sizes = (pixels, block.width % pixels) if block.width % pixels else (pixels,)
        return {n: _block_function(prefix, SharedBlock(n, block.kernel[0], anonymous, block.dual_issue)) for n in sizes}

    for pixels in range(block.pixels, 0, -1):
        if pixels * block.stride[1] % 2 and pixels != block.width:
            continue  # the next group's columns would not start at a word
        with contextlib.suppress(RegisterPressureError):
            spread = _spread_function(prefix)
            return functions(pixels), spread, _driver(prefix, spread.name)
    return None


def table(block: DepthwiseBlock, plane: PlaneRow, blocks: dict[int, CFunction], layer: dict[str, int]) -> str:
    """The initialiser of a layer's `tiny_depthwise`; `layer` has what only the layer knows."""
    pixels, *rest = blocks
    groups = block.width // pixels
    copied = not block.dual_issue and block.stream_bytes <= 4 * _COPY_WORDS
    fields = {
        "tap_step": block.dilation[0] * block.row_bytes,
        "row_step": block.stride[0] * block.row_bytes,
        "pixel_stride": block.pixel_stride,
        "out_step": block.width * block.pixel_stride,
        "plane_bytes": plane.plane_bytes,
        "width": min(plane.width, 2 * plane.words - plane.left),
        "source_stride": plane.pixel_stride,
        "row_bytes": block.row_bytes,
        "source_row": plane.source_row,
        "left": plane.left,
        "stream_bytes": block.stream_bytes,
        "groups": groups,
        "rest_x": 2 * groups * pixels * block.stride[1],
        "rest_y": groups * pixels * block.pixel_stride,
        "copied": int(copied),
        "stride": block.stride[0],
        **layer,
    }
    pointers = {"block": blocks[pixels].name, "rest": blocks[rest[0]].name if rest else "0"}
    return "{" + ", ".join(f".{k} = {v}" for k, v in {**fields, **pointers}.items()) + "}"


def _block_function(prefix: str, block: SharedBlock) -> CFunction:
    name = function_name(prefix, "taps", block)
    parameters = (
        "const uint8_t *x", "const uint8_t *w", "int8_t *y", "uint32_t rows", "uint32_t groups", "const tiny_depthwise *g",
    )  # fmt: skip
    made = naked_function(name, parameters, _assembly(block), _portable(block))
    return CFunction(name, _STRUCT + made.source)


@lru_cache(maxsize=64)
def _assembly(block: SharedBlock) -> tuple[str, ...]:
    taps, pool = block.taps, tuple(r for r in CORE_REGISTERS if r not in (_X, _W))
    row_words = len(taps.pairs)
    lines = ["push {r4-r11, lr}", f"sub sp, sp, #{_FRAME}", f"str r0, [sp, #{_START_X}]", f"str r2, [sp, #{_START_Y}]"]
    lines += [f"str r3, [sp, #{_ROWS}]", f"str r1, [sp, #{_START_W}]", *add_immediate("r1", 4 + 4 * row_words * block.rows)]
    lines += [f"str r1, [sp, #{_END_W}]", f"ldr r4, [sp, #{_GEOMETRY}]", f"ldr r5, [r4, #{_TAP_STEP}]", f"str r5, [sp, #{_STEP}]"]
    lines += [f"ldr r5, [r4, #{_PIXEL_STRIDE}]", f"str r5, [sp, #{_STRIDE}]"]
    lines += ["1:", f"ldr r0, [sp, #{_START_X}]", f"ldr r2, [sp, #{_START_Y}]", f"ldr r3, [sp, #{_GROUPS}]"]
    lines += [f"str r2, [sp, #{_AT_Y}]", f"str r3, [sp, #{_LEFT}]", "2:", f"str r0, [sp, #{_AT_X}]", f"ldr r1, [sp, #{_START_W}]"]

    start = Body()
    sums = [start.ldr(_W, 0) for _ in range(block.pixels)]
    entry = schedule(start, pool, dual_issue=block.dual_issue, live_out=set(sums))
    homes = [entry.registers[v] for v in sums]
    lines += [*entry.lines, f"add {_W}, {_W}, #4", "3:", *_row_of_taps(block, homes, pool)]

    end = Body()
    sums = [end.new() for _ in homes]
    live_in = dict(zip(sums, homes, strict=True))
    constants = taps.requant.constants(end, _W, 0, 4)
    y, stride = end.ldr("sp", _AT_Y), end.ldr("sp", _STRIDE)
    for value in sums:
        end.store_at(taps.requant.emit(end, value, constants), y, 0)
        y = end.alu("add", y, stride)
    end.store(y, "sp", _AT_Y)
    lines += schedule(end, pool, dual_issue=block.dual_issue, live_in=live_in, live_out=set()).lines

    lines += [f"ldr r0, [sp, #{_AT_X}]", f"ldr r3, [sp, #{_LEFT}]", *add_immediate("r0", 2 * block.pixels * taps.stride[1])]
    lines += ["subs r3, r3, #1", f"str r3, [sp, #{_LEFT}]", "bne 2b"]
    lines += [f"ldr r4, [sp, #{_GEOMETRY}]", f"ldr r0, [sp, #{_START_X}]", f"ldr r2, [sp, #{_START_Y}]", f"ldr r3, [sp, #{_ROWS}]"]
    lines += [f"ldr r5, [r4, #{_ROW_STEP}]", f"ldr r6, [r4, #{_OUT_STEP}]", "add r0, r0, r5", "add r2, r2, r6"]
    lines += [f"str r0, [sp, #{_START_X}]", f"str r2, [sp, #{_START_Y}]", "subs r3, r3, #1", f"str r3, [sp, #{_ROWS}]", "bne 1b"]
    return (*lines, f"add sp, sp, #{_FRAME}", "pop {r4-r11, pc}")


def _row_of_taps(block: SharedBlock, homes: list[str], pool: tuple[str, ...]) -> list[str]:
    """The loop over kernel rows: one row of taps for all outputs."""
    taps, body = block.taps, Body()
    sums = [body.new() for _ in homes]
    live_in = dict(zip(sums, homes, strict=True))
    weights: dict[int, int] = {}
    for word in range(((block.pixels - 1) * taps.stride[1] + (taps.kernel[1] - 1) * taps.dilation[1]) // 2 + 1):
        users = [(i, *taps.taps(i, word)) for i in range(block.pixels)]
        users = [u for u in users if max(u[1:]) >= 0]
        if not users:
            continue
        x = body.ldr(_X, 4 * word)
        for i, low, high in users:
            index, mnemonic = multiply(taps.pairs, low, high)
            if index not in weights:
                weights[index] = body.ldr(_W, 4 * index)
            sums[i] = body.mac(mnemonic, weights[index], x, sums[i])
    step, end = body.ldr("sp", _STEP), body.ldr("sp", _END_W)
    found = schedule(body, pool, dual_issue=block.dual_issue, live_in=live_in, live_out={*sums, step, end})
    after = [f"add {_W}, {_W}, #{4 * len(taps.pairs)}", f"add {_X}, {_X}, {found.registers[step]}", f"cmp {_W}, {found.registers[end]}"]
    return [*found.lines, *after, "bne 3b"]


def _portable(block: SharedBlock) -> str:
    taps, pairs = block.taps, block.taps.pairs
    kw = taps.kernel[1]
    where = ", ".join(f"{4 * i + 2 * pairs[i].index(tap)}" for tap in range(kw) for i in [next(j for j, p in enumerate(pairs) if tap in p)])
    constants = tuple(f"(int32_t)tiny_load(constants + {4 * i})" for i in range(taps.requant.words))
    return (
        f"  static const uint8_t where[{kw}] = {{{where}}};\n"
        f"  const uint8_t *constants = w + {4 * (1 + block.rows * len(pairs))};\n"
        f"  for (; rows != 0; --rows, x += g->row_step, y += g->out_step) {{\n"
        f"    for (uint32_t i = 0; i < {block.pixels}u * groups; ++i) {{\n"
        f"      uint32_t sum = tiny_load(w);\n"
        f"      for (uint32_t ky = 0; ky < {block.rows}u; ++ky) {{\n"
        f"        for (uint32_t kx = 0; kx < {kw}u; ++kx) {{\n"
        f"          int16_t tap, value;\n"
        f"          memcpy(&tap, w + 4 + {4 * len(pairs)} * ky + where[kx], 2);\n"
        f"          memcpy(&value, x + g->tap_step * ky + 2 * (i * {taps.stride[1]}u + {taps.dilation[1]} * kx), 2);\n"
        f"          sum += (uint32_t)(tap * value);\n"
        f"        }}\n      }}\n"
        f"      const int32_t acc = (int32_t)sum;\n"
        f"      y[i * g->pixel_stride] = (int8_t){taps.requant.portable('acc', constants)};\n"
        f"    }}\n  }}\n"
    )


def _spread_function(prefix: str) -> CFunction:
    """`static void f(const int8_t *src, uint8_t *dst, const tiny_depthwise *g)`: four channels of a row into four planes, by pixels."""
    name = f"{prefix}_spread"
    lines = ["push {r4-r11}", f"ldr r3, [r2, #{_WIDTH}]", f"ldr r4, [r2, #{_SOURCE_STRIDE}]", f"ldr r5, [r2, #{_PLANE_BYTES}]"]
    lines += ["add r6, r1, r5", "add r7, r6, r5", "add r8, r7, r5", "1:", "ldr r9, [r0]", "add r0, r0, r4", "sxtb16 r10, r9"]
    lines += ["strh r10, [r1], #2", "sxtb16 r11, r9, ror #8", "strh r11, [r6], #2", "lsr r10, r10, #16", "strh r10, [r7], #2"]
    lines += ["lsr r11, r11, #16", "strh r11, [r8], #2", "subs r3, r3, #1", "bne 1b", "pop {r4-r11}", "bx lr"]
    portable = (
        "  for (uint32_t x = 0; x < g->width; ++x) {\n"
        "    for (uint32_t plane = 0; plane < 4; ++plane) {\n"
        "      const int16_t value = src[x * g->source_stride + plane];\n"
        "      memcpy(dst + 2 * x + plane * g->plane_bytes, &value, 2);\n"
        "    }\n  }\n"
    )
    parameters = ("const int8_t *src", "uint8_t *dst", "const tiny_depthwise *g")
    return CFunction(name, _STRUCT + naked_function(name, parameters, lines, portable).source)


def _driver(prefix: str, spread: str) -> CFunction:
    """Strips as in `depthwise`; `rows` is null where the layer lies whole at `in`. Planes are blank beside what is spread."""
    name = f"{prefix}_strips"
    return CFunction(
        name,
        f"static void {name}(const tiny_depthwise *g, const int8_t *const *rows, const int8_t *in, int8_t *out, int32_t begin,\n"
        f"    int32_t end, const uint8_t *packed, uint8_t *scratch) {{\n"
        f"  uint32_t copy[{_COPY_WORDS}];\n"
        f"  for (int32_t y = begin; y < end; y += g->strip) {{\n"
        f"    const int32_t count = end - y < g->strip ? end - y : g->strip;\n"
        f"    const int32_t top = y * g->stride - g->top, height = (count - 1) * g->stride + g->window;\n"
        f"    const int32_t first = top < 0 ? -top : 0, last = g->height - top < height ? g->height - top : height;\n"
        f"    const uint8_t *stream = packed;\n"
        f"    for (uint32_t at = 0; at < 4 * g->plane_bytes; at += 4) tiny_store(scratch + at, g->padding);\n"
        f"    for (uint32_t channel = 0, done = 0; done < g->channels; channel += 4) {{\n"
        f"      if (channel + 4 > g->channels) channel = g->channels - 4; /* the last four again, of which some are done */\n"
        f"      for (int32_t r = first; r < last; ++r) {{\n"
        f"        const int8_t *row = rows != 0 ? rows[(y - begin) * g->stride + r] : in + (top + r) * (int32_t)g->source_row;\n"
        f"        {spread}(row + channel, scratch + (uint32_t)r * g->row_bytes + 2 * g->left, g);\n"
        f"      }}\n"
        f"      for (uint32_t plane = done - channel; plane < 4; ++plane, ++done, stream += g->stream_bytes) {{\n"
        f"        const uint8_t *x = scratch + plane * g->plane_bytes, *w = stream;\n"
        f"        int8_t *to = out + channel + plane;\n"
        f"        if (g->copied != 0) w = memcpy(copy, stream, g->stream_bytes);\n"
        f"        g->block(x, w, to, (uint32_t)count, g->groups, g);\n"
        f"        if (g->rest != 0) g->rest(x + g->rest_x, w, to + g->rest_y, (uint32_t)count, 1, g);\n"
        f"      }}\n"
        f"    }}\n"
        f"    out += count * (int32_t)g->out_step;\n"
        f"  }}\n}}\n",
    )
