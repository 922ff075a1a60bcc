# SPDX-License-Identifier: Apache-2.0
"""Depthwise layers whose code other layers share: geometry is data, so one driver, one way into planes, and one block a kernel and stride.

What is left of a layer is a table of a hundred bytes. Planes, scratch and the parameter stream are those of `depthwise`, but for a word of
scratch behind the planes where the last group of a row reads beyond it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from .assembly import Body, Kind
from .c_source import CFunction, naked_function
from .depthwise_block import DepthwiseBlock
from .depthwise_groups import FIELDS, SharedBlock, table_fields, words_beyond
from .depthwise_groups_choice import shared_block
from .depthwise_groups_code import block_function
from .layer import LayerParameters
from .planes import PlaneRow, pair_planes
from .scheduler import schedule

if TYPE_CHECKING:
    from .depthwise import DepthwiseShape

_STRIDE_FIELDS = ("source_stride", "source_row", "row_bytes", "head", "fours", "pairs", "tail", "plane_bytes")
"""Fields that the way into planes reads, `plane_bytes` among those of the block."""
_OFFSET = {"plane_bytes": 4 * FIELDS.index("plane_bytes")} | {f: 4 * (len(FIELDS) + i) for i, f in enumerate(_STRIDE_FIELDS[:-1])}

_STRUCT = f"""\
#ifndef TINY_DEPTHWISE
#define TINY_DEPTHWISE
/* Geometry of a depthwise layer; steps in bytes. The fields of the first two lines are read by assembly. */
typedef struct tiny_depthwise tiny_depthwise;
typedef void tiny_depthwise_block(const uint8_t *x, const uint8_t *w, int8_t *y, const tiny_depthwise *g, uint32_t rows, uint32_t planes);
struct tiny_depthwise {{
  uint32_t {", ".join(FIELDS)};
  uint32_t {", ".join(_STRIDE_FIELDS[:-1])};
  uint32_t outputs, out_step, left, channels, stream_bytes, padding;
  int32_t height, top, stride, window, strip;
  tiny_depthwise_block *block;
}};
#endif
"""


class SharedWriter:
    """Writes the C of a layer as a table for the shared driver."""

    def __init__(self, shape: DepthwiseShape, sizes: str, scratch: int, callees: list[CFunction], table: str) -> None:
        self.shape, self.sizes, self.scratch_bytes, self.table = shape, sizes, scratch, table
        self.driver = callees[-1].name
        self.callees = {function.name: function for function in callees}

    @staticmethod
    def of(
        prefix: str, shape: DepthwiseShape, layer: LayerParameters, block: DepthwiseBlock, plane: PlaneRow, strip: int, *, fixed: bool
    ) -> SharedWriter | None:
        """None for planar inputs, fewer than four channels, several outputs a channel, or a block that does not fit the registers."""
        found = shared_block(block, fixed=fixed) if shape.outputs == shape.channels >= 4 and not shape.planar else None
        if found is None:
            return None
        function, spread = block_function(prefix, found, _STRUCT), _spread_function(prefix)
        driver = _driver(prefix, spread.name)
        half = layer.x_zero_point & 0xFFFF
        own = {"channels": shape.channels, "padding": half << 16 | half, "height": shape.height, "top": shape.padding[0]}
        fields = _table(found, function.name, block, plane, {**own, "window": shape.plane_rows(1), "strip": strip})
        sizes = "+".join(f"1x{size}" for size in found.sizes if size)
        return SharedWriter(shape, sizes, 4 * (plane.plane_bytes + words_beyond(found, block)), [function, spread, driver], fields)

    def form(self, name: str, *, rows: bool) -> CFunction:
        """The layer's function, or the one that makes some of its rows."""
        name = f"{name}{'_rows' if rows else ''}"
        source = "const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end" if rows else "const int8_t *in, int8_t *out"
        where = "rows, 0, out, begin, end" if rows else f"0, in, out, 0, {self.shape.out_height}"
        return CFunction(
            name,
            f"void {name}({source}, const void *packed, void *scratch);\nvoid {name}({source}, const void *packed, void *scratch) {{\n"
            f"  static const tiny_depthwise geometry = {self.table};\n"
            f"  {self.driver}(&geometry, {where}, packed, scratch);\n}}\n",
        )


