# SPDX-License-Identifier: Apache-2.0
"""The rule of products: which layers it takes, and the compiled layer against the operator's meaning."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tvm_tiny
from tests.support.host import HostModel
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.ops.mul import quantize_params

RELU = {"a_zp": -128, "b_zp": -128, "y_zp": -128, **quantize_params(0.02, 0.004, 0.01)}


@pytest.mark.host_cc
@pytest.mark.parametrize(
    ("shapes", "rule"),
    [
        (((1, 5, 6, 8), (1, 1, 1, 8)), "mul"),
        (((1, 1, 1, 3), (1, 7, 2, 3)), "mul"),
        (((1, 5, 6, 8), (8,)), "mul"),
        (((1, 5, 6, 8), (1, 5, 6, 8)), "fallback"),
        (((1, 5, 6, 8), (1, 5, 1, 1)), "fallback"),
        (((1, 1, 1, 8), (1, 1, 1, 8)), "fallback"),
    ],
)
def test_gates_have_a_kernel_and_other_products_are_loops(shapes: tuple[tuple[int, ...], ...], rule: str, rng: np.random.Generator) -> None:
    builder = TinyBuilder(*shapes)
    mod = builder.finish(builder.call("mul", *builder.params, **RELU))
    model = tvm_tiny.build(mod, "c", optimize="speed")
    assert [json.loads(str(f.attrs["tiny.kernel"]))["rule"] for f in model.program.kernels.values()] == [rule]
    inputs = [rng.integers(-128, 128, shape).astype(np.int8) for shape in shapes]
    np.testing.assert_array_equal(HostModel(model)(*inputs)[0], evaluate(mod, *inputs)[0])
