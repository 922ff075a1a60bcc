# SPDX-License-Identifier: Apache-2.0
"""The GEMM block that many layers share: lengths, distances and the order of its walk are data, not code.

One function serves every layer of the same block size, operand form and requantisation. Sums of any even number of groups are whole
iterations of `UNROLL` groups and then pairs of groups (a single pixel's, of which there is little work, pairs alone); every channel brings
its own shift. After each block the pointers step as the caller says, so that the same code walks all channels of a few pixels, or a few
channels of all pixels of a tile. Short sums lose most by loops: a block may be made for one length, and layers of that length share it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from ..requantize_forms import Form
from .assembly import CORE_REGISTERS, Body
from .c_source import CFunction, add_immediate, function_name, naked_function
from .gemm_block import GemmBlock, _Accumulators, _portable_group
from .requantize import RequantShape
from .scheduler import schedule

UNROLL = 8
LONGEST = 16
"""Groups of the longest sums that have a block of their own."""
MULTIPLE = 2
"""Sums are padded with zero weights to a multiple of this many groups; what lies in the columns beyond the sum is multiplied by zero."""

WALK_TYPE = """\
#ifndef TINY_WALK
#define TINY_WALK
/* A walk of a GEMM block: how many blocks; bytes of a block's columns, those of its whole iterations first; what is added to the pointers
 * after each; bytes from one pixel's output to the next. */
typedef struct {
  uint32_t blocks, whole, x_bytes;
  int32_t x_step, w_step;
  uint32_t y_step, stride;
} tiny_walk;
#endif
"""

_X, _W = "r0", "r1"
_STACK_Y, _STACK_WHOLE_END, _BLOCKS, _WHOLE, _BYTES, _X_STEP, _W_STEP, _Y_STEP, _STRIDE, _STACK_END, _FRAME = range(0, 44, 4)


def shared_shape(requant: RequantShape) -> RequantShape:
    """The form of a requantisation that layers share: every channel brings its shift."""
    return replace(requant, shift=None) if requant.form is not Form.ACCUMULATOR else requant


def shareable(block: GemmBlock, *, fixed: bool = False) -> bool:
    """Whether the shared form exists: bytes that lie together, a proven requantisation, a sum padded or of a length that has one."""
    padded = block.groups % MULTIPLE == 0 or (fixed and block.groups <= LONGEST)
    return block.requant.form is not Form.ACCUMULATOR and block.channel_stride == 1 and padded


def multiple_of(groups: int, *, fixed: bool) -> int:
    """Of how many groups a shared sum is a multiple: those that have a block of their own need no padding."""
    return 1 if fixed and groups <= LONGEST else MULTIPLE


def whole_bytes(pixels: int, groups: int) -> int:
    """Bytes of the expanded columns that whole iterations read."""
    return 8 * pixels * (groups // UNROLL * UNROLL) if pixels > 1 else 0


def shared_gemm_function(prefix: str, block: GemmBlock, *, fixed: bool = False) -> CFunction:
    """Emit `static void f(const void *x, const void *w, int8_t *y, const tiny_walk *walk)`; the operands are `gemm_function`'s.

    `fixed` makes it for sums of the block's length, where those are no longer than `LONGEST`; of a single pixel only where it must.
    """
    fixed = fixed and block.groups <= LONGEST and (block.pixels > 1 or block.groups % MULTIPLE != 0)
    code = replace(block, groups=block.groups if fixed else 0, unroll=UNROLL, pixel_stride=None, repeat=1, order="channels")
    name = function_name(prefix, "shared", code)
    parameters = ("const void *x", "const void *w", "int8_t *y", "const tiny_walk *walk")
    made = naked_function(name, parameters, _assembly(code), _portable(code))
    return CFunction(name, WALK_TYPE + made.source)


@lru_cache(maxsize=128)
def _assembly(block: GemmBlock) -> tuple[str, ...]:
    pool = tuple(r for r in CORE_REGISTERS if r not in (_X, _W))
    lines = ["push {r4-r11, lr}", "ldm r3, {r4-r10}", "push {r2-r11}", "1:"]
    lines += _straight(block, pool) if block.groups else _looped(block, pool)
    lines += [f"ldr r2, [sp, #{_X_STEP}]", f"ldr r3, [sp, #{_W_STEP}]", f"ldr r4, [sp, #{_BLOCKS}]"]
    lines += [f"add {_X}, {_X}, r2", f"add {_W}, {_W}, r3", "subs r4, r4, #1", f"str r4, [sp, #{_BLOCKS}]", "bne 1b"]
    return (*lines, f"add sp, sp, #{_FRAME}", "pop {r4-r11, pc}")


def _straight(block: GemmBlock, pool: tuple[str, ...]) -> list[str]:
    """A block of sums of one length, and the pointers past its columns and weights."""
    body = Body()
    sums = _Accumulators(block, body)
    sums.load_bias(0)
    sums.groups(block.groups, weights_at=4 * block.channels)
    weights = 4 * block.channels * (1 + block.groups * block.weight_words)
    _finish(block, body, sums, weights)
    found = schedule(body, pool, dual_issue=block.dual_issue, live_out=set())
    return [*found.lines, *add_immediate(_X, block.scratch_bytes), *add_immediate(_W, weights)]


def _looped(block: GemmBlock, pool: tuple[str, ...]) -> list[str]:
    """A block of sums of any length, and the pointers past its columns and weights."""
    start = Body()
    sums = _Accumulators(block, start)
    sums.load_separately(0)
    ends = [start.alu("add", start.ldr("sp", size), tail=_X) for size in (_WHOLE, _BYTES)]
    start.store(ends[0], "sp", _STACK_WHOLE_END)
    start.store(ends[1], "sp", _STACK_END)
    entry = schedule(start, pool, dual_issue=block.dual_issue, live_out={*sums.values(), ends[0]})
    homes = [entry.registers[v] for v in sums.values()]
    lines = [*entry.lines, *add_immediate(_W, 4 * block.channels)]
    if block.pixels > 1:
        free = next(r for r in pool if r not in homes)
        lines += [f"cmp {_X}, {entry.registers[ends[0]]}", "beq 3f", *_loop(block, pool, homes, UNROLL, "2", _STACK_WHOLE_END)]
        lines += ["3:", f"ldr {free}, [sp, #{_STACK_END}]", f"cmp {_X}, {free}", "beq 5f"]
    lines += _loop(block, pool, homes, MULTIPLE, "4", _STACK_END)

    end = Body()
    sums = _Accumulators(block, end)
    live_in = sums.enter(homes)
    _finish(block, end, sums, 0)
    return [*lines, "5:", *schedule(end, pool, dual_issue=block.dual_issue, live_in=live_in, live_out=set()).lines]


def _loop(block: GemmBlock, pool: tuple[str, ...], homes: list[str], groups: int, label: str, end: int) -> list[str]:
    """The sums over `groups` groups an iteration until the columns' pointer is what the stack holds at `end`."""
    loop = Body()
    sums = _Accumulators(block, loop)
    live_in = sums.enter(homes)
    sums.groups(groups, weights_at=0)
    limit = loop.ldr("sp", end)
    found = schedule(loop, pool, dual_issue=block.dual_issue, live_in=live_in, live_out={*sums.values(), limit})
    steps = [*add_immediate(_X, 8 * block.pixels * groups), *add_immediate(_W, 4 * block.channels * block.weight_words * groups)]
    return [f"{label}:", *found.lines, *steps, f"cmp {_X}, {found.registers[limit]}", f"bne {label}b"]


