# SPDX-License-Identifier: Apache-2.0
"""Elementwise addition of two int8 tensors of different scales (residual connections), exact in two multiply-accumulates where that is
provable.

The reference rescales both inputs to a common scale with 20 extra bits, adds, and rescales the sum with double rounding. As a function of
the two bytes it has 65536 values. The kernel computes `sat8((a * ma + b * mb + constant) >> shift)`; (ma, mb, constant) are searched near
the real ratio of the scales and accepted only when all 65536 values agree. Where none is found the layer is plain C.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tvm_tiny.ops.requantize_math import multiply_by_quantized_multiplier

from .assembly import Body, Kind
from .c_source import CFunction, function_name, naked_function
from .layer import Core, MicroKernel, words
from .scheduler import schedule

UNROLL = 8
"""Elements of a block."""


@dataclass(frozen=True)
class AddLayer:
    """Integer constants of `tiny.add` (a multiplier, shift and zero point for each input and the output)."""

    zero_points: tuple[int, int, int]
    multipliers: tuple[int, int, int]
    shifts: tuple[int, int, int]
    clamp: tuple[int, int] = (-128, 127)
    left_shift: int = 20
    rounding: str = "gemmlowp"

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Reference result (int64) of broadcastable int8 arrays."""
        total = np.int64(0)
        for x, zero, multiplier, shift in zip((a, b), self.zero_points, self.multipliers, self.shifts, strict=False):
            wide = (np.asarray(x, np.int64) - zero) << self.left_shift
            total = total + multiply_by_quantized_multiplier(wide, multiplier, shift, self.rounding)
        y = multiply_by_quantized_multiplier(total, self.multipliers[2], self.shifts[2], self.rounding)
        return np.clip(y + self.zero_points[2], *self.clamp)

    @property
    def ratios(self) -> tuple[float, float]:
        """Real factor from each input step to output steps."""
        out = self.multipliers[2] * 2.0 ** (self.shifts[2] - 31) * 2.0**self.left_shift
        a, b = (m * 2.0 ** (s - 31) * out for m, s in zip(self.multipliers[:2], self.shifts[:2], strict=True))
        return a, b


@dataclass(frozen=True)
class LinearAdd:
    """`sat8((a * ma + b * mb + constant) >> shift)`."""

    ma: int
    mb: int
    constant: int
    shift: int

    @property
    def fits(self) -> bool:
        """Tell whether no sum leaves int32."""
        return 128 * (abs(self.ma) + abs(self.mb)) + abs(self.constant) < 2**31

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Evaluate as the instructions do."""
        return np.clip((a.astype(np.int64) * self.ma + b.astype(np.int64) * self.mb + self.constant) >> self.shift, -128, 127)


@lru_cache(maxsize=128)
def find_linear(layer: AddLayer) -> LinearAdd | None:
    """Find constants that give the reference's result for all pairs of bytes, or None."""
    a, b = np.arange(-128, 128)[:, None], np.arange(-128, 128)[None, :]
    wanted = layer(a, b)
    low, high = layer.clamp
    if (low, high) != (-128, 127) and (wanted.min() <= low > -128 or wanted.max() >= high < 127):
        return None  # an explicit clamp is at work
    ra, rb = layer.ratios
    za, zb, zy = layer.zero_points
    nominal = zy + 0.5 - za * ra - zb * rb  # the constant, in output steps
    largest = 128 * (ra + rb) + abs(nominal) + 1
    shift = int(np.floor(np.log2(2**31 / max(largest, 1.0)))) - 1
    if not 1 <= shift <= 30:
        return None
    scale = 2.0**shift
    centre = np.array([round(ra * scale), round(rb * scale), round(nominal * scale)])
    at_least = np.where(wanted > -128, wanted << shift, np.int64(-(2**40)))
    below = np.where(wanted < 127, (wanted + 1) << shift, np.int64(2**40))
    for reach in (8, 64, 512):
        found = _search(centre, at_least, below, shift, reach)
        if found is not None and found.fits and (found(a, b) == wanted).all():
            return found
    return None


def _search(centre: np.ndarray, at_least: np.ndarray, below: np.ndarray, shift: int, reach: int) -> LinearAdd | None:
    """Try multipliers within `reach` of the centre against the pairs nearest to a step; the caller proves the rest."""
    grid = np.arange(-128, 128)
    line = grid[:, None] * centre[0] + grid[None, :] * centre[1]
    tight_low = np.argpartition((line - at_least).ravel(), 400)[:400]
    tight_high = np.argpartition((below - line).ravel(), 400)[:400]
    offsets = np.unique(np.round(np.linspace(-reach, reach, 33)).astype(np.int64))
    da, db = (v.ravel()[:, None] for v in np.meshgrid(offsets, offsets, indexing="ij"))

    def value(index: np.ndarray) -> np.ndarray:
        i, j = np.divmod(index, 256)
        return line.ravel()[index] + da * grid[i] + db * grid[j]

    least = (at_least.ravel()[tight_low] - value(tight_low)).max(axis=1)
    most = (below.ravel()[tight_high] - 1 - value(tight_high)).min(axis=1)
    room = most - least
    best = int(np.argmax(room))
    if room[best] < 0:
        return None
    middle = least[best] + room[best] // 2
    if room[best] >= 2**shift:  # nothing may bound it when all saturates
        middle = np.clip(centre[2], least[best], most[best])
    constant = int(middle)
    return LinearAdd(int(centre[0] + da[best, 0]), int(centre[1] + db[best, 0]), constant, shift)