def _table(block: SharedBlock, function: str, layer: DepthwiseBlock, plane: PlaneRow, own: dict[str, int]) -> str:
    """The initialiser of a layer's `tiny_depthwise`; `own` has what only the layer knows."""
    columns = max(0, min(plane.width, 2 * plane.words - plane.left))
    head = min(plane.left % 2, columns)
    fields = {
        **{k: v & 0xFFFFFFFF for k, v in table_fields(block, layer, plane.plane_bytes).items()},
        "source_stride": plane.pixel_stride,
        "source_row": plane.source_row,
        "row_bytes": layer.row_bytes,
        "head": head,
        "fours": (columns - head) // 4,
        "pairs": (columns - head) // 2 % 2,
        "tail": (columns - head) % 2,
        "outputs": layer.width,
        "out_step": layer.width * layer.pixel_stride,
        "left": plane.left,
        "stream_bytes": layer.stream_bytes,
        "stride": layer.stride[0],
        **own,
    }
    return "{" + ", ".join(f".{k} = {v}{'u' if v >= 2**31 else ''}" for k, v in fields.items()) + f", .block = {function}}}"


def _spread_function(prefix: str) -> CFunction:
    """`static void f(from, step, dst, g, count, channel)`: four channels of `count` rows into four planes.

    The rows are `step` bytes apart from `from` on; where `step` is 0, `from` points to pointers to them.
    """
    name = f"{prefix}_spread"
    at = {field: f"[r3, #{offset}]" for field, offset in _OFFSET.items()}
    lines = ["push {r2-r11, lr}", f"ldr r5, {at['source_stride']}"]
    lines += ["1:", f"ldr lr, {at['plane_bytes']}", f"ldr r9, [sp, #{_COUNT + 4}]", "cmp r1, #0"]
    lines += ["itete eq", "ldreq r4, [r0]", "movne r4, r0", "addeq r0, r0, #4", "addne r0, r0, r1"]
    lines += ["add r4, r4, r9", "add r6, r2, lr", "add r7, r6, lr", "add r8, r7, lr"]
    lines += [f"ldr r9, {at['head']}", "cmp r9, #0", "beq 2f", *_ONE_PIXEL]
    lines += ["2:", f"ldr r9, {at['fours']}", "cmp r9, #0", "beq 4f"]
    lines += ["3:", *_pixels(2), "subs r9, r9, #1", "add r4, r4, r5, lsl #2", "bne 3b"]
    lines += ["4:", "ldr r3, [sp, #4]", f"ldr r9, {at['pairs']}", "cmp r9, #0", "beq 5f", *_pixels(1), "ldr r3, [sp, #4]"]
    lines += ["add r4, r4, r5, lsl #1", "5:", f"ldr r9, {at['tail']}", "cmp r9, #0", "beq 6f", *_ONE_PIXEL]
    lines += ["6:", "ldr r2, [sp]", f"ldr r9, {at['row_bytes']}", f"ldr r10, [sp, #{_COUNT}]", "add r2, r2, r9", "subs r10, r10, #1"]
    lines += ["str r2, [sp]", f"str r10, [sp, #{_COUNT}]", "bne 1b", "pop {r2-r11, pc}"]
    portable = (
        "  const uint8_t *at = from;\n"
        "  for (; count != 0; --count, at += step != 0 ? step : sizeof(const int8_t *), dst += g->row_bytes) {\n"
        "    const int8_t *src = (step != 0 ? (const int8_t *)at : *(const int8_t *const *)(const void *)at) + channel;\n"
        "    for (uint32_t x = 0; x < g->head + 4 * g->fours + 2 * g->pairs + g->tail; ++x) {\n"
        "      for (uint32_t plane = 0; plane < 4; ++plane) {\n"
        "        const int16_t value = src[x * g->source_stride + plane];\n"
        "        memcpy(dst + 2 * x + plane * g->plane_bytes, &value, 2);\n"
        "      }\n    }\n  }\n"
    )
    parameters = (
        "const void *from", "uint32_t step", "uint8_t *dst", "const tiny_depthwise *g", "uint32_t count", "uint32_t channel",
    )  # fmt: skip
    return CFunction(name, _STRUCT + naked_function(name, parameters, lines, portable).source)


