# SPDX-License-Identifier: Apache-2.0
"""The rule of pooling: which layers it takes, and the compiled layer against the operator's meaning."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import tvm_tiny
from tests.support.host import HostModel
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.ops.mean import quantize_params

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
