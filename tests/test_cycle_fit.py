# SPDX-License-Identifier: Apache-2.0
"""Estimates of cycles: what a term costs, how costs are fitted to random layers, and how far estimates are from profiles."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cycle_fit import errors_left_out, estimate, fit, nonnegative, table, without_repeats
from benchmarks.cycle_samples import Sample, chain, designs, measure, read, side_by_side, write
from tvm_tiny.boards import find_board
from tvm_tiny.errors import OptionError
from tvm_tiny.pipeline import Options
from tvm_tiny.schedules.cycle_priors import counted_cost, group_cost
from tvm_tiny.schedules.cycle_terms import coefficients, cycles_of

CORES = ("cortex-m7", "cortex-m4")
NEAR = 0.15  # of the profile: four layers in five of a few, nine in ten of many
NETWORK = 0.07  # of the profile: layers together


def test_costs_are_fitted_without_negative_ones(rng: np.random.Generator) -> None:
    counts = rng.random((30, 4))
    np.testing.assert_allclose(nonnegative(counts, counts @ np.array([2.0, 0.0, 0.5, 3.0])), [2, 0, 0.5, 3], atol=1e-6)
    assert nonnegative(counts, counts @ np.array([2.0, -0.5, 0.5, 3.0]))[1] == 0


def made_up(rng: np.random.Generator, costs: dict[str, float]) -> list[Sample]:
    """Samples of layers that cost exactly so much."""
    found = []
    for i in range(40):
        terms = {name: float(rng.integers(100, 10_000)) for name in costs}
        found.append(Sample(f"net {i // 4}", "conv", terms, sum(costs[name] * n for name, n in terms.items())))
    return found


def test_a_fit_finds_what_terms_cost_and_predicts_what_it_has_not_seen(rng: np.random.Generator) -> None:
    costs = {"lookup lookup table": 2.5, "gather own words": 3.5, "flash lines": 14.0}
    found = made_up(rng, costs)
    assert fit(found, "cortex-m7") == pytest.approx(costs, rel=0.02)
    assert max(map(abs, errors_left_out(found, "cortex-m7", lambda s: s.network, 5))) < 0.02


def test_terms_that_no_profile_tells_apart_keep_near_their_instructions(rng: np.random.Generator) -> None:
    found = [Sample("net", "conv", {"gather own words": n, "gather own taps": n}, 20.0 * n) for n in rng.integers(1000, 9000, 10).tolist()]
    costs = fit(found, "cortex-m7")
    assert costs["gather own taps"] > costs["gather own words"] > 1
    assert estimate({"flash lines": 10.0}, costs, "cortex-m7") == 10 * counted_cost("flash lines", "cortex-m7")


@pytest.mark.parametrize("core", CORES)
def test_every_fitted_term_has_instructions_and_no_cost_is_negative(core: str) -> None:
    found = coefficients()[core]
    assert all(counted_cost(name, core) > 0 for name in found)
    assert min(found.values()) >= 0
    assert cycles_of({"no such term": 2.0}, core) == 2 * counted_cost("no such term", core)


@pytest.mark.parametrize("core", CORES)
def test_a_group_costs_more_in_larger_blocks_and_less_for_each_sum(core: str) -> None:
    costs = [group_cost("r8", 2, pixels, core) for pixels in (1, 2, 3, 4)]
    assert costs == sorted(costs)
    each = [cost / pixels for pixels, cost in enumerate(costs, 1)]
    assert each == sorted(each, reverse=True)


def test_samples_survive_a_file(tmp_path: Path) -> None:
    found = [Sample("net", "conv", {"a": 1.0}, 2.0), Sample("net", "conv", {"a": 1.0}, 2.0), Sample("other", "conv", {"a": 1.0}, 2.0)]
    write(tmp_path / "samples.jsonl", found[:1])
    write(tmp_path / "samples.jsonl", found[1:])
    assert read(tmp_path / "samples.jsonl") == found
    assert without_repeats(found) == [found[0], found[2]]
    assert table(found, [0.0] * 3, [0.0] * 3, "board").row_count == 2


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an500", "mps2_an386"])
def test_layers_nobody_fitted_are_near_their_profile(board: str) -> None:
    emulated = find_board(board)
    found = [s for small in (False, True) for s in measure("net", side_by_side(99_001, 8), emulated, small=small)]
    errors = [abs(cycles_of(s.terms, emulated.mcpu) / s.cycles - 1) for s in found]
    assert np.median(errors) < NEAR / 3
    assert np.quantile(errors, 0.8) < NEAR
    assert sum(cycles_of(s.terms, emulated.mcpu) for s in found) == pytest.approx(sum(s.cycles for s in found), rel=NETWORK)


@pytest.mark.qemu
def test_stages_nobody_fitted_are_near_their_profile() -> None:
    board, mod = find_board("mps2_an500"), chain(99_002)
    sums = []
    for design, small in designs(mod, 99_002, Options(board.target)):
        with contextlib.suppress(OptionError):  # not every range of operators can be grouped
            found = measure("net", mod, board, small=small, design=design)
            sums.append((sum(cycles_of(s.terms, board.mcpu) for s in found), sum(s.cycles for s in found)))
    assert len(sums) > 1
    for estimated, profiled in sums:
        assert estimated == pytest.approx(profiled, rel=NEAR)


@pytest.mark.parametrize("core", CORES)
def test_a_term_that_no_profile_had_costs_what_its_own_words_do(core: str) -> None:
    assert counted_cost("quantize quantize float", core) == counted_cost("quantize", core) < 20
    assert counted_cost("add add linear", core) < counted_cost("add add plain C", core)
    assert counted_cost("depthwise shared-rows calls", core) == counted_cost("depthwise calls", core)
