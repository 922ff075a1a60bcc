# SPDX-License-Identifier: Apache-2.0
"""Stages in strips as C: bit for bit on random chains, inside their arena, on the emulated cores, and no more bytes than rings."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.schedules.test_stream import run_guarded
from tests.support.host import HostModel
from tests.support.random_tiny import tiny_chains
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.errors import DoesNotFitError
from tvm_tiny.memory.stream_strips import forced
from tvm_tiny.memory.strips import StripSegment
from tvm_tiny.memory.tiny_rows import TinyRows, tiny_rows
from tvm_tiny.ops.add import quantize_params
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.fuse_ops import FuseOps
from tvm_tiny.passes.stream_rows import StreamRows
from tvm_tiny.schedules.cycles import CYCLE_COSTS

pytestmark = pytest.mark.host_cc

DISABLED = ["remove-constant-channels"]


def separable(height: int, width: int, channels: int, stride: int = 1, zero_point: int = -128) -> tvm.IRModule:
    """Two depthwise separable blocks between pointwise convolutions, the second depthwise one with `stride` and padding at one side."""
    b = TinyBuilder((1, height, width, 4), seed=height)
    x = b.conv(b.x, channels, 1, y_zp=zero_point)
    x = b.depthwise(x, 3, x_zp=zero_point, y_zp=zero_point)
    x = b.conv(x, channels, 1, x_zp=zero_point, y_zp=zero_point)
    x = b.depthwise(x, 3, x_zp=zero_point, y_zp=zero_point, strides=[stride, stride], padding=[0, 1, 1, 0])
    return b.finish(b.conv(x, 4, 1, x_zp=zero_point))


def rows_of(mod: tvm.IRModule) -> TinyRows:
    rows = tiny_rows(TinyGraph(mod["main"]))
    assert rows is not None
    return rows


@settings(max_examples=8, deadline=None)
@given(tiny_chains(), st.integers(1, 5), st.booleans())
def test_random_chains_are_exact_and_stay_in_their_arena(mod: tvm.IRModule, rows: int, fused: bool) -> None:
    mod = FuseOps()(mod) if fused else mod
    streamed = StreamRows(segments=[(0, len(rows_of(mod).graph.ops))], strips=rows)(mod)
    model = tvm_tiny.build(streamed, "c", disable=DISABLED, optimize="speed")
    library, rng = HostModel(model), np.random.default_rng(1)
    for fill in (0x00, 0xFF):
        x = rng.integers(-128, 128, model.inputs[0].shape).astype(np.int8)
        np.testing.assert_array_equal(run_guarded(model, library, x, fill), evaluate(mod, x)[0])


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an500", "mps2_an386"])
@pytest.mark.parametrize(("zero_point", "channels", "shared"), [(-128, 8, False), (127, 7, False), (-128, 8, True)])
def test_on_emulated_cores(board: str, zero_point: int, channels: int, shared: bool, rng: np.random.Generator) -> None:
    """Kernels of code of their own and those whose code is shared, channels in fours and not, two strips writing over their inputs."""
    mod = StreamRows(segments=[(0, 5)], strips=3)(separable(7, 5, channels, 2, zero_point))
    (stage,) = [n for n in TinyGraph(mod["main"]).nodes if n.op == "stage"]
    assert json.loads(stage.attrs["schedule"])["over"]
    flash = {}
    if shared:
        with pytest.raises(DoesNotFitError) as refused:
            tvm_tiny.build(mod, board=board, optimize="speed", disable=DISABLED, flash=1)
        least = re.search(r"allow ([\d,]+) bytes", str(refused.value))
        assert least is not None
        flash = {"flash": int(least[1].replace(",", ""))}
    model = tvm_tiny.build(mod, board=board, optimize="speed", disable=DISABLED, **flash)
    images = [rng.integers(-128, 128, model.inputs[0].shape).astype(np.int8), np.full(model.inputs[0].shape, 127, np.int8)]
    for image, result in zip(images, model.run([{model.inputs[0].name: image} for image in images]), strict=True):
        np.testing.assert_array_equal(evaluate(mod, image)[0], result[model.outputs[0].name])


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an500", "mps2_an386"])
def test_pixels_left_over_and_bands_on_emulated_cores(board: str, rng: np.random.Generator) -> None:
    """Strips of 20 pixels in threes, two left over; 3x3 convolutions of stride 1 and 2 with an addition, whose windows share columns."""
    b = TinyBuilder((1, 9, 5, 8), seed=5)
    x = b.conv(b.x, 8, 1)
    y = b.conv(x, 8, 3)
    y = b.call("add", x, y, a_zp=0, b_zp=0, y_zp=0, **quantize_params(0.1, 0.04, 0.09))
    mod = FuseOps()(b.finish(b.conv(y, 6, 3, strides=[2, 2], padding=[0, 1, 1, 0])))
    mod = StreamRows(segments=[(0, len(rows_of(mod).graph.ops))], strips=4)(mod)
    x8 = rng.integers(-128, 128, (1, 9, 5, 8)).astype(np.int8)
    model = tvm_tiny.build(mod, board=board, optimize="speed", disable=DISABLED)
    (found,) = model.run([{model.inputs[0].name: x8}])
    np.testing.assert_array_equal(found[model.outputs[0].name], evaluate(mod, x8)[0])


def test_strips_of_one_row_take_no_more_than_rings() -> None:
    rows = rows_of(separable(24, 24, 16))
    rings, strips = (forced(rows, [(0, 5)], CYCLE_COSTS, strips=s).ranges[0] for s in ("none", "least"))
    assert isinstance(strips.segment, StripSegment)
    assert strips.bytes < rings.bytes


def test_strips_are_as_tall_as_the_arena_leaves_room_for() -> None:
    """A larger tensor elsewhere decides the arena."""
    rows = rows_of(separable(24, 24, 16))
    (least,) = forced(rows, [(0, 5)], CYCLE_COSTS).ranges
    made = []
    tightest = forced(rows, [(0, 5)], CYCLE_COSTS, least.bytes, "tall")  # strips or, where those are less work, rings
    assert tightest.chosen["arena_bytes"] <= 1.01 * least.bytes
    for arena in (int(1.2 * least.bytes), 2 * least.bytes):
        choice = forced(rows, [(0, 5)], CYCLE_COSTS, arena, "tall")
        (part,) = choice.ranges
        assert isinstance(part.segment, StripSegment)
        assert choice.chosen["arena_bytes"] <= 1.01 * arena
        made.append(part.segment.rows)
    assert made[0] < made[1]


def test_a_stream_without_work_is_built() -> None:
    """Poolings of one element: nothing to compare the work of strips with."""
    b = TinyBuilder((1, 8, 13, 8))
    x = b.call("max_pool2d", b.x, kernel=[1, 1])
    mod = b.finish(b.call("max_pool2d", x, kernel=[1, 1]))
    model = tvm_tiny.build(mod, "c", name="net", optimize="sram")
    image = np.arange(832).astype(np.int8).reshape(1, 8, 13, 8)
    np.testing.assert_array_equal(HostModel(model)(image)[0], image)


@pytest.mark.parametrize("dilation", [120, 130])
def test_windows_taller_than_tables_can_say_are_not_streamed(dilation: int, rng: np.random.Generator) -> None:
    """Dilated windows over time: a row of the output reads 241 rows of the input, or 261."""
    b = TinyBuilder((1, 700, 1, 4))
    x = b.conv(b.x, 8)
    weight = b.rng.integers(-127, 128, (8, 3, 1, 8)).astype(np.int8)
    x = b.conv(x, 8, weight=weight, dilation=[dilation, 1], padding=[0, 0, 0, 0])
    mod = b.finish(b.conv(x, 4))
    kinds = {op.kind for op in rows_of(mod).graph.ops}
    assert ("whole" in kinds) == (2 * dilation + 1 > 255)
    model = tvm_tiny.build(mod, "c", name="net", optimize="sram")
    image = rng.integers(-128, 128, (1, 700, 1, 4)).astype(np.int8)
    np.testing.assert_array_equal(HostModel(model)(image)[0], evaluate(mod, image)[0])
