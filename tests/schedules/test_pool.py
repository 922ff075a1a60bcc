# SPDX-License-Identifier: Apache-2.0
"""The rule of pooling: which layers it takes, and the compiled layer against the operator's meaning."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tvm.s_tir import Schedule

import tvm_tiny
from tests.schedules.test_intrinsics import TARGETS
from tests.support.host import HostModel
from tests.support.op_cases import int8s
from tests.support.scheduled import Generated, layers_of
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.ops import registry
from tvm_tiny.ops.mean import quantize_params
from tvm_tiny.schedules import pool as rule
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels.pool import WindowWalk, sizes
from tvm_tiny.schedules.microkernels.pool_block import COLUMNS, GAP, ROWS, STEP
from tvm_tiny.schedules.nests.base import nest_of
from tvm_tiny.target import parse_target

MEAN = {"x_zp": -128, "y_zp": -128, **quantize_params(0.02, 0.02, 30)}
POOL = {"kernel": [3, 2], "strides": [2, 2], "padding": [1, 0, 0, 1]}


@pytest.mark.host_cc
@pytest.mark.parametrize(
    ("op", "shape", "attrs", "rule"),
    [
        ("mean", (1, 5, 6, 9), {**MEAN, "axes": [1, 2]}, "pool"),
        ("mean", (1, 5, 6, 9), {**MEAN, "axes": [2], "keepdims": True}, "pool"),
        ("avg_pool2d", (1, 5, 6, 9), {**POOL, "padding": [0, 0, 0, 0]}, "pool"),
        ("avg_pool2d", (1, 5, 6, 9), POOL, "fallback"),
        ("max_pool2d", (1, 5, 6, 9), {**POOL, "clamp_max": 40}, "pool"),
        ("mean", (1, 5, 6, 9), {**MEAN, "axes": [3]}, "fallback"),
        ("mean", (1, 17, 17, 9), {**MEAN, "axes": [1, 2]}, "fallback"),
        ("avg_pool2d", (1, 5, 6, 2), POOL, "fallback"),
    ],
)
def test_windows_of_nhwc_have_a_kernel(op: str, shape: tuple[int, ...], attrs: dict[str, Any], rule: str, rng: np.random.Generator) -> None:
    builder = TinyBuilder(shape)
    mod = builder.finish(builder.call(op, builder.x, **attrs))
    model = tvm_tiny.build(mod, "c", optimize="speed")
    assert [json.loads(str(f.attrs["tiny.kernel"]))["rule"] for f in model.program.kernels.values()] == [rule]
    x = rng.integers(-128, 128, shape).astype(np.int8)
    np.testing.assert_array_equal(HostModel(model)(x)[0], evaluate(mod, x)[0])


def _scheduled(op: str, shape: tuple[int, ...], attrs: dict[str, Any], target: str = "c -mcpu=cortex-m7") -> tuple[Layer, Schedule | None]:
    b = TinyBuilder(shape)
    (func,) = layers_of(b, b.call(op, b.x, **attrs))
    return Layer.of(func), rule.apply(func, parse_target(target), False)


@pytest.mark.host_cc
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_window_is_what_the_operator_means(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Windows larger than the image, cut on all sides, of one pixel; channels that fill no word."""
    rng = np.random.default_rng(seed)
    kernel, strides = ([int(n) for n in rng.integers(1, high, 2)] for high in (6, 4))
    padding = [int(rng.integers(0, kernel[i % 2])) if rng.random() < 0.6 else 0 for i in range(4)]
    height, width = (int(n) for n in rng.integers(1, 9, 2))
    assume(height + padding[0] + padding[2] >= kernel[0])
    assume(width + padding[1] + padding[3] >= kernel[1])
    attrs = {"kernel": kernel, "strides": strides, "padding": padding, "clamp_max": int(rng.choice([127, 40]))}
    op, channels = str(rng.choice(["max_pool2d", "max_pool2d", "avg_pool2d"])), int(rng.choice([4, 5, 7, 13, 16, 22, 31]))
    layer, scheduled = _scheduled(op, (1, height, width, channels), attrs, TARGETS[seed % 3])
    assume(scheduled is not None)
    x = int8s(rng, layer.shapes[0])
    want = registry.get(layer.op).numpy(x, **layer.attrs)
    np.testing.assert_array_equal(Generated(scheduled, tmp_path_factory.mktemp("pool"))([x], want), want)


@pytest.mark.parametrize(
    ("kernel", "padding", "sizes_found"), [([2, 2], [0, 0, 0, 0], 1), ([3, 3], [1, 1, 1, 1], 4), ([3, 2], [1, 0, 0, 0], 2)]
)
def test_windows_at_the_border_are_proven_like_all_others(kernel: list[int], padding: list[int], sizes_found: int) -> None:
    """One call, in the place of a description whose loops end where the window's size says; each size has an entry of its own."""
    layer, scheduled = _scheduled("max_pool2d", (1, 9, 8, 13), {"kernel": kernel, "strides": [1, 1], "padding": padding})
    func = scheduled.mod["main"]
    nest = nest_of(str(func.attrs["tiny.intrinsics"][0]))
    assert nest is not None
    assert func.script().count("T.call_extern") == 1
    (text,) = (f.script() for f in nest.scheduled)
    assert "for n, i in T.grid(" in text
    assert ("T.max(" in text) == any(padding)
    shape, entries = rule.shape_of(layer), func.attrs["tiny.packed"][0].numpy().view(np.int32).reshape(sizes_found, -1)
    walk = WindowWalk.of(shape)
    for entry, (tall, wide) in zip(entries, [(tall, wide) for tall in sizes(shape.rows) for wide in sizes(shape.columns)], strict=True):
        assert entry[ROWS] * entry[COLUMNS] == tall * wide
        assert entry[STEP] == walk.pixel_bytes
        assert entry[COLUMNS] * entry[STEP] + entry[GAP] == walk.row_bytes
