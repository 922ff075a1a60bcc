# SPDX-License-Identifier: Apache-2.0
"""Convolutions that make two rows at once in a stream (Winograd's form): rings, program and kernel, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.schedules.test_stream import run_guarded
from tests.support.host import HostModel
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.memory.stream_check import check_segment
from tvm_tiny.memory.stream_choice import in_pairs
from tvm_tiny.memory.stream_strips import forced
from tvm_tiny.memory.tiny_rows import tiny_rows
from tvm_tiny.ops import add as add_op
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.fuse_ops import FuseOps
from tvm_tiny.passes.stream_rows import StreamRows
from tvm_tiny.schedules.stream_costs import COSTS
from tvm_tiny.target import parse_target

pytestmark = pytest.mark.host_cc


@st.composite
def pairs_of_rows(draw: st.DrawFn) -> tvm.IRModule:
    """A convolution Winograd applies to between others: paddings of both sides, widths that leave a rest of tiles, residuals, strides."""
    b = TinyBuilder((1, draw(st.integers(4, 11)), draw(st.integers(3, 13)), draw(st.integers(1, 4))), seed=draw(st.integers(0, 10**6)))
    zero_point = draw(st.sampled_from([-128, -3, 127]))
    channels = draw(st.sampled_from([4, 8, 12]))
    x = b.conv(b.x, channels, draw(st.sampled_from([1, 3])), y_zp=zero_point)
    top, left = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    _, height, width, _ = (int(d) for d in x.ty.shape.values)
    bottom, right = top + height % 2, left + width % 2
    if height + top + bottom < 4 or width + left + right < 4:
        top = bottom = left = right = 1
        bottom, right = bottom + height % 2, right + width % 2
    residual = (top + bottom, left + right) == (2, 2) and draw(st.booleans())
    outputs = channels if residual else draw(st.sampled_from([2, 4, 6]))
    y = b.conv(x, outputs, 3, x_zp=zero_point, padding=[top, left, bottom, right])
    if residual:
        y = b.call("add", y, x, a_zp=5, b_zp=zero_point, y_zp=5, **add_op.quantize_params(0.1, 0.037, 0.06))
    stride = draw(st.sampled_from([1, 2]))
    return b.finish(b.conv(y, 4, draw(st.sampled_from([1, 3])), x_zp=5, strides=[stride, stride]))


def streamed(mod: tvm.IRModule) -> tvm.IRModule:
    rows = tiny_rows(TinyGraph(mod["main"]))
    assert rows is not None
    assert any(op.group == 2 for op in in_pairs(rows, COSTS).graph.ops)
    for part in forced(rows, [(0, len(rows.graph.ops))], COSTS).ranges:
        assert part.segment is not None
        check_segment(in_pairs(rows, COSTS).graph, part.segment)
    return StreamRows(segments=[(0, len(rows.graph.ops))])(mod)


@settings(max_examples=6, deadline=None)
@given(pairs_of_rows(), st.booleans())
def test_random_pairs_are_exact_and_stay_in_their_arena(mod: tvm.IRModule, fused: bool) -> None:
    model = tvm_tiny.build(streamed(FuseOps()(mod) if fused else mod), "c", disable=["remove-constant-channels"], optimize="speed")
    library, rng = HostModel(model), np.random.default_rng(1)
    for fill in (0x00, 0xFF):
        x = rng.integers(-128, 128, model.inputs[0].shape).astype(np.int8)
        np.testing.assert_array_equal(run_guarded(model, library, x, fill), evaluate(mod, x)[0])


def residual_block() -> tvm.IRModule:
    """Two convolutions and their input added, as in a ResNet; then one of stride 2."""
    b = TinyBuilder((1, 12, 14, 3))
    x = b.conv(b.x, 8, 3, y_zp=5)
    y = b.conv(b.conv(x, 8, 3, x_zp=5), 8, 3, x_zp=5)
    y = b.call("add", y, x, a_zp=5, b_zp=5, y_zp=5, **add_op.quantize_params(0.1, 0.037, 0.06))
    return b.finish(b.conv(y, 12, 3, x_zp=5, strides=[2, 2]))


def test_a_residual_is_added_in_both_rows() -> None:
    (stage,) = [n for n in TinyGraph(streamed(residual_block())["main"]).nodes if n.op == "stage"]
    schedule = json.loads(stage.attrs["schedule"])
    assert schedule["groups"] == [1, 2, 2, 1, 1]
    assert [2, 3] in schedule["stages"]
    assert all(schedule["rings"][k] % 2 == 0 for k in ("1", "3")), "rows made at once lie beside each other"


def test_a_residual_in_the_convolution_is_added_in_both_rows() -> None:
    """The same stream as with the addition beside it: as many rows in rings, one operator less."""
    (stage,), (apart,) = ([n for n in TinyGraph(streamed(m)["main"]).nodes if n.op == "stage"] for m in (fused_block(), residual_block()))
    schedule, before = json.loads(stage.attrs["schedule"]), json.loads(apart.attrs["schedule"])
    assert schedule["groups"] == [1, 2, 2, 1]
    assert [schedule["rings"][k] for k in ("0", "1", "2")] == [before["rings"][k] for k in ("0", "1", "3")]


def fused_block() -> tvm.IRModule:
    return FuseOps()(residual_block())


@pytest.mark.qemu
@pytest.mark.parametrize("make", [residual_block, fused_block])
@pytest.mark.parametrize("board", ["mps2_an386", "mps2_an500"])
def test_on_emulated_cores(board: str, make: Callable[[], tvm.IRModule], rng: np.random.Generator) -> None:
    mod = make()
    model = tvm_tiny.build(streamed(mod), board=board, optimize="speed")
    images = [rng.integers(-128, 128, model.inputs[0].shape).astype(np.int8), np.full(model.inputs[0].shape, -128, np.int8)]
    for image, result in zip(images, model.run([{model.inputs[0].name: image} for image in images]), strict=True):
        np.testing.assert_array_equal(evaluate(mod, image)[0], result[model.outputs[0].name])


def test_cores_without_smlad_stream_single_rows() -> None:
    rows = tiny_rows(TinyGraph(residual_block()["main"]))
    assert rows is not None
    out = StreamRows(segments=[(0, len(rows.graph.ops))], target=parse_target("c -mcpu=cortex-m3"))(residual_block())
    (stage,) = [n for n in TinyGraph(out["main"]).nodes if n.op == "stage"]
    assert set(json.loads(stage.attrs["schedule"])["groups"]) == {1}


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("level", ["-O2", "-O3"])
def test_whole_layers_stay_exact_when_the_host_optimises(compiler: str, level: str, rng: np.random.Generator) -> None:
    """Winograd's portable form, as projects for the host compile it: compilers vectorise it in different ways."""
    b = TinyBuilder((1, 16, 16, 16))
    mod = b.finish(b.conv(b.x, 16, 3))
    model = tvm_tiny.build(mod, "c", optimize="speed")
    library = HostModel(model, compiler=compiler, flags=(level,))
    image = rng.integers(-128, 128, model.inputs[0].shape).astype(np.int8)
    np.testing.assert_array_equal(library(image)[0], evaluate(mod, image)[0])
