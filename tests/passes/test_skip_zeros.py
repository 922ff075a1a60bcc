# SPDX-License-Identifier: Apache-2.0
"""skip-zeros: kernels that leave out zeros are chosen where they pay, can be refused, and change no bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.boards import find_board
from tvm_tiny.explain import collecting
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.skip_zeros import SkipZeros
from tvm_tiny.schedules.base import Layer
from tvm_tiny.target import parse_target
from tvm_tiny.tuning.network import make_runner, tasks_of
from tvm_tiny.tuning.records import Records

M4 = "c -mcpu=cortex-m4"
RELU = {"y_zp": -128, "clamp_min": -128}


def network(inputs: int = 96, outputs: int = 64, *, rows: int = 1, relu: bool = True, **attrs: int) -> tvm.IRModule:
    """Two fully connected layers; `attrs` are the second one's."""
    b = TinyBuilder((rows, 24))
    hidden = b.dense(b.x, inputs, **(RELU if relu else {"y_zp": -5}))
    hidden = b.call("reshape", hidden, shape=[rows, inputs])
    return b.finish(b.dense(hidden, outputs, x_zp=-128 if relu else -5, **attrs))


def allowed(mod: tvm.IRModule, *options: object) -> list[int]:
    return [n.attrs["skip_zeros"] for n in TinyGraph(SkipZeros(*options)(mod)["main"]).nodes if n.op == "dense"]  # type: ignore[arg-type]


def test_before_and_expected() -> None:
    tvm.ir.assert_structural_equal(SkipZeros(M4)(network()), network(skip_zeros=1024))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((M4, "speed"), 1 << 16),
        ((M4, "balanced"), 1024),
        ((M4, "balanced", 4096), 0),
        ((M4, "sram"), -1),
        (("c -mcpu=cortex-m7",), -1),
        (("c",), -1),
    ],
    ids=["speed", "balanced", "a budget", "sram", "another core", "host"],
)
def test_the_goal_decides_what_the_list_may_cost(options: tuple[object, ...], expected: int) -> None:
    assert allowed(network(), *options) == [-1, expected]


@pytest.mark.parametrize(
    ("mod", "reason"),
    [
        (network(relu=False), "its input has values below the zero point"),
        (network(rows=2), "no kernel for several rows, so many inputs, or these weights"),
        (network(8, 8), "with a kernel for all inputs"),
    ],
    ids=["no ReLU", "two rows", "too small"],
)
def test_what_is_left_is_said(mod: tvm.IRModule, reason: str) -> None:
    with collecting() as told:
        assert allowed(mod, M4) == [-1, -1]
    assert [d.accepted for d in told] == [False, False]
    first, second = (d.reason for d in told)
    assert first == "its input is the network's"
    assert reason in second


def test_the_report_says_how_far_the_time_goes_and_it_can_be_refused() -> None:
    model = tvm_tiny.build(network(), M4, name="net")
    most = model.report.layers[1].kernel["most_cycles"]
    assert 0 < model.report.layers[1].kernel["half_cycles"] < most
    assert f"data-dependent: up to {most:,} cycles" in model.report.layers[1].kernel["note"]
    assert f"up to {most:,} when no input is zero" in str(model.report)
    for refused in ({"constant_time": True}, {"disable": ["skip-zeros"]}):
        assert "data-dependent" not in str(tvm_tiny.build(network(), M4, name="net", **refused).report)  # type: ignore[arg-type]


def test_tuning_measures_kernels_for_all_inputs(tmp_path: Path) -> None:
    runner = make_runner("emulator", find_board("mps2_an386"), tmp_path, None, "", "", 1)
    tasks = tasks_of(network(), parse_target(M4), runner, Records(), None, None)
    layers = [Layer.of(task.func) for task in tasks]
    assert [layer.attrs["skip_zeros"] for layer in layers if layer is not None] == [-1, -1]


@pytest.mark.host_cc
def test_the_same_bits_within_the_planned_arena() -> None:
    mod = network(100, 93)
    model = tvm_tiny.build(mod, M4, name="net", optimize="speed")
    assert "most_cycles" in model.report.layers[1].kernel
    guarded = GuardedModel(model)
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.integers(-128, 128, (1, 24)).astype(np.int8)
        np.testing.assert_array_equal(guarded(x)[0], evaluate(mod, x)[0])
        assert guarded.faults == []
