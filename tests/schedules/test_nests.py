# SPDX-License-Identifier: Apache-2.0
"""Layers as nests: the loops and calls TVM schedules make the bytes the operator means, in the scratch of the function they replace."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm_ffi import structural_walk

from tests.schedules.test_intrinsics import TARGETS, linear
from tests.support.op_cases import int8s
from tests.support.scheduled import Generated, layers_of
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.ops import registry
from tvm_tiny.schedules import conv2d as rule
from tvm_tiny.schedules import depthwise as depthwise_rule
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels import BlockChoice, Core, DepthwiseChoice, RegisterPressureError, conv2d, depthwise
from tvm_tiny.schedules.nests.gemm import gemm_nest
from tvm_tiny.target import parse_target


@pytest.mark.host_cc
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_order_and_tile_of_convolutions(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    b, y = linear(str(rng.choice(["conv2d", "pointwise"])), rng)
    (func,) = layers_of(b, y)
    layer, target = Layer.of(func), parse_target(TARGETS[seed % 3])
    shape, op = rule.shape_of(layer), registry.get(layer.op)
    block = int(rng.choice([1, 1, 2, 2, 3])), int(rng.choice([1, 1, 2, 3])), None, int(rng.choice([2, 16])), int(rng.choice([1, 2, 3, 5]))
    choice = BlockChoice(*block, weights=str(rng.choice(["flash", "layer", "block"])))
    try:
        scheduled = rule.gemm(func, layer, shape, choice, target, "conv2d")
        whole = conv2d("whole", shape, rule.parameters_of(layer, shape), Core.of(target.mcpu), choice=choice)
    except RegisterPressureError:
        return
    x = int8s(rng, layer.shapes[0])
    want = op.numpy(x, *(layer.constants[i] for i in range(1, 5)), **layer.attrs)
    np.testing.assert_array_equal(Generated(scheduled, tmp_path_factory.mktemp("nest"))([x], want), want)
    assert sum(int(n) for n in scheduled.mod["main"].attrs.get("tiny.scratch", [])) <= whole.scratch_bytes


@pytest.mark.host_cc
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_strip_of_depthwise_layers(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Windows, paddings, strides and channels left over; in the bytes of scratch and the code blocks of the C function."""
    rng = np.random.default_rng(seed)
    kernel, strides = int(rng.choice([1, 3, 3, 5])), tuple(int(s) for s in rng.choice([1, 1, 2], 2))
    height, width = (int(n) for n in rng.integers(max(1, kernel - 2), 12, 2))
    b = TinyBuilder((1, height, width, int(rng.choice([4, 5, 7, 8, 13]))))
    zero_points = {"x_zp": int(rng.choice([-128, 127, 0, 5])), "y_zp": int(rng.choice([-128, 127, 3]))}
    padding = [int(p) for p in rng.integers(0, (kernel + 1) // 2 + 1, 4)]
    assume(min(height + padding[0] + padding[2], width + padding[1] + padding[3]) >= kernel)
    (func,) = layers_of(b, b.depthwise(b.x, kernel, strides=list(strides), padding=padding, **zero_points))
    layer, target = Layer.of(func), parse_target(TARGETS[seed % 3])
    shape, op = depthwise_rule.shape_of(layer), registry.get(layer.op)
    strip = int(rng.choice([1, 2, 3, shape.out_height, shape.out_height]))
    made = depthwise_rule.realise(func, target, {"rule": "depthwise", "pixels": int(rng.choice([2, 4, 6])), "strip": strip})
    assume(made is not None)
    x = int8s(rng, layer.shapes[0])
    want = op.numpy(x, *(layer.constants[i] for i in range(1, 5)), **layer.attrs)
    np.testing.assert_array_equal(Generated(made, tmp_path_factory.mktemp("nest"))([x], want), want)
    whole = depthwise("whole", shape, depthwise_rule.parameters_of(layer), Core.of(target.mcpu), choice=DepthwiseChoice(strip=strip))
    assert sum(int(n) for n in made.mod["main"].attrs.get("tiny.scratch", [])) == whole.scratch_bytes


def _nest(b: TinyBuilder, y: object, choice: BlockChoice) -> tuple[Layer, tirx.PrimFunc]:
    """The layer and its largest nest."""
    (func,) = layers_of(b, y)
    layer = Layer.of(func)
    shape, parameters, core = rule.shape_of(layer), rule.parameters_of(layer, rule.shape_of(layer)), Core.of("cortex-m7")
    kernel = conv2d(f"{PREFIX}gemm", shape, parameters, core, choice=choice)
    return layer, gemm_nest(f"{PREFIX}gemm", shape, parameters, kernel, core, layer.shapes).scheduled[0]


def test_tiles_walk_the_weights_outside_their_pixels() -> None:
    b = TinyBuilder((1, 12, 12, 16))
    _, func = _nest(b, b.conv(b.x, 8), BlockChoice(2, 3, tile=4))
    text = func.script()
    assert "for n_0 in range(12):" in text
    assert text.index("expand_") < text.index("for m in range(4):") < text.index("gemm_gemm_")
    assert text.count("T.call_extern") == 2


def test_products_of_padded_windows_have_no_condition() -> None:
    b = TinyBuilder((1, 6, 6, 8))
    _, func = _nest(b, b.conv(b.x, 4, 3), BlockChoice(2, 3))
    conditions: list[tirx.IfThenElse] = []
    structural_walk(func.body, [(tirx.IfThenElse, conditions.append)])
    assert conditions == []
    assert "for n_0, n_1 in T.grid(6, 2):" in func.script(), "rows, and groups of a row: no division finds where a group lies"


@pytest.mark.parametrize(("weights", "copies"), [("layer", "root"), ("block", "m")])
def test_weights_go_through_scratch_where_that_is_chosen(weights: str, copies: str) -> None:
    b = TinyBuilder((1, 12, 12, 16))
    _, func = _nest(b, b.conv(b.x, 8), BlockChoice(2, 3, tile=4, weights=weights))
    text = func.script()
    assert (text.index("gemm_copy") < text.index("for n_0")) == (copies == "root")


def test_the_report_names_the_products(tmp_path: Path) -> None:
    b = TinyBuilder((1, 5, 5, 8))
    (func,) = layers_of(b, b.conv(b.x, 6, 3))
    layer = Layer.of(func)
    made = rule.gemm(func, layer, rule.shape_of(layer), BlockChoice(2, 3), parse_target("c -mcpu=cortex-m7"), "conv2d").mod["main"]
    assert json.loads(str(made.attrs["tiny.kernel"]))["kernel"].startswith("gemm_gemm_")
