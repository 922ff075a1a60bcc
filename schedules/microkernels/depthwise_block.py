# SPDX-License-Identifier: Apache-2.0
"""The depthwise block: rows of one channel from a padded plane of int16, two taps a SMLAD wherever two taps share a word.

The plane's words hold the columns (2j, 2j+1) counted from the left edge of output 0's window. Output i starts at column i * stride: taps
that fall into one word are multiplied together by SMLAD with a packed weight pair, single ones by SMLAxy with the half of whatever weight
word has them. Any kernel, stride and dilation is a matter of which taps meet in which word.

Parameter stream of one channel: bias, weight words (kernel row by kernel row), requantisation constants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from .assembly import CORE_REGISTERS, Body
from .c_source import CFunction, add_immediate, function_name, naked_function
from .requantize import RequantShape
from .scheduler import RegisterPressureError, schedule

_X, _W = "r0", "r1"
_STACK_Y, _STACK_ROWS, _STACK_GROUPS, _STACK_PLANES, _STACK_START = 0, 4, 8, 12, 16  # and there: x, y, rows at the start
_STACK_W, _STACK_COPY = 28, 32  # the parameters in flash, and their copy
_MOST_COPIED = 256  # bytes
_MOST_SUMS = 6  # of two rows side by side: both rows' weights want registers too
MOST_UNROLLED = 3
_FEW_GROUPS = 2  # of one row, which read parameters in the flash sooner than they were copied


@dataclass(frozen=True)
class DepthwiseBlock:
    """Description of a block function.

    Attributes
    ----------
    width : int
        Outputs of a row.
    kernel, stride, dilation : tuple of int
        Vertical, horizontal.
    row_bytes : int
        Bytes of one plane row.
    pixel_stride : int
        Bytes between neighbouring outputs (NHWC: channels).
    requant : RequantShape
    pixels : int
        Outputs computed together.
    dual_issue : bool
    planes, plane_bytes : int
        Channels of one call, at most: planes lie `plane_bytes` apart, parameters and outputs follow one another.
    copied : bool
        A channel's parameters are copied to the stack before its outputs: for flash that costs a wait at every read.
    together : int
        Rows of one straight body, where rows are short.
    """

    width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    row_bytes: int
    pixel_stride: int
    requant: RequantShape
    pixels: int
    dual_issue: bool = True
    planes: int = 1
    plane_bytes: int = 0
    copied: bool = False
    together: int = 1

    @property
    def stream_bytes(self) -> int:
        """Bytes of one channel in the parameter stream."""
        return 4 * (1 + self.kernel[0] * len(self.pairs) + self.requant.words)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Weight words of a kernel row: (tap in the low half, tap in the high half), -1 for none."""
        return weight_pairs(self.kernel[1], self.stride[1], self.dilation[1])

    def taps(self, output: int, word: int) -> tuple[int, int]:
        """Taps of `output` (counted from the group's first column) that meet the low and the high half of `word`; -1 for none."""
        return _taps_in_word(output * self.stride[1], word, self.kernel[1], self.dilation[1])

    @property
    def groups(self) -> tuple[int, ...]:
        """Outputs of each group of a row, as even as possible; an odd stride wants even groups so that all share one alignment."""
        count = -(-self.width // self.pixels)
        if count > MOST_UNROLLED:
            rest = self.width % self.pixels
            return (self.pixels,) * (self.width // self.pixels) + ((rest,) if rest else ())
        base, more = divmod(self.width, count)
        return tuple(base + (i < more) for i in range(count))


def _taps_in_word(base: int, word: int, taps: int, dilation: int) -> tuple[int, int]:
    found = []
    for column in (2 * word, 2 * word + 1):
        tap, odd = divmod(column - base, dilation)
        found.append(tap if odd == 0 and 0 <= tap < taps else -1)
    return found[0], found[1]


@lru_cache(maxsize=256)
def weight_pairs(taps: int, stride: int, dilation: int) -> tuple[tuple[int, int], ...]:
    """Weight words that serve every alignment: all pairs that meet in a word, and singles that no pair contains."""
    pairs: list[tuple[int, int]] = []
    singles: set[int] = set()
    for base in sorted({(i * stride) % 2 for i in range(2)}):
        for word in range((taps * dilation + base) // 2 + 1):
            low, high = _taps_in_word(base, word, taps, dilation)
            if low >= 0 and high >= 0 and (low, high) not in pairs:
                pairs.append((low, high))
            elif (low >= 0) != (high >= 0):
                singles.add(max(low, high))
    left = sorted(s for s in singles if not any(s in pair for pair in pairs))
    packed = [(left[i], left[i + 1] if i + 1 < len(left) else -1) for i in range(0, len(left), 2)]
    return tuple(pairs + packed)


def depthwise_function(prefix: str, block: DepthwiseBlock) -> CFunction:
    """Emit `static void f(const void *plane, const void *w, int8_t *y, uint32_t rows)`: `rows` >= 1 output rows.

    Of a block of several planes `rows` also says how many, in its upper half (`rows_and_planes`).
    """
    name = function_name(prefix, "depthwise", block)
    parameters = ("const void *plane", "const void *w", "int8_t *y", "uint32_t rows")
    return naked_function(name, parameters, _assembly(block), _portable(block))


def rows_and_planes(block: DepthwiseBlock, rows: int, planes: int) -> int:
    """The last argument of a block function: below 65,536 rows of as many planes."""
    return rows | planes << 16 if block.planes > 1 else rows


@lru_cache(maxsize=256)
def _assembly(block: DepthwiseBlock) -> tuple[str, ...]:
    frame = _STACK_COPY + block.stream_bytes if block.copied else _STACK_W
    lines = ["push {r4-r11, lr}", f"sub sp, sp, #{frame}", *_counts(block), f"str r2, [sp, #{_STACK_Y}]", f"str r3, [sp, #{_STACK_ROWS}]"]
    if block.planes > 1:
        lines += [f"str r{i}, [sp, #{_STACK_START + 4 * n}]" for n, i in enumerate((0, 2, 3))]
    lines += ["3:", *copy_lines(block, _STACK_W, _STACK_COPY), *(_rows_together(block) if block.together > 1 else _rows_one_by_one(block))]
    return (*lines, *_next_plane(block), f"add sp, sp, #{frame}", "pop {r4-r11, pc}")


def one_row_function(prefix: str, block: DepthwiseBlock) -> CFunction:
    """As `depthwise_function` for calls of one row: nothing that serves the next row, parameters copied where many outputs want them."""
    block = replace(block, copied=block.copied and len(block.groups) > _FEW_GROUPS, together=1)
    name = function_name(prefix, "depthwise_row", block)
    parameters = ("const void *plane", "const void *w", "int8_t *y", "uint32_t rows")
    return naked_function(name, parameters, _one_row(block), _portable(block))


@lru_cache(maxsize=256)
def _one_row(block: DepthwiseBlock) -> tuple[str, ...]:
    frame = _STACK_COPY + block.stream_bytes if block.copied else _STACK_START
    lines = ["push {r4-r11, lr}", f"sub sp, sp, #{frame}", f"str r2, [sp, #{_STACK_Y}]"]
    if block.planes > 1:
        lines += ["lsr r3, r3, #16", f"str r3, [sp, #{_STACK_PLANES}]"]
    groups, moved = block.groups, 0
    if len(groups) > MOST_UNROLLED:
        moved = sum(size for size in groups if size == block.pixels)
        row = _looped_groups(block, groups)
    else:
        row = [line for i, size in enumerate(groups) for line in _group(block, sum(groups[:i]), size)]
    row = ["3:", *copy_lines(block, _STACK_W, _STACK_COPY), *row]
    if block.planes > 1:
        row += [f"ldr r2, [sp, #{_STACK_Y}]", f"ldr r3, [sp, #{_STACK_PLANES}]"]
        row += [f"ldr {_W}, [sp, #{_STACK_W}]"] if block.copied else []
        row += add_immediate(_X, block.plane_bytes - 2 * moved * block.stride[1], "r4")
        row += add_immediate("r2", 1 - moved * block.pixel_stride, "r4") + add_immediate(_W, block.stream_bytes, "r4")
        row += [f"str r2, [sp, #{_STACK_Y}]", "subs r3, r3, #1", f"str r3, [sp, #{_STACK_PLANES}]", "bne 3b"]
    return (*lines, *row, f"add sp, sp, #{frame}", "pop {r4-r11, pc}")


def _counts(block: DepthwiseBlock) -> list[str]:
    """Rows and planes apart."""
    return ["lsr r4, r3, #16", "uxth r3, r3", f"str r4, [sp, #{_STACK_PLANES}]"] if block.planes > 1 else []


def _rows_one_by_one(block: DepthwiseBlock) -> list[str]:
    groups, lines = block.groups, ["1:"]
    if len(groups) <= MOST_UNROLLED:
        first = 0
        for size in groups:
            lines += _group(block, first, size)
            first += size
        return [*lines, *_next_rows(block, 1, 0, 0), "bne 1b"]
    whole = sum(1 for size in groups if size == block.pixels) * block.pixels
    lines += _looped_groups(block, groups)
    return [*lines, *_next_rows(block, 1, whole * block.pixel_stride, 2 * whole * block.stride[1]), "bne 1b"]


def _rows_together(block: DepthwiseBlock) -> list[str]:
    """Rows in twos, and the last one by itself where it is left."""
    lines = [f"ldr r3, [sp, #{_STACK_ROWS}]", "cmp r3, #2", "blo 5f", "4:", *_two_rows(block), *_next_rows(block, 2, 0, 0)]
    return [*lines, "cmp r3, #2", "bhs 4b", "cmp r3, #0", "beq 6f", "5:", *_group(block, 0, block.width), "6:"]


def _next_rows(block: DepthwiseBlock, rows: int, moved_y: int, moved_x: int) -> list[str]:
    """Step over `rows` rows, the pointers having moved within one already, and count them; the flags say whether any are left."""
    lines = [f"ldr r2, [sp, #{_STACK_Y}]", f"ldr r3, [sp, #{_STACK_ROWS}]"]
    lines += add_immediate("r2", rows * block.width * block.pixel_stride - moved_y, "r4")
    lines += add_immediate(_X, rows * block.stride[0] * block.row_bytes - moved_x, "r4")
    return [*lines, f"str r2, [sp, #{_STACK_Y}]", f"subs r3, r3, #{rows}", f"str r3, [sp, #{_STACK_ROWS}]"]


def may_go_together(block: DepthwiseBlock) -> bool:
    """Whether two rows are short enough for one body, all offsets encodable."""
    reach = (block.kernel[0] * block.dilation[0] + block.stride[0]) * block.row_bytes
    return len(block.groups) == 1 and reach <= 4095 and 2 * block.width * block.pixel_stride <= 4095


def may_copy(block: DepthwiseBlock) -> bool:
    """Whether a channel's parameters are few enough for the stack."""
    return block.stream_bytes <= _MOST_COPIED


def copy_lines(block: DepthwiseBlock, flash: int, copy: int) -> list[str]:
    """Copy a channel's parameters to place `copy` of the frame and point there, having noted at `flash` where they came from."""
    if not block.copied:
        return []
    words = block.stream_bytes // 4
    lines = [f"str {_W}, [sp, #{flash}]", f"add r2, sp, #{copy}"]
    for first in range(0, words, 8):
        some = f"{{r4-r{min(words - first, 8) + 3}}}" if words - first > 1 else "{r4}"
        lines += [f"ldm {_W}!, {some}", f"stm r2!, {some}"]
    return [*lines, f"add {_W}, sp, #{copy}"]


def _next_plane(block: DepthwiseBlock) -> list[str]:
    if block.planes == 1:
        return []
    lines = [f"ldr r{i}, [sp, #{_STACK_START + 4 * n}]" for n, i in enumerate((0, 2, 3))]
    lines += [f"ldr r4, [sp, #{_STACK_PLANES}]", *add_immediate(_X, block.plane_bytes, "r5"), "add r2, r2, #1"]
    lines += [f"ldr {_W}, [sp, #{_STACK_W}]"] if block.copied else []
    lines += [*add_immediate(_W, block.stream_bytes, "r5"), f"str r0, [sp, #{_STACK_START}]", f"str r2, [sp, #{_STACK_START + 4}]"]
    lines += [f"str r2, [sp, #{_STACK_Y}]", f"str r3, [sp, #{_STACK_ROWS}]", "subs r4, r4, #1", f"str r4, [sp, #{_STACK_PLANES}]"]
    return [*lines, "bne 3b"]


def _looped_groups(block: DepthwiseBlock, groups: tuple[int, ...]) -> list[str]:
    """A loop over full groups that walks x and the stored y, then the odd group."""
    whole = sum(1 for size in groups if size == block.pixels)
    lines = [f"movs r2, #{whole}", f"str r2, [sp, #{_STACK_GROUPS}]", "2:", *_group(block, 0, block.pixels)]
    lines += [f"ldr r2, [sp, #{_STACK_Y}]", f"ldr r3, [sp, #{_STACK_GROUPS}]"]
    lines += add_immediate("r2", block.pixels * block.pixel_stride, "r4") + add_immediate(_X, 2 * block.pixels * block.stride[1], "r4")
    lines += [f"str r2, [sp, #{_STACK_Y}]", "subs r3, r3, #1", f"str r3, [sp, #{_STACK_GROUPS}]", "bne 2b"]
    if groups[-1] != block.pixels:
        lines += _group(block, 0, groups[-1])
    return lines


def _group(block: DepthwiseBlock, first: int, size: int) -> tuple[str, ...]:
    """Outputs `first` .. `first + size` of a row, counted from where x and the stored y stand."""
    body = Body()
    _store(block, body, _sums(block, body, first, size), first, None)
    return _scheduled(block, body)


def _two_rows(block: DepthwiseBlock) -> tuple[str, ...]:
    """Two whole rows: side by side where all sums fit the registers, so that they share what they read; else one after the other."""
    body = Body()
    if 2 * block.width <= _MOST_SUMS:
        both = _sums(block, body, 0, block.width, rows=2)
        y = _store(block, body, both[: block.width], 0, None)
        _store(block, body, both[block.width :], block.width, y)
    else:
        y = _store(block, body, _sums(block, body, 0, block.width), 0, None)
        _store(block, body, _sums(block, body, 0, block.width, from_row=1), block.width, None)
    return _scheduled(block, body)


def _store(block: DepthwiseBlock, body: Body, sums: list[int], first: int, y: int | None) -> int:
    """Requantise and store to output `first` and those that follow; returns the output pointer."""
    constants = block.requant.constants(body, _W, 4 * (1 + block.kernel[0] * len(block.pairs)), 4)
    for i, total in enumerate(sums):
        value = block.requant.emit(body, total, constants)
        y = body.ldr("sp", _STACK_Y) if y is None else y
        body.store_at(value, y, (first + i) * block.pixel_stride)
    assert y is not None
    return y


def _scheduled(block: DepthwiseBlock, body: Body) -> tuple[str, ...]:
    pool = tuple(r for r in CORE_REGISTERS if r not in (_X, _W))
    return schedule(body, pool, dual_issue=block.dual_issue).lines


def _sums(block: DepthwiseBlock, body: Body, first: int, size: int, *, rows: int = 1, from_row: int = 0) -> list[int]:
    """Sums of `size` outputs of each of `rows` rows, row by row; a plane's word is read once for all of them."""
    bias = body.ldr(_W, 0)
    sums: dict[tuple[int, int], int] = {}
    start = first * block.stride[1]
    end = (first + size - 1) * block.stride[1] + (block.kernel[1] - 1) * block.dilation[1]
    touched = sorted({row * block.stride[0] + ky * block.dilation[0] for row in range(rows) for ky in range(block.kernel[0])})
    for plane_row in touched:
        reached = [(row, *divmod(plane_row - row * block.stride[0], block.dilation[0])) for row in range(rows)]
        taking = [(row, ky) for row, ky, odd in reached if odd == 0 and 0 <= ky < block.kernel[0]]
        weights: dict[tuple[int, int], int] = {}
        for word in range(start // 2, end // 2 + 1):
            users = [(i, *block.taps(first + i, word)) for i in range(size)]
            users = [u for u in users if max(u[1:]) >= 0]
            if not users:
                continue
            x = body.ldr(_X, (plane_row + from_row * block.stride[0]) * block.row_bytes + 4 * word)
            for row, ky in taking:
                for i, low, high in users:
                    acc, fresh = sums.get((row, i), bias), (row, i) not in sums
                    sums[row, i] = _mac(block, body, weights, ky, (x, low, high), acc, fresh)
    return [sums[row, i] for row in range(rows) for i in range(size)]


def _mac(
    block: DepthwiseBlock,
    body: Body,
    weights: dict[tuple[int, int], int],
    ky: int,
    word: tuple[int, int, int],
    acc: int,
    fresh: bool,
) -> int:
    x, low, high = word
    index, mnemonic = multiply(block.pairs, low, high)
    if (ky, index) not in weights:
        weights[ky, index] = body.ldr(_W, 4 * (1 + ky * len(block.pairs) + index))
    return body.mac(mnemonic, weights[ky, index], x, acc, keep=not fresh)


def multiply(pairs: tuple[tuple[int, int], ...], low: int, high: int) -> tuple[int, str]:
    """Weight word and instruction for the taps meeting the halves of a plane word."""
    if low >= 0 and high >= 0:
        return pairs.index((low, high)), "smlad"
    tap = max(low, high)
    index = next(i for i, pair in enumerate(pairs) if tap in pair)
    return index, f"smla{'b' if pairs[index][0] == tap else 't'}{'b' if low >= 0 else 't'}"


def default_pixels(kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], *, dual_issue: bool) -> int:
    """Outputs together: as many as leave room for a kernel row's weights and some words in flight."""
    words = len(weight_pairs(kernel[1], stride[1], dilation[1]))
    return max(2, (10 if dual_issue else 11) - words) // 2 * 2


def fits(block: DepthwiseBlock) -> bool:
    """Tell whether the block has an assembly form: offsets within 12 bits and registers enough."""
    reach = (block.kernel[0] - 1) * block.dilation[0] * block.row_bytes + 4 * (block.width * block.stride[1] + block.kernel[1])
    if reach > 4095 or (block.width * block.pixel_stride > 4095 and block.pixels * block.pixel_stride * MOST_UNROLLED > 4095):
        return False
    try:
        _assembly(block)
    except RegisterPressureError:
        return False
    return True


def _portable(block: DepthwiseBlock) -> str:
    (kh, kw), pairs = block.kernel, block.pairs
    where = ", ".join(f"{4 * i + 2 * pairs[i].index(tap)}" for tap in range(kw) for i in [next(j for j, p in enumerate(pairs) if tap in p)])
    constants = tuple(f"(int32_t)tiny_load(constants + {4 * i})" for i in range(block.requant.words))
    counts = "  const uint32_t planes = rows >> 16;\n  rows &= 0xffff;\n" if block.planes > 1 else ""
    return (
        f"  static const uint8_t where[{kw}] = {{{where}}};\n"
        f"  const uint8_t *weights = w;\n{counts}"
        f"  for (uint32_t p = 0; p < {'planes' if block.planes > 1 else '1u'}; ++p, weights += {block.stream_bytes}, ++y) {{\n"
        f"    const uint8_t *constants = weights + {4 * (1 + kh * len(pairs))};\n"
        f"    const uint8_t *row = (const uint8_t *)plane + p * {block.plane_bytes}u;\n"
        f"    int8_t *to = y;\n"
        f"    for (uint32_t r = 0; r < rows; ++r, row += {block.stride[0] * block.row_bytes}) {{\n"
        f"      for (uint32_t i = 0; i < {block.width}u; ++i, to += {block.pixel_stride}) {{\n"
        f"        uint32_t sum = tiny_load(weights);\n"
        f"        for (uint32_t ky = 0; ky < {kh}u; ++ky) {{\n"
        f"          for (uint32_t kx = 0; kx < {kw}u; ++kx) {{\n"
        f"            int16_t tap, value;\n"
        f"            memcpy(&tap, weights + 4 + {4 * len(pairs)} * ky + where[kx], 2);\n"
        f"            memcpy(&value, row + {block.dilation[0] * block.row_bytes} * ky"
        f" + 2 * (i * {block.stride[1]}u + {block.dilation[1]} * kx), 2);\n"
        f"            sum += (uint32_t)(tap * value);\n"
        f"          }}\n        }}\n"
        f"        const int32_t acc = (int32_t)sum;\n"
        f"        *to = (int8_t){block.requant.portable('acc', constants)};\n"
        f"      }}\n    }}\n  }}\n"
    )
