# SPDX-License-Identifier: Apache-2.0
"""The block of a fully connected layer that leaves out inputs at their zero point: eight outputs from a list of the other inputs.

An input at its zero point adds nothing to any sum. After a ReLU that is about half of them, so they are left out: `gather` lists the
others, and the block multiplies only the columns of weights the list names. The time depends on the input.

Columns: weights lie column by column, eight outputs of one input together. Outputs go in pairs as in `dense_block`: a halfword holds
256 * m + l, m a weight of the pair's first output and l one of its second. The list holds two inputs an entry, the distances of their
columns in one word and their values less the zero point in another, x = (x0, x1). For two columns' words A and B of two pairs

    P = (A.low, B.low)                          PKHBT            the first pair, both inputs
    T += P . x                                  SMLAD            256 * first + second
    V += (second weights of P) . x              SXTB16, SMLAD

and the same for the upper halves (PKHTB). The first output's sum is (T - V) / 256, exactly: needs weights of the first output above -128
and sums below 2**23. A list of an odd number
of inputs ends with one of value 0.

Parameters of one block: T's and V's start, pair by pair; requantisation constants (word-major, then output; of one output when all share
them).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .assembly import CORE_REGISTERS, Body, Kind
from .c_source import CFunction, add_immediate, function_name, naked_function
from .requantize import RequantShape
from .scheduler import schedule

OUTPUTS = 8
"""Outputs of a block, and bytes of its part of a column."""
ENTRIES = 8
"""Entries of the list an iteration; the first one starts where the rest of the list fills it."""
_LIST, _PARAMETERS = "r0", "r1"
_STACK_Y, _STACK_WEIGHTS, _STACK_LIST, _STACK_PARAMETERS, _STACK_SKIPPED, _FRAME = 0, 4, 8, 12, 16, 20
_STACK_END, _STACK_LIST_END = _FRAME + 36, _FRAME + 40  # arguments on the stack, above nine saved registers


@dataclass(frozen=True)
class ColumnsBlock:
    """Description of a block function.

    Attributes
    ----------
    outputs : int
        Outputs stored of the block's eight.
    block_bytes : int
        Bytes of the columns of one block.
    values_at : int
        Bytes from the list's distances to its values.
    requant : RequantShape
    uniform : bool
        All outputs share their requantisation constants.
    """

    outputs: int
    block_bytes: int
    values_at: int
    requant: RequantShape
    uniform: bool

    @property
    def pairs(self) -> int:
        """Pairs of outputs."""
        return -(-self.outputs // 2)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of one block's parameters."""
        return 8 * self.pairs + 4 * self.requant.words * (1 if self.uniform else self.outputs)


def columns_function(prefix: str, block: ColumnsBlock) -> CFunction:
    """Emit `static void f(list, weights, int8_t *y, parameters, end, list_end)`, all but y `const void *`.

    Runs blocks until `parameters == end`, each writing `block.outputs` bytes further.
    """
    name = function_name(prefix, "columns", block)
    pointers = ("const void *list", "const void *weights", "int8_t *y", "const void *parameters", "const void *end", "const void *list_end")
    return naked_function(name, pointers, columns_code(block).lines, _portable(block))


# ---------------------------------------------------------------- assembly


