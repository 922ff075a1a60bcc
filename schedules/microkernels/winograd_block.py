# SPDX-License-Identifier: Apache-2.0
"""The two blocks of exact integer Winograd F(2x2, 3x3) (Lavin and Gray, 2016): input transform, and products with output transform.

With 2G for G the filter transform stays in int16 (magnitude at most 9 * 128) and every output is exactly four times the true sum: nothing
is divided. Input tiles of 4x4 overlap by two; their transform, sums and differences of four int8, fits int16.

Transformed input of a group of tiles, per position (row-major 4x4): channel pairs (c, c+2) and (c+1, c+3) of every four channels, for each
a word a tile; behind each position's words lie the sums of products of that position, written by the product block. Parameter stream of a
channel block: position-major weight words (pair, then channel), biases, requantisation constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .assembly import CORE_REGISTERS, Body
from .c_source import CFunction, add_immediate, function_name, naked_function
from .requantize import RequantShape
from .scheduler import schedule

_POOL = tuple(r for r in CORE_REGISTERS if r not in ("r0", "r1"))
_ROW_OPERATION = ((0, "ssub16", 2), (1, "sadd16", 2), (2, "ssub16", 1), (1, "ssub16", 3))
"""Row i of B^T d: which two of four values, and how they are combined; columns likewise."""


@dataclass(frozen=True)
class TileGroup:
    """A group of horizontally neighbouring 2x2 tiles and the block of channels computed for it.

    Attributes
    ----------
    channels : int
        Input channels, a multiple of four.
    block : int
        Output channels of a block.
    tiles : int
        Tiles of a group.
    row_bytes : int
        Bytes of a row of the padded int8 input.
    dual_issue : bool
    """

    channels: int
    block: int
    tiles: int
    row_bytes: int
    dual_issue: bool = True

    @property
    def position_bytes(self) -> int:
        """Bytes of one position: inputs, then sums."""
        return 2 * self.channels * self.tiles + 4 * self.block * self.tiles

    @property
    def bytes(self) -> int:
        """Bytes of a group."""
        return 16 * self.position_bytes

    @property
    def fits(self) -> bool:
        """Tell whether all offsets are encodable."""
        columns = (2 * self.tiles + 2) * self.channels
        return 7 * self.position_bytes + 4 * self.block * self.tiles <= 4095 and 3 * self.row_bytes + columns <= 4095


# ---------------------------------------------------------------- input transform


def transform_function(prefix: str, group: TileGroup) -> CFunction:
    """Emit `static void f(const int8_t *src, void *dst)`: four padded input rows at `src` to the group at `dst`."""
    name = function_name(prefix, "transform", group)
    return naked_function(name, ("const int8_t *src", "void *dst"), _transform_assembly(group), _transform_portable(group))


@lru_cache(maxsize=64)
def _transform_assembly(group: TileGroup) -> tuple[str, ...]:
    step = group.position_bytes
    lines = ["push {r4-r11, lr}", "sub sp, sp, #4", f"mov r2, #{group.channels // 4}", "str r2, [sp]", "1:"]
    lines += [*_transform_rows(group, (0,)), *add_immediate("r1", 4 * step)]
    lines += [*_transform_rows(group, (1, 2)), *add_immediate("r1", 8 * step)]
    lines += [*_transform_rows(group, (3,)), *add_immediate("r1", 8 * group.tiles - 12 * step)]
    lines += ["add r0, r0, #4", "ldr r2, [sp]", "subs r2, r2, #1", "str r2, [sp]", "bne 1b"]
    return (*lines, "add sp, sp, #4", "pop {r4-r11, pc}")


def _transform_rows(group: TileGroup, rows: tuple[int, ...]) -> tuple[str, ...]:
    """Transformed rows that read the same two input rows, along all tiles; r1 stands at the first one's first position."""
    body = Body()
    # two transformed rows of both halves would need sixteen registers for a window: take the halves one after the other
    for halves in ((0, 1),) if len(rows) == 1 else ((0,), (1,)):
        columns: list[dict[tuple[int, int], int]] = []  # by column: (row, half) to value
        for tile in range(group.tiles):
            while len(columns) < 2 * tile + 4:
                columns.append(_transform_column(group, body, len(columns), rows, halves))
            for index, row in enumerate(rows):
                for half in halves:
                    window = [columns[2 * tile + k][row, half] for k in range(4)]
                    for j, (a, mnemonic, b) in enumerate(_ROW_OPERATION):
                        value = body.field_op(mnemonic, window[a], window[b])
                        body.store(value, "r1", (4 * index + j) * group.position_bytes + 4 * (half * group.tiles + tile))
    return schedule(body, _POOL, dual_issue=group.dual_issue, tries=18).lines


