# SPDX-License-Identifier: Apache-2.0
"""The C of the depthwise block that layers of every size share.

What differs from `depthwise_block`: rows of a plane are reached by adding their distance, outputs by a register, nothing is unrolled beyond
a group, and tall kernels are a loop over two of their rows, behind the first.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

from .assembly import CORE_REGISTERS, Body, Instruction, Kind
from .c_source import CFunction, add_immediate, function_name, naked_function
from .depthwise_block import copy_lines, multiply
from .depthwise_groups import FIELDS, SharedBlock
from .requantize import Constants
from .scheduler import RegisterPressureError, schedule

_X, _W, _LEFT = "r0", "r1", "r3"  # pinned: where the group begins, parameters, groups left
_POOL = tuple(r for r in CORE_REGISTERS if r not in (_X, _W, _LEFT))
_GEOMETRY = {name: 4 * i for i, name in enumerate(FIELDS)}
_FLASH_W = 4 * len(FIELDS)  # parameters in flash, and their copy at the end of the frame
_AT_Y, _ROWS, _START_X, _START_Y, _AT_X, _COPY = range(_FLASH_W + 4, _FLASH_W + 28, 4)
_ARGUMENTS = 36  # rows and planes came on the stack, above nine saved registers
_TURN = 1 << 24  # turns of the loop over kernel rows are counted above the groups or rows left


def block_function(prefix: str, block: SharedBlock, struct: str) -> CFunction:
    """Emit `static void f(x, w, y, g, rows, planes)`: `rows` output rows of `planes` neighbouring channels."""
    name = function_name(prefix, "groups", block)
    parameters = (
        "const uint8_t *x", "const uint8_t *w", "int8_t *y", "const tiny_depthwise *g", "uint32_t rows", "uint32_t planes",
    )  # fmt: skip
    made = naked_function(name, parameters, _assembly(block), _portable(block))
    return CFunction(name, struct + made.source)


def fits(block: SharedBlock) -> bool:
    """The core's registers hold what the block's groups need."""
    try:
        _assembly(block)
    except RegisterPressureError:
        return False
    return True


@lru_cache(maxsize=64)
def _assembly(block: SharedBlock) -> tuple[str, ...]:
    taps, words = block.taps, len(FIELDS)
    frame = _COPY + taps.stream_bytes if taps.copied else _COPY
    arguments = frame + _ARGUMENTS
    lines = ["push {r4-r11, lr}", f"sub sp, sp, #{frame}", "ldm r3!, {r4-r11}", "mov r12, sp", "stm r12!, {r4-r11}"]
    lines += [part for i in range(8, words) for part in (f"ldr r5, [r3, #{4 * (i - 8)}]", f"str r5, [sp, #{4 * i}]")]
    lines += [f"str r0, [sp, #{_START_X}]", f"str r2, [sp, #{_START_Y}]"]
    lines += ["3:", f"str r2, [sp, #{_AT_Y}]", *copy_lines(taps, _FLASH_W, _COPY)]
    lines += [f"ldr {_LEFT}, [sp, #{arguments}]", "1:", *_group(block, block.sizes[0])] if block.alone else _rows(block, arguments)
    lines += ["bne 1b"]
    lines += [f"ldr r0, [sp, #{_START_X}]", f"ldr r4, [sp, #{_GEOMETRY['plane_bytes']}]", f"ldr r2, [sp, #{_START_Y}]"]
    lines += [f"ldr r5, [sp, #{arguments + 4}]", "add r0, r0, r4", "add r2, r2, #1", f"str r0, [sp, #{_START_X}]"]
    lines += [f"str r2, [sp, #{_START_Y}]", *([f"ldr {_W}, [sp, #{_FLASH_W}]"] if taps.copied else [])]
    lines += [*add_immediate(_W, taps.stream_bytes, "r4"), "subs r5, r5, #1", f"str r5, [sp, #{arguments + 4}]", "bne 3b"]
    return (*lines, f"add sp, sp, #{frame}", "pop {r4-r11, pc}")


def _rows(block: SharedBlock, rows: int) -> list[str]:
    """The groups of all rows, whose number is there on the stack; the flags say whether another row follows."""
    first, second = block.sizes
    groups = f"ldr {_LEFT}, [sp, #{_GEOMETRY['groups']}]"
    lines = [f"ldr r4, [sp, #{rows}]", groups, f"str r4, [sp, #{_ROWS}]", "1:"]
    if second == 0:
        lines += ["2:", *_group(block, first), "bne 2b"]
    else:
        lines += [f"cmp {_LEFT}, #0", "beq 4f", "2:", *_group(block, first), "bne 2b"]
        lines += ["4:", f"ldr {_LEFT}, [sp, #{_GEOMETRY['rest']}]", f"cmp {_LEFT}, #0", "beq 6f"]
        lines += ["5:", *_group(block, second, is_rest=True), "bne 5b"]
    lines += ["6:", f"ldr r4, [sp, #{_GEOMETRY['skip']}]", f"ldr r5, [sp, #{_ROWS}]", groups, "add r0, r0, r4", "subs r5, r5, #1"]
    return [*lines, f"str r5, [sp, #{_ROWS}]"]


def _group(block: SharedBlock, size: int, *, is_rest: bool = False) -> list[str]:
    """One group, which moves x and the stored y and counts itself; the flags say whether another follows."""
    lines = _first_fitting(block, size, is_rest=is_rest)
    if block.alone:
        return [*lines, f"ldr r4, [sp, #{_GEOMETRY['skip']}]", f"subs {_LEFT}, {_LEFT}, #1", "add r0, r0, r4"]
    advance = add_immediate(_X, 2 * size * block.taps.stride[1])
    if is_rest:
        return [f"sub {_LEFT}, {_LEFT}, #1", *lines, *advance, f"lsls r4, {_LEFT}, #24"]
    return [*lines, f"subs {_LEFT}, {_LEFT}, #1", *advance]


def _first_fitting(block: SharedBlock, size: int, *, is_rest: bool) -> list[str]:
    """A group's outputs in the first way that fits the registers; the last one says why it doesn't.

    Products go tap by tap, so that few words of a plane are held, or word by word, few weights; of tall kernels two rows a turn or one.
    """
    ways = [(by_taps, rows) for rows in ((2, 1) if block.loops else (0,)) for by_taps in (True, False)]
    for by_taps, rows in ways[:-1]:
        with suppress(RegisterPressureError):
            return _outputs(block, size, by_taps, rows, is_rest=is_rest)
    return _outputs(block, size, *ways[-1], is_rest=is_rest)


def _outputs(block: SharedBlock, size: int, by_taps: bool, rows: int, *, is_rest: bool) -> list[str]:
    """A group's outputs: all kernel rows unrolled (`rows` 0), or the first and a loop over `rows` of them a turn."""
    if rows:
        return _Turns(block, size, by_taps, rows).lines(is_rest=is_rest)
    group = _Group(block, size, by_taps)
    group.finish(group.sums(), 1 + block.taps.kernel[0] * len(block.taps.pairs), is_rest=is_rest)
    return [*schedule(group.body, _POOL, dual_issue=block.taps.dual_issue).lines]


