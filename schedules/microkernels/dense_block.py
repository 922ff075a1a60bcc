# SPDX-License-Identifier: Apache-2.0
"""The block of a fully connected layer: a few output channels from one input vector, 3.5 instructions for four products.

Channels go in pairs. A halfword of the stream holds 256 * m + l, m a weight of the pair's first channel and l one of its second, both for
the same input. Four inputs meet two words a pair, A for x0 and x2, B for x1 and x3, and two sums grow:

    T += A . (x0, x2) + B . (x1, x3)                        SMLAD twice, on the words as they lie in flash
    V += (lA + (x1, x3)) . (lB + (x0, x2))                  SXTAB16 twice, SMLAD once: Winograd's inner product (1968)

T is 256 times the first channel's sum plus the second's. V is the second's plus what depends on the weights only (it is in the bias) and
what depends on the inputs only (`common`, the same for all channels: computed once). So the first channel is (T - V) / 256, exactly.
Needs weights of the first channel above -128 (256 * m + l must fit a halfword) and its accumulator below 2**23.

Stream of one block: T's and V's start, pair by pair; weights (group-major, then pair, then A and B); requantisation constants (word-major,
then channel; of one channel when all share them).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .assembly import CORE_REGISTERS, Body
from .c_source import CFunction, add_immediate, function_name, naked_function
from .requantize import RequantShape
from .scheduler import schedule

_X, _W = "r0", "r1"
_STACK_Y, _STACK_END, _STACK_X, _FRAME = 0, 4, 8, 12
_STACK_X_END, _STACK_COMMON = _FRAME + 36, _FRAME + 40  # arguments on the stack, above nine saved registers


@dataclass(frozen=True)
class DenseBlock:
    """Description of a block function.

    Attributes
    ----------
    channels : int
        Outputs computed together; an odd one has a partner of zero weights that is not stored.
    unroll : int
        Groups of four inputs an iteration.
    rest : int
        Groups after the last iteration, fewer than `unroll`.
    requant : RequantShape
    uniform : bool
        All channels share their requantisation constants.
    expanded : bool
        Inputs lie widened in scratch (`expand`, form "w8"), else as int8, widened in the loop: two cycles a group more, no scratch.
    dual_issue : bool
        Order for the Cortex-M7; else for M4 and M33.
    """

    channels: int
    unroll: int
    rest: int
    requant: RequantShape
    uniform: bool
    expanded: bool
    dual_issue: bool = True

    @property
    def pairs(self) -> int:
        """Pairs of channels."""
        return -(-self.channels // 2)

    @property
    def input_bytes(self) -> int:
        """Bytes of one group of inputs."""
        return 8 if self.expanded else 4

    def stream_bytes(self, groups: int) -> int:
        """Bytes of one block over `groups` groups in the parameter stream."""
        return 8 * self.pairs * (1 + groups) + 4 * self.requant.words * (1 if self.uniform else self.channels)


def dense_function(prefix: str, block: DenseBlock) -> CFunction:
    """Emit `static void f(const void *x, const void *w, int8_t *y, const void *end, const void *x_end, int32_t common)`.

    Runs channel blocks until `w == end`, each writing `channels` bytes further; `x_end` ends the inputs of the unrolled iterations.
    """
    name = function_name(prefix, "dense", block)
    parameters = ("const void *x", "const void *w", "int8_t *y", "const void *end", "const void *x_end", "int32_t common")
    return naked_function(name, parameters, _assembly(block), _portable(block))


# ---------------------------------------------------------------- assembly


@lru_cache(maxsize=64)
def _assembly(block: DenseBlock) -> tuple[str, ...]:
    pool = tuple(r for r in CORE_REGISTERS if r not in (_X, _W))
    lines = ["push {r4-r11, lr}", f"sub sp, sp, #{_FRAME}"]
    lines += [f"str r2, [sp, #{_STACK_Y}]", f"str r3, [sp, #{_STACK_END}]", f"str {_X}, [sp, #{_STACK_X}]", "1:"]

    start = Body()
    sums = _Sums(block, start)
    sums.load()
    entry = schedule(start, pool, dual_issue=block.dual_issue, live_out=set(sums.values))
    homes = [entry.registers[v] for v in sums.values]
    lines += [*entry.lines, *add_immediate(_W, 8 * block.pairs), "2:"]

    loop = Body()
    sums = _Sums(block, loop)
    live_in = sums.enter(homes)
    sums.groups(block.unroll)
    limit = loop.ldr("sp", _STACK_X_END)
    found = schedule(loop, pool, dual_issue=block.dual_issue, live_in=live_in, live_out={*sums.values, limit})
    lines += [*found.lines, *add_immediate(_X, block.input_bytes * block.unroll), *add_immediate(_W, 8 * block.pairs * block.unroll)]
    lines += [f"cmp {_X}, {found.registers[limit]}", "bne 2b"]

    end = Body()
    sums = _Sums(block, end)
    live_in = sums.enter(homes)
    sums.groups(block.rest)
    sums.finish(8 * block.pairs * block.rest)
    lines += schedule(end, pool, dual_issue=block.dual_issue, live_in=live_in, live_out=set()).lines
    lines += [f"ldr r3, [sp, #{_STACK_Y}]", f"ldr {_X}, [sp, #{_STACK_X}]", f"ldr r2, [sp, #{_STACK_END}]"]
    lines += [f"add r3, r3, #{block.channels}", f"str r3, [sp, #{_STACK_Y}]"]
    lines += [*add_immediate(_W, block.stream_bytes(block.rest) - 8 * block.pairs), f"cmp {_W}, r2", "bne 1b"]
    return (*lines, f"add sp, sp, #{_FRAME}", "pop {r4-r11, pc}")


class _Sums:
    """T and V of every pair, in this order, and what is done with them."""

    def __init__(self, block: DenseBlock, body: Body) -> None:
        self.block, self.body = block, body
        self.values: list[int] = []

    def load(self) -> None:
        """Take the start of every sum from the stream; V without the inputs' share."""
        common = self.body.ldr("sp", _STACK_COMMON)
        for p in range(self.block.pairs):
            self.values.append(self.body.ldr(_W, 8 * p))
            self.values.append(self.body.alu("sub", self.body.ldr(_W, 8 * p + 4), common))

    def enter(self, homes: list[str]) -> dict[int, str]:
        """Take the sums over in the registers another body left them in."""
        self.values = [self.body.new() for _ in homes]
        return dict(zip(self.values, homes, strict=True))

    def groups(self, count: int) -> None:
        """Append `count` groups of four inputs."""
        body, pairs = self.body, self.block.pairs
        for g in range(count):
            even, odd = self._inputs(g)
            for p in range(pairs):
                at = 8 * (g * pairs + p)
                a, b = body.ldr(_W, at), body.ldr(_W, at + 4)
                t, v = self.values[2 * p : 2 * p + 2]
                t = body.mac("smlad", b, odd, body.mac("smlad", a, even, t))
                first = body.field_op("sxtab16", odd, a, early=True)
                second = body.field_op("sxtab16", even, b, early=True)
                self.values[2 * p : 2 * p + 2] = t, body.mac("smlad", first, second, v)

    def _inputs(self, group: int) -> tuple[int, int]:
        if self.block.expanded:
            return self.body.ldr(_X, 8 * group), self.body.ldr(_X, 8 * group + 4)
        raw = self.body.ldr(_X, 4 * group)
        return self.body.sxtb16(raw), self.body.sxtb16(raw, 8)

    def finish(self, constants_at: int) -> None:
        """Requantise and store all channels."""
        block, body = self.block, self.body
        shared = block.requant.constants(body, _W, constants_at, 4) if block.uniform else None
        y = body.ldr("sp", _STACK_Y)
        for c in range(block.channels):
            constants = shared or block.requant.constants(body, _W, constants_at + 4 * c, 4 * block.channels)
            t, v = self.values[c // 2 * 2 : c // 2 * 2 + 2]
            acc = v if c % 2 else body.alu("asr", body.alu("sub", t, v), tail="#8")
            body.store_at(block.requant.emit(body, acc, constants), y, c, "b")


# ---------------------------------------------------------------- the inputs' share


def common_function(prefix: str, unroll: int, *, dual_issue: bool) -> CFunction:
    """Emit `static void f(const int8_t *x, const int8_t *end, int32_t *sum)`: x0 * x1 + x2 * x3 of every group, `unroll` an iteration."""
    name = function_name(prefix, "common", (unroll, dual_issue))
    portable = (
        "  int32_t total = 0;\n"
        "  for (; x != end; x += 4) total += x[0] * x[1] + x[2] * x[3];\n"
        "  *sum = total;\n"
    )  # fmt: skip
    return naked_function(name, ("const int8_t *x", "const int8_t *end", "int32_t *sum"), _common_assembly(unroll, dual_issue), portable)


@lru_cache(maxsize=64)
def _common_assembly(unroll: int, dual_issue: bool) -> tuple[str, ...]:
    body = Body()
    total = body.new()
    live_in = {total: "r3"}
    for g in range(unroll):
        raw = body.ldr("r0", 4 * g)
        total = body.mac("smlad", body.sxtb16(raw), body.sxtb16(raw, 8), total)
    pool = ("r3", "r4", "r5", "r6", "r7", "r12")
    found = schedule(body, pool, dual_issue=dual_issue, live_in=live_in, live_out={total})
    loop = ["1:", *found.lines, f"add r0, r0, #{4 * unroll}", "cmp r0, r1", "bne 1b"]
    return ("push {r4-r7}", "mov r3, #0", *loop, f"str {found.registers[total]}, [r2]", "pop {r4-r7}", "bx lr")


# ---------------------------------------------------------------- portable C


def _portable(block: DenseBlock) -> str:
    pairs, channels, words = block.pairs, block.channels, block.requant.words
    apart, own = (1, "") if block.uniform else (channels, " + 4 * c")
    value = block.requant.portable("acc", tuple(f"(int32_t)tiny_load(constants{own} + {4 * apart * i})" for i in range(words)))
    rest = f" + {block.input_bytes * block.rest}" if block.rest else ""
    if block.expanded:
        take = "const int32_t x0 = tiny_low(tiny_load(at)), x2 = tiny_high(tiny_load(at)), x1 = tiny_low(tiny_load(at + 4)), " \
               "x3 = tiny_high(tiny_load(at + 4));"  # fmt: skip
    else:
        take = "const int32_t x0 = at[0], x1 = at[1], x2 = at[2], x3 = at[3];"
    return (
        f"  const uint8_t *weights = w;\n"
        f"  const int8_t *const last = (const int8_t *)x_end{rest};\n"
        f"  do {{\n"
        f"    const uint8_t *const words = weights + {8 * pairs};\n"
        f"    const uint8_t *const constants = words + {8 * pairs // block.input_bytes} * (last - (const int8_t *)x);\n"
        f"    for (uint32_t c = 0; c < {channels}u; ++c) {{\n"
        f"      uint32_t t = tiny_load(weights + 8 * (c / 2)), v = tiny_load(weights + 8 * (c / 2) + 4) - (uint32_t)common;\n"
        f"      const uint8_t *word = words + 8 * (c / 2);\n"
        f"      for (const int8_t *at = x; at != last; at += {block.input_bytes}, word += {8 * pairs}) {{\n"
        f"        {take}\n"
        f"        const uint32_t a = tiny_load(word), b = tiny_load(word + 4);\n"
        f"        t += (uint32_t)(tiny_low(a) * x0 + tiny_high(a) * x2 + tiny_low(b) * x1 + tiny_high(b) * x3);\n"
        f"        v += (uint32_t)((tiny_byte(a) + x1) * (tiny_byte(b) + x0) + (tiny_byte(a >> 16) + x3) * (tiny_byte(b >> 16) + x2));\n"
        f"      }}\n"
        f"      const int32_t acc = c % 2 ? (int32_t)v : (int32_t)(t - v) >> 8;\n"
        f"      y[c] = (int8_t){value};\n"
        f"    }}\n"
        f"    weights = constants + {4 * words * apart};\n    y += {channels};\n"
        f"  }} while ((const void *)weights != end);\n"
    )