@dataclass(frozen=True)
class ColumnsCode:
    """The pieces of a block function: before the blocks, before the list, one entry of the list, the iteration's end, after the list."""

    entered: tuple[str, ...]
    started: tuple[str, ...]
    entries: tuple[tuple[str, ...], ...]
    turned: tuple[str, ...]
    finished: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The whole function."""
        table = ["2:", *(f".hword ({10 + i}f - 2b) / 2" for i in range(ENTRIES))]
        entries = [line for i, entry in enumerate(self.entries) for line in (f"{10 + i}:", *entry)]
        rest = (*self.turned, *self.finished, f"add sp, sp, #{_FRAME}", "pop {r4-r11, pc}")
        return (*self.entered, "1:", *self.started, *table, *entries, *rest)


@lru_cache(maxsize=64)
def columns_code(block: ColumnsBlock) -> ColumnsCode:
    """Generate the assembly of a block."""
    entered = ["push {r4-r11, lr}", f"sub sp, sp, #{_FRAME}", f"str r2, [sp, #{_STACK_Y}]", f"str r1, [sp, #{_STACK_WEIGHTS}]"]
    # the first iteration begins as many entries before the list as it leaves out
    entered += [f"ldr r4, [sp, #{_STACK_LIST_END}]", "sub r4, r0, r4", f"and r4, r4, #{4 * ENTRIES - 4}"]
    entered += [
        "sub r0, r0, r4",
        "lsr r4, r4, #2",
        f"str r0, [sp, #{_STACK_LIST}]",
        f"str r3, [sp, #{_STACK_PARAMETERS}]",
        f"str r4, [sp, #{_STACK_SKIPPED}]",
    ]
    outer = tuple(r for r in CORE_REGISTERS if r not in (_LIST, _PARAMETERS))
    start = Body()
    sums = [start.ldr(_PARAMETERS, 4 * i) for i in range(2 * block.pairs)]
    first = schedule(start, outer, dual_issue=False, live_out=set(sums))
    homes = [first.registers[v] for v in sums]
    entries = tuple(_entry(block, homes, 4 * i) for i in range(ENTRIES))
    turned = (f"ldr r1, [sp, #{_STACK_LIST_END}]", f"add {_LIST}, {_LIST}, #{4 * ENTRIES}", f"cmp {_LIST}, r1", "bne 10b")

    end = Body()
    sums = [end.new() for _ in homes]
    _finish(block, end, sums)
    last = schedule(end, outer, dual_issue=False, live_in=dict(zip(sums, homes, strict=True)), live_out=set())
    finished = [f"ldr {_PARAMETERS}, [sp, #{_STACK_PARAMETERS}]", *last.lines, f"ldr r2, [sp, #{_STACK_Y}]"]
    finished += [
        f"ldr r4, [sp, #{_STACK_WEIGHTS}]",
        f"ldr r5, [sp, #{_STACK_END}]",
        f"ldr {_LIST}, [sp, #{_STACK_LIST}]",
        f"add r2, r2, #{block.outputs}",
    ]
    finished += [*add_immediate("r4", block.block_bytes), f"add {_PARAMETERS}, {_PARAMETERS}, #{block.parameter_bytes}"]
    finished += [f"str r2, [sp, #{_STACK_Y}]", f"str r4, [sp, #{_STACK_WEIGHTS}]", f"str {_PARAMETERS}, [sp, #{_STACK_PARAMETERS}]"]
    finished += [f"cmp {_PARAMETERS}, r5", "bne 1b"]
    started = (*first.lines, f"ldr r1, [sp, #{_STACK_SKIPPED}]", "tbh [pc, r1, lsl #1]")
    return ColumnsCode((*entered, f"mov {_PARAMETERS}, r3"), started, entries, turned, tuple(finished))


def _entry(block: ColumnsBlock, homes: list[str], at: int) -> tuple[str, ...]:
    """Two inputs: no more than five registers live beside the eight sums."""
    body = Body()
    sums = [body.new() for _ in homes]
    live_in = dict(zip(sums, homes, strict=True))
    base, distances = body.ldr("sp", _STACK_WEIGHTS), body.ldr(_LIST, at)
    first = body.field_op("uxtah", base, distances, early=True)
    second = body.field_op("uxtah", base, distances, tail="ror #16", early=True)
    words = [(_word(body, first, 4 * i), _word(body, second, 4 * i)) for i in range(-(-block.pairs // 2))]
    x = None
    for i, (a, b) in enumerate(words):
        low = body.field_op("pkhbt", a, b, tail="lsl #16", early=True)
        high = body.field_op("pkhtb", b, a, tail="asr #16", early=True) if 2 * i + 1 < block.pairs else None
        x = body.ldr(_LIST, block.values_at + at) if x is None else x
        for p, raw in ((2 * i, low), (2 * i + 1, high)):
            if raw is not None:
                sums[2 * p] = body.mac("smlad", raw, x, sums[2 * p])
                sums[2 * p + 1] = body.mac("smlad", body.sxtb16(raw), x, sums[2 * p + 1])
    pool = tuple(r for r in CORE_REGISTERS if r != _LIST)
    return schedule(body, pool, dual_issue=False, live_in=live_in, live_out=set(sums)).lines


def _word(body: Body, pointer: int, at: int) -> int:
    return body.emit(f"ldr {{d}}, [{{0}}, #{at}]", Kind.LOAD, pointer, early=(0,), imm=at)


def _finish(block: ColumnsBlock, body: Body, sums: list[int]) -> None:
    """Requantise and store the outputs."""
    at = 8 * block.pairs
    shared = block.requant.constants(body, _PARAMETERS, at, 4) if block.uniform else None
    y = body.ldr("sp", _STACK_Y)
    for c in range(block.outputs):
        constants = shared or block.requant.constants(body, _PARAMETERS, at + 4 * c, 4 * block.outputs)
        t, v = sums[c // 2 * 2 : c // 2 * 2 + 2]
        acc = v if c % 2 else body.alu("asr", body.alu("sub", t, v), tail="#8")
        body.store_at(block.requant.emit(body, acc, constants), y, c, "b")


def _portable(block: ColumnsBlock) -> str:
    words = block.requant.words
    apart, own = (1, "") if block.uniform else (block.outputs, " + 4 * c")
    value = block.requant.portable("acc", tuple(f"(int32_t)tiny_load(constants{own} + {4 * apart * i})" for i in range(words)))
    return (
        f"  const uint8_t *column = weights, *start = parameters;\n"
        f"  do {{\n"
        f"    const uint8_t *const constants = start + {8 * block.pairs};\n"
        f"    for (uint32_t c = 0; c < {block.outputs}u; ++c) {{\n"
        f"      uint32_t t = tiny_load(start + 8 * (c / 2)), v = tiny_load(start + 8 * (c / 2) + 4);\n"
        f"      for (const uint8_t *at = list; at != list_end; at += 4) {{\n"
        f"        const uint32_t distances = tiny_load(at), x = tiny_load(at + {block.values_at});\n"
        f"        const uint8_t *const a = column + (distances & 0xffffu) + 2 * (c / 2);\n"
        f"        const uint8_t *const b = column + (distances >> 16) + 2 * (c / 2);\n"
        f"        const uint32_t raw = (uint32_t)a[0] | (uint32_t)a[1] << 8 | (uint32_t)b[0] << 16 | (uint32_t)b[1] << 24;\n"
        f"        t = tiny_smlad(raw, x, t);\n"
        f"        v = tiny_smlad(tiny_sxtb16(raw), x, v);\n"
        f"      }}\n"
        f"      const int32_t acc = c % 2 ? (int32_t)v : (int32_t)(t - v) >> 8;\n"
        f"      y[c] = (int8_t){value};\n"
        f"    }}\n"
        f"    column += {block.block_bytes};\n    start = constants + {4 * words * apart};\n    y += {block.outputs};\n"
        f"  }} while ((const void *)start != end);\n"
    )


# ---------------------------------------------------------------- the list


@dataclass(frozen=True)
class Gather:
    """Description of the function that lists the inputs: how many, their zero point, and the list's form (`ColumnsBlock`)."""

    inputs: int
    zero_point: int
    values_at: int


