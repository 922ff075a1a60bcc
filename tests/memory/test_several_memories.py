# SPDX-License-Identifier: Apache-2.0
"""Networks whose arena lies in two or three memories: the same bits, canaries around each memory, dead bytes poisoned."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.support.guarded import CANARY, GuardedModel
from tests.support.memories import split_board
from tests.support.random_networks import networks
from tests.support.random_tiny import tiny_chains
from tests.support.tiny_builder import evaluate
from tests.test_pass_combinations import draws, everything
from tvm_tiny.compiled import CompiledModel
from tvm_tiny.errors import DoesNotFitError

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
GOALS = ("speed", "balanced", "sram")


def shape_of(mod: tvm.IRModule) -> tuple[int, ...]:
    return tuple(int(d) for d in mod["main"].params[0].ty.shape.values)


def same(model: CompiledModel, mod: tvm.IRModule) -> None:
    library = GuardedModel(model)
    for x in draws(shape_of(mod), np.random.default_rng(0)):
        for ours, wanted in zip(library(x), evaluate(mod, x), strict=True):
            np.testing.assert_array_equal(ours.reshape(-1), wanted.reshape(-1))
        assert not library.faults


def check(mod: tvm.IRModule, goal: str, parts: list[float], turned: bool) -> None:
    """The first memories take those parts of what the network needs in one; where it then does not fit, another network is drawn."""
    alone = tvm_tiny.build(mod, "c", name="net", optimize=goal).workspace_size
    board = split_board(*(max(16, int(alone * part)) for part in parts), 2 * alone)
    memory = board.memory[::-1] if turned else board.memory
    try:
        model = tvm_tiny.build(mod, "c", board=dataclasses.replace(board, memory=memory), name="net", optimize=goal)
    except DoesNotFitError:
        assume(False)
    assert all(model.plan.used[r.name] <= r.arena_bytes for r in board.arena_regions)
    same(model, mod)


@pytest.mark.host_cc
@settings(max_examples=6, suppress_health_check=QUIET)
@given(networks() | tiny_chains(), st.sampled_from(GOALS), st.lists(st.floats(0.05, 0.9), min_size=1, max_size=2), st.booleans())
def test_random_networks_over_random_memories(mod: tvm.IRModule, goal: str, parts: list[float], turned: bool) -> None:
    check(mod, goal, parts, turned)


@pytest.mark.slow
@pytest.mark.host_cc
@settings(max_examples=200, suppress_health_check=QUIET)
@given(networks(8) | tiny_chains(), st.sampled_from(GOALS), st.lists(st.floats(0.02, 1.0), min_size=1, max_size=2), st.booleans())
def test_many_random_networks_over_random_memories(mod: tvm.IRModule, goal: str, parts: list[float], turned: bool) -> None:
    check(mod, goal, parts, turned)


@pytest.mark.host_cc
def test_the_guard_watches_every_memory() -> None:
    """Each has its own canaries: a byte written past the end of the first is no byte of the second."""
    model = tvm_tiny.build(everything(), "c", board=split_board(512, 1024, 0), name="net", optimize="speed")
    assert all(model.plan.used.values())
    library = GuardedModel(model)
    starts = library._starts
    assert min(starts.values()) >= CANARY
    assert all(b - a >= CANARY + model.plan.used[name] for (name, a), b in zip(starts.items(), list(starts.values())[1:], strict=False))
    smallest = min((b for b in model.plan.buffers if b.kind == "intermediate"), key=lambda b: b.nbytes)
    smaller = tuple(dataclasses.replace(b, nbytes=1) if b is smallest else b for b in model.plan.buffers)
    object.__setattr__(library.model, "plan", dataclasses.replace(model.plan, buffers=smaller))
    library(np.zeros(shape_of(everything()), np.int8))
    region = model.plan.placements[smallest.name].region
    assert any(f"not its own, {region} from" in fault for fault in library.faults)


@pytest.mark.qemu
@pytest.mark.parametrize(("goal", "used"), [("speed", 3), ("sram", 2)])
def test_three_memories_on_the_emulated_m7(goal: str, used: int) -> None:
    board = split_board(512, 1024, 0)
    model = tvm_tiny.build(everything(), board=board, name="net", optimize=goal)
    assert sum(n > 0 for n in model.plan.used.values()) == used
    samples = draws(shape_of(everything()), np.random.default_rng(0))
    for x, found in zip(samples, model.run([{model.inputs[0].name: x} for x in samples], board=board), strict=True):
        for ours, wanted in zip(found.values(), evaluate(everything(), x), strict=True):
            np.testing.assert_array_equal(ours.reshape(-1), wanted.reshape(-1))
