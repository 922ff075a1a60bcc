# SPDX-License-Identifier: Apache-2.0
"""From NHWC int8 to planes of int16: one input row of four channels becomes one padded row in each of four planes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .assembly import Body, Kind
from .c_source import CFunction, add_immediate, function_name, naked_function
from .scheduler import schedule

_MOST_UNROLLED = 6


@dataclass(frozen=True)
class PlaneRow:
    """Description: `width` pixels `pixel_stride` bytes apart become `words` words a plane, the first pixel at column `left`.

    Rows lie `source_row` bytes apart in the tensor. Columns outside the row hold the padding value; planes lie `plane_bytes` apart.
    """

    width: int
    left: int
    words: int
    pixel_stride: int
    plane_bytes: int
    source_row: int
    dual_issue: bool = True

    @property
    def row_bytes(self) -> int:
        """Bytes of a plane row."""
        return 4 * self.words

    def pixels(self, word: int) -> tuple[int, int]:
        """Pixels in the low and high half of a word (outside [0, width): padding)."""
        return 2 * word - self.left, 2 * word + 1 - self.left

    @property
    def unroll(self) -> int:
        """Words an iteration; offsets of pixels stay below 4096."""
        return max(1, min(_MOST_UNROLLED, 4095 // (2 * self.pixel_stride) - 1))

    @property
    def fits(self) -> bool:
        """Tell whether every offset is encodable."""
        return 4 * self.pixel_stride <= 4095 and self.plane_bytes + 4 * self.words <= 4095

    @property
    def inner(self) -> tuple[int, int]:
        """First and one past the last word made of two pixels."""
        first = (self.left + 1) // 2
        last = min((self.width + self.left) // 2, self.words)
        return (first, last) if last > first else (self.words, self.words)


def plane_row_function(prefix: str, row: PlaneRow) -> CFunction:
    """Emit `static void f(const int8_t *src, void *dst, uint32_t padding, uint32_t rows)`; `padding` is the zero point in every byte."""
    name = function_name(prefix, "planes", row)
    return naked_function(name, ("const int8_t *src", "void *dst", "uint32_t padding", "uint32_t rows"), _assembly(row), _portable(row))


@lru_cache(maxsize=256)
def _assembly(row: PlaneRow) -> tuple[str, ...]:
    # r1 serves planes 0 and 1, r3 planes 2 and 3: half the reach
    lines = ["push {r3-r11, lr}", "2:", "mov r3, r1", *add_immediate("r3", 2 * row.plane_bytes, "r4")]
    body, words, pixels = _row(row)
    lines += [*body, *add_immediate("r1", row.row_bytes - 4 * words, "r4")]
    lines += add_immediate("r0", row.source_row - pixels * row.pixel_stride, "r4")
    return (*lines, "ldr r4, [sp]", "subs r4, r4, #1", "str r4, [sp]", "bne 2b", "pop {r3-r11, pc}")


def _row(row: PlaneRow) -> tuple[list[str], int, int]:
    """Code of one row, and by how many words and pixels it has moved the pointers."""
    first, last = row.inner
    count, unroll = last - first, row.unroll
    if count <= 2 * unroll and (row.width - 1) * row.pixel_stride <= 4095:  # every pixel within reach of the first
        return [*_words(row, range(row.words), 0, 0)], 0, 0
    iterations, rest = divmod(count, unroll)
    start, done = row.pixels(first)[0], unroll * iterations
    lines = [*_words(row, range(first), 0, 0), *_advance(row, first, start), f"mov r12, #{iterations}", "1:"]
    lines += [*_words(row, range(first, first + unroll), first, start), *_advance(row, unroll, 2 * unroll)]
    lines += ["subs r12, r12, #1", "bne 1b"]
    tail = range(first + done, first + done + rest + (row.words - last))
    return [*lines, *_words(row, tail, first + done, start + 2 * done)], first + done, start + 2 * done


def _advance(row: PlaneRow, words: int, pixels: int) -> list[str]:
    return [
        *add_immediate("r1", 4 * words, "r4"),
        *add_immediate("r3", 4 * words, "r4"),
        *add_immediate("r0", pixels * row.pixel_stride, "r4"),
    ]


def _words(row: PlaneRow, words: range, base_word: int, base_pixel: int) -> tuple[str, ...]:
    """Straight code of some words, with the pointers standing at `base_word` and `base_pixel`."""
    body = Body()
    for word in words:
        low, high = (_load(row, body, p, base_pixel) for p in row.pixels(word))
        for plane, value in enumerate(_planes(body, low, high)):
            body.store(value, ("r1", "r3")[plane // 2], 4 * (word - base_word) + plane % 2 * row.plane_bytes)
    if not body.instructions:
        return ()
    pool = ("r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "lr")
    return schedule(body, pool, dual_issue=row.dual_issue, tries=12).lines


def _load(row: PlaneRow, body: Body, pixel: int, base: int) -> int | None:
    """The four channels of a pixel, None for padding."""
    return body.ldr("r0", (pixel - base) * row.pixel_stride) if 0 <= pixel < row.width else None


def _planes(body: Body, low: int | None, high: int | None) -> list[int]:
    """The four planes' words of two pixels; r2 holds four bytes of padding."""
    if low is None and high is None:
        return [body.emit("sxtb16 {d}, r2", Kind.FIELD)] * 4
    if low is not None and high is not None:
        return pair_planes(body, low, high)
    sources = [v for v in (low, high) if v is not None]
    names = ["r2" if v is None else f"{{{sources.index(v)}}}" for v in (low, high)]
    early = tuple(range(len(sources)))
    first = body.emit(f"pkhbt {{d}}, {names[0]}, {names[1]}, lsl #16", Kind.FIELD, *sources, early=early)  # channels 0 and 1 of both
    second = body.emit(f"pkhtb {{d}}, {names[1]}, {names[0]}, asr #16", Kind.FIELD, *sources, early=early)  # channels 2 and 3
    return [body.sxtb16(first), body.sxtb16(first, 8), body.sxtb16(second), body.sxtb16(second, 8)]


