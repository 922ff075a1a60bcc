# SPDX-License-Identifier: Apache-2.0
"""Any function of one byte as its table of 256 values: a load, a load through the value, a store for each element."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from .assembly import Body, Kind
from .c_source import CFunction, function_name, naked_function
from .layer import MicroKernel
from .scheduler import schedule

_UNROLL = 8


def table_map(name: str, shape: tuple[int, ...], table: np.ndarray) -> MicroKernel:
    """Generate `void name(const int8_t *x, int8_t *out, const void *packed, void *scratch)` for `shape` elements.

    Parameters
    ----------
    table : numpy.ndarray of int8, shape (256,)
        The result of -128, -127, … 127. `out` may be `x`.
    """
    count = math.prod(shape)
    block = _block(name, count)
    signature = f"void {name}(const int8_t *x, int8_t *out, const void *packed, void *scratch)"
    body = f"  (void)scratch;\n  {block.name}(x, out, (const int8_t *)packed + 128);\n"
    return MicroKernel(
        name=name,
        functions=(block, CFunction(name, f"{signature};\n{signature} {{\n{body}}}\n")),
        packed=table.astype(np.int8).tobytes(),
        scratch_bytes=0,
        input_shape=shape,
        output_shape=shape,
        macs=0,
        reference=lambda x: table[x.astype(np.int64) + 128],
        choices={"operand": "table", "unroll": _UNROLL},
    )


def _block(prefix: str, count: int) -> CFunction:
    """Emit `static void f(const int8_t *x, int8_t *out, const int8_t *middle)`; `middle` points at the value of 0."""
    name = function_name(prefix, "table", count)
    portable = f"  for (uint32_t i = 0; i < {count}u; ++i) out[i] = middle[x[i]];\n"
    return naked_function(name, ("const int8_t *x", "int8_t *out", "const int8_t *middle"), _assembly(count), portable)


@lru_cache(maxsize=64)
def _assembly(count: int) -> tuple[str, ...]:
    lines = ["push {r4-r11, lr}"]
    iterations, rest = divmod(count, _UNROLL)
    if iterations:
        lines += [f"movw r3, #{iterations & 0xFFFF}"] + ([f"movt r3, #{iterations >> 16}"] if iterations >> 16 else []) + ["1:"]
        lines += [*_elements(_UNROLL), f"add r0, r0, #{_UNROLL}", f"add r1, r1, #{_UNROLL}", "subs r3, r3, #1", "bne 1b"]
    return (*lines, *_elements(rest), "pop {r4-r11, pc}")


def _elements(count: int) -> tuple[str, ...]:
    if count == 0:
        return ()
    body = Body()
    for i in range(count):
        value = body.emit("ldrsb {d}, [r2, {0}]", Kind.LOAD, body.ldr("r0", i, "sb"), early=(0,))
        body.store(value, "r1", i, "b")
    # The M7's order on every core: grouped loads would wait for the values they depend on.
    return schedule(body, ("r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr"), dual_issue=True).lines