class _Turns:
    """Writes a group with a loop over kernel rows, in which x and the parameters move along."""

    def __init__(self, block: SharedBlock, size: int, by_taps: bool, rows: int) -> None:
        self.block, self.taps, self.size, self.by_taps, self.rows = block, block.taps, size, by_taps, rows
        self.row_words = len(self.taps.pairs)

    def lines(self, *, is_rest: bool) -> list[str]:
        """All of it: x and the parameters end where they began."""
        turns, tall = (self.taps.kernel[0] - 1) // self.rows, self.taps.kernel[0]
        first, homes = self._first()
        lines = [f"str {_X}, [sp, #{_AT_X}]", *first, f"add {_LEFT}, {_LEFT}, #{(turns - 1) * _TURN}"]
        lines += ["7:", f"subs {_LEFT}, {_LEFT}, #{_TURN}", *self._turn(homes), "bhs 7b", f"add {_LEFT}, {_LEFT}, #{_TURN}"]
        end, sums = self._entered(homes)
        end.finish([*sums], 0, is_rest=is_rest)
        lines += self._scheduled(end, sums, set())[0]
        return [*lines, f"ldr {_X}, [sp, #{_AT_X}]", *add_immediate(_W, -4 * (1 + tall * self.row_words))]

    def _first(self) -> tuple[list[str], list[str]]:
        """The first kernel row, and the registers of its sums."""
        group = _Group(self.block, self.size, self.by_taps)
        sums, step = group.row([], None, 1), group.body.ldr("sp", _GEOMETRY["tap_step"])
        lines, where = self._scheduled(group, {}, {*sums, step})
        moved = [f"add {_X}, {_X}, {where[step]}", *add_immediate(_W, 4 * (1 + self.row_words))]
        return [*lines, *moved], [where[each] for each in sums]

    def _turn(self, homes: list[str]) -> list[str]:
        """One row more, or two."""
        group, entered = self._entered(homes)
        sums, step = [*entered], group.body.ldr("sp", _GEOMETRY["tap_step"])
        sums = group.row(sums, None, 0)
        if self.rows == 2:
            second = group.body.emit(f"add {{d}}, {_X}, {{0}}", Kind.SHIFTED, step)
            sums = group.row(sums, second, self.row_words)
        lines, where = self._scheduled(group, entered, {*sums, step})
        twice = ", lsl #1" if self.rows == 2 else ""
        return [*lines, f"add {_X}, {_X}, {where[step]}{twice}", *add_immediate(_W, 4 * self.rows * self.row_words)]

    def _entered(self, homes: list[str]) -> tuple[_Group, dict[int, str]]:
        """A new body, and the sums so far, which lie in registers `homes`."""
        group = _Group(self.block, self.size, self.by_taps)
        return group, {group.body.new(): home for home in homes}

    def _scheduled(self, group: _Group, live_in: dict[int, str], live_out: set[int]) -> tuple[list[str], dict[int, str]]:
        found = schedule(group.body, _POOL, dual_issue=self.taps.dual_issue, live_in=live_in, live_out=live_out)
        return [*found.lines], found.registers


