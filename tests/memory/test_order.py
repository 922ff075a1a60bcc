# SPDX-License-Identifier: Apache-2.0
"""The order found has the least peak of all orders (by exhaustion on small graphs); the fall-back is never worse than the given one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_tiny.memory.order import Node, least_peak_order
from tvm_tiny.memory.plan import Buffer, Step
from tvm_tiny.memory.planner import plan_memory


@st.composite
def graphs(draw: st.DrawFn, max_nodes: int = 6) -> tuple[list[Node], dict[str, int], set[str]]:
    """A random DAG: each node reads one to three earlier tensors, writes one or two, and may overwrite what it reads."""
    sizes = {"x": draw(st.integers(1, 20))}
    nodes = []
    for i in range(draw(st.integers(1, max_nodes))):
        reads = draw(st.lists(st.sampled_from(sorted(sizes)), min_size=1, max_size=3, unique=True))
        writes = [f"t{i}{k}" for k in range(draw(st.integers(1, 2)))]
        sizes |= {name: draw(st.integers(1, 20)) for name in writes}
        reuses = tuple(reads[: draw(st.integers(0, len(reads)))])
        nodes.append(Node(f"n{i}", tuple(reads), tuple(writes), draw(st.integers(0, 3)), reuses))
    outputs = set(draw(st.lists(st.sampled_from(sorted(set(sizes) - {"x"})), max_size=2)))
    return nodes, sizes, outputs


def peak_by_hand(nodes: list[Node], sizes: dict[str, int], outputs: set[str], order: tuple[int, ...]) -> int | None:
    """Peak of one order by replaying it with a set of live tensors; None when the order is not topological."""
    written = {name for n in nodes for name in n.writes}
    live = {name for n in nodes for name in n.reads} - written
    peak = sum(sizes[t] for t in live)
    for position, i in enumerate(order):
        node, later = nodes[i], [nodes[k] for k in order[position + 1 :]]
        if not set(node.reads) <= live:
            return None
        live |= set(node.writes)
        dead = {t for t in live if t not in outputs and not any(t in n.reads for n in later)}
        reused = [sizes[t] for t in dead if t in node.reuses]
        peak = max(peak, sum(sizes[t] for t in live) + node.scratch - min(sum(sizes[t] for t in node.writes), max(reused, default=0)))
        live -= dead - {t for t in written if t not in {r for n in nodes for r in n.reads} and t not in node.writes}
    return peak


@given(graphs())
def test_least_of_all_orders(graph: tuple[list[Node], dict[str, int], set[str]]) -> None:
    nodes, sizes, outputs = graph
    peaks = [peak_by_hand(nodes, sizes, outputs, p) for p in itertools.permutations(range(len(nodes)))]
    got = least_peak_order(nodes, sizes, outputs)
    assert got.optimal
    assert got.peak == min(p for p in peaks if p is not None)
    assert peak_by_hand(nodes, sizes, outputs, got.nodes) == got.peak
    assert peak_by_hand(nodes, sizes, outputs, tuple(range(len(nodes)))) == got.given_peak


@given(graphs(max_nodes=12))
def test_cut_off_search_is_never_worse_than_the_given_order(graph: tuple[list[Node], dict[str, int], set[str]]) -> None:
    nodes, sizes, outputs = graph
    got, least = (least_peak_order(nodes, sizes, outputs, max_states=count) for count in (1, 100_000))
    assert got.bound <= least.bound == least.peak <= got.peak
    assert sorted(got.nodes) == list(range(len(nodes)))
    assert got.peak <= got.given_peak
    assert peak_by_hand(nodes, sizes, outputs, got.nodes) == got.peak


def branches(count: int) -> tuple[list[Node], dict[str, int], set[str]]:
    """`count` branches, each a wide tensor squeezed to one byte, given breadth first (the order a frontend emits)."""
    wide = [Node(f"wide{i}", ("x",), (f"w{i}",)) for i in range(count)]
    narrow = [Node(f"narrow{i}", (f"w{i}",), (f"n{i}",)) for i in range(count)]
    join = Node("concat", tuple(f"n{i}" for i in range(count)), ("y",))
    sizes = {"x": 10, "y": count, **{f"w{i}": 100 for i in range(count)}, **{f"n{i}": 1 for i in range(count)}}
    return [*wide, *narrow, join], sizes, {"y"}


def test_branches_run_one_after_the_other() -> None:
    nodes, sizes, outputs = branches(12)
    got = least_peak_order(nodes, sizes, outputs)
    assert (got.given_peak, got.peak, got.optimal) == (1210, 10 + 100 + 11 + 1 - 1, True)


def crossed(count: int, depth: int, rng: np.random.Generator) -> tuple[list[Node], dict[str, int], set[str]]:
    """Cells of `count` chains of tensors of many sizes, some of which read the end of a chain before."""
    nodes, sizes, source = [], {"x": 8000}, "x"
    for cell in range(2):
        ends: list[str] = []
        for chain in range(count):
            at = source
            for step in range(depth):
                name = f"{cell}.{chain}.{step}"
                sizes[name] = 1000 * int(rng.choice([1, 2, 3, 4, 6, 8]))
                other = [str(rng.choice(ends))] if step and ends and rng.random() < 0.3 else []
                nodes.append(Node(name, (at, *other), (name,), int(rng.integers(500))))
                at = name
            ends.append(at)
        source = f"sum {cell}"
        sizes[source] = 8000
        nodes.append(Node(source, tuple(ends), (source,)))
    return nodes, sizes, {source}


@pytest.mark.parametrize("seed", range(4))
def test_a_search_cut_off_finishes_what_it_has_begun(seed: int) -> None:
    """Wide cells whose search is never allowed to end: the order is near the bound all the same."""
    got = least_peak_order(*crossed(10, 6, np.random.default_rng(seed)), max_states=40)
    assert got.bound <= got.peak <= got.given_peak
    assert got.peak <= 1.1 * got.bound


def test_the_planner_reaches_the_peak_of_the_order() -> None:
    nodes, sizes, _ = branches(4)
    order = least_peak_order(nodes, sizes, {"y"})
    steps = [Step(nodes[i].name, nodes[i].reads, nodes[i].writes) for i in order.nodes]
    kinds = {"x": "input", "y": "output"}
    plan = plan_memory([Buffer(t, n, kinds.get(t, "intermediate")) for t, n in sizes.items()], steps)
    assert (plan.arena_bytes, plan.optimal) == (order.peak, True)


def test_not_topological_is_refused() -> None:
    with pytest.raises(ValueError, match="node a reads a tensor"):
        least_peak_order([Node("a", ("t",), ("y",)), Node("b", ("x",), ("t",))], {"t": 1, "x": 1, "y": 1}, {"y"})