def _transform_column(
    group: TileGroup, body: Body, column: int, rows: tuple[int, ...], halves: tuple[int, ...]
) -> dict[tuple[int, int], int]:
    """B^T d of one column: values by (transformed row, half)."""
    inputs = {k for row in rows for k in (_ROW_OPERATION[row][0], _ROW_OPERATION[row][2])}
    raw = {r: body.ldr("r0", r * group.row_bytes + column * group.channels) for r in sorted(inputs)}
    found = {}
    for half in halves:
        wide = {r: body.sxtb16(word, 8 * half) for r, word in raw.items()}
        for row in rows:
            a, mnemonic, b = _ROW_OPERATION[row]
            found[row, half] = body.field_op(mnemonic, wide[a], wide[b])
    return found


def _transform_portable(group: TileGroup) -> str:
    return (
        f"  static const int8_t first[4] = {{0, 1, 2, 1}}, second[4] = {{2, 2, 1, 3}}, sign[4] = {{-1, 1, -1, -1}};\n"
        f"  uint8_t *to = dst;\n"
        f"  for (int32_t c = 0; c < {group.channels}; ++c) {{\n"
        f"    const int32_t word = c / 4 * 2 + (c & 1);\n"
        f"    for (int32_t tile = 0; tile < {group.tiles}; ++tile) {{\n"
        f"      for (int32_t i = 0; i < 4; ++i) {{\n"
        f"        const int8_t *a = src + first[i] * {group.row_bytes} + 2 * tile * {group.channels} + c;\n"
        f"        const int8_t *b = src + second[i] * {group.row_bytes} + 2 * tile * {group.channels} + c;\n"
        f"        for (int32_t j = 0; j < 4; ++j) {{\n"
        f"          const int32_t left = a[first[j] * {group.channels}] + sign[i] * b[first[j] * {group.channels}];\n"
        f"          const int32_t right = a[second[j] * {group.channels}] + sign[i] * b[second[j] * {group.channels}];\n"
        f"          const int16_t value = (int16_t)(left + sign[j] * right);\n"
        f"          memcpy(to + (4 * i + j) * {group.position_bytes} + 4 * (word * {group.tiles} + tile) + (c & 2), &value, 2);\n"
        f"        }}\n      }}\n    }}\n  }}\n"
    )


# ---------------------------------------------------------------- products and output transform


@dataclass(frozen=True)
class ProductBlock:
    """Sixteen small products, the output transform and requantisation of one channel block over one tile group.

    Attributes
    ----------
    group : TileGroup
    requant : RequantShape
    pixel_stride, line_stride : int
        Bytes to the next output pixel and to the output pixel below.
    """

    group: TileGroup
    requant: RequantShape
    pixel_stride: int
    line_stride: int

    @property
    def stream_bytes(self) -> int:
        """Bytes of a channel block in the parameter stream."""
        return 4 * self.group.block * (8 * self.group.channels + 1 + self.requant.words)

    @property
    def fits(self) -> bool:
        """Tell whether all offsets are encodable."""
        return self.group.fits and (2 * self.group.tiles - 1) * self.pixel_stride + self.line_stride + self.group.block <= 4095


def product_function(prefix: str, block: ProductBlock) -> CFunction:
    """Emit `static void f(void *group, const void *w, int8_t *y)`."""
    name = function_name(prefix, "products", block)
    parameters = ("void *group", "const void *w", "int8_t *y")
    return naked_function(name, parameters, _product_assembly(block), _product_portable(block))


@lru_cache(maxsize=64)
def _product_assembly(block: ProductBlock) -> tuple[str, ...]:
    group = block.group
    at_once = 2 if group.channels <= 16 and 2 * group.position_bytes <= 4096 else 1
    weights = 2 * group.block * group.channels  # bytes of a position
    lines = ["push {r4-r11, lr}", "sub sp, sp, #8", "str r2, [sp]", "mov r3, r1"]
    lines += [*add_immediate("r3", 16 * weights, "r12"), "str r3, [sp, #4]", "1:"]
    body = Body()
    for n in range(at_once):
        _products(group, body, n * group.position_bytes, n * weights)
    limit = body.ldr("sp", 4)
    found = schedule(body, _POOL, dual_issue=group.dual_issue, live_out={limit})
    end = found.registers[limit]
    other = "r3" if end != "r3" else "r4"
    lines += [*found.lines, *add_immediate("r0", at_once * group.position_bytes, other)]
    lines += [*add_immediate("r1", at_once * weights, other), f"cmp r1, {end}", "bne 1b"]
    # the sums of positions 0-7 from r0, of 8-15 from r2
    inputs = 2 * group.channels * group.tiles
    lines += [*add_immediate("r0", inputs - 16 * group.position_bytes), "mov r2, r0", *add_immediate("r2", 8 * group.position_bytes)]
    return (*lines, *_output_transform(block), "add sp, sp, #8", "pop {r4-r11, pc}")