class _FrameShift(Constants):
    """Requantisation constants of a channel, the shift coming from the frame."""

    def __init__(self, body: Body, base: str, offset: int) -> None:
        super().__init__(body, base, offset, 4)
        load = self._load
        self._load = lambda i: load(i) if i < 2 else body.ldr("sp", _GEOMETRY["shift"])


class _Group:
    """Writes a group of outputs, or parts of it, into a body."""

    def __init__(self, block: SharedBlock, size: int, by_taps: bool) -> None:
        self.block, self.taps, self.body, self.size, self.by_taps = block, block.taps, Body(), size, by_taps

    def finish(self, sums: list[int], constants: int, *, is_rest: bool) -> None:
        """Requantise, with constants from that word of the parameters on, and store."""
        values = self._requantised(sums, 4 * constants)
        y, apart = self.body.ldr("sp", _AT_Y), self.body.ldr("sp", _GEOMETRY["pixel_stride"])
        if self.block.sizes[1] == 0:
            self._store_in_order(values, y, apart)
            return
        last, span = self._rest_offsets(apart) if is_rest else (self.body.ldr("sp", _GEOMETRY[f]) for f in ("last", "span"))
        self._store(values, y, apart, last, span)

    def sums(self) -> list[int]:
        """Sums over all kernel rows."""
        pointer, sums = None, list[int]()
        for ky in range(self.taps.kernel[0]):
            pointer = self._next_row(pointer) if ky else None
            sums = self.row(sums, pointer, 1 + ky * len(self.taps.pairs))
        return sums

    def row(self, sums: list[int], pointer: int | None, word: int) -> list[int]:
        """The sums (none: the bias) with the products of a kernel row at `pointer`, or at x, whose weights begin at a word from w on."""
        body, fresh = self.body, not sums
        sums = sums or [body.ldr(_W, 0)] * self.size
        bias = sums[0] if fresh else None
        weights: dict[int, int] = {}
        read: dict[int, int] = {}
        for at, i, index, mnemonic in self._products():
            if at not in read:
                read[at] = self._plane_word(pointer, 4 * at)
            if index not in weights:
                weights[index] = body.ldr(_W, 4 * (word + index))
            sums[i] = body.mac(mnemonic, weights[index], read[at], sums[i], keep=sums[i] != bias)
        return sums

    def _products(self) -> list[tuple[int, int, int, str]]:
        """Of a kernel row: (plane word, output, weight word, instruction)."""
        taps, found = self.taps, []
        words = ((self.size - 1) * taps.stride[1] + (taps.kernel[1] - 1) * taps.dilation[1]) // 2 + 1
        for word in range(words):
            for i in range(self.size):
                low, high = taps.taps(i, word)
                if max(low, high) >= 0:
                    found.append((word, i, *multiply(taps.pairs, low, high)))
        return sorted(found, key=lambda each: taps.pairs[each[2]][0]) if self.by_taps else found

    def _next_row(self, pointer: int | None) -> int:
        step = self.body.ldr("sp", _GEOMETRY["tap_step"])
        text, sources = (f"add {{d}}, {_X}, {{0}}", (step,)) if pointer is None else ("add {d}, {0}, {1}", (pointer, step))
        return self.body.emit(text, Kind.SHIFTED, *sources)  # an address is ready as late as after a shift, unless the sum comes first

    def _plane_word(self, pointer: int | None, at: int) -> int:
        if pointer is None:
            return self.body.ldr(_X, at)
        return self.body.emit(f"ldr {{d}}, [{{0}}, #{at}]", Kind.LOAD, pointer, early=(0,), base=f"row {pointer}", imm=at)

    def _requantised(self, sums: list[int], at: int) -> list[int]:
        taps = self.taps
        constants = _FrameShift(self.body, _W, at) if self.block.shift_in_table else taps.requant.constants(self.body, _W, at, 4)
        requant = replace(taps.requant, shift=None) if self.block.shift_in_table else taps.requant
        return [requant.emit(self.body, total, constants) for total in sums]

    def _rest_offsets(self, apart: int) -> tuple[int, int]:
        """Offsets of the last output and of the next group: an output less where no group is left, unless NO_EXTRA is among them."""
        body = self.body
        whole = body.emit(f"usat {{d}}, #1, {_LEFT}", Kind.FIELD)
        if self.size == 2:
            last = body.mul("mul", whole, apart)
        else:
            last = body.mac("mla", whole, apart, apart if self.size == 3 else body.alu("lsl", apart, tail="#1"), keep=False)
        return last, body.alu("add", last, apart)

    def _store(self, values: list[int], y: int, apart: int, last: int, span: int) -> None:
        """All outputs, the last but one at the end: the last may lie in its place."""
        body, multiples = self.body, {1: apart}
        self._store_indexed(values[-1], y, last, 0)
        following = body.alu("add", y, span)
        for i, value in enumerate(values[:-2]):
            if i == 0:
                body.store_at(value, y, 0)
                continue
            shift = (i & -i).bit_length() - 1
            odd = i >> shift
            if odd not in multiples:
                multiples[odd] = body.shifted("add", apart, apart, f"lsl #{odd.bit_length() - 1}")
            self._store_indexed(value, y, multiples[odd], shift)
        body.store(following, "sp", _AT_Y)
        before = len(values) - 2  # a power of two, or none
        if before:
            doubled = f", lsl #{before.bit_length() - 1}" if before > 1 else ""
            place = body.emit(f"add {{d}}, {{0}}, {{1}}{doubled}", Kind.SHIFTED, y, apart, early=(1,), tied=0)
        else:
            place = body.emit("add {d}, {0}, #0", Kind.ALU, y, tied=0)
        body.store_at(values[-2], place, 0)

    def _store_in_order(self, values: list[int], y: int, apart: int) -> None:
        """All outputs, one place after the other."""
        for i, value in enumerate(values):
            if i:
                y = self.body.emit("add {d}, {0}, {1}", Kind.ALU, y, apart, tied=0)
            self.body.store_at(value, y, 0)
        self.body.store(self.body.emit("add {d}, {0}, {1}", Kind.ALU, y, apart, tied=0), "sp", _AT_Y)

    def _store_indexed(self, value: int, y: int, offset: int, shift: int) -> None:
        text = f"strb {{0}}, [{{1}}, {{2}}{f', lsl #{shift}' if shift else ''}]"
        self.body.instructions.append(Instruction(text, Kind.STORE, None, (value, y, offset), early=(1, 2)))


