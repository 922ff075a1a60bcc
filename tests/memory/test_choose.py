# SPDX-License-Identifier: Apache-2.0
"""The curve of ways to run a network is a trade-off, every point's plan runs, and goals and budgets pick from it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.random_rows import row_graphs
from tests.support.row_models import mobilenet_v2
from tests.support.stream_simulator import Machine
from tvm_tiny.memory.check import check_plan
from tvm_tiny.memory.choose import Candidate, Costs, candidates, choose, knee
from tvm_tiny.memory.fit import MemoryDoesNotFitError
from tvm_tiny.memory.rows import RowGraph
from tvm_tiny.memory.segments import Cutter, Options, least_arena


@pytest.fixture(scope="module")
def curve() -> list[Candidate]:
    return candidates(mobilenet_v2(0.35, 96), Options())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(row_graphs())
def test_every_point_runs_and_none_is_dominated(graph: RowGraph) -> None:
    points = candidates(graph, Options(), effort=1)
    assert points
    for a, b in itertools.pairwise(points):
        assert a.cost <= b.cost
        assert a.arena_bytes > b.arena_bytes
    for p in points:
        check_plan(p.plan)
        if p.partition is not None:
            Machine(p.graph, p.partition, p.plan).run()
    assert points[-1].arena_bytes <= least_arena(Cutter(graph), effort=1)[1].arena_bytes


def test_goals(curve: list[Candidate]) -> None:
    assert curve[0].kind == "layers"
    assert choose(curve, "speed") == curve[0]
    assert choose(curve, "sram") == curve[-1]
    assert curve[-1].arena_bytes == 30720
    assert choose(curve, "balanced").arena_bytes == 37440  # a third of layer by layer at half a percent more work
    assert choose(curve, "balanced") == knee(curve)
    with pytest.raises(ValueError, match="goal 'small' is not one of speed, balanced, sram"):
        choose(curve, "small")


def test_budget_takes_the_cheapest_that_fits(curve: list[Candidate]) -> None:
    assert choose(curve, "speed", 36000).arena_bytes == 35520
    assert choose(curve, "balanced", 110976) in curve


def test_too_small_a_budget_is_explained(curve: list[Candidate]) -> None:
    with pytest.raises(MemoryDoesNotFitError) as caught:
        choose(curve, "balanced", 30000)
    assert caught.value.excess == 720
    assert "needs 30,720 bytes of arena, which has 30,000: 720 too many" in str(caught.value)
    assert "no known change fits; the closest, 3 segments streamed by rows, still needs 30,720 bytes" in caught.value.remedy


def test_costs_decide_between_patches_and_streams() -> None:
    points = candidates(mobilenet_v2(0.35, 96), Options(), max_overhead=0.1, costs=Costs(streamed=5.0, patched=0.0))
    patched = [c.describe() for c in points if c.kind == "patches"]
    assert patched
    assert patched[0].startswith("the first ")
    assert "patches, " in patched[0]
