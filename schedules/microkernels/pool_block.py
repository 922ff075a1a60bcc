# SPDX-License-Identifier: Apache-2.0
"""The pooling block: some words of channels of one window, chunk after chunk of channels.

A window is seven words: its rows, its columns, the bytes from the end of one of its rows to the start of the next and from pixel to pixel,
and for sums the requantisation's multiplier and constant and what is added to the sum before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..requantize_forms import Form
from .assembly import Body, Kind
from .c_source import CFunction, function_name, naked_function
from .requantize import RequantShape
from .scheduler import schedule

MOST_WORDS = 4
_DOUBLE_WORDS = 3  # two roundings need a register more
_STACK_Y, _STACK_CHUNKS, _STACK_X = 0, 4, 8
ROWS, COLUMNS, GAP, STEP, MULTIPLIER, CONSTANT, ADDEND, WORDS = range(8)
"""Words of a window, and how many there are."""
_SUMS = tuple(f"r{i}" for i in range(4, 12))


@dataclass(frozen=True)
class PoolBlock:
    """Description of a block function.

    Attributes
    ----------
    words : int
        Words of four channels a chunk.
    requant : RequantShape or None
        Of sums; None for maxima.
    clamp : tuple of int
        Of maxima; sums have theirs in `requant`.
    """

    words: int
    requant: RequantShape | None
    clamp: tuple[int, int]
    dual_issue: bool

    def one_channel(self, channel: str, indent: int) -> str:
        """C statements computing one channel of the window at `x` to `out`."""
        pad = " " * indent
        start, step, end, value = self._statements()
        return (
            f"{pad}int32_t acc = {start};\n{pad}const int8_t *p = x + {channel};\n"
            f"{pad}for (uint32_t r = 0; r < window[{ROWS}]; ++r, p += window[{GAP}]) {{\n"
            f"{pad}  for (uint32_t i = 0; i < window[{COLUMNS}]; ++i, p += window[{STEP}]) {step}\n{pad}}}\n"
            f"{end and pad + end}{pad}out[{channel}] = (int8_t){value};\n"
        )

    def _statements(self) -> tuple[str, str, str, str]:
        """Start, step and end of the accumulator in C, and its result."""
        if self.requant is None:
            return "-128", "acc = *p > acc ? *p : acc;", "", f"tiny_clamp(acc, {self.clamp[0]}, {self.clamp[1]})"
        end = f"acc = acc * {2**self.requant.scale_log2} + (int32_t)window[{ADDEND}];\n"
        return "0", "acc += *p;", end, self.requant.portable("acc", (f"(int32_t)window[{MULTIPLIER}]", f"(int32_t)window[{CONSTANT}]"))


def pool_function(prefix: str, block: PoolBlock) -> CFunction:
    """Emit `static void f(const int8_t *x, int8_t *out, const uint32_t *window, uint32_t chunks)`."""
    name = function_name(prefix, "pool", block)
    portable = f"  for (uint32_t c = 0; c < {4 * block.words}u * chunks; ++c) {{\n{block.one_channel('c', 4)}  }}\n"
    parameters = ("const int8_t *x", "int8_t *out", "const uint32_t *window", "uint32_t chunks")
    return naked_function(name, parameters, _assembly(block), portable)


@lru_cache(maxsize=128)
def _assembly(block: PoolBlock) -> tuple[str, ...]:
    lines = ["push {r4-r11, lr}", "sub sp, sp, #12"]
    lines += [f"str {r}, [sp, #{at}]" for r, at in (("r1", _STACK_Y), ("r3", _STACK_CHUNKS), ("r0", _STACK_X))]
    start = "0" if block.requant is not None else "0x80808080"
    lines += ["1:", *(f"mov {r}, #{start}" for r in _registers(block))]
    lines += [_window("r3", ROWS), "2:", _window("r1", COLUMNS), "3:", *(_sums(block) if block.requant is not None else _maxima(block))]
    lines += ["bne 3b", _window("r1", GAP), "subs r3, r3, #1", "add r0, r0, r1", "bne 2b", f"ldr r1, [sp, #{_STACK_Y}]"]
    lines += _requantised(block) if block.requant is not None else _clamped(block)
    lines += [f"ldr r3, [sp, #{_STACK_CHUNKS}]", f"ldr r0, [sp, #{_STACK_X}]", f"add r1, r1, #{4 * block.words}"]
    lines += [f"add r0, r0, #{4 * block.words}", f"str r1, [sp, #{_STACK_Y}]", "subs r3, r3, #1", f"str r0, [sp, #{_STACK_X}]"]
    return (*lines, f"str r3, [sp, #{_STACK_CHUNKS}]", "bne 1b", "add sp, sp, #12", "pop {r4-r11, pc}")


def most_words(requant: RequantShape | None) -> int:
    """Words of channels a chunk may have."""
    return MOST_WORDS if requant is None or requant.form is Form.SINGLE else _DOUBLE_WORDS


def _registers(block: PoolBlock) -> tuple[str, ...]:
    return _SUMS[: block.words * (2 if block.requant is not None else 1)]


def _window(register: str, word: int) -> str:
    return f"ldr {register}, [r2, #{4 * word}]"


def _sums(block: PoolBlock) -> list[str]:
    """One pixel: each word is loaded two words ahead of its use, beside the additions; behind the last the step to the next pixel."""
    raw = ("r12", "lr")
    step = raw[block.words % 2]
    loads = [*(f"ldr {raw[i % 2]}, [r0, #{4 * i}]" for i in range(block.words)), _window(step, STEP)]
    lines = loads[:2]
    for i in range(block.words):
        low, high, word = _SUMS[2 * i], _SUMS[2 * i + 1], raw[i % 2]
        lines += [f"sxtab16 {low}, {low}, {word}", f"sxtab16 {high}, {high}, {word}, ror #8", *loads[i + 2 : i + 3]]
    return [*lines, "subs r1, r1, #1", f"add r0, r0, {step}"]


def _maxima(block: PoolBlock) -> list[str]:
    raw = _SUMS[MOST_WORDS:]
    lines = [*(f"ldr {raw[i]}, [r0, #{4 * i}]" for i in range(block.words)), _window("lr", STEP)]
    for i in range(block.words):
        lines += [f"ssub8 r12, {_SUMS[i]}, {raw[i]}", f"sel {_SUMS[i]}, {_SUMS[i]}, {raw[i]}"]
    return [*lines, "subs r1, r1, #1", "add r0, r0, lr"]


def _requantised(block: PoolBlock) -> tuple[str, ...]:
    assert block.requant is not None
    body = Body()
    sums = {body.new(): r for r in _registers(block)}
    multiplier, constant, offset = (body.ldr("r2", 4 * word) for word in (MULTIPLIER, CONSTANT, ADDEND))
    for at, pair in enumerate(sums):
        for half in (0, 1):
            channel = at // 2 * 4 + at % 2 + 2 * half
            acc = _accumulator(body, block.requant, pair, offset, half)
            body.store(block.requant.emit(body, acc, (multiplier, constant)), "r1", channel, "b")
    pool = (*_SUMS, "r0", "r3", "r12", "lr")
    return schedule(body, pool, dual_issue=block.dual_issue, live_in=sums, live_out=set()).lines


def _accumulator(body: Body, requant: RequantShape, pair: int, offset: int, half: int) -> int:
    """One of the two sums in a register, scaled, plus the offset."""
    if requant.scale_log2 == 0:
        return body.emit(f"sxtah {{d}}, {{0}}, {{1}}{', ror #16' if half else ''}", Kind.FIELD, offset, pair, early=(1,))
    total = body.alu("asr", pair, tail="#16") if half else body.field_op("sxth", pair)
    return body.shifted("add", offset, total, f"lsl #{requant.scale_log2}")


def _clamped(block: PoolBlock) -> list[str]:
    """Clamp four channels at a time, and store."""
    lines = []
    for bound, first, second in ((block.clamp[0], "{0}", "lr"), (block.clamp[1], "lr", "{0}")):
        if bound not in (-128, 127):
            lines += [f"mov lr, #0x{0x01010101 * (bound & 0xFF):08x}"]
            for r in _registers(block):
                lines += [f"ssub8 r12, {first.format(r)}, {second.format(r)}", f"sel {r}, {r}, lr"]
    return [*lines, *(f"str {r}, [r1, #{4 * i}]" for i, r in enumerate(_registers(block)))]
