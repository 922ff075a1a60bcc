# SPDX-License-Identifier: Apache-2.0
"""First-fit placement in several orders: the exact planner's starting point, and its stand-in when time runs out.

Each buffer in turn goes to the lowest legal offset among a finite set: zero, beside a placed neighbour, or at the exact
distance a right allows. The best result over all orders wins; equal results keep the earlier order, so it is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tvm_tiny.memory.pairs import Pair
from tvm_tiny.memory.plan import Buffer, Placement, Region, Right

SORT_KEYS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.nbytes, b.first_use),  # largest first
    lambda b: (-(b.last_use - b.first_use + 1) * b.nbytes, b.first_use),  # largest area in time and space first
    lambda b: (b.first_use, -b.nbytes),  # in the order of execution: follows a chain of forward rights
    lambda b: (-b.last_use, -b.nbytes),  # in reverse: follows a chain from its end
    lambda b: (b.first_use - b.last_use, -b.nbytes),  # longest-lived first
)


@dataclass
class _State:
    placed: dict[str, Placement] = field(default_factory=dict)
    directions: dict[int, str] = field(default_factory=dict)


def place(buffers: Sequence[Buffer], pairs: Sequence[Pair], regions: Sequence[Region], traffic: Mapping[str, int]) -> dict[str, Placement]:
    """Legal placements of all buffers; regions may overflow (the caller compares `used` with the sizes).

    `traffic` is the bytes accessed of each buffer: with several regions the busiest buffers choose the cheap ones first.
    """
    neighbours: dict[str, list[Pair]] = {b.name: [] for b in buffers}
    for pair in pairs:
        neighbours[pair.first.name].append(pair)
        neighbours[pair.second.name].append(pair)
    results = []
    for number, key in enumerate(SORT_KEYS):
        state = _State()
        ordered = sorted(buffers, key=lambda b: (b.offset is None, *key(b), b.name))
        for b in ordered:
            _place_one(b, neighbours[b.name], regions, state)
        results.append((_score(buffers, state.placed, regions, traffic), number, state.placed))
    return min(results, key=lambda r: r[:2])[2]


def used_bytes(buffers: Sequence[Buffer], placed: Mapping[str, Placement], regions: Sequence[Region]) -> dict[str, int]:
    """Bytes of each region up to its highest occupied byte."""
    used = {r.name: 0 for r in regions}
    for b in buffers:
        where = placed[b.name]
        used[where.region] = max(used[where.region], where.offset + b.nbytes)
    return used


def overflow(used: Mapping[str, int], regions: Sequence[Region]) -> int:
    """Bytes beyond the regions' sizes, summed."""
    return sum(max(0, used[r.name] - r.nbytes) for r in regions if r.nbytes is not None)


def _score(
    buffers: Sequence[Buffer], placed: Mapping[str, Placement], regions: Sequence[Region], traffic: Mapping[str, int]
) -> tuple[int, int, int]:
    used = used_bytes(buffers, placed, regions)
    cost = {r.name: r.cost for r in regions}
    return overflow(used, regions), sum(cost[placed[b.name].region] * traffic[b.name] for b in buffers), sum(used.values())


def _place_one(b: Buffer, neighbours: Sequence[Pair], regions: Sequence[Region], state: _State) -> None:
    allowed = [r for r in sorted(regions, key=lambda r: r.cost) if b.region in (None, r.name)]
    if b.offset is not None:
        _commit(b, Placement(b.region or regions[0].name, b.offset), neighbours, state)
        return
    spots = [Placement(r.name, _lowest(b, r.name, neighbours, state)) for r in allowed]
    fitting = [s for s, r in zip(spots, allowed, strict=True) if r.nbytes is None or s.offset + b.nbytes <= r.nbytes]
    _commit(b, (fitting or spots[-1:])[0], neighbours, state)


def _lowest(b: Buffer, region: str, neighbours: Sequence[Pair], state: _State) -> int:
    near = [(p, _other(p, b)) for p in neighbours]
    near = [(p, o) for p, o in near if o.name in state.placed and state.placed[o.name].region == region]
    spots = {0}
    for pair, other in near:
        base = state.placed[other.name].offset
        spots |= {_up(base + other.nbytes, b.align), _down(base - b.nbytes, b.align)}
        spots |= {_spot(right, b, other, base) for right in pair.rights}
    legal = (s for s in sorted(spots) if s >= 0 and s % b.align == 0 and _legal(b, s, near, state) is not None)
    return next(legal)


def _spot(right: Right, b: Buffer, other: Buffer, base: int) -> int:
    """The address of `b` at exactly the right's distance from `other`, rounded to the legal side."""
    is_output = right.output == b.name
    if right.order == "ascending":
        return _down(base - right.distance, b.align) if is_output else _up(base + right.distance, b.align)
    if right.order == "descending":
        end = base + other.nbytes
        return _up(end + right.distance - b.nbytes, b.align) if is_output else _down(end - right.distance - b.nbytes, b.align)
    return base


def _legal(b: Buffer, offset: int, near: Sequence[tuple[Pair, Buffer]], state: _State) -> dict[int, str] | None:
    """The row orders that placing `b` here commits steps to, or None when it can't lie here."""
    chosen = dict(state.directions)
    # Pairs with one choice first, so that a step with both orders open does not commit to the wrong one.
    for pair, other in sorted(near, key=lambda n: len(n[0].rights)):
        base = state.placed[other.name].offset
        if offset + b.nbytes <= base or base + other.nbytes <= offset:
            continue
        orders = [r.order for r in pair.rights if _holds(r, b, offset, other, base)]
        order = next((o for o in orders if o == "in-place" or chosen.get(pair.step, o) == o), None)
        if order is None:
            return None
        if order != "in-place":
            chosen[pair.step] = order
    return chosen


def _holds(right: Right, b: Buffer, offset: int, other: Buffer, base: int) -> bool:
    if right.output == b.name:
        return right.holds(offset, b.nbytes, base, other.nbytes)
    return right.holds(base, other.nbytes, offset, b.nbytes)


def _commit(b: Buffer, where: Placement, neighbours: Sequence[Pair], state: _State) -> None:
    near = [(p, _other(p, b)) for p in neighbours]
    near = [(p, o) for p, o in near if o.name in state.placed and state.placed[o.name].region == where.region]
    chosen = _legal(b, where.offset, near, state)
    state.directions = state.directions if chosen is None else chosen  # None: pins that collide; check_plan names them
    state.placed[b.name] = where


def _other(pair: Pair, b: Buffer) -> Buffer:
    return pair.second if pair.first.name == b.name else pair.first


def _up(value: int, align: int) -> int:
    return -(-value // align) * align


def _down(value: int, align: int) -> int:
    return value // align * align
