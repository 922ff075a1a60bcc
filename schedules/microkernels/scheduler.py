# SPDX-License-Identifier: Apache-2.0
"""List scheduling and register assignment of straight-line bodies.

Bodies are in SSA form, so an order is legal when true dependences hold, and it can be coloured when never more values live than there are
core registers: the scheduler counts live values as it goes and only issues what still fits. Randomised greedy tries (seeded: the same body
always gives the same code) are scored by the issue models; the written order is one of the tries, so a body whose written order fits always
has a solution.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from . import schedule_cache
from .assembly import Body, Instruction, Kind
from .pipeline import DualIssue, dual_issue_cycles, single_issue_cycles


class RegisterPressureError(RuntimeError):
    """No order of the body fits the registers: a fault of the block's description, met by choosing a smaller block."""


@dataclass(frozen=True)
class Scheduled:
    """Assembly lines in final order, the core register of every live-out value, and the model's cycles."""

    lines: tuple[str, ...]
    registers: dict[int, str]
    cycles: float


@dataclass
class _Graph:
    """Dependences of a body; `operands` are every instruction's distinct sources."""

    instructions: list[Instruction]
    operands: list[tuple[int, ...]]
    successors: list[list[int]]
    predecessors: list[int]
    uses: dict[int, int]

    @cached_property
    def due(self) -> list[float]:
        """Of every instruction, see `_due`."""
        return _due(self)


def _graph(instructions: list[Instruction]) -> _Graph:
    definition = {ins.dst: i for i, ins in enumerate(instructions) if ins.dst is not None}
    readers: dict[int, list[int]] = defaultdict(list)
    operands = [tuple(dict.fromkeys(ins.src)) for ins in instructions]
    for i, sources in enumerate(operands):
        for reg in sources:
            readers[reg].append(i)
    edges: set[tuple[int, int]] = set()
    for i, ins in enumerate(instructions):
        edges.update((definition[reg], i) for reg in ins.src if reg in definition)
        if ins.tied is not None:
            edges.update((j, i) for j in readers[ins.src[ins.tied]] if j != i)
    successors: list[list[int]] = [[] for _ in instructions]
    predecessors = [0] * len(instructions)
    for a, b in edges:
        successors[a].append(b)
        predecessors[b] += 1
    return _Graph(instructions, operands, successors, predecessors, {reg: len(r) for reg, r in readers.items()})


class _Pressure:
    """Live values against core registers; instructions are told by their number."""

    def __init__(self, graph: _Graph, live_in: set[int], live_out: set[int], limit: int) -> None:
        self.uses = dict(graph.uses)
        self.operands = graph.operands
        self.made = [ins.dst for ins in graph.instructions]
        self.live_out = live_out
        self.limit = limit
        self.live = len(live_in)

    def after(self, i: int) -> int:
        """Live values once instruction `i` has issued (its operands may die first and lend their register)."""
        live, uses = self.live + (self.made[i] is not None), self.uses
        for reg in self.operands[i]:
            if uses[reg] == 1 and reg not in self.live_out:
                live -= 1
        return live

    def fits(self, i: int, reserve: int = 0) -> bool:
        """Tell whether `i` may issue; one that adds a live value must leave `reserve` registers free."""
        after = self.after(i)
        return after <= self.limit - (reserve if after > self.live else 0)

    def issue(self, i: int) -> None:
        self.live = self.after(i)
        for reg in self.operands[i]:
            self.uses[reg] -= 1
        made = self.made[i]
        if made is not None and self.uses.get(made, 0) == 0 and made not in self.live_out:
            self.live -= 1


class _Waiting:
    """Instructions whose operands have issued: `ready`, in the order they came to be so, each with the first cycle it can issue in."""

    def __init__(self, graph: _Graph, state: DualIssue | None = None) -> None:
        self.graph, self.state = graph, state
        self.left = list(graph.predecessors)
        self.since: dict[int, int] = {}
        self.ready: list[int] = []
        for i, n in enumerate(self.left):
            if n == 0:
                self._add(i)

    def _add(self, i: int) -> None:
        self.ready.append(i)
        if self.state is not None:
            self.since[i] = self.state.earliest(self.graph.instructions[i])

    def issued(self, i: int) -> None:
        """Take note that `i` has issued."""
        self.ready.remove(i)
        for nxt in self.graph.successors[i]:
            self.left[nxt] -= 1
            if self.left[nxt] == 0:
                self._add(nxt)


