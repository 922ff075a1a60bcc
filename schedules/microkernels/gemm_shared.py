# SPDX-License-Identifier: Apache-2.0
"""The GEMM block that many layers share: the length of the sums and the distance of output pixels are arguments, not code.

Costs a few per cent of cycles against a block made for one layer, and serves every layer of the same block size, operand form and
requantisation. Sums are padded with zero weights to a multiple of `UNROLL` groups, so there is no tail; what lies in the columns beyond the
sum is multiplied by zero.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from ..requantize_forms import Form
from .assembly import CORE_REGISTERS, Body
from .c_source import CFunction, add_immediate, function_name, naked_function
from .gemm_block import GemmBlock, _Accumulators, _portable_group
from .scheduler import schedule

UNROLL = 4
_X, _W = "r0", "r1"
_STACK_Y, _STACK_END, _STACK_X_END, _FRAME = 0, 4, 8, 12
_ARGUMENTS = _FRAME + 36  # nine saved registers lie between the frame and the arguments that came on the stack


def shareable(block: GemmBlock) -> bool:
    """Whether the shared form exists: consecutive channel blocks, a proven requantisation, a padded sum."""
    return block.requant.form is not Form.ACCUMULATOR and block.order == "channels" and block.groups % UNROLL == 0


def shared_gemm_function(prefix: str, block: GemmBlock) -> CFunction:
    """Emit `static void f(const void *x, const void *w, int8_t *y, const void *end, uint32_t stride, uint32_t x_bytes)`.

    The first five arguments as `gemm_function`'s; `x_bytes` is the length of the expanded columns of the pixel group.
    """
    code = replace(block, groups=UNROLL, unroll=UNROLL, pixel_stride=None, repeat=1)
    name = function_name(prefix, "shared", code)
    parameters = ("const void *x", "const void *w", "int8_t *y", "const void *end", "uint32_t stride", "uint32_t x_bytes")
    return naked_function(name, parameters, _assembly(code), _portable(code))


@lru_cache(maxsize=64)
def _assembly(block: GemmBlock) -> tuple[str, ...]:
    pool = tuple(r for r in CORE_REGISTERS if r not in (_X, _W))
    step_w = 4 * block.channels * block.weight_words * UNROLL
    lines = ["push {r4-r11, lr}", f"sub sp, sp, #{_FRAME}", f"str r2, [sp, #{_STACK_Y}]", f"str r3, [sp, #{_STACK_END}]"]
    lines += [f"ldr r3, [sp, #{_ARGUMENTS + 4}]", f"add r3, {_X}, r3", f"str r3, [sp, #{_STACK_X_END}]", "1:"]

    start = Body()
    sums = _Accumulators(block, start)
    sums.load_separately(0)
    entry = schedule(start, pool, dual_issue=block.dual_issue, live_out=set(sums.values()))
    homes = [entry.registers[v] for v in sums.values()]
    lines += [*entry.lines, *add_immediate(_W, 4 * block.channels), "2:"]

    loop = Body()
    sums = _Accumulators(block, loop)
    live_in = sums.enter(homes)
    sums.groups(UNROLL, weights_at=0)
    limit = loop.ldr("sp", _STACK_X_END)
    found = schedule(loop, pool, dual_issue=block.dual_issue, live_in=live_in, live_out={*sums.values(), limit})
    lines += [*found.lines, *add_immediate(_X, 8 * block.pixels * UNROLL), *add_immediate(_W, step_w)]
    lines += [f"cmp {_X}, {found.registers[limit]}", "bne 2b"]

    end = Body()
    sums = _Accumulators(block, end)
    live_in = sums.enter(homes)
    _finish(block, end, sums)
    lines += schedule(end, pool, dual_issue=block.dual_issue, live_in=live_in, live_out=set()).lines
    lines += [f"ldr r3, [sp, #{_STACK_Y}]", f"add r3, r3, #{block.channels}", f"str r3, [sp, #{_STACK_Y}]"]
    lines += [f"ldr r3, [sp, #{_ARGUMENTS + 4}]", f"sub {_X}, {_X}, r3", *add_immediate(_W, 4 * block.channels * block.requant.words)]
    lines += [f"ldr r3, [sp, #{_STACK_END}]", f"cmp {_W}, r3", "bne 1b"]
    return (*lines, f"add sp, sp, #{_FRAME}", "pop {r4-r11, pc}")


def _finish(block: GemmBlock, body: Body, sums: _Accumulators) -> None:
    """Requantise and store pixel by pixel; the output pointer walks by the stride given at run time."""
    constants = [block.requant.constants(body, _W, 4 * c, 4 * block.channels) for c in range(block.channels)]
    y, stride = body.ldr("sp", _STACK_Y), body.ldr("sp", _ARGUMENTS)
    for p in range(block.pixels):
        for c in range(block.channels):
            body.store_at(block.requant.emit(body, sums.sum[c, p], constants[c]), y, c, "b")
        if p + 1 < block.pixels:
            y = body.alu("add", y, stride)


def _portable(block: GemmBlock) -> str:
    c, p, ww, words = block.channels, block.pixels, block.weight_words, block.requant.words
    value = block.requant.portable("acc", tuple(f"(int32_t)tiny_load(constants + {4 * c * i})" for i in range(words)))
    return (
        f"  const uint8_t *weights = w, *columns = x;\n"
        f"  const uint32_t groups = x_bytes / {8 * p}u;\n"
        f"  do {{\n"
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
        f"        y[p * stride + c] = (int8_t){value};\n"
        f"      }}\n"
        f"    }}\n"
        f"    weights += {4 * c * (1 + words)} + {4 * c * ww}u * groups;\n    y += {c};\n"
        f"  }} while ((const void *)weights != end);\n"
    )
