# SPDX-License-Identifier: Apache-2.0
"""Columns of a convolution over few channels, gathered and expanded in one go: words are put together from kernel rows of any length.

A kernel row of `kw * channels` bytes is contiguous in NHWC; words of the column that lie across two kernel rows are joined from two loads.
No byte outside the window is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from .assembly import Body
from .c_source import CFunction, add_immediate, function_name, naked_function
from .expand import R8_FLIP, R8_OFFSET
from .scheduler import schedule


@dataclass(frozen=True)
class Gather:
    """Description: windows of `rows` x `segment` bytes, input rows `row_bytes` apart, of `pixels` windows `pixel_bytes` apart.

    Word i of pixel p goes to `dst + 8 * (i * pixels + p)`, expanded for `operand`.
    """

    rows: int
    segment: int
    row_bytes: int
    pixels: int
    pixel_bytes: int
    operand: str
    dual_issue: bool = True

    @property
    def words(self) -> int:
        """Words of a column; bytes past the window are zero."""
        return -(-self.rows * self.segment // 4)

    @property
    def fits(self) -> bool:
        """Tell whether the straight code has encodable offsets and a reasonable size."""
        reach = (self.rows - 1) * self.row_bytes + self.segment
        return reach <= 4095 and 8 * self.words * self.pixels <= 4095 and self.words <= 24

    def runs(self, word: int) -> list[tuple[int, int, int, int]]:
        """Pieces of a word: (kernel row, offset in the row, length, byte position in the word)."""
        found: list[tuple[int, int, int, int]] = []
        for byte in range(4 * word, min(4 * word + 4, self.rows * self.segment)):
            row, offset = divmod(byte, self.segment)
            if found and found[-1][0] == row:
                r, o, n, at = found[-1]
                found[-1] = (r, o, n + 1, at)
            else:
                found.append((row, offset, 1, byte - 4 * word))
        return found


def gather_function(prefix: str, gather: Gather) -> CFunction:
    """Emit `static void f(const int8_t *src, void *dst)`; `src` is the first byte of the first window."""
    name = function_name(prefix, "gather", gather)
    where = f"const uint32_t at = k / {gather.segment} * {gather.row_bytes} + k % {gather.segment}"
    portable = portable_columns(gather, where, f"src[p * {gather.pixel_bytes}u + at]", f"{gather.pixels}u")
    return naked_function(name, ("const int8_t *src", "void *dst"), _assembly(gather), portable)


@lru_cache(maxsize=64)
def _assembly(gather: Gather) -> tuple[str, ...]:
    lines = ["push {r4-r11, lr}", *operand_constants(gather, "r3")]
    body = Body()
    store_windows(gather, body, partial(_load, gather, body), "r3")
    pool = ("r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "lr")
    straight = schedule(body, pool, dual_issue=gather.dual_issue).lines
    if gather.pixels == 1:
        return (*lines, *straight, "pop {r4-r11, pc}")
    step = [*add_immediate("r0", gather.pixel_bytes, "r4"), "add r1, r1, #8", "subs r2, r2, #1", "bne 1b"]
    return (*lines, f"mov r2, #{gather.pixels}", "1:", *straight, *step, "pop {r4-r11, pc}")


def _load(gather: Gather, body: Body, width: str, row: int, offset: int) -> int:
    return body.ldr("r0", row * gather.row_bytes + offset, width)


def operand_constants(gather: Gather, offset: str) -> list[str]:
    """Lines that load what expanding for the operand needs: the offset to the register of that name, what is flipped to r12."""
    if gather.operand != "r8":
        return []
    halves = ((register, value & 0xFFFF, value >> 16) for register, value in ((offset, R8_OFFSET), ("r12", R8_FLIP)))
    return [line for register, low, high in halves for line in (f"movw {register}, #{low}", f"movt {register}, #{high}")]


def store_windows(gather: Gather, body: Body, load: Callable[..., int], offset: str) -> None:
    """Put the words of a pixel's window together, expand them and store them from r1 on; `operand_constants` went before."""
    for word in range(gather.words):
        raw = _joined_word(gather, body, word, load)
        if gather.operand == "r8":
            first, second = body.field_op("sxtab16", raw, head=offset, early=True), body.alu("eor", raw, tail="r12")
        else:
            first, second = body.sxtb16(raw), body.sxtb16(raw, 8)
        body.store(first, "r1", 8 * word * gather.pixels)
        body.store(second, "r1", 8 * word * gather.pixels + 4)


def _joined_word(gather: Gather, body: Body, word: int, load: Callable[..., int]) -> int:
    """Put a word of a column together; `load(width, row=, offset=)` loads a word (""), halfword ("h") or byte ("b") of a kernel row."""
    value: int | None = None
    for row, offset, length, at in gather.runs(word):
        piece, shift = _piece(gather, body, partial(load, row=row), offset, length, at)
        if value is None:
            value = body.alu("lsl", piece, tail=f"#{shift}") if shift > 0 else piece
        else:
            value = body.shifted("orr", value, piece, f"lsl #{shift}")
    assert value is not None
    return value


def _piece(gather: Gather, body: Body, load: Callable[..., int], offset: int, length: int, at: int) -> tuple[int, int]:
    """Load a run; return its register and the left shift that brings it to its place."""
    if length == 4:
        return load("", offset=offset), 0
    if length == 3 and gather.segment >= 4:
        if offset + 4 <= gather.segment and at == 1:
            return load("", offset=offset), 8  # the fourth byte is shifted out
        if offset >= 1:
            return body.alu("lsr", load("", offset=offset - 1), tail="#8"), 8 * at
    if length == 3:
        low, high = load("h", offset=offset), load("b", offset=offset + 2)
        return body.shifted("orr", low, high, "lsl #16"), 8 * at
    return load("h" if length == 2 else "b", offset=offset), 8 * at


def portable_columns(gather: Gather, where: str, byte: str, count: str) -> str:
    """C that does the same for `count` pixels; `byte` is byte k of the window of pixel p, after the declaration `where`."""
    if gather.operand == "r8":
        first, second = "tiny_pack(tiny_byte(raw) - 127, tiny_byte(raw >> 16) - 127)", f"raw ^ 0x{R8_FLIP:08x}u"
    else:
        first, second = "tiny_sxtb16(raw)", "tiny_sxtb16(raw >> 8)"
    size = gather.rows * gather.segment
    return (
        f"  uint8_t *to = dst;\n"
        f"  for (uint32_t p = 0; p < {count}; ++p) {{\n"
        f"    for (uint32_t i = 0; i < {gather.words}u; ++i) {{\n"
        f"      uint32_t raw = 0;\n"
        f"      for (uint32_t k = 4 * i; k < 4 * i + 4 && k < {size}u; ++k) {{\n"
        f"        {where};\n"
        f"        raw |= (uint32_t)(uint8_t){byte} << (8 * (k % 4));\n"
        f"      }}\n"
        f"      tiny_store(to + 8 * (i * {gather.pixels} + p), {first});\n"
        f"      tiny_store(to + 8 * (i * {gather.pixels} + p) + 4, {second});\n"
        f"    }}\n"
        f"  }}\n"
    )