def _dual_order(graph: _Graph, pressure: _Pressure, rng: random.Random, window: float, reserve: int) -> list[int] | None:
    """One greedy M7 order: fill each cycle with a MAC and one other instruction, near the written order within `window` places."""
    code = graph.instructions
    key = [i + rng.uniform(0.0, window) for i in range(len(code))]
    order: list[int] = []
    state, stalled = DualIssue(), 0
    waiting = _Waiting(graph, state)
    since, ready = waiting.since, waiting.ready
    while ready:
        front = min(ready)
        horizon = front + 4 * window + 1
        now = [i for i in ready if i <= horizon and since[i] <= state.cycle and state.pairs(code[i])]
        fit = [i for i in now if pressure.fits(i, 0 if i == front else reserve)]
        if not fit:
            stalled += 1
            if stalled > 12:
                return None
            state.next_cycle()
            continue
        stalled = 0
        if state.older is None and (fields := [i for i in fit if code[i].kind is Kind.FIELD]):
            fit = fields  # they may not pair as the younger instruction: start the cycle with them
        elif state.older is not None and state.older.kind is not Kind.MAC:
            fit = [i for i in fit if code[i].kind is Kind.MAC] or fit
        chosen = min(fit, key=key.__getitem__)
        state.issue(code[chosen])
        pressure.issue(chosen)
        waiting.issued(chosen)
        order.append(chosen)
    return order


_LEAD = {Kind.LOAD: 2, Kind.MAC: 2}
"""Cycles from issue until a MAC can multiply the result (one for everything else)."""


def _due(graph: _Graph) -> list[float]:
    """Latest useful place of every instruction on the time axis of MACs, one MAC a cycle in written order."""
    code = graph.instructions
    due: list[float | None] = [None] * len(code)
    for rank, i in enumerate(i for i, ins in enumerate(code) if ins.kind is Kind.MAC):
        due[i] = float(rank)

    def backward() -> None:
        for i in reversed(range(len(code))):
            if due[i] is None:
                later = [d - _LEAD.get(code[i].kind, 1) for s in graph.successors[i] if (d := due[s]) is not None]
                due[i] = min(later, default=None)

    backward()
    for i, ins in enumerate(code):  # what only follows MACs: requantised values and their stores
        own = due[i]
        if own is not None:
            for s in graph.successors[i]:
                if code[s].kind is not Kind.MAC:
                    due[s] = max(due[s] or 0.0, own + _LEAD.get(ins.kind, 1))
    backward()
    return [float(i) if d is None else d for i, d in enumerate(due)]


def _just_in_time_order(graph: _Graph, pressure: _Pressure, rng: random.Random, lead: float, noise: float) -> list[int] | None:
    """One greedy M7 order: MACs as written, everything else at most `lead` cycles before it is due, so that registers are held briefly."""
    code = graph.instructions
    key = [d + rng.uniform(0.0, noise) for d in graph.due]
    order: list[int] = []
    state, stalled, macs = DualIssue(), 0, 0
    waiting = _Waiting(graph, state)
    since, ready = waiting.since, waiting.ready
    while ready:
        front = min(ready)
        now = [i for i in ready if since[i] <= state.cycle and (key[i] <= macs + lead or i == front or stalled > 3)]
        fit = [i for i in now if state.pairs(code[i]) and pressure.fits(i)]
        if not fit:
            stalled += 1
            if stalled > 12:
                return None
            state.next_cycle()
            continue
        stalled = 0
        if state.older is None:  # the younger load may then take the register the MAC frees
            first = [i for i in fit if code[i].kind is Kind.FIELD] or [i for i in fit if code[i].kind is Kind.MAC]
            fit = first or fit
        elif state.older.kind is not Kind.MAC:
            fit = [i for i in fit if code[i].kind is Kind.MAC] or fit
        chosen = min(fit, key=key.__getitem__)
        macs += code[chosen].kind is Kind.MAC
        state.issue(code[chosen])
        pressure.issue(chosen)
        waiting.issued(chosen)
        order.append(chosen)
    return order


def _single_order(graph: _Graph, pressure: _Pressure, rng: random.Random, window: float, reserve: int) -> list[int] | None:
    """One greedy M4 order: loads back to back while registers last, then everything that can be computed."""
    code = graph.instructions
    key = [i + rng.uniform(0.0, window) for i in range(len(code))]
    order: list[int] = []
    loading = True
    waiting = _Waiting(graph)
    ready = waiting.ready
    while ready:
        front = min(ready)
        horizon = front + 4 * window + 1
        fit = [i for i in ready if i <= horizon and pressure.fits(i, 0 if i == front else reserve)]
        if not fit:
            return None
        loads = [i for i in fit if code[i].kind is Kind.LOAD]
        others = [i for i in fit if code[i].kind is not Kind.LOAD and (code[i].kind is Kind.MAC or pressure.after(i) <= pressure.live)]
        others = others or ([] if loads else fit)  # an unpacking that keeps its source alive only takes registers from loads
        pick = loads if (loading and loads) or not others else others
        chosen = min(pick, key=key.__getitem__)
        loading = code[chosen].kind is Kind.LOAD
        pressure.issue(chosen)
        waiting.issued(chosen)
        order.append(chosen)
    return order


def _written_order(graph: _Graph, pressure: _Pressure) -> list[int] | None:
    for i in range(len(graph.instructions)):
        if not pressure.fits(i):
            return None
        pressure.issue(i)
    return list(range(len(graph.instructions)))


