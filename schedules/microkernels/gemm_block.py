# SPDX-License-Identifier: Apache-2.0
"""The GEMM block: `channels` x `pixels` int8 outputs from expanded activations and a stream of weights.

Operand forms of four consecutive weights along k (w0..w3) and activations (b0..b3), one *group*:

- ``r8``: the weight word holds the halfwords 256*w0+w1 and 256*w2+w3; activations are expanded to the words U = (b0-127, b2-127) and
  X = (256*b1+127-b0, 256*b3+127-b2). SMLAD(word, U) + SMLAD(SXTB16(word), X) = 256*(w0*(b0-127) + w1*b1 + w2*(b2-127) + w3*b3):
  the cross terms cancel, so one SXTB16 serves four weights. Needs weights >= -127 and accumulators below 2**23.
- ``w8``: plain int8 weights, activations expanded to (b0, b2) and (b1, b3): two SXTB16 for four weights, no precondition.
- ``w16``: int16 weights as two words (w0, w2), (w1, w3), activations as in w8 or int16 to begin with.

Scratch: group-major, then pixel, then the two words; or, where windows of neighbouring pixels share their columns, a pixel's groups one
after the other and the next pixel's `pixel_bytes` on, within them. Parameter stream of one channel block: biases, weights (group-major,
then channel), requantisation constants (word-major, then channel).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..requantize_forms import Form
from .assembly import CORE_REGISTERS, Body
from .c_source import CFunction, add_immediate, function_name, naked_function
from .requantize import RequantShape
from .scheduler import schedule

_X, _W, _Y = "r0", "r1", "r2"
_STACK_Y, _STACK_END, _STACK_X_END = 0, 4, 8
_STACK_STRIDE = 48  # the fifth argument, above twelve bytes of frame and nine saved registers


@dataclass(frozen=True)
class GemmBlock:
    """Description of a block function.

    Attributes
    ----------
    channels, pixels : int
        Outputs computed together.
    groups : int
        k / 4, k padded to a multiple of four.
    operand : str
        "r8", "w8" or "w16".
    requant : RequantShape
    pixel_stride : int or None
        Bytes from one pixel's output to the next pixel's (NHWC: the layer's channels), or None to take it as an argument: a few
        instructions a block, and layers of different widths share the function.
    unroll : int
        Groups per iteration; all of them when `groups <= unroll`.
    dual_issue : bool
        Order for the Cortex-M7; else for M4 and M33.
    order : str
        "channels": consecutive channel blocks over one group of pixels; "pixels": consecutive pixel groups under one channel block.
    repeat : int
        Channel blocks of one straight body (order "channels", `groups <= unroll`): the requantisation of one overlaps the sums of the next.
        Their number must divide the blocks of every call.
    channel_stride : int
        Bytes from one channel's output to the next channel's: 1, or the pixels of a plane where the output lies in planes (NCHW).
    pixel_bytes : int or None
        Bytes from a pixel's expanded activations to the next pixel's; None where the pixels of a group alternate.
    """

    channels: int
    pixels: int
    groups: int
    operand: str
    requant: RequantShape
    pixel_stride: int | None
    unroll: int = 16
    dual_issue: bool = True
    order: str = "channels"
    repeat: int = 1
    channel_stride: int = 1
    pixel_bytes: int | None = None

    @property
    def weight_words(self) -> int:
        """Weight words of one group and channel."""
        return 2 if self.operand == "w16" else 1

    @property
    def stream_bytes(self) -> int:
        """Bytes of one channel block in the parameter stream."""
        return 4 * self.channels * (1 + self.groups * self.weight_words + self.requant.words)

    @property
    def scratch_bytes(self) -> int:
        """Bytes from one pixel group's expanded activations to the next group's."""
        return 8 * self.pixels * self.groups if self.pixel_bytes is None else self.pixels * self.pixel_bytes

    @property
    def group_step(self) -> int:
        """Bytes from one group of a pixel to its next."""
        return 8 * self.pixels if self.pixel_bytes is None else 8

    def activation_at(self, group: int, pixel: int) -> int:
        """Offset of a pixel's first word of a group."""
        return self.group_step * group + (8 if self.pixel_bytes is None else self.pixel_bytes) * pixel

    @property
    def farthest(self) -> int:
        """The largest offset of a load."""
        return self.activation_at(min(self.groups, self.unroll) - 1, self.pixels - 1) + 4

    @property
    def output_step(self) -> int:
        """Bytes from one block's output to the next block's."""
        if self.requant.form is Form.ACCUMULATOR:
            return 4 * self.channels * self.pixels
        return self.channels * self.channel_stride if self.order == "channels" else self.pixels * (self.pixel_stride or 0)


def gemm_function(prefix: str, block: GemmBlock) -> CFunction:
    """Emit `static void f(const void *x, const void *w, int8_t *y, const void *end, uint32_t stride)`.

    `x` is the expanded scratch, `w` the parameter stream, `y` the first output. order "channels": runs channel blocks until `w == end`,
    each writing `channels` bytes further; order "pixels": runs pixel groups until `x == end`, all with the block at `w`. With
    Form.ACCUMULATOR `y` receives int32 sums in tiles of pixels x channels.
    """
    name = function_name(prefix, "gemm", block)
    parameters = ("const void *x", "const void *w", "int8_t *y", "const void *end", "uint32_t stride")
    return naked_function(name, parameters, _assembly(block), _portable(block))


# ---------------------------------------------------------------- assembly


@lru_cache(maxsize=512)
def _assembly(block: GemmBlock) -> tuple[str, ...]:
    resident_y = block.channels * block.pixels <= 6
    pool = tuple(r for r in CORE_REGISTERS if r not in ((_X, _W, _Y) if resident_y else (_X, _W)))
    lines = ["push {r4-r11, lr}", "sub sp, sp, #12", f"str {_Y}, [sp, #{_STACK_Y}]", f"str r3, [sp, #{_STACK_END}]"]
    looped = block.groups > block.unroll
    if looped:
        whole = block.groups // block.unroll * block.unroll
        lines += [f"mov r3, {_X}", *add_immediate("r3", block.group_step * whole, "r12"), f"str r3, [sp, #{_STACK_X_END}]"]
    lines.append("1:")
    lines += _looped_block(block, pool, resident_y) if looped else _straight_block(block, pool, resident_y)
    lines += _block_end(block, looped)
    return (*lines, "add sp, sp, #12", "pop {r4-r11, pc}")


def _straight_block(block: GemmBlock, pool: tuple[str, ...], resident_y: bool) -> list[str]:
    body = Body()
    live: set[int] = set()
    for n in range(block.repeat):
        at = n * block.stream_bytes
        sums = _Accumulators(block, body)
        sums.load_bias(at)
        sums.groups(block.groups, weights_at=at + 4 * block.channels)
        constants = at + 4 * block.channels * (1 + block.groups * block.weight_words)
        live = _finish(block, body, sums, constants, resident_y, n * block.output_step)
    found = schedule(body, pool, dual_issue=block.dual_issue, live_out=live)
    return [*found.lines, *_advance_y(block, found.registers, live)]


def _looped_block(block: GemmBlock, pool: tuple[str, ...], resident_y: bool) -> list[str]:
    iterations, rest = divmod(block.groups, block.unroll)
    step_w = 4 * block.channels * block.weight_words * block.unroll
    start = Body()
    sums = _Accumulators(block, start)
    sums.load_separately(0)
    entry = schedule(start, pool, dual_issue=block.dual_issue, live_out=set(sums.values()))
    homes = [entry.registers[v] for v in sums.values()]
    lines = [*entry.lines, *add_immediate(_W, 4 * block.channels), "2:"]

    loop = Body()
    sums = _Accumulators(block, loop)
    live_in = sums.enter(homes)
    sums.groups(block.unroll, weights_at=0)
    limit = loop.ldr("sp", _STACK_X_END)
    found = schedule(loop, pool, dual_issue=block.dual_issue, live_in=live_in, live_out={*sums.values(), limit})
    lines += [*found.lines, *add_immediate(_X, block.group_step * block.unroll), *add_immediate(_W, step_w)]
    lines += [f"cmp {_X}, {found.registers[limit]}", "bne 2b"]

    end = Body()
    sums = _Accumulators(block, end)
    live_in = sums.enter(homes)
    sums.groups(rest, weights_at=0)
    live = _finish(block, end, sums, 4 * block.channels * block.weight_words * rest, resident_y)
    found = schedule(end, pool, dual_issue=block.dual_issue, live_in=live_in, live_out=live)
    done = block.unroll * iterations
    lines += [*found.lines, *_advance_y(block, found.registers, live)]
    # back to the first group, and the weights to the block's start, so that both kinds of block end alike
    return [*lines, *add_immediate(_X, -block.group_step * done), *add_immediate(_W, -4 * block.channels - step_w * iterations)]


class _Accumulators:
    """The block's sums and the MACs that feed them."""

    def __init__(self, block: GemmBlock, body: Body) -> None:
        self.block, self.body = block, body
        self.bias: list[int] = []
        self.sum: dict[tuple[int, int], int] = {}

    def values(self) -> list[int]:
        return [self.sum[c, p] for c in range(self.block.channels) for p in range(self.block.pixels)]

    def load_bias(self, at: int) -> None:
        """One register a channel: the bias is the accumulate operand of each pixel's first MAC."""
        self.bias = [self.body.ldr(_W, at + 4 * c) for c in range(self.block.channels)]

    def load_separately(self, at: int) -> None:
        for c in range(self.block.channels):
            for p in range(self.block.pixels):
                self.sum[c, p] = self.body.ldr(_W, at + 4 * c)

    def enter(self, homes: list[str]) -> dict[int, str]:
        """Take the sums over in the registers another body left them in."""
        for c in range(self.block.channels):
            for p in range(self.block.pixels):
                self.sum[c, p] = self.body.new()
        return dict(zip(self.values(), homes, strict=True))

    def _mac(self, c: int, p: int, weights: int, activations: int) -> None:
        fresh = (c, p) not in self.sum
        acc = self.bias[c] if fresh else self.sum[c, p]
        self.sum[c, p] = self.body.mac("smlad", weights, activations, acc, keep=not fresh)

    def groups(self, count: int, weights_at: int) -> None:
        """Append the MACs of `count` groups, weights from `weights_at` on."""
        block = self.block
        for g in range(count):
            at = weights_at + 4 * block.channels * block.weight_words * g
            if block.pixels == 1:
                self._channel_major(g, at)
            else:
                self._pixel_major(g, at)

    def _pixel_major(self, group: int, at: int) -> None:
        """Weights of all channels in registers, activations pass by."""
        block, body = self.block, self.body
        word = [body.ldr(_W, at + 4 * block.weight_words * c) for c in range(block.channels)]
        first = word if block.operand != "w8" else [body.sxtb16(w) for w in word]
        self._half(group, 0, first)
        self._half(group, 1, [self._second(w, at, c) for c, w in enumerate(word)])

    def _channel_major(self, group: int, at: int) -> None:
        """Activations of the pixel in registers, weights pass by."""
        block, body = self.block, self.body
        activations = [body.ldr(_X, 8 * group + 4 * half) for half in (0, 1)]
        for c in range(block.channels):
            word = body.ldr(_W, at + 4 * block.weight_words * c)
            self._mac(c, 0, word if block.operand != "w8" else body.sxtb16(word), activations[0])
            self._mac(c, 0, self._second(word, at, c), activations[1])

    def _second(self, word: int, at: int, c: int) -> int:
        """Weights of the second half of a group."""
        if self.block.operand == "w16":
            return self.body.ldr(_W, at + 8 * c + 4)
        if self.block.operand == "w8" and self.block.dual_issue:
            word = self.body.ldr(_W, at + 4 * c)  # a load is free beside a MAC, the register the word would hold is not
        return self.body.sxtb16(word, 8 if self.block.operand == "w8" else 0)

    def _half(self, group: int, half: int, weights: list[int]) -> None:
        for p in range(self.block.pixels):
            activations = self.body.ldr(_X, self.block.activation_at(group, p) + 4 * half)
            for c in range(self.block.channels):
                self._mac(c, p, weights[c], activations)


def _finish(block: GemmBlock, body: Body, sums: _Accumulators, constants_at: int, resident_y: bool, y_at: int = 0) -> set[int]:
    """Requantise and store; return the live-out values (y when it lives on the stack)."""
    outputs = _Outputs(block, body, resident_y, y_at)
    for c in range(block.channels):
        constants = block.requant.constants(body, _W, constants_at + 4 * c, 4 * block.channels)
        for p in range(block.pixels):
            acc = sums.sum[c, p]
            if block.requant.form is Form.ACCUMULATOR:
                outputs.store(acc, 0, 4 * (p * block.channels + c), "")
            else:
                outputs.store(block.requant.emit(body, acc, constants), p, c * block.channel_stride, "b")
    return outputs.live


class _Outputs:
    """Addresses of a block's outputs: y in its register or on the stack, further pixels a stride on."""

    def __init__(self, block: GemmBlock, body: Body, resident: bool, offset: int) -> None:
        self.block, self.body, self.resident, self.offset = block, body, resident, offset
        self.y: int | None = None
        self.pixel: dict[int, int] = {}

    @property
    def live(self) -> set[int]:
        """The loaded y, wanted after the body when it lives on the stack."""
        return set() if self.y is None else {self.y}

    def store(self, value: int, pixel: int, offset: int, width: str) -> None:
        fixed = self.block.pixel_stride
        at = self.offset + offset + (0 if fixed is None else pixel * fixed)
        if pixel == 0 or fixed is not None:
            if self.resident:
                self.body.store(value, _Y, at, width)
            else:
                self.body.store_at(value, self._base(), at, width)
            return
        self.body.store_at(value, self._pixel(pixel), at, width)

    def _base(self) -> int:
        if self.y is None:
            self.y = self.body.ldr("sp", _STACK_Y)
        return self.y

    def _pixel(self, pixel: int) -> int:
        """y plus `pixel` strides, computed where first needed."""
        if pixel not in self.pixel:
            step = self.body.ldr("sp", _STACK_STRIDE)  # each time anew: held, it would cost a register
            if pixel == 1 and self.resident:
                self.pixel[pixel] = self.body.alu("add", step, tail=_Y)
            else:
                self.pixel[pixel] = self.body.alu("add", step, self._pixel(pixel - 1) if pixel > 1 else self._base())
        return self.pixel[pixel]


def _advance_y(block: GemmBlock, registers: dict[int, str], live: set[int]) -> list[str]:
    y = registers[next(iter(live))] if live else _Y
    free, other = [r for r in ("r12", "r3", "r4") if r != y][:2]
    if block.order == "pixels" and block.pixel_stride is None and block.requant.form is not Form.ACCUMULATOR:
        lines = [f"ldr {free}, [sp, #{_STACK_STRIDE}]", f"mov {other}, #{block.pixels}", f"mla {y}, {free}, {other}, {y}"]
    else:
        lines = add_immediate(y, block.repeat * block.output_step, free)
    return [*lines, f"str {y}, [sp, #{_STACK_Y}]"] if live else lines


def _block_end(block: GemmBlock, looped: bool) -> list[str]:
    """Step to the next block and test for the end; every register but the pointers is free here."""
    pointer, step = (_W, block.stream_bytes) if block.order == "channels" else (_X, block.scratch_bytes)
    step *= block.repeat
    lines = []
    if looped and block.order == "pixels":  # the next group's columns end further on
        lines = [f"ldr r3, [sp, #{_STACK_X_END}]", *add_immediate("r3", step, "r12"), f"str r3, [sp, #{_STACK_X_END}]"]
    return [*lines, f"ldr r3, [sp, #{_STACK_END}]", *add_immediate(pointer, step, "r12"), f"cmp {pointer}, r3", "bne 1b"]


# ---------------------------------------------------------------- portable C


def _portable(block: GemmBlock) -> str:
    c, p, g, ww = block.channels, block.pixels, block.groups, block.weight_words
    step_w, step_x = (block.stream_bytes, 0) if block.order == "channels" else (0, block.scratch_bytes)
    moving = "weights" if block.order == "channels" else "columns"
    step_y = str(block.output_step)
    if block.order == "pixels" and block.pixel_stride is None and block.requant.form is not Form.ACCUMULATOR:
        step_y = f"{p} * stride"
    return (
        f"  (void)stride;\n"
        f"  const uint8_t *weights = w, *columns = x;\n"
        f"  do {{\n"
        f"    for (uint32_t c = 0; c < {c}u; ++c) {{\n"
        f"      const uint8_t *constants = weights + {4 * c * (1 + g * ww)} + 4 * c;\n"
        f"      for (uint32_t p = 0; p < {p}u; ++p) {{\n"
        f"        uint32_t sum = tiny_load(weights + 4 * c);\n"
        f"        for (uint32_t g = 0; g < {g}u; ++g) {{\n"
        f"          const uint8_t *pair = columns + g * {block.group_step}u + p * {block.pixel_bytes or 8}u;\n"
        f"          const uint8_t *word = weights + {4 * c} + {4 * ww} * (g * {c}u + c);\n"
        f"{_portable_group(block)}"
        f"        }}\n"
        f"        const int32_t acc = (int32_t)sum;\n"
        f"{_portable_store(block)}"
        f"      }}\n"
        f"    }}\n"
        f"    weights += {step_w};\n    columns += {step_x};\n    y += {step_y};\n"
        f"  }} while ((const void *){moving} != end);\n"
    )


def _portable_group(block: GemmBlock) -> str:
    first, second = {
        "r8": ("tiny_load(word)", "tiny_sxtb16(tiny_load(word))"),
        "w8": ("tiny_sxtb16(tiny_load(word))", "tiny_sxtb16(tiny_load(word) >> 8)"),
        "w16": ("tiny_load(word)", "tiny_load(word + 4)"),
    }[block.operand]
    return f"          sum = tiny_smlad({first}, tiny_load(pair), sum);\n          sum = tiny_smlad({second}, tiny_load(pair + 4), sum);\n"


def _portable_store(block: GemmBlock) -> str:
    if block.requant.form is Form.ACCUMULATOR:
        return f"        (void)constants;\n        tiny_store(y + 4 * (p * {block.channels}u + c), (uint32_t)acc);\n"
    constants = tuple(f"(int32_t)tiny_load(constants + {4 * block.channels * i})" for i in range(block.requant.words))
    stride = "stride" if block.pixel_stride is None else f"{block.pixel_stride}u"
    return f"        y[p * {stride} + c * {block.channel_stride}u] = (int8_t){block.requant.portable('acc', constants)};\n"
