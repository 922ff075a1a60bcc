# SPDX-License-Identifier: Apache-2.0
"""The memory / cycles curve: every point is what a build of it gives, and the choice is made among such points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given, settings

import tvm_tiny
from benchmarks import curve
from tests.support.demo import MODEL
from tests.support.guarded import GuardedModel
from tests.support.random_tiny import tiny_chains
from tests.support.shared import SHARED, needs_shared, shared_models
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.errors import OptionError
from tvm_tiny.memory.design import Design, Estimate, worth_building
from tvm_tiny.search import heights

ERROR = 0.05  # of estimated cycles against the profile; `python -m benchmarks.cycle_fit --write` after kernels have changed
PROFILED = ("vww_96_int8", "pretrainedResnet_quant", "mcunet_vww_80", "kws_ref_model")


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an500", pytest.param("mps2_an386", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "path",
    [MODEL, *(pytest.param(p, marks=needs_shared) for p in shared_models("tflite/kws_ref_model.tflite"))]
    + [pytest.param(p, marks=[pytest.mark.slow, needs_shared]) for p in shared_models("tflite/*.tflite") if p.stem in PROFILED[:3]],
    ids=lambda p: p.stem,
)
def test_every_point_is_what_is_built_and_profiled(path: Path, board: str) -> None:
    points = curve.points(path, board)
    assert len(points) > 1
    measured = [curve.measure(path, board, point) for point in points]
    assert [built.arena_bytes for built in measured] == [point["arena_bytes"] for point in points]
    for point, built in zip(points, measured, strict=True):
        assert built.cycles == pytest.approx(point["cycles"], rel=ERROR), point["text"]


def bottleneck() -> tvm.IRModule:
    """A wide head that patches suit, and a tail of inverted bottlenecks that streams suit."""
    b = TinyBuilder((1, 32, 32, 3))
    x = b.conv(b.x, 16, 3, strides=[2, 2], padding=[0, 0, 1, 1])
    x = b.conv(b.depthwise(x, 3, strides=[2, 2]), 8)
    x = b.conv(b.depthwise(b.conv(x, 48), 3), 8)
    return b.finish(b.conv(b.depthwise(b.conv(x, 48), 3), 8))


JOINT = {
    "copies": [],
    "patches": {"operators": [0, 3], "grid": [2, 4]},
    "segments": [[1, 4], [4, 7]],
    "pairs": False,
    "strips": "none",
    "planar": True,
}


@pytest.mark.host_cc
def test_patches_and_streams_in_one_network_are_exact(rng: np.random.Generator) -> None:
    mod = bottleneck()
    model = tvm_tiny.build(mod, "c", name="net", design={**JOINT, "bound": None})
    assert [row.op for row in model.report.layers] == ["stage", "stage", "stage"]
    assert model.workspace_size < tvm_tiny.build(mod, "c", name="net", optimize="speed").workspace_size
    library = GuardedModel(model)
    for x in (rng.integers(-128, 128, (1, 32, 32, 3)), np.full((1, 32, 32, 3), 127), np.full((1, 32, 32, 3), -128)):
        np.testing.assert_array_equal(library(x)[0], evaluate(mod, x.astype(np.int8))[0])
        assert not library.faults


@pytest.mark.host_cc
@settings(max_examples=5, deadline=None)
@given(tiny_chains())
def test_every_point_of_random_networks_is_exact_and_as_large_as_said(mod: tvm.IRModule) -> None:
    for point in tvm_tiny.build(mod, "c", name="net", max_overhead=1.0).report.decisions["curve"]["curve"]:
        model = tvm_tiny.build(mod, "c", name="net", design=point, max_overhead=1.0)
        assert model.workspace_size == point["arena_bytes"]
        library = GuardedModel(model)
        x = np.random.default_rng(0).integers(-128, 128, library.model.inputs[0].shape).astype(np.int8)
        np.testing.assert_array_equal(library(x)[0].reshape(-1), evaluate(mod, x)[0].reshape(-1))
        assert not library.faults


def test_the_choice_is_a_point_and_says_where_the_knee_lies() -> None:
    decision = tvm_tiny.build(bottleneck(), "c -mcpu=cortex-m7", name="net").report.decisions["curve"]
    assert decision["chosen"] in decision["curve"]
    assert f"the knee ({decision['chosen']['arena_bytes']:,} bytes" in decision["reason"]
    arenas, cycles = ([p[key] for p in decision["curve"]] for key in ("arena_bytes", "cycles"))
    assert arenas == sorted(arenas)
    assert cycles == sorted(cycles, reverse=True)


def test_a_design_survives_json() -> None:
    made = Design(("mul",), (0, 3, (2, 4)), ((1, 4), (4, 7)), True, True, False, 1234)
    assert Design.of(made.to_dict()) == made
    assert (
        made.describe() == "computed twice for mul, operators 0..2 in 2x4 patches, operators 1..3, 4..6 streamed (patches counted as one)"
    )
    assert Design().describe() == "layer by layer"
    with pytest.raises(OptionError, match="design is no point of a curve\n  remedy: give an entry of"):
        Design.of({"segments": []})


@needs_shared
def test_sram_takes_no_more_than_balanced() -> None:
    path = SHARED / "models/tflite/person_detect.tflite"
    sram, balanced = (tvm_tiny.build(path, "c -mcpu=cortex-m7", name="net", optimize=goal) for goal in ("sram", "balanced"))
    assert sram.workspace_size <= balanced.workspace_size


def test_sram_builds_every_stream_that_balanced_builds() -> None:
    """And besides in strips of the fewest bytes, and in those that keep within the work allowed."""
    streamed = Design(segments=((0, 3),))
    balanced, sram = (heights(streamed, goal) for goal in ("balanced", "sram"))
    assert [d.strips for d in sram] == ["within", "least", "tall"]
    assert set(balanced) < set(sram)
    assert heights(Design(), "sram") == [Design()]


def test_only_what_may_win_is_built() -> None:
    found = [
        Estimate(Design(segments=((0, i),)), size, work) for i, (size, work) in enumerate([(10, 0.5), (11, 0.6), (12, 0.1), (40, 0.0)])
    ]
    assert [e.arena_bytes for e in worth_building(found, "balanced", None, 0.2, 8)] == [10, 12, 40]
    assert [e.arena_bytes for e in worth_building(found, "sram", None, 0.2, 8)] == [10, 12]
    assert [e.arena_bytes for e in worth_building(found, "sram", None, 0.05, 8)] == [10]
    assert [e.arena_bytes for e in worth_building(found, "balanced", 39, 0.2, 8)] == [10, 12, 40]
    assert worth_building([], "sram", None, 0.2, 8) == []
