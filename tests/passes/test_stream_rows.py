# SPDX-License-Identifier: Apache-2.0
"""stream-rows: what it groups, what it leaves, and that it changes no bit."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import tvm
from hypothesis import given, settings

from tests.support.random_tiny import tiny_chains
from tests.support.tiny_builder import TinyBuilder, assert_same_meaning, op_names
from tvm_tiny.errors import OptionError
from tvm_tiny.memory.tiny_rows import tiny_rows
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.stream_rows import STREAM_ATTR, StreamRows


def bottleneck() -> tvm.IRModule:
    """An inverted bottleneck whose expanded tensors are six times its input."""
    b = TinyBuilder((1, 16, 16, 8))
    d = b.depthwise(b.conv(b.x, 48))
    return b.finish(b.conv(d, 8))


def schedule_of(mod: tvm.IRModule) -> dict:
    (stage,) = [n for n in TinyGraph(mod["main"]).nodes if n.op == "stage"]
    return json.loads(stage.attrs["schedule"])


def test_a_bottleneck_becomes_one_stage(rng: np.random.Generator) -> None:
    before = bottleneck()
    after = StreamRows("sram")(before)
    assert op_names(after) == ["stage"]
    assert schedule_of(after)["rings"] == {"0": 3, "1": 1}
    assert_same_meaning(before, after, rng)


def test_speed_streams_nothing() -> None:
    assert op_names(StreamRows("speed")(bottleneck())) == ["conv2d", "depthwise_conv2d", "conv2d"]


def test_dense_layers_stay_outside() -> None:
    b = TinyBuilder((1, 12, 12, 8))
    pooled = b.call("avg_pool2d", b.conv(b.conv(b.x, 32), 16), kernel=[12, 12])
    flat = b.call("reshape", pooled, shape=[1, 16])
    mod = b.finish(b.dense(flat, 4))
    assert op_names(StreamRows("sram")(mod)) == ["stage", "reshape", "dense"]


def test_a_residual_is_added_in_the_row_just_stored() -> None:
    b = TinyBuilder((1, 10, 10, 8))
    first = b.conv(b.x, 8, 3)
    branch = b.conv(b.depthwise(b.conv(first, 32)), 8)
    y = b.call("add", branch, first, a_zp=0, b_zp=0, y_zp=0, a_multiplier=1 << 30, b_multiplier=1 << 30, y_multiplier=1 << 30,
               a_shift=0, b_shift=0, y_shift=-18)  # fmt: skip
    out = StreamRows(segments=[(0, 5)])(b.finish(y))
    schedule = schedule_of(out)
    assert [3, 4] in schedule["stages"], "the addition fires with the projection before it"
    assert "3" not in schedule["rings"], "the projection's rows have no ring of their own"


def test_what_is_logged_names_every_candidate(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tvm_tiny.passes.stream-rows"):
        out = StreamRows("balanced")(bottleneck())
    assert any("accepted" in line for line in caplog.messages)
    assert any("stream nothing" in line and "rejected" in line for line in caplog.messages)
    decision = json.loads(str(out.attrs[STREAM_ATTR]))
    assert decision["chosen"] in decision["curve"]
    arenas = [point["arena_bytes"] for point in decision["curve"]]
    assert arenas == sorted(arenas)


def test_the_budget_decides_how_much_is_streamed() -> None:
    curve = json.loads(str(StreamRows("balanced")(bottleneck()).attrs[STREAM_ATTR]))["curve"]
    roomy = StreamRows("balanced", budget=curve[-1]["arena_bytes"])(bottleneck())
    assert "stage" not in op_names(roomy), "layer by layer fits: nothing is streamed"


@pytest.mark.parametrize("arguments", [{"goal": "small"}, {"max_overhead": -0.1}])
def test_illegal_goals_are_refused(arguments: dict) -> None:
    with pytest.raises(OptionError):
        StreamRows(**arguments)


def test_ranges_that_need_whole_tensors_are_refused() -> None:
    b = TinyBuilder((1, 8))
    mod = b.finish(b.dense(b.dense(b.x, 8), 8))
    with pytest.raises((OptionError, RuntimeError), match=r"can.t be streamed"):  # TVM hands errors of a pass on as RuntimeError
        StreamRows(segments=[(0, 2)])(mod)


@settings(max_examples=15, deadline=None)
@given(tiny_chains(more=("resize", "resize")))
def test_random_networks_keep_their_meaning(mod: tvm.IRModule) -> None:
    rows = tiny_rows(TinyGraph(mod["main"]))
    assert rows is not None
    assert all(op.kind != "whole" for op in rows.graph.ops)
    whole = StreamRows(segments=[(0, len(rows.graph.ops))])(mod)
    assert op_names(whole) == ["stage"]
    assert_same_meaning(mod, whole, np.random.default_rng(0), 1)
    assert_same_meaning(mod, StreamRows("sram")(mod), np.random.default_rng(0), 1)