def pair_planes(body: Body, low: int, high: int) -> list[int]:
    """The four planes' words of two pixels."""
    first = body.field_op("pkhbt", low, high, tail="lsl #16", early=True)  # channels 0 and 1 of both
    second = body.field_op("pkhtb", high, low, tail="asr #16", early=True)  # channels 2 and 3
    return [body.sxtb16(first), body.sxtb16(first, 8), body.sxtb16(second), body.sxtb16(second, 8)]


def _portable(row: PlaneRow) -> str:
    return (
        f"  uint8_t *to = dst;\n"
        f"  for (; rows != 0; --rows, src += {row.source_row}, to += {row.row_bytes})\n"
        f"  for (int32_t column = 0; column < {2 * row.words}; ++column) {{\n"
        f"    const int32_t pixel = column - {row.left};\n"
        f"    for (int32_t plane = 0; plane < 4; ++plane) {{\n"
        f"      int16_t value = (int16_t)tiny_byte(padding);\n"
        f"      if (pixel >= 0 && pixel < {row.width}) value = src[pixel * {row.pixel_stride} + plane];\n"
        f"      memcpy(to + 2 * column + plane * {row.plane_bytes}, &value, 2);\n"
        f"    }}\n"
        f"  }}\n"
    )


def blank_function(prefix: str, plane: PlaneRow, planes: int) -> CFunction:
    """Emit `static void f(uint8_t *planes, uint32_t padding, int32_t first, int32_t last)`: rows [first, last) of all planes are padded."""
    name = function_name(prefix, "blank", (plane, planes))
    source = (
        f"static void {name}(uint8_t *planes, uint32_t padding, int32_t first, int32_t last) {{\n"
        f"  for (int32_t p = 0; p < {planes}; ++p, planes += {plane.plane_bytes})\n"
        f"    for (int32_t at = first * {plane.row_bytes}; at < last * {plane.row_bytes}; at += 4) tiny_store(planes + at, padding);\n}}\n"
    )
    return CFunction(name, source)