def gather_function(prefix: str, gather: Gather) -> CFunction:
    """Emit `static const uint8_t *f(const int8_t *x, const int8_t *end, uint8_t *list)`: the end of the list, at least one entry."""
    name, at = function_name(prefix, "gather", gather), gather.values_at
    portable = (
        f"  uint32_t count = 0;\n"
        f"  for (uint32_t distance = 0; x != end; ++x, distance += {OUTPUTS}) {{\n"
        f"    const uint32_t value = (uint32_t)(*x - ({gather.zero_point}));\n"
        f"    list[2 * count] = (uint8_t)distance;\n    list[2 * count + 1] = (uint8_t)(distance >> 8);\n"
        f"    list[2 * count + {at}] = (uint8_t)value;\n    list[2 * count + {at + 1}] = (uint8_t)(value >> 8);\n"
        f"    count += value != 0;\n"
        f"  }}\n"
        f"  for (; count == 0 || count % 2 != 0; ++count) {{\n"
        f"    memset(list + 2 * count, 0, 2);\n    memset(list + 2 * count + {at}, 0, 2);\n"
        f"  }}\n"
        f"  return list + 2 * count;\n"
    )
    parameters = ("const int8_t *x", "const int8_t *end", "uint8_t *list")
    return naked_function(name, parameters, _gather_assembly(gather), portable, "const uint8_t *")


def _gather_assembly(gather: Gather) -> tuple[str, ...]:
    # an odd one, or none at all, is followed by values of zero
    zero = ("strh r4, [r2]", f"strh r4, [r2, #{gather.values_at}]", "add r2, r2, #2")
    end = ("mov r4, #0", "sub r3, r2, r12", "cmp r3, #0", "bne 2f", *zero, "b 3f", "2: tst r3, #2", "beq 4f", "3:", *zero)
    return ("push {r4-r8, lr}", "mov r12, r2", "mov r3, #0", "1:", *gather_loop(gather)[0], *end, "4: mov r0, r2", "pop {r4-r8, pc}")


def gather_loop(gather: Gather) -> tuple[tuple[str, ...], int]:
    """One iteration over the inputs, and how many there are."""
    values = ("r4", "r5", "r6", "r7") if gather.inputs % 4 == 0 else ("r4",)
    lines = [f"ldrsb {r}, [r0, #{i}]" for i, r in enumerate(values)]
    for r in values:
        lines += [f"{'add' if gather.zero_point < 0 else 'sub'} {r}, {r}, #{abs(gather.zero_point)}"] if gather.zero_point else []
        lines += ["strh r3, [r2]", f"strh {r}, [r2, #{gather.values_at}]", f"add r3, r3, #{OUTPUTS}"]
        lines += [f"cmp {r}, #0", "it ne", "addne r2, r2, #2"]
    return (*lines, f"add r0, r0, #{len(values)}", "cmp r0, r1", "bne 1b"), gather.inputs // len(values)