def add(name: str, count: int, layer: AddLayer, core: Core) -> MicroKernel:
    """Generate `void name(const int8_t *a, const int8_t *b, int8_t *out, const void *packed, void *scratch)` for `count` elements.

    `out` may be `a` or `b`. The kernel's `reference` takes one array of shape (2, count).
    """
    linear = find_linear(layer)
    callees: list[CFunction] = []
    if linear is None:
        body, packed = _plain(layer, count), b""
    else:
        block = naked_add(name, count, linear.shift, dual_issue=core.dual_issue)
        callees.append(block)
        body = f"  (void)scratch;\n  {block.name}(a, b, out, packed);\n"
        packed = words(np.array([linear.ma, linear.mb, linear.constant]))
    signature = f"void {name}(const int8_t *a, const int8_t *b, int8_t *out, const void *packed, void *scratch)"
    return MicroKernel(
        name=name,
        functions=(*callees, CFunction(name, f"{signature};\n{signature} {{\n{body}}}\n")),
        packed=packed,
        scratch_bytes=0,
        input_shape=(2, count),
        output_shape=(count,),
        macs=count,
        reference=lambda x: layer(x[0], x[1]).astype(np.int8),
        choices={"operand": "plain C" if linear is None else "linear"},
        inputs=2,
    )


def naked_add(prefix: str, count: int, shift: int, *, dual_issue: bool) -> CFunction:
    """Emit `static void f(const int8_t *a, const int8_t *b, int8_t *out, const void *constants)`."""
    name = function_name(prefix, "add", (count, shift, dual_issue))
    parameters = ("const int8_t *a", "const int8_t *b", "int8_t *out", "const void *constants")
    portable = (
        f"  const uint8_t *c = constants;\n"
        f"  const int32_t ma = (int32_t)tiny_load(c), mb = (int32_t)tiny_load(c + 4), constant = (int32_t)tiny_load(c + 8);\n"
        f"  for (uint32_t i = 0; i < {count}u; ++i)\n"
        f"    out[i] = (int8_t)tiny_clamp((a[i] * ma + b[i] * mb + constant) >> {shift}, -128, 127);\n"
    )
    return naked_function(name, parameters, _assembly(count, shift, dual_issue), portable)


@lru_cache(maxsize=64)
def _assembly(count: int, shift: int, dual_issue: bool) -> tuple[str, ...]:
    lines = ["push {r4-r11, lr}", "ldr r4, [r3, #0]", "ldr r5, [r3, #4]", "ldr r6, [r3, #8]"]
    iterations, rest = divmod(count, UNROLL)
    if iterations:
        lines += [f"movw r3, #{iterations & 0xFFFF}"] + ([f"movt r3, #{iterations >> 16}"] if iterations >> 16 else []) + ["1:"]
        lines += element_instructions(UNROLL, shift, out="r2", dual_issue=dual_issue)
        lines += [f"add r{i}, r{i}, #{UNROLL}" for i in range(3)] + ["subs r3, r3, #1", "bne 1b"]
    return (*lines, *element_instructions(rest, shift, out="r2", dual_issue=dual_issue), "pop {r4-r11, pc}")


def element_instructions(count: int, shift: int, *, out: str, dual_issue: bool) -> tuple[str, ...]:
    """Sums of `count` elements at r0 and r1 to those at `out`; r4 to r6 hold the constants, what follows r6 is free."""
    if count == 0:
        return ()
    body = Body()
    for i in range(count):
        a, b = body.ldr("r0", i, "sb"), body.ldr("r1", i, "sb")
        t = body.emit("mla {d}, {0}, r4, r6", Kind.MAC, a)
        t = body.emit("mla {d}, {0}, r5, {1}", Kind.MAC, b, t, acc=1)
        body.store(body.field_op("ssat", t, head="#8", tail=f"asr #{shift}"), out, i, "b")
    return schedule(body, ("r7", "r8", "r9", "r10", "r11", "r12", "lr"), dual_issue=dual_issue).lines


def _plain(layer: AddLayer, count: int) -> str:
    value = plain_value(layer, "a", "b", "out")
    return f"  (void)packed;\n  (void)scratch;\n  for (int32_t i = 0; i < {count}; ++i) {{\n{value}  }}\n"


def plain_value(layer: AddLayer, a: str, b: str, out: str) -> str:
    """C statements storing the sum of element i of `a` and `b` to `out`."""
    rescale = "tiny_rescale" if layer.rounding == "gemmlowp" else "tiny_rescale_single"
    terms = []
    for x, zero, multiplier, shift in zip((a, b), layer.zero_points, layer.multipliers, layer.shifts, strict=False):
        terms.append(f"{rescale}((int32_t)((uint32_t)({x}[i] - ({zero})) << {layer.left_shift}), {multiplier}, {shift})")
    return (
        f"    const int32_t sum = {terms[0]} + {terms[1]};\n"
        f"    const int32_t value = {rescale}(sum, {layer.multipliers[2]}, {layer.shifts[2]}) + ({layer.zero_points[2]});\n"
        f"    {out}[i] = (int8_t)tiny_clamp(value, {layer.clamp[0]}, {layer.clamp[1]});\n"
    )
