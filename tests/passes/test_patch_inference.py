# SPDX-License-Identifier: Apache-2.0
"""patch-inference: what it groups, what it leaves, and that it changes no bit."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import tvm
from hypothesis import given, settings

import tvm_tiny
from tests.support.random_tiny import tiny_chains
from tests.support.tiny_builder import TinyBuilder, assert_same_meaning, op_names
from tvm_tiny.errors import OptionError
from tvm_tiny.memory.patch_choice import describe
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.ops.stage import Inner, stage_call
from tvm_tiny.passes.patch_inference import PATCH_ATTR, PatchInference
from tvm_tiny.passes.stream_rows import StreamRows


def narrowing() -> tvm.IRModule:
    """A large image that a few layers make small: where patches pay."""
    b = TinyBuilder((1, 32, 32, 3))
    x = b.conv(b.x, 16, 3, strides=[2, 2], padding=[0, 0, 1, 1])
    x = b.conv(b.depthwise(x, 3), 32)
    x = b.conv(b.depthwise(x, 3, strides=[2, 2]), 8)
    return b.finish(b.conv(x, 8, 3))


def decision_of(mod: tvm.IRModule) -> dict:
    return json.loads(str(mod.attrs[PATCH_ATTR]))


def test_before_and_expected() -> None:
    b = TinyBuilder((1, 8, 8, 2))
    before = b.finish(b.depthwise(b.conv(b.x, 4, 3), 3))
    first, second = (n for n in TinyGraph(before["main"]).nodes if n.op)
    after = PatchInference(stage=(0, 2, (2, 4)))(before)
    (stage,) = (n for n in TinyGraph(after["main"]).nodes if n.op)
    e = TinyBuilder((1, 8, 8, 2))
    constants = [*first.args[1:], *second.args[1:]]
    inner = [
        Inner("tiny.conv2d", first.attrs, (("arg", 0), *(("arg", i) for i in range(1, 5)))),
        Inner("tiny.depthwise_conv2d", second.attrs, (("node", 0), *(("arg", i) for i in range(5, 9)))),
    ]
    schedule = {"grid": [2, 4], "scratch": json.loads(stage.attrs["schedule"])["scratch"]}
    expected = e.finish(e.builder.emit(stage_call(inner, [e.x, *constants], schedule)))
    tvm.ir.assert_structural_equal(after["main"], expected["main"], map_free_vars=True)


def test_the_head_becomes_one_stage(rng: np.random.Generator) -> None:
    before = narrowing()
    after = PatchInference("sram", max_overhead=0.5, rows=False)(before)
    assert op_names(after)[0] == "stage"
    assert decision_of(after)["chosen"]["arena_bytes"] < 20_000
    assert_same_meaning(before, after, rng)


def test_speed_patches_nothing() -> None:
    assert "stage" not in op_names(PatchInference("speed")(narrowing()))


def test_no_more_is_done_again_than_allowed() -> None:
    assert 0 < decision_of(PatchInference("sram", max_overhead=0.1, rows=False)(narrowing()))["chosen"]["extra_macs"] <= 0.1
    assert "stage" not in op_names(PatchInference("sram", max_overhead=0.05, rows=False)(narrowing()))


def test_the_budget_decides_how_many_patches() -> None:
    curve = decision_of(PatchInference("balanced", max_overhead=0.5, rows=False)(narrowing()))["curve"]
    roomy = PatchInference("balanced", budget=11_000, rows=False)(narrowing())
    assert "stage" not in op_names(roomy), "layer by layer fits: no patches"
    tight = decision_of(PatchInference("balanced", budget=curve[0]["arena_bytes"], max_overhead=0.5, rows=False)(narrowing()))
    assert tight["chosen"]["arena_bytes"] <= curve[0]["arena_bytes"]
    assert tight["chosen"]["grid"]


def test_patches_that_do_not_win_are_left() -> None:
    b = TinyBuilder((1, 1, 1, 64))
    after = PatchInference("sram", rows=False)(b.finish(b.conv(b.conv(b.x, 16), 16)))
    assert op_names(after) == ["conv2d", "conv2d"]
    assert decision_of(after)["reason"] == "patches make nothing smaller"


def test_rows_win_where_they_save_as_much_for_less_work(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tvm_tiny.passes.patch-inference"):
        after = PatchInference("sram")(narrowing())
    assert "stage" not in op_names(after), "left to stream-rows"
    assert "streamed" in decision_of(after)["reason"]
    assert any("patches" in line and "rejected" in line for line in caplog.messages)
    assert "stage" in op_names(StreamRows("sram")(after))


def test_every_point_of_the_curve_is_told() -> None:
    curve = decision_of(PatchInference("balanced", max_overhead=0.5, rows=False)(narrowing()))["curve"]
    arenas = [point["arena_bytes"] for point in curve]
    assert arenas == sorted(arenas)
    assert "patches: " in describe(curve[0])
    assert describe({"arena_bytes": 1, "extra_work": 0.0, "segments": []}).startswith("layer by layer: ")


@pytest.mark.parametrize("arguments", [{"goal": "small"}, {"max_overhead": -0.1}])
def test_illegal_goals_are_refused(arguments: dict) -> None:
    with pytest.raises(OptionError):
        PatchInference(**arguments)


def test_operators_that_need_whole_tensors_are_refused() -> None:
    b = TinyBuilder((1, 8))
    mod = b.finish(b.dense(b.dense(b.x, 8), 8))
    with pytest.raises((OptionError, RuntimeError), match=r"can.t be computed in patches"):  # TVM hands errors of a pass on as RuntimeError
        PatchInference(stage=(0, 2, (2, 2)))(mod)


@settings(max_examples=10, deadline=None)
@given(tiny_chains())
def test_random_networks_keep_their_meaning(mod: tvm.IRModule) -> None:
    after = PatchInference("sram", max_overhead=1.0, rows=False)(mod)
    assert_same_meaning(mod, after, np.random.default_rng(0), 1)


def test_the_board_is_a_budget() -> None:
    model = tvm_tiny.build(narrowing(), board="mps2_an500", name="net", sram="board")
    assert "the least work within 4," in model.report.decisions["curve"]["reason"]
