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

_TYPES = """\
#ifndef TINY_GATE
#define TINY_GATE
/* Multiplier and constant of the requantisation and what is added before; zero points; geometry. */
typedef struct {
  uint32_t multiplier, constant;
  int32_t offset, x_zero, gate_zero;
  uint32_t channels, pixels;
} tiny_gate;
#endif
"""


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
    """Description of a block function: `lanes` neighbouring channels of some pixels."""

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
    *callees, whole = _functions(name, requant, channels, core, gate_first=gate_first)
    geometry = np.array([*layer.zero_points[:2], channels, pixels], np.int64)

    def reference(both: np.ndarray) -> np.ndarray:
        x, gate = (both[1], both[0]) if gate_first else (both[0], both[1])
        return layer(x.reshape(pixels, channels), gate.reshape(-1)[:channels])

    return MicroKernel(
        name=whole.name,
        functions=(*callees, whole),
        packed=words(np.concatenate([found.multiplier, found.constant, found.offset, geometry])),
        scratch_bytes=0,
        input_shape=(2, pixels * channels),
        output_shape=(pixels, channels),
        macs=0,
        reference=reference,
        choices={"operand": "gate", "requantise": requant.form.value},
        inputs=2,
    )


def _functions(prefix: str, requant: RequantShape, channels: int, core: Core, *, gate_first: bool) -> list[CFunction]:
    """The blocks, and the function of every layer of the same requantisation: all but the parity of its channels is data."""
    blocks = [GateBlock(lanes, requant, core.dual_issue) for lanes, some in ((2, channels > 1), (1, channels % 2)) if some]
    made = [_gate_function(prefix, block) for block in blocks]
    sources = ("const int8_t *gate", "const int8_t *x") if gate_first else ("const int8_t *x", "const int8_t *gate")
    name = function_name(prefix, "gated", (blocks, gate_first))
    signature = f"void {name}({', '.join(sources)}, int8_t *out, const void *packed, void *scratch)"
    walks = "".join(_walk(function.name, block.lanes) for function, block in zip(made, blocks, strict=True))
    text = (
        f"{_TYPES}{signature};\n{signature} {{\n  const tiny_gate *g = packed;\n  uint32_t lanes[8];\n  uint32_t channel = 0;\n"
        f"  (void)scratch;\n  lanes[4] = g->multiplier;\n  lanes[5] = g->constant;\n  lanes[6] = g->channels;\n  lanes[7] = g->pixels;\n"
        f"{walks}}}\n"
    )
    return [*made, CFunction(name, text)]


def _walk(function: str, lanes: int) -> str:
    """C statements: the numbers of `lanes` channels from the gate, then the block over all pixels, while so many channels are left."""
    return (
        f"  for (; channel + {lanes} <= g->channels; channel += {lanes}) {{\n"
        f"    for (uint32_t i = 0; i < {lanes}; ++i) {{\n"
        f"      const int32_t factor = gate[channel + i] - g->gate_zero;\n"
        f"      lanes[i] = (uint32_t)factor;\n      lanes[2 + i] = (uint32_t)(g->offset - g->x_zero * factor);\n    }}\n"
        f"    {function}(x + channel, out + channel, lanes);\n  }}\n"
    )


def _gate_function(prefix: str, block: GateBlock) -> CFunction:
    """Emit `static void f(const int8_t *x, int8_t *y, const uint32_t *lanes)`.

    `lanes` are two factors, two constants, the requantisation's multiplier and constant, bytes from pixel to pixel, and pixels.
    """
    name = function_name(prefix, "gate", block)
    value = block.requant.portable("acc", ("(int32_t)lanes[4]", "(int32_t)lanes[5]"))
    portable = (
        f"  for (uint32_t p = 0; p < lanes[7]; ++p, x += lanes[6], y += lanes[6]) {{\n"
        f"    for (uint32_t i = 0; i < {block.lanes}u; ++i) {{\n"
        f"      const int32_t acc = x[i] * (int32_t)lanes[i] + (int32_t)lanes[2 + i];\n"
        f"      y[i] = (int8_t){value};\n    }}\n  }}\n"
    )
    return naked_function(name, ("const int8_t *x", "int8_t *y", "const uint32_t *lanes"), _assembly(block), portable)


@lru_cache(maxsize=128)
def _assembly(block: GateBlock) -> tuple[str, ...]:
    """Four pixels an iteration, then one by one; r2 is the distance from pixel to pixel, r10 one more."""
    two = [*_pixels(block, 2), *(f"add r{i}, r{i}, r2, lsl #1" for i in (0, 1))]
    lines = ["push {r4-r11, lr}", "ldr r3, [r2, #28]", "ldm r2, {r4-r9}", "ldr r2, [r2, #24]", "add r10, r2, #1"]
    lines += ["subs r3, r3, #4", "blo 2f", "1:", *two, *two, "subs r3, r3, #4", "bhs 1b", "2:", "adds r3, r3, #4", "beq 4f"]
    lines += ["3:", *_pixels(block, 1), *(f"add r{i}, r{i}, r2" for i in (0, 1)), "subs r3, r3, #1", "bne 3b"]
    return (*lines, "4:", "pop {r4-r11, pc}")


def _pixels(block: GateBlock, count: int) -> tuple[str, ...]:
    """One pixel, or two neighbours."""
    body = Body()
    factors, constants, requant = [body.new(), body.new()], [body.new(), body.new()], [body.new(), body.new()]
    kept = dict(zip((*factors, *constants, *requant), (f"r{i}" for i in range(4, 10)), strict=True))
    for p in range(count):
        y: int | None = None
        for lane in range(block.lanes):
            raw = body.emit(f"ldrsb {{d}}, [r0, {f'r{10 if lane else 2}' if p else f'#{lane}'}]", Kind.LOAD)
            acc = body.emit("mla {d}, {0}, {1}, {2}", Kind.MAC, raw, factors[lane], constants[lane], acc=2)
            value = block.requant.emit(body, acc, requant)
            if p == 0:
                body.store(value, "r1", lane, "b")
                continue
            y = body.alu("add", tail="r1, r2") if y is None else y
            body.store_at(value, y, lane)
    return schedule(body, (*kept.values(), "r11", "r12", "lr"), dual_issue=block.dual_issue, live_in=kept, live_out=set(kept)).lines
