# SPDX-License-Identifier: Apache-2.0
"""The pooling block: some words of channels of one window, chunk after chunk of channels.

A window is seven words: its rows, its columns, the bytes from the end of one of its rows to the start of the next and from pixel to pixel,
and for sums the requantisation's multiplier and constant and what is added to the sum before. Maxima need the first four alone.
Channels that fill no word are the last bytes of the last four: of that word the others are read and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ..requantize_forms import Form
from .assembly import Body, Kind
from .c_source import CFunction, function_name, naked_function
from .requantize import RequantShape
from .scheduler import schedule

MOST_WORDS = 4
_DOUBLE_WORDS = 3  # two roundings need a register more
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
    left : int
        Channels of the last word, which ends with them; 0 = all four. Then there is one chunk.
    unroll : int
        Pixels of a row of the window a turn; the columns of every window are a multiple of it.
    """

    words: int
    requant: RequantShape | None
    clamp: tuple[int, int]
    dual_issue: bool
    left: int = 0
    unroll: int = 1

    @property
    def channels(self) -> int:
        """Channels of a chunk."""
        return 4 * self.words - self.skipped

    @property
    def skipped(self) -> int:
        """Bytes of the last word that are other channels."""
        return -self.left % 4

    @property
    def window_words(self) -> int:
        """Words of a window that the function reads."""
        return MULTIPLIER if self.requant is None else WORDS

    def place(self, word: int) -> int:
        """Bytes from the first channel of a chunk to a word."""
        return 4 * word - (self.skipped if word == self.words - 1 else 0)

    def lanes(self, word: int) -> tuple[int, ...]:
        """Bytes of a word that are channels of the chunk."""
        return tuple(range(self.skipped if word == self.words - 1 else 0, 4))

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


_PARAMETERS = ("const int8_t *x", "int8_t *out", "const void *packed", "uint32_t chunks")


def pool_function(prefix: str, block: PoolBlock) -> CFunction:
    """Emit `static void f(const int8_t *x, int8_t *out, const void *packed, uint32_t chunks)`; `packed` is the window."""
    name = function_name(prefix, "pool", block)
    portable = f"  const uint32_t *window = packed;\n  for (uint32_t c = 0; c < {block.channels}u * chunks; ++c) {{\n"
    return naked_function(name, _PARAMETERS, _assembly(block), f"{portable}{block.one_channel('c', 4)}  }}\n")