def _products(group: TileGroup, body: Body, x_at: int, w_at: int) -> None:
    """All channel pairs of one position, sums stored behind the inputs."""
    sums: dict[tuple[int, int], int] = {}
    for pair in range(group.channels // 2):
        weights = [body.ldr("r1", w_at + 4 * (pair * group.block + c)) for c in range(group.block)]
        for tile in range(group.tiles):
            x = body.ldr("r0", x_at + 4 * (pair * group.tiles + tile))
            for c in range(group.block):
                key = (c, tile)
                sums[key] = body.mac("smlad", weights[c], x, sums[key]) if pair else body.mul("smuad", weights[c], x)
    for (c, tile), value in sums.items():
        body.store(value, "r0", x_at + 2 * group.channels * group.tiles + 4 * (c * group.tiles + tile))


def _output_transform(block: ProductBlock) -> tuple[str, ...]:
    group, body = block.group, Body()
    y: int | None = None
    for c in range(group.block):
        constants = block.requant.constants(body, "r1", 4 * (group.block + c), 4 * group.block)
        for tile in range(group.tiles):
            slot = 4 * (c * group.tiles + tile)
            for n, value in enumerate(_four_outputs(group, body, slot, 4 * c)):
                result = block.requant.emit(body, value, constants)
                y = body.ldr("sp", 0) if y is None else y
                at = (2 * tile + n % 2) * block.pixel_stride + n // 2 * block.line_stride + c
                body.store_at(result, y, at)
    pool = tuple(r for r in _POOL if r != "r2")
    return schedule(body, pool, dual_issue=group.dual_issue, tries=12).lines


def _four_outputs(group: TileGroup, body: Body, slot: int, bias_at: int) -> list[int]:
    """A^T M A of one tile and channel, bias included (position (1, 1) is a term of all four)."""

    def sums(i: int, j: int) -> int:
        position = 4 * i + j
        return body.ldr("r0" if position < 8 else "r2", position % 8 * group.position_bytes + slot)

    outputs: list[int | None] = [None] * 4
    for j in (1, 2, 0, 3):
        m1, m2 = sums(1, j), sums(2, j)
        if j == 1:
            m1 = body.alu("add", m1, body.ldr("r1", bias_at))
        both, apart = body.alu("add", m1, m2), body.alu("sub", m1, m2)
        top = body.alu("add", both, sums(0, j))
        bottom = body.alu("sub", apart, sums(3, j))
        for line, value in ((0, top), (2, bottom)):
            if j == 1:
                outputs[line] = outputs[line + 1] = value
            if j in (0, 2):
                outputs[line] = body.alu("add", outputs[line], value)  # type: ignore[arg-type]
            if j in (2, 3):
                outputs[line + 1] = body.alu("sub", outputs[line + 1], value)  # type: ignore[arg-type]
    return [v for v in outputs if v is not None]


def _product_portable(block: ProductBlock) -> str:
    group, c, t = block.group, block.group.block, block.group.tiles
    constants = tuple(f"(int32_t)tiny_load(bias + {4 * c * (1 + i)})" for i in range(block.requant.words))
    return (
        f"  static const int8_t output[2][4] = {{{{1, 1, 1, 0}}, {{0, 1, -1, -1}}}};\n"
        f"  const uint8_t *x = group, *weights = w;\n"
        f"  for (int32_t c = 0; c < {c}; ++c) {{\n"
        f"    const uint8_t *bias = weights + {32 * c * group.channels} + 4 * c;\n"
        f"    for (int32_t tile = 0; tile < {t}; ++tile) {{\n"
        f"      uint32_t one = 0, right = 0, below = 0, both = 0; /* scalars: gcc 12.2 -O2 vectorises an array of them wrongly */\n"
        f"      for (int32_t p = 0; p < 16; ++p) {{\n"
        f"        uint32_t m = 0;\n"
        f"        for (int32_t k = 0; k < {group.channels // 2}; ++k)\n"
        f"          m = tiny_smlad(tiny_load(weights + {2 * c * group.channels} * p + 4 * ({c} * k + c)),\n"
        f"                         tiny_load(x + {group.position_bytes} * p + 4 * ({t} * k + tile)), m);\n"
        f"        one += (uint32_t)(output[0][p / 4] * output[0][p % 4]) * m;\n"
        f"        right += (uint32_t)(output[0][p / 4] * output[1][p % 4]) * m;\n"
        f"        below += (uint32_t)(output[1][p / 4] * output[0][p % 4]) * m;\n"
        f"        both += (uint32_t)(output[1][p / 4] * output[1][p % 4]) * m;\n"
        f"      }}\n"
        f"      const uint32_t sum[4] = {{one, right, below, both}};\n"
        f"      for (int32_t n = 0; n < 4; ++n) {{\n"
        f"        const int32_t acc = (int32_t)(sum[n] + tiny_load(bias));\n"
        f"        y[(2 * tile + n % 2) * {block.pixel_stride} + n / 2 * {block.line_stride} + c] =\n"
        f"            (int8_t){block.requant.portable('acc', constants)};\n"
        f"      }}\n    }}\n  }}\n"
    )
