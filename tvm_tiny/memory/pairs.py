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


def least_span(pair: Pair, grain: int = 1) -> int:
    """The fewest bytes that can hold both buffers of `pair`, with the best of its rights, when offsets are multiples of `grain`."""
    a, b = pair.first, pair.second
    best = min(_up(a.nbytes, grain) + b.nbytes, _up(b.nbytes, grain) + a.nbytes)
    for right in pair.rights:
        out, inp = (a, b) if right.output == a.name else (b, a)
        best = min(best, _shared_span(right, out.nbytes, inp.nbytes, grain))
    return best


def _shared_span(right: Right, out: int, inp: int, grain: int) -> int:
    if right.order == "ascending":  # the input starts at least `distance` above the output
        return max(out, inp + max(0, _up(right.distance, grain)))
    if right.order == "descending":  # the output ends at least `distance` above the input's end
        return max(out, inp, inp + right.distance)
    return max(out, inp)


def lower_bound(buffers: Sequence[Buffer], steps: Sequence[Step], pairs: Sequence[Pair], regions: int = 1) -> int:
    """Bytes no plan can go below: for each step, the live bytes less the most that its rights let coincide.

    All offsets are multiples of the smallest alignment there is, so of the buffers that lie one above the other all but the
    topmost take up multiples of it: in one region, as each of several has a topmost of its own.
    """
    grain = min((b.align if b.offset is None else 1 for b in buffers), default=1) if regions == 1 else 1
    shared: dict[int, list[Pair]] = {}
    for pair in pairs:
        if pair.rights:
            shared.setdefault(pair.step, []).append(pair)
    return max((_step_bound(buffers, s, shared.get(s, []), grain) for s in range(max(1, len(steps)))), default=0)


def _step_bound(buffers: Sequence[Buffer], step: int, shared: Sequence[Pair], grain: int) -> int:
    live = {b.name: b.nbytes for b in buffers if b.first_use <= step <= b.last_use}
    soft = {name for p in shared for name in (p.first.name, p.second.name)}
    outputs = {right.output for p in shared for right in p.rights}
    hard = [n for name, n in live.items() if name not in soft]
    # Inputs never share bytes with each other, nor do outputs.
    inputs_alone = _stack(hard + [live[name] for name in soft - outputs], grain)
    outputs_alone = _stack(hard + [live[name] for name in outputs], grain)
    if len(shared) == 1:
        return max(inputs_alone, outputs_alone, _stack([*hard, least_span(shared[0], grain)], grain))
    saved = sum(p.first.nbytes + p.second.nbytes - least_span(p) for p in shared)
    return max(inputs_alone, outputs_alone, sum(hard) + sum(live[name] for name in soft) - saved)


def _stack(sizes: Sequence[int], grain: int) -> int:
    """Bytes of buffers one above the other, the one that wastes most on top."""
    padded = [_up(n, grain) for n in sizes]
    return sum(padded) - max((p - n for p, n in zip(padded, sizes, strict=True)), default=0)


def _up(value: int, grain: int) -> int:
    return -(-value // grain) * grain