def channel_blocks(block: PoolBlock, channels: int) -> tuple[PoolBlock, ...]:
    """What computes all channels of a window, at least four: chunks as wide as `block`, and one of what is left over."""
    if channels <= 4 * block.words:
        return (replace(block, words=-(-channels // 4), left=channels % 4),)
    rest = channels % (4 * block.words)
    return (block, replace(block, words=-(-rest // 4), left=rest % 4, unroll=1)) if rest else (block,)


def channels_function(prefix: str, blocks: Sequence[PoolBlock]) -> list[CFunction]:
    """The functions of `channel_blocks`; the last, of the same signature, computes all channels."""
    made = [pool_function(prefix, block) for block in blocks]
    if len(made) == 1:
        return made
    (main, rest), step = made, 4 * blocks[0].words
    name = function_name(prefix, "pool_channels", blocks)
    calls = f"  {main.name}(x, out, packed, chunks);\n  {rest.name}(x + {step} * chunks, out + {step} * chunks, packed, 1);\n"
    return [*made, CFunction(name, f"static void {name}({', '.join(_PARAMETERS)}) {{\n{calls}}}\n")]


@lru_cache(maxsize=128)
def _assembly(block: PoolBlock) -> tuple[str, ...]:
    """The window is copied to the stack, where every chunk reads it without waiting for flash; behind it lie x, out and chunks."""
    count, start = block.window_words, "0" if block.requant is not None else "0x80808080"
    at_x, at_y, at_chunks = (4 * (count + argument) for argument in (0, 1, 3))
    copied = f"{{r4-r{3 + count}}}"
    lines = ["push {r0-r11, lr}", f"ldm r2, {copied}", f"push {copied}", _window("r2", STEP)]
    lines += ["1:", *(f"mov {r}, #{start}" for r in _registers(block)), _window("r3", ROWS)]
    pixel = _sums(block) if block.requant is not None else _maxima(block)
    lines += ["2:", _window("r1", COLUMNS), "3:", *pixel[:-1], f"subs r1, r1, #{block.unroll}", pixel[-1], *pixel * (block.unroll - 1)]
    lines += ["bne 3b", _window("r1", GAP), "subs r3, r3, #1", "add r0, r0, r1", "bne 2b"]
    lines += [f"ldr r1, [sp, #{at_y}]", *(_requantised(block) if block.requant is not None else _clamped(block))]
    if not block.left:
        lines += [f"ldr r3, [sp, #{at_chunks}]", f"ldr r0, [sp, #{at_x}]", f"add r1, r1, #{4 * block.words}"]
        lines += [f"add r0, r0, #{4 * block.words}", f"str r1, [sp, #{at_y}]", "subs r3, r3, #1", f"str r0, [sp, #{at_x}]"]
        lines += [f"str r3, [sp, #{at_chunks}]", "bne 1b"]
    return (*lines, f"add sp, sp, #{4 * count + 16}", "pop {r4-r11, pc}")


def most_words(requant: RequantShape | None) -> int:
    """Words of channels a chunk may have."""
    return MOST_WORDS if requant is None or requant.form is Form.SINGLE else _DOUBLE_WORDS


def _registers(block: PoolBlock) -> tuple[str, ...]:
    return _SUMS[: block.words * (2 if block.requant is not None else 1)]


def _window(register: str, word: int) -> str:
    return f"ldr {register}, [sp, #{4 * word}]"


def _sums(block: PoolBlock) -> list[str]:
    """One pixel: each word is loaded two words ahead of its use, beside the additions."""
    raw = ("r12", "lr")
    loads = [f"ldr {raw[i % 2]}, [r0, #{block.place(i)}]" for i in range(block.words)]
    lines = loads[:2]
    for i in range(block.words):
        low, high, word = _SUMS[2 * i], _SUMS[2 * i + 1], raw[i % 2]
        lines += [f"sxtab16 {low}, {low}, {word}", f"sxtab16 {high}, {high}, {word}, ror #8", *loads[i + 2 : i + 3]]
    return [*lines, "add r0, r0, r2"]


def _maxima(block: PoolBlock) -> list[str]:
    raw = _SUMS[MOST_WORDS:]
    lines = [f"ldr {raw[i]}, [r0, #{block.place(i)}]" for i in range(block.words)]
    for i in range(block.words):
        lines += [f"ssub8 r12, {_SUMS[i]}, {raw[i]}", f"sel {_SUMS[i]}, {_SUMS[i]}, {raw[i]}"]
    return [*lines, "add r0, r0, r2"]


def _requantised(block: PoolBlock) -> tuple[str, ...]:
    assert block.requant is not None
    body = Body()
    halves = {at: [half for half in (0, 1) if at % 2 + 2 * half in block.lanes(at // 2)] for at in range(2 * block.words)}
    sums = {body.new(): (at, r) for at, r in enumerate(_registers(block)) if halves[at]}
    multiplier, constant, offset = (body.ldr("sp", 4 * word) for word in (MULTIPLIER, CONSTANT, ADDEND))
    for pair, (at, _register) in sums.items():
        for half in halves[at]:
            acc = _accumulator(body, block.requant, pair, offset, half)
            channel = block.place(at // 2) + at % 2 + 2 * half
            body.store(block.requant.emit(body, acc, (multiplier, constant)), "r1", channel, "b")
    pool = (*_SUMS, "r0", "r3", "r12", "lr")
    live = {pair: register for pair, (_at, register) in sums.items()}
    return schedule(body, pool, dual_issue=block.dual_issue, live_in=live, live_out=set()).lines


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
    return [*lines, *(line for i, r in enumerate(_registers(block)) for line in _stored(r, block.place(i), block.lanes(i)))]


def _stored(register: str, place: int, lanes: Sequence[int]) -> list[str]:
    """Store the bytes `lanes` of a word, its last ones."""
    if len(lanes) == 4:
        return [f"str {register}, [r1, #{place}]"]
    lines = [f"lsr r12, {register}, #{8 * lanes[0]}", f"strb r12, [r1, #{place + lanes[0]}]"] if len(lanes) % 2 else []
    return [*lines, f"lsr r12, {register}, #16", f"strh r12, [r1, #{place + 2}]"] if len(lanes) > 1 else lines
