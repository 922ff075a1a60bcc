# SPDX-License-Identifier: Apache-2.0
"""Exact lifetimes from an ordered list of steps.

    kind           live from            to
    input          step 0               its last reader (past the end when kept)
    intermediate   its producer         its last reader
    output         its producer         past the end
    scratch        its step             its step
    constant       step 0               past the end

"Past the end" is index len(steps): the application still reads the bytes after the last step, so that not even a right lets
the last step overwrite them. A buffer nobody reads lives in its producer's step alone: the kernel still writes it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tvm_tiny.memory.plan import Buffer, Step


def with_lifetimes(buffers: Sequence[Buffer], steps: Sequence[Step]) -> tuple[Buffer, ...]:
    """The same buffers with `first_use` and `last_use` set from `steps`; buffers no step touches are left out,
    except model inputs, outputs and constants, whose bytes exist whether used or not.

    Raises
    ------
    ValueError
        When two buffers share a name or a step names an unknown buffer.
    """
    names = [b.name for b in buffers]
    if len(set(names)) != len(names):
        raise ValueError(f"buffer names repeat: {sorted({n for n in names if names.count(n) > 1})}")
    uses = _uses(names, steps)
    return tuple(_placed_in_time(b, uses[b.name], len(steps)) for b in buffers if uses[b.name] or _always_exists(b))


def _uses(names: Sequence[str], steps: Sequence[Step]) -> dict[str, list[int]]:
    uses: dict[str, list[int]] = {name: [] for name in names}
    for index, step in enumerate(steps):
        for name in step.touches():
            if name not in uses:
                raise ValueError(f"step {step.name} uses buffer {name}, which is not declared")
            uses[name].append(index)
    return uses


def _always_exists(buffer: Buffer) -> bool:
    return buffer.keep or buffer.kind in ("input", "output", "constant")


def _placed_in_time(buffer: Buffer, uses: list[int], end: int) -> Buffer:
    first, last = (uses[0], uses[-1]) if uses else (0, 0)
    if buffer.kind in ("input", "constant"):
        first = 0
    if buffer.keep or buffer.kind in ("output", "constant"):
        last = end
    return replace(buffer, first_use=first, last_use=last)
