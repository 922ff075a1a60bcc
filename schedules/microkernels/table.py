# SPDX-License-Identifier: Apache-2.0
"""Any function of one byte as its table of 256 values: a load, a load through the value, a store for each element."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from .assembly import Body, Kind
from .c_source import CFunction, naked_function
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
    block = _block(name)
    signature = f"void {name}(const int8_t *x, int8_t *out, const void *packed, void *scratch)"
    body = f"  (void)scratch;\n  {block.name}(x, out, (const int8_t *)packed + 128, {math.prod(shape)}u);\n"
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


def _block(prefix: str) -> CFunction:
    """Emit `static void f(const int8_t *x, int8_t *out, const int8_t *middle, uint32_t count)`; `middle` points at the value of 0."""
    portable = "  for (uint32_t i = 0; i < count; ++i) out[i] = middle[x[i]];\n"
    parameters = ("const int8_t *x", "int8_t *out", "const int8_t *middle", "uint32_t count")
    return naked_function(f"{prefix}_table", parameters, _assembly(), portable)


@lru_cache(maxsize=1)
def _assembly() -> tuple[str, ...]:
    """Eight elements an iteration, then one by one."""
    lines = ["push {r4-r11, lr}", f"subs r3, r3, #{_UNROLL}", "blo 2f", "1:", *_elements(_UNROLL)]
    lines += [f"add r0, r0, #{_UNROLL}", f"add r1, r1, #{_UNROLL}", f"subs r3, r3, #{_UNROLL}", "bhs 1b"]
    lines += ["2:", f"adds r3, r3, #{_UNROLL}", "beq 4f"]
    lines += ["3:", *_elements(1), "add r0, r0, #1", "add r1, r1, #1", "subs r3, r3, #1", "bne 3b"]
    return (*lines, "4:", "pop {r4-r11, pc}")


def _elements(count: int) -> tuple[str, ...]:
    body = Body()
    for i in range(count):
        value = body.emit("ldrsb {d}, [r2, {0}]", Kind.LOAD, body.ldr("r0", i, "sb"), early=(0,))
        body.store(value, "r1", i, "b")
    # The M7's order on every core: grouped loads would wait for the values they depend on.
    return schedule(body, ("r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr"), dual_issue=True).lines