def _finish(block: GemmBlock, body: Body, sums: _Accumulators, constants_at: int) -> None:
    """Requantise and store channel by channel; the outputs' distance is given at run time."""
    y, stride = body.ldr("sp", _STACK_Y), body.ldr("sp", _STRIDE) if block.pixels > 1 else 0
    places = [y]
    for c in range(block.channels):
        constants = block.requant.constants(body, _W, constants_at + 4 * c, 4 * block.channels)
        for p in range(block.pixels):
            if p == len(places):
                places.append(body.alu("add", places[-1], stride))
            body.store_at(block.requant.emit(body, sums.sum[c, p], constants), places[p], c, "b")
    body.store(body.alu("add", y, body.ldr("sp", _Y_STEP)), "sp", _STACK_Y)


def _portable(block: GemmBlock) -> str:
    c, p, ww, words = block.channels, block.pixels, block.weight_words, block.requant.words
    value = block.requant.portable("acc", tuple(f"(int32_t)tiny_load(constants + {4 * c * i})" for i in range(words)))
    return (
        f"  const uint8_t *weights = w, *columns = x;\n"
        f"  const uint32_t groups = walk->x_bytes / {8 * p}u;\n"
        f"  for (uint32_t left = walk->blocks; left != 0; --left) {{\n"
        f"    for (uint32_t c = 0; c < {c}u; ++c) {{\n"
        f"      const uint8_t *constants = weights + {4 * c} + {4 * c * ww}u * groups + 4 * c;\n"
        f"      for (uint32_t p = 0; p < {p}u; ++p) {{\n"
        f"        uint32_t sum = tiny_load(weights + 4 * c);\n"
        f"        for (uint32_t g = 0; g < groups; ++g) {{\n"
        f"          const uint8_t *pair = columns + 8 * (g * {p}u + p);\n"
        f"          const uint8_t *word = weights + {4 * c} + {4 * ww} * (g * {c}u + c);\n"
        f"{_portable_group(block)}"
        f"        }}\n"
        f"        const int32_t acc = (int32_t)sum;\n"
        f"        y[p * walk->stride + c] = (int8_t){value};\n"
        f"      }}\n"
        f"    }}\n"
        f"    weights += {4 * c} + {4 * c * ww}u * groups;\n    weights += walk->w_step;\n"
        f"    columns += walk->x_bytes;\n    columns += walk->x_step;\n    y += walk->y_step;\n"
        f"  }}\n"
    )
