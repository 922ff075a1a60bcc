# SPDX-License-Identifier: Apache-2.0
"""The order of execution with the least peak of live bytes: exact best-first search over sets of executed nodes.

A state is the set of nodes already run (a down-set of the graph); its live bytes do not depend on the order within. The
search expands states by their peak so far, so the first complete state is optimal. Two facts keep it small:

1. Among equal peaks the state with most nodes run goes first, so easy graphs are walked straight through.
2. A ready node that neither raises the peak nor leaves more bytes live than before is run at once and alone: in any
   completion it could be moved to the front without making a later step worse, since running more nodes never lets a node
   free less.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """One operator: tensors read and written by name, bytes of scratch, and inputs its output may overwrite if they die."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    scratch: int = 0
    reuses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Order:
    """An order of execution.

    Attributes
    ----------
    nodes : tuple of int
        Indices into the given nodes.
    peak, given_peak : int
        Live bytes at the worst step, in this order and in the given one.
    optimal : bool
        No order has a lower peak; False when the search was cut off: then it is the best of the given order and of what the search had
        begun, finished greedily.
    states : int
        States expanded.
    bound : int
        No order has a lower peak than this.
    """

    nodes: tuple[int, ...]
    peak: int
    given_peak: int
    optimal: bool
    states: int
    bound: int


_FINISHED = 64  # states of a search cut off, of the least peak and of the most nodes, that are finished greedily


class _Graph:
    """The graph as bit masks: bit i of a mask is node i."""

    def __init__(self, nodes: Sequence[Node], sizes: Mapping[str, int], outputs: Iterable[str]) -> None:
        self.nodes, self.sizes, self.kept = nodes, sizes, frozenset(outputs)
        producer = {name: i for i, n in enumerate(nodes) for name in n.writes}
        self.readers: dict[str, int] = {}
        for i, n in enumerate(nodes):
            for name in n.reads:
                self.readers[name] = self.readers.get(name, 0) | 1 << i
        self.needs = [sum({1 << producer[name] for name in n.reads if name in producer}) for n in nodes]
        for i, n in enumerate(nodes):
            if any(producer.get(name, -1) >= i for name in n.reads):
                raise ValueError(f"node {n.name} reads a tensor that it or a later node writes: the given order is not topological")
        inputs = {name for n in nodes for name in n.reads if name not in producer}
        self.start = sum(sizes[name] for name in inputs)

    def dying(self, done: int, i: int) -> list[str]:
        """Tensors nobody needs once node `i` has run after the set `done`."""
        after = done | 1 << i
        read = (name for name in dict.fromkeys(self.nodes[i].reads) if name not in self.kept)
        return [name for name in read if self.readers[name] & ~after == 0]

    def run(self, done: int, live: int, i: int) -> tuple[int, int]:
        """Bytes live during node `i`, and after it."""
        node = self.nodes[i]
        made = sum(self.sizes[name] for name in node.writes)
        dying = self.dying(done, i)
        unread = sum(self.sizes[name] for name in node.writes if name not in self.kept and name not in self.readers)
        reused = min(made, max((self.sizes[name] for name in dying if name in node.reuses), default=0))
        return live + made + node.scratch - reused, live + made - unread - sum(self.sizes[name] for name in dying)

    def floor(self) -> int:
        """Bytes every order needs at some step: the most any node needs for itself."""
        return max((_alone(node, self.sizes) for node in self.nodes), default=0)

    def ready(self, done: int) -> list[int]:
        """Nodes not yet run whose inputs exist, in the given order."""
        return [i for i, need in enumerate(self.needs) if not done >> i & 1 and need & ~done == 0]


def _alone(node: Node, sizes: Mapping[str, int]) -> int:
    made = sum(sizes[name] for name in node.writes)
    reused = min(made, max((sizes[name] for name in node.reuses if name in node.reads), default=0))
    return sum(sizes[name] for name in set(node.reads)) + made + node.scratch - reused


def least_peak_order(nodes: Sequence[Node], sizes: Mapping[str, int], outputs: Iterable[str], max_states: int = 100_000) -> Order:
    """An order of `nodes` (given in some topological order) with the least peak of live bytes.

    Parameters
    ----------
    sizes
        Bytes of every tensor. Tensors no node writes are inputs and live from the start.
    outputs
        Tensors that stay live to the end.
    max_states
        Bound of the search (a count, not a time: equal graphs give equal orders). Beyond it the result is not `optimal`.

    Raises
    ------
    ValueError
        When the given order is not topological.
    """
    graph = _Graph(nodes, sizes, outputs)
    given = tuple(range(len(nodes)))
    given_peak = _peak(graph, given)
    orders, bound, states = _search(graph, max_states)
    best = min((given, *orders), key=lambda order: _peak(graph, order))
    peak = _peak(graph, best)
    return Order(best, peak, given_peak, peak <= bound, states, bound)


def _peak(graph: _Graph, order: Sequence[int]) -> int:
    done, live, peak = 0, graph.start, graph.start
    for i in order:
        during, live = graph.run(done, live, i)
        done, peak = done | 1 << i, max(peak, during)
    return peak


def _search(graph: _Graph, max_states: int) -> tuple[list[tuple[int, ...]], int, int]:
    """The best order, or when cut off some that may be good; a bound of the peak; states expanded."""
    full = (1 << len(graph.nodes)) - 1
    came: dict[int, tuple[int, int]] = {0: (-1, -1)}
    floor = max(graph.start, graph.floor())
    heap = [(floor, 0, 0, graph.start)]
    closed: set[int] = set()
    best = {0: floor}
    while heap and len(closed) < max_states:
        peak, _, done, live = heapq.heappop(heap)
        if done in closed:
            continue
        closed.add(done)
        if done == full:
            return [_trace(came, full)], peak, len(closed)
        for i in _moves(graph, done, live, peak):
            during, after = graph.run(done, live, i)
            mask, high = done | 1 << i, max(peak, during)
            if high < best.get(mask, high + 1):
                best[mask], came[mask] = high, (done, i)
                heapq.heappush(heap, (high, -mask.bit_count(), mask, after))
    begun = {done for _, _, done, _ in (*heap[:_FINISHED], *sorted(heap, key=lambda s: (s[1], s[0]))[:_FINISHED])}
    return [_greedy(graph, _trace(came, done)) for done in (0, *sorted(begun))], min(heap)[0], len(closed)


def _moves(graph: _Graph, done: int, live: int, peak: int) -> list[int]:
    ready = graph.ready(done)
    for i in ready:
        during, after = graph.run(done, live, i)
        if during <= peak and after <= live:
            return [i]
    return ready


def _trace(came: Mapping[int, tuple[int, int]], mask: int) -> tuple[int, ...]:
    order = []
    while mask:
        mask, i = came[mask]
        order.append(i)
    return tuple(reversed(order))


def _greedy(graph: _Graph, begun: Sequence[int]) -> tuple[int, ...]:
    """List scheduling after `begun`: the ready node with the least bytes during and after it, the given order breaking ties."""
    done, live = 0, graph.start
    order = list(begun)
    for i in begun:
        done, live = done | 1 << i, graph.run(done, live, i)[1]
    while len(order) < len(graph.nodes):
        costs = {i: graph.run(done, live, i) for i in graph.ready(done)}
        i = min(costs, key=lambda k: (costs[k][1], costs[k][0], k))
        done, live = done | 1 << i, costs[i][1]
        order.append(i)
    return tuple(order)
