# SPDX-License-Identifier: Apache-2.0
"""Which buffers may not share bytes, and the rights that soften it: the constraints both planners work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm_tiny.memory.plan import Buffer, Right, Step


@dataclass(frozen=True)
class Pair:
    """Two buffers alive together. They must be disjoint, or satisfy one of `rights`, all of which step `step` grants."""

    first: Buffer
    second: Buffer
    step: int = -1
    rights: tuple[Right, ...] = ()


def conflicts(buffers: Sequence[Buffer], steps: Sequence[Step]) -> list[Pair]:
    """Every pair of buffers that are alive in a common step.

    A right counts only in the granting step and only where the input dies and the output is born: an input that lives on
    keeps its bytes.
    """
    granted: dict[tuple[str, str], list[tuple[int, Right]]] = {}
    for index, step in enumerate(steps):
        for right in step.rights:
            if right.output in step.writes + step.scratch and right.input in step.reads:
                granted.setdefault((right.output, right.input), []).append((index, right))
    pairs = []
    for i, a in enumerate(buffers):
        for b in buffers[i + 1 :]:
            if a.lives_with(b):
                pairs.append(_pair(a, b, granted))
    return pairs


def _pair(a: Buffer, b: Buffer, granted: dict[tuple[str, str], list[tuple[int, Right]]]) -> Pair:
    for out, inp in ((a, b), (b, a)):
        step = out.first_use
        rights = tuple(right for index, right in granted.get((out.name, inp.name), []) if index == step == inp.last_use)
        if rights:
            return Pair(a, b, step, rights)
    return Pair(a, b)


def least_span(pair: Pair) -> int:
    """The fewest bytes that can hold both buffers of `pair`, with the best of its rights."""
    a, b = pair.first, pair.second
    best = a.nbytes + b.nbytes
    for right in pair.rights:
        out, inp = (a, b) if right.output == a.name else (b, a)
        lead = max(0, right.distance) if right.order != "in-place" else 0
        best = min(best, max(out.nbytes, inp.nbytes + lead))
    return best


def lower_bound(buffers: Sequence[Buffer], steps: Sequence[Step], pairs: Sequence[Pair]) -> int:
    """Bytes no plan can go below: for each step, the live bytes less the most that its rights let coincide."""
    shared: dict[int, list[Pair]] = {}
    for pair in pairs:
        if pair.rights:
            shared.setdefault(pair.step, []).append(pair)
    return max((_step_bound(buffers, s, shared.get(s, [])) for s in range(max(1, len(steps)))), default=0)


def _step_bound(buffers: Sequence[Buffer], step: int, shared: Sequence[Pair]) -> int:
    live = {b.name: b.nbytes for b in buffers if b.first_use <= step <= b.last_use}
    saved = sum(p.first.nbytes + p.second.nbytes - least_span(p) for p in shared)
    soft = {name for p in shared for name in (p.first.name, p.second.name)}
    outputs = {right.output for p in shared for right in p.rights}
    hard = sum(n for name, n in live.items() if name not in soft)
    # Inputs never share bytes with each other, nor do outputs.
    inputs_alone = sum(live[name] for name in soft - outputs)
    outputs_alone = sum(live[name] for name in outputs)
    return hard + max(inputs_alone, outputs_alone, sum(live[name] for name in soft) - saved)
