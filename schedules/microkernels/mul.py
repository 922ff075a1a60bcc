# SPDX-License-Identifier: Apache-2.0
"""Product of an int8 tensor with one int8 factor a channel (squeeze-and-excitation gates), exact in two multiply-accumulates an element.

With zx, zg the zero points, (x - zx) * (g - zg) + offset is x * factor + constant, two numbers a channel that are computed when the gate is
known; the second multiplication is the layer's requantisation. Channels are walked in pairs over all pixels, so the output may take the
input's place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..requantize_forms import Form, Requantization, find_form
from .assembly import Body, Kind
from .c_source import CFunction, function_name, naked_function
from .layer import Core, MicroKernel, words
from .requantize import RequantShape
from .scheduler import schedule

_UNROLL = 4


@dataclass(frozen=True)
class MulLayer:
    """Integer constants of `tiny.mul`; zero points of the tensor, the gate and the output."""

    zero_points: tuple[int, int, int]
    multiplier: int
    shift: int
    clamp: tuple[int, int] = (-128, 127)
    rounding: str = "gemmlowp"

    @property
    def requantization(self) -> Requantization:
        """The requantisation problem of one channel: every product of two bytes."""
        x, g = (np.array([-128 - zero, 127 - zero], np.int64) for zero in self.zero_points[:2])
        products = np.outer(x, g)
        ends = (np.array([v]) for v in (self.multiplier, self.shift, products.min(), products.max()))
        multiplier, shift, low, high = ends
        return Requantization(multiplier, shift, self.zero_points[2], self.clamp, low, high, self.rounding)

    def __call__(self, x: np.ndarray, gate: np.ndarray) -> np.ndarray:
        """Reference result of a tensor (pixels, channels) and a gate (channels,)."""
        zx, zg, _ = self.zero_points
        product = (x.astype(np.int64) - zx) * (gate.astype(np.int64) - zg)
        return self.requantization(product.reshape(1, -1)).reshape(x.shape).astype(np.int8)


@dataclass(frozen=True)
class GateBlock:
    """Description of a block function: `lanes` neighbouring channels of `pixels` pixels that lie `channels` bytes apart."""

    pixels: int
    channels: int
    lanes: int
    requant: RequantShape
    dual_issue: bool


def gate_mul(name: str, pixels: int, channels: int, layer: MulLayer, core: Core, *, gate_first: bool = False) -> MicroKernel | None:
    """Generate `void name(const int8_t *x, const int8_t *gate, int8_t *out, const void *packed, void *scratch)`, or None if not exact.

    `gate_first` exchanges the first two arguments. `out` may be `x`. The kernel's `reference` takes one array (2, pixels * channels) in
    the order of the arguments; of the gate's row the first `channels` values count.
    """
    found = find_form(layer.requantization, 0)
    if found.form is Form.ACCUMULATOR:
        return None
    requant = RequantShape.of(found)
    callees: list[CFunction] = []
    body = ""
    for lanes, count in ((2, channels // 2 * 2), (1, channels % 2)):
        if count:
            callees.append(_gate_function(name, GateBlock(pixels, channels, lanes, requant, core.dual_issue)))
            body += _walk(callees[-1].name, lanes, count, layer)
    sources = ("const int8_t *gate", "const int8_t *x") if gate_first else ("const int8_t *x", "const int8_t *gate")
    signature = f"void {name}({', '.join(sources)}, int8_t *out, const void *packed, void *scratch)"
    text = f"{signature};\n{signature} {{\n  uint32_t lanes[6];\n  int32_t channel = 0;\n  (void)scratch;\n{_constants()}{body}}}\n"

    def reference(both: np.ndarray) -> np.ndarray:
        x, gate = (both[1], both[0]) if gate_first else (both[0], both[1])
        return layer(x.reshape(pixels, channels), gate.reshape(-1)[:channels])

    return MicroKernel(
        name=name,
        functions=(*callees, CFunction(name, text)),
        packed=words(np.concatenate([found.multiplier, found.constant, found.offset])),
        scratch_bytes=0,
        input_shape=(2, pixels * channels),
        output_shape=(pixels, channels),
        macs=0,
        reference=reference,
        choices={"operand": "gate", "requantise": requant.form.value},
        inputs=2,
    )


def _constants() -> str:
    return (
        "  const uint8_t *constants = packed;\n  const int32_t offset = (int32_t)tiny_load(constants + 8);\n"
        "  lanes[4] = tiny_load(constants);\n  lanes[5] = tiny_load(constants + 4);\n"
    )


def _walk(function: str, lanes: int, count: int, layer: MulLayer) -> str:
    """C statements: the numbers of `lanes` channels from the gate, then the block over all pixels; `count` channels of them."""
    zx, zg, _ = layer.zero_points
    return (
        f"  for (const int32_t end = channel + {count}; channel != end; channel += {lanes}) {{\n"
        f"    for (int32_t i = 0; i < {lanes}; ++i) {{\n"
        f"      const int32_t factor = gate[channel + i] - ({zg});\n"
        f"      lanes[i] = (uint32_t)factor;\n      lanes[2 + i] = (uint32_t)(offset - ({zx}) * factor);\n    }}\n"
        f"    {function}(x + channel, out + channel, lanes);\n  }}\n"
    )


def _gate_function(prefix: str, block: GateBlock) -> CFunction:
    """Emit `static void f(const int8_t *x, int8_t *y, const uint32_t *lanes)`; lanes: two factors, two constants, multiplier, constant."""
    name = function_name(prefix, "gate", block)
    value = block.requant.portable("acc", ("(int32_t)lanes[4]", "(int32_t)lanes[5]"))
    portable = (
        f"  for (uint32_t p = 0; p < {block.pixels}u; ++p, x += {block.channels}, y += {block.channels}) {{\n"
        f"    for (uint32_t i = 0; i < {block.lanes}u; ++i) {{\n"
        f"      const int32_t acc = x[i] * (int32_t)lanes[i] + (int32_t)lanes[2 + i];\n"
        f"      y[i] = (int8_t){value};\n    }}\n  }}\n"
    )
    return naked_function(name, ("const int8_t *x", "int8_t *y", "const uint32_t *lanes"), _assembly(block), portable)


@lru_cache(maxsize=128)
def _assembly(block: GateBlock) -> tuple[str, ...]:
    unroll = max(1, min(_UNROLL, 4095 // block.channels))
    iterations, rest = divmod(block.pixels, unroll)
    lines = ["push {r4-r11, lr}", "ldm r2, {r4-r9}"]
    if iterations > 1:
        lines += [f"movw r3, #{iterations & 0xFFFF}"] + ([f"movt r3, #{iterations >> 16}"] if iterations >> 16 else [])
    if iterations:
        lines += [*(["1:"] if iterations > 1 else []), *_pixels(block, unroll)]
        lines += _advance(block, unroll) if iterations > 1 or rest else []
        lines += ["subs r3, r3, #1", "bne 1b"] if iterations > 1 else []
    return (*lines, *_pixels(block, rest), "pop {r4-r11, pc}")


def _advance(block: GateBlock, pixels: int) -> list[str]:
    step = pixels * block.channels
    if step <= 4095:
        return [f"add r{i}, r{i}, #{step}" for i in (0, 1)]
    return [f"movw r2, #{step & 0xFFFF}", f"movt r2, #{step >> 16}", "add r0, r0, r2", "add r1, r1, r2"]


def _pixels(block: GateBlock, count: int) -> tuple[str, ...]:
    if count == 0:
        return ()
    body = Body()
    factors, constants, requant = [body.new(), body.new()], [body.new(), body.new()], [body.new(), body.new()]
    kept = dict(zip((*factors, *constants, *requant), (f"r{i}" for i in range(4, 10)), strict=True))
    for p in range(count):
        for lane in range(block.lanes):
            at = p * block.channels + lane
            acc = body.emit("mla {d}, {0}, {1}, {2}", Kind.MAC, body.ldr("r0", at, "sb"), factors[lane], constants[lane], acc=2)
            body.store(block.requant.emit(body, acc, requant), "r1", at, "b")
    pool = (*kept.values(), "r2", "r10", "r11", "r12", "lr")
    return schedule(body, pool, dual_issue=block.dual_issue, live_in=kept, live_out=set(kept)).lines
