# SPDX-License-Identifier: Apache-2.0
"""Tensors one after the other along an axis: pieces of each in turn, copied by words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .c_source import CFunction
from .layer import MicroKernel

COPIED = 32
"""Bytes of the longest piece: compilers copy as many in line."""


def concat(name: str, sizes: Sequence[int], turns: int) -> MicroKernel:
    """Generate `void name(const int8_t *x0, …, int8_t *out, const void *packed, void *scratch)`.

    Parameters
    ----------
    sizes : sequence of int
        Bytes that every input adds in one turn.
    turns : int
        Elements along the axes before the one the tensors lie along.
    """
    names = [f"x{k}" for k in range(len(sizes))]
    signature = f"void {name}({', '.join(f'const int8_t *{x}' for x in names)}, int8_t *out, const void *packed, void *scratch)"
    body = f"  (void)packed;\n  (void)scratch;\n{in_turns(names, sizes, turns)}"

    def reference(*arrays: np.ndarray) -> np.ndarray:
        return np.concatenate([a.reshape(turns, size) for a, size in zip(arrays, sizes, strict=True)], axis=1)

    return MicroKernel(
        name=name,
        functions=(CFunction(name, f"{signature};\n{signature} {{\n{body}}}\n"),),
        packed=b"",
        scratch_bytes=0,
        input_shape=(turns, sizes[0]),
        output_shape=(turns, sum(sizes)),
        macs=0,
        reference=reference,
        choices={"operand": "words"},
        inputs=len(sizes),
    )


def in_turns(names: Sequence[str], sizes: Sequence[int], turns: int) -> str:
    """C statements that copy `sizes[k]` bytes from the pointer `names[k]` to `out`, of one after the other, `turns` times; all advance."""
    lines = [line for name, size in zip(names, sizes, strict=True) for line in (*copied(name, size), f"{name} += {size};")]
    return f"  for (int32_t i = 0; i < {turns}; ++i) {{\n" + "".join(f"    {line}\n" for line in lines) + "  }\n"


def copied(name: str, size: int) -> list[str]:
    """C statements that copy `size` bytes from the pointer `name` to `out`, which advances."""
    pieces, rest = divmod(size, COPIED)
    if not pieces:
        return [f"memcpy(out, {name}, {size}u), out += {size};"]
    loop = f"for (int32_t n = 0; n < {pieces}; ++n) memcpy(out, {name} + n * {COPIED}, {COPIED}u), out += {COPIED};"
    return [loop, *([f"memcpy(out, {name} + {size - rest}, {rest}u), out += {rest};"] if rest else [])]


def distance(sizes: Sequence[int], turns: int, position: int) -> int:
    """Least d with out_base + d <= in_base safe for an input: what a turn stores ends below all that it and later ones read."""
    return turns * sum(sizes) - (turns - 1) * sizes[position]