def _colour(
    order: list[Instruction], uses: dict[int, int], live_in: dict[int, str], live_out: set[int], pool: tuple[str, ...]
) -> Scheduled:
    """Give each value a core register in order of issue; the pressure check has proved that one is free."""
    where = dict(live_in)
    free = [reg for reg in reversed(pool) if reg not in live_in.values()]
    left, lines = dict(uses), []
    for ins in order:
        names = [where[reg] for reg in ins.src]
        keep = where[ins.src[ins.tied]] if ins.tied is not None else None
        for reg in dict.fromkeys(ins.src):
            left[reg] -= 1
            if left[reg] == 0 and reg not in live_out and where[reg] != keep:
                free.append(where[reg])
        target = ""
        if ins.dst is not None:
            target = keep if keep is not None else free.pop()
            where[ins.dst] = target
            if left.get(ins.dst, 0) == 0 and ins.dst not in live_out:
                free.append(target)
        lines.append(ins.text.format(*names, d=target))
    return Scheduled(tuple(lines), {reg: where[reg] for reg in live_out}, 0.0)


def schedule(
    body: Body,
    pool: tuple[str, ...],
    *,
    dual_issue: bool,
    live_in: dict[int, str] | None = None,
    live_out: set[int] | None = None,
    tries: int = 24,
) -> Scheduled:
    """Order `body` for the M7 (`dual_issue`) or a single-issue core and assign core registers from `pool`.

    Parameters
    ----------
    body : Body
        The code; a value in `live_in` is not defined by it.
    pool : tuple of str
        Core registers the body may use (pinned pointers left out).
    live_in, live_out : dict of int to str, set of int
        Values that enter in given registers, and values wanted afterwards.
    tries : int
        Randomised greedy orders to score beside the written one.

    Raises
    ------
    RegisterPressureError
        When neither the written order nor any try fits the registers.
    """
    live_in, live_out = live_in or {}, live_out or set()
    key = schedule_cache.digest((body.instructions, pool, dual_issue, sorted(live_in.items()), sorted(live_out), tries))
    known = schedule_cache.recall(key)
    if known is not None:
        return Scheduled(tuple(known["lines"]), {int(reg): core for reg, core in known["registers"].items()}, known["cycles"])
    found = _search(body, pool, dual_issue, live_in, live_out, tries)
    schedule_cache.remember(key, {"lines": found.lines, "registers": found.registers, "cycles": found.cycles})
    return found


def _search(body: Body, pool: tuple[str, ...], dual_issue: bool, live_in: dict[int, str], live_out: set[int], tries: int) -> Scheduled:
    """Score the candidates and colour the first of the best."""
    graph = _graph(body.instructions)
    cost = dual_issue_cycles if dual_issue else single_issue_cycles
    bound = _least_dual_cycles(body.instructions) if dual_issue else 0.0
    best: list[Instruction] | None = None
    least = float("inf")
    for order in _candidates(graph, dual_issue, tries, lambda: _Pressure(graph, set(live_in), live_out, len(pool))):
        if order is None or len(order) != len(graph.instructions):
            continue
        listed = [graph.instructions[i] for i in order]
        if (cycles := cost(listed)) < least:
            best, least = listed, cycles
        if least <= bound:
            break  # no order is shorter
    if best is None:
        raise RegisterPressureError(f"a body of {len(body.instructions)} instructions doesn't fit {len(pool)} registers")
    coloured = _colour(best, graph.uses, live_in, live_out, pool)
    return Scheduled(coloured.lines, coloured.registers, least)


def _candidates(graph: _Graph, dual_issue: bool, tries: int, pressure: Callable[[], _Pressure]) -> Iterator[list[int] | None]:
    """Orders to score: the written one, then greedy ones; None where a greedy one locked itself out."""
    rng = random.Random(len(graph.instructions))
    attempt = _dual_order if dual_issue else _single_order
    yield _written_order(graph, pressure())
    for n in range(tries):
        # only the oldest instruction may take the last registers in two of three tries: that keeps a greedy order from locking itself out
        yield attempt(graph, pressure(), rng, (1.0, 3.0, 6.0, 10.0, 16.0, 24.0)[n % 6], (n // 6 + 1) % 3)
        if dual_issue:
            lead, noise = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0)[n % 6], (0.0, 1.0, 2.0, 4.0)[n // 6 % 4]
            yield _just_in_time_order(graph, pressure(), rng, lead, noise)


def _least_dual_cycles(code: list[Instruction]) -> float:
    """No order takes fewer M7 cycles: two instructions a cycle, of them one MAC or store, and one FIELD; the last may stand alone."""
    kinds = [ins.kind for ins in code]
    alone = max(sum(k in (Kind.MAC, Kind.STORE) for k in kinds), sum(k is Kind.FIELD for k in kinds))
    return max(len(code) / 2, alone - 0.5)
