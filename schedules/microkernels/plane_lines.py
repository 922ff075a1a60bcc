# SPDX-License-Identifier: Apache-2.0
"""From rows of int8 that lie together (NCHW, or a single channel) to padded rows of int16: four pixels a load."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .assembly import Body, Kind
from .c_source import CFunction, add_immediate, function_name, naked_function
from .scheduler import schedule

_MOST_QUADS = 6  # of straight code
_POOL = ("r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "lr")


@dataclass(frozen=True)
class PlaneLines:
    """Description: `width` pixels side by side become `words` words, the first pixel at column `left`; the rest is padding."""

    width: int
    left: int
    words: int
    dual_issue: bool = True

    @property
    def head(self) -> int:
        """Words before the first that holds two pixels."""
        return min((self.left + 1) // 2, self.words)

    @property
    def quads(self) -> int:
        """Loads of four pixels for two words each, from the head on."""
        return max(0, min((self.width - self.left % 2) // 4, (self.words - self.head) // 2))


def plane_lines_function(prefix: str, lines: PlaneLines) -> CFunction:
    """Emit `static void f(const int8_t *src, void *dst, uint32_t padding, uint32_t rows)`; `padding` is the zero point in both halves."""
    name = function_name(prefix, "lines", lines)
    return naked_function(name, ("const int8_t *src", "void *dst", "uint32_t padding", "uint32_t rows"), _assembly(lines), _portable(lines))


@lru_cache(maxsize=256)
def _assembly(lines: PlaneLines) -> tuple[str, ...]:
    body, words, pixels = _row(lines)
    back = [*add_immediate("r1", 4 * (lines.words - words), "r4"), *add_immediate("r0", lines.width - pixels, "r4")]
    return ("push {r4-r11, lr}", "2:", *body, *back, "subs r3, r3, #1", "bne 2b", "pop {r4-r11, pc}")


def _row(lines: PlaneLines) -> tuple[list[str], int, int]:
    """Code of one row, and by how many words and pixels it has moved the pointers."""
    odd, head = lines.left % 2, lines.head
    if lines.quads <= _MOST_QUADS:
        return _straight(lines, range(lines.words), 0, 0), 0, 0
    iterations, rest = divmod(lines.quads, _MOST_QUADS // 2)
    step = _MOST_QUADS  # words
    text = [*_straight(lines, range(head), 0, 0), *_advance(head, odd), f"mov r12, #{iterations}", "1:"]
    text += [*_straight(lines, range(head, head + step), head, odd), *_advance(step, 2 * step), "subs r12, r12, #1", "bne 1b"]
    words, pixels = head + step * iterations, odd + 2 * step * iterations
    assert words + 2 * rest <= lines.words
    return [*text, *_straight(lines, range(words, lines.words), words, pixels)], words, pixels


def _advance(words: int, pixels: int) -> list[str]:
    return [*add_immediate("r1", 4 * words, "r4"), *add_immediate("r0", pixels, "r4")]


def _straight(lines: PlaneLines, words: range, base_word: int, base_pixel: int) -> list[str]:
    """Straight code of some words, with the pointers standing at `base_word` and `base_pixel`."""
    body, word = Body(), words.start
    while word < words.stop:
        low = 2 * word - lines.left
        if low >= 0 and low + 4 <= lines.width and word + 2 <= words.stop:
            values = _four(body, low - base_pixel)
        else:
            values = [_two(lines, body, low, base_pixel)]
        for value in values:
            body.store(value, "r1", 4 * (word - base_word))
            word += 1
    return list(schedule(body, _POOL, dual_issue=lines.dual_issue, tries=12).lines) if body.instructions else []


def _four(body: Body, at: int) -> list[int]:
    raw = body.ldr("r0", at)
    even, odd = body.sxtb16(raw), body.sxtb16(raw, 8)
    return [
        body.field_op("pkhbt", even, odd, tail="lsl #16", early=True),
        body.field_op("pkhtb", odd, even, tail="asr #16", early=True),
    ]


def _two(lines: PlaneLines, body: Body, low: int, base: int) -> int:
    """The word of pixels `low` and `low + 1`, either of which may be padding; r2 holds that in both halves."""
    first, second = (body.ldr("r0", p - base, "sb") if 0 <= p < lines.width else None for p in (low, low + 1))
    if first is None and second is None:
        return body.alu("mov", tail="r2")
    if first is None:
        return body.emit("pkhbt {d}, r2, {0}, lsl #16", Kind.FIELD, second, early=(0,))  # type: ignore[arg-type]
    if second is None:
        return body.emit("pkhbt {d}, {0}, r2, lsl #16", Kind.FIELD, first, early=(0,))
    return body.field_op("pkhbt", first, second, tail="lsl #16", early=True)


def _portable(lines: PlaneLines) -> str:
    return (
        f"  uint8_t *to = dst;\n"
        f"  for (; rows != 0; --rows, src += {lines.width})\n"
        f"    for (int32_t x = -{lines.left}; x < {2 * lines.words - lines.left}; ++x, to += 2) {{\n"
        f"      const int16_t value = x >= 0 && x < {lines.width} ? src[x] : (int16_t)tiny_low(padding);\n"
        f"      memcpy(to, &value, 2);\n"
        f"    }}\n"
    )