_COUNT = 44
"""Rows left, and behind them the channel: arguments above eleven saved registers."""
_PLANES = ("r2", "r6", "r7", "r8")

_ONE_PIXEL = (
    "ldr r10, [r4]", "add r4, r4, r5", "sxtb16 r11, r10", "sxtb16 r10, r10, ror #8", "strh r11, [r2], #2", "strh r10, [r6], #2",
    "lsr r11, r11, #16", "lsr r10, r10, #16", "strh r11, [r7], #2", "strh r10, [r8], #2",
)  # fmt: skip
"""Four channels of the pixel at r4 to the planes at r2, r6, r7 and r8."""


@lru_cache(maxsize=4)
def _pixels(pairs: int) -> tuple[str, ...]:
    """Four channels of one or two pairs of pixels from r4 on, r5 bytes apart, to the planes, which move along."""
    body = Body()
    planes = [body.new() for _ in _PLANES]
    live_in = dict(zip(planes, _PLANES, strict=True))
    for pair in range(pairs):
        if pair == 0:
            low, high = body.emit("ldr {d}, [r4]", Kind.LOAD), body.emit("ldr {d}, [r4, r5]", Kind.LOAD)
        else:
            second = body.emit("add {d}, r4, r5, lsl #1", Kind.SHIFTED)
            low, high = (body.emit(f"ldr {{d}}, [{{0}}{at}]", Kind.LOAD, second, early=(0,)) for at in ("", ", r5"))
        for i, value in enumerate(pair_planes(body, low, high)):
            planes[i] = body.emit("str {0}, [{d}], #4", Kind.STORE, value, planes[i], early=(1,), tied=1)
    pool = (*_PLANES, "r3", "r10", "r11", "r12", "lr")
    return schedule(body, pool, dual_issue=True, live_in=live_in, live_out=set(planes)).lines


def _driver(prefix: str, spread: str) -> CFunction:
    """Strips as in `depthwise`; `rows` is null where the layer lies whole at `in`. Planes are blank beside what is spread."""
    name = f"{prefix}_strips"
    return CFunction(
        name,
        f"static void {name}(const tiny_depthwise *g, const int8_t *const *rows, const int8_t *in, int8_t *out, int32_t begin,\n"
        f"    int32_t end, const uint8_t *packed, uint8_t *scratch) {{\n"
        f"  for (int32_t y = begin; y < end; y += g->strip) {{\n"
        f"    const int32_t count = end - y < g->strip ? end - y : g->strip;\n"
        f"    const int32_t top = y * g->stride - g->top, height = (count - 1) * g->stride + g->window;\n"
        f"    const int32_t first = top < 0 ? -top : 0, last = g->height - top < height ? g->height - top : height;\n"
        f"    const void *const from =\n"
        f"        rows != 0 ? (const void *)(rows + (y - begin) * g->stride + first) : in + (top + first) * (int32_t)g->source_row;\n"
        f"    uint8_t *const to = scratch + (uint32_t)first * g->row_bytes + 2 * g->left;\n"
        f"    const uint8_t *stream = packed;\n"
        f"    for (uint32_t at = 0; at < 4 * g->plane_bytes; at += 16) {{\n"
        f"      tiny_store(scratch + at, g->padding);\n      tiny_store(scratch + at + 4, g->padding);\n"
        f"      tiny_store(scratch + at + 8, g->padding);\n      tiny_store(scratch + at + 12, g->padding);\n    }}\n"
        f"    for (uint32_t done = 0; done < g->channels;) {{\n"
        f"      const uint32_t channel = done + 4 > g->channels ? g->channels - 4 : done; /* the last four, of which some may be done */\n"
        f"      const uint32_t skipped = done - channel;\n"
        f"      if (first < last) {spread}(from, rows != 0 ? 0 : g->source_row, to, g, (uint32_t)(last - first), channel);\n"
        f"      g->block(scratch + skipped * g->plane_bytes, stream, out + done, g, (uint32_t)count, 4 - skipped);\n"
        f"      stream += (4 - skipped) * g->stream_bytes;\n"
        f"      done = channel + 4;\n"
        f"    }}\n"
        f"    out += count * (int32_t)g->out_step;\n"
        f"  }}\n}}\n",
    )