def _portable(block: SharedBlock) -> str:
    taps, pairs = block.taps, block.taps.pairs
    kh, kw = taps.kernel
    where = ", ".join(f"{4 * i + 2 * pairs[i].index(tap)}" for tap in range(kw) for i in [next(j for j, p in enumerate(pairs) if tap in p)])
    constants = [f"(int32_t)tiny_load(constants + {4 * i})" for i in range(taps.requant.words)]
    requant = replace(taps.requant, shift=None) if block.shift_in_table else taps.requant
    constants += ["(int32_t)g->shift"] if block.shift_in_table else []
    return (
        f"  static const uint8_t where[{kw}] = {{{where}}};\n"
        f"  for (; planes != 0; --planes, x += g->plane_bytes, w += {taps.stream_bytes}, ++y) {{\n"
        f"    const uint8_t *constants = w + {4 * (1 + kh * len(pairs))}, *row = x;\n"
        f"    int8_t *to = y;\n"
        f"    for (uint32_t r = 0; r < rows; ++r, row += {taps.stride[0]} * g->row_bytes) {{\n"
        f"      for (uint32_t i = 0; i < g->outputs; ++i, to += g->pixel_stride) {{\n"
        f"        uint32_t sum = tiny_load(w);\n"
        f"        for (uint32_t ky = 0; ky < {kh}u; ++ky) {{\n"
        f"          for (uint32_t kx = 0; kx < {kw}u; ++kx) {{\n"
        f"            int16_t tap, value;\n"
        f"            memcpy(&tap, w + 4 + {4 * len(pairs)} * ky + where[kx], 2);\n"
        f"            memcpy(&value, row + g->tap_step * ky + 2 * (i * {taps.stride[1]}u + {taps.dilation[1]} * kx), 2);\n"
        f"            sum += (uint32_t)(tap * value);\n"
        f"          }}\n        }}\n"
        f"        const int32_t acc = (int32_t)sum;\n"
        f"        *to = (int8_t){requant.portable('acc', tuple(constants))};\n"
        f"      }}\n    }}\n  }}\n"
    )
