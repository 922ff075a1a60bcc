# SPDX-License-Identifier: Apache-2.0
"""Sums, products and functions of one input are bit-identical to the reference interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support import oracle
from tests.support.op_cases import activations, int8s, scales, seeds, zero_points
from tests.support.tflite_builder import ModelBuilder, single_op
from tvm_tiny import ops
from tvm_tiny.ops import tables
from tvm_tiny.ops.scales import activation_range

EVERY_INPUT = np.arange(-128, 128, dtype=np.int8)
SHAPES = [
    ((1, 3, 5, 7), (1, 3, 5, 7)),
    ((1, 3, 5, 7), (7,)),
    ((1, 3, 5, 7), (1, 1, 1, 7)),
    ((1, 1, 5, 1), (1, 3, 1, 7)),
    ((2, 3), (2, 3)),
    ((4, 3), (1,)),
    ((1,), (3, 4)),
    ((1, 1, 1, 1), (1, 1, 1, 1)),
]


@settings(max_examples=250)
@given(
    name=st.sampled_from(["add", "sub", "mul"]),
    shapes=st.sampled_from(SHAPES),
    a=st.tuples(scales(), zero_points),
    b=st.tuples(scales(), zero_points),
    y=st.tuples(scales(1e-2, 4.0), zero_points),
    activation=activations,
    seed=seeds,
)
def test_binary(
    name: str, shapes: Any, a: tuple[float, int], b: tuple[float, int], y: tuple[float, int], activation: str, seed: int
) -> None:
    clamp = activation_range(activation, *y)
    assume(clamp[0] <= clamp[1])
    rng = np.random.default_rng(seed)
    left, right = (int8s(rng, shape) for shape in shapes)
    inputs = [{"shape": v.shape, "scale": s, "zero_point": z} for v, (s, z) in ((left, a), (right, b))]
    output = {"shape": np.broadcast_shapes(*shapes), "scale": y[0], "zero_point": y[1]}
    want = oracle.run(
        single_op(name.upper(), inputs, output, (), f"{name.capitalize()}Options", fused_activation_function=activation), [left, right]
    )
    params = getattr(ops, name).quantize_params(a[0], b[0], y[0])
    got = ops.get(name).numpy(left, right, a_zp=a[1], b_zp=b[1], y_zp=y[1], clamp_min=clamp[0], clamp_max=clamp[1], **params)
    np.testing.assert_array_equal(got, want)


def reference_table(code: str, x: tuple[float, int], y: tuple[float, int], options: str | None = None, **fields: Any) -> np.ndarray:
    """The reference's outputs for all 256 inputs."""
    inputs = [{"shape": (256,), "scale": x[0], "zero_point": x[1]}]
    return oracle.run(single_op(code, inputs, {"shape": (256,), "scale": y[0], "zero_point": y[1]}, (), options, **fields), [EVERY_INPUT])


def check_table(table: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_array_equal(ops.get("lookup").numpy(EVERY_INPUT, table), want)


@settings(max_examples=200)
@given(x_scale=scales(1e-4, 10.0), x_zp=zero_points)
def test_logistic_table(x_scale: float, x_zp: int) -> None:
    check_table(tables.logistic(x_scale, x_zp), reference_table("LOGISTIC", (x_scale, x_zp), (1 / 256, -128)))


@settings(max_examples=200)
@given(x_scale=scales(1e-4, 10.0), x_zp=zero_points)
def test_tanh_table(x_scale: float, x_zp: int) -> None:
    check_table(tables.tanh(x_scale, x_zp), reference_table("TANH", (x_scale, x_zp), (1 / 128, 0)))


@settings(max_examples=200)
@given(x_scale=scales(1e-4, 10.0), x_zp=zero_points, ratio=scales(1 / 100, 100.0), y_zp=zero_points)
def test_hard_swish_table(x_scale: float, x_zp: int, ratio: float, y_zp: int) -> None:
    y_scale = float(np.float32(x_scale * ratio))
    try:
        table = tables.hard_swish(x_scale, x_zp, y_scale, y_zp)
    except ops.registry.DialectError:
        assert ratio < 1 / 64  # the reference refuses it, too
        return
    check_table(table, reference_table("HARD_SWISH", (x_scale, x_zp), (y_scale, y_zp)))


@settings(max_examples=100)
@given(x=st.tuples(scales(), zero_points), y=st.tuples(scales(), zero_points), alpha=st.floats(-2.0, 2.0))
def test_leaky_relu_table(x: tuple[float, int], y: tuple[float, int], alpha: float) -> None:
    check_table(tables.leaky_relu(*x, *y, alpha), reference_table("LEAKY_RELU", x, y, "LeakyReluOptions", alpha=alpha))


@settings(max_examples=100)
@given(x=st.tuples(scales(), zero_points), y=st.tuples(scales(), zero_points))
def test_relu_and_requantize_tables(x: tuple[float, int], y: tuple[float, int]) -> None:
    check_table(tables.relu(*x, *y), reference_table("RELU", x, y))
    want = reference_table("QUANTIZE", x, y)
    check_table(tables.requantize(*x, *y), want)
    got = ops.get("requantize").numpy(EVERY_INPUT, x_zp=x[1], y_zp=y[1], **ops.requantize.quantize_params(x[0], y[0]))
    np.testing.assert_array_equal(got, want)


@settings(max_examples=50)
@given(x=st.tuples(scales(0.05, 1.0), st.integers(-128, 0)))
def test_relu6_table(x: tuple[float, int]) -> None:
    assume(round(6 / x[0]) + x[1] < 127)
    check_table(tables.relu6(*x), reference_table("RELU6", x, x))


@settings(max_examples=100)
@given(scale=scales(1e-3, 10.0), zp=zero_points, seed=seeds)
def test_quantize_and_dequantize(scale: float, zp: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Exact halves, values beside them, and far ones.
    x = (rng.integers(-300, 300, 64) * np.float32(0.5) * np.float32(scale)).astype(np.float32)
    x[::3] = np.nextafter(x[::3], np.float32(np.inf))
    x[:4] = [0.0, -0.0, 1e5 * scale, -1e5 * scale]
    builder = ModelBuilder()
    real, quantised, back = builder.tensor((64,), "float32"), builder.tensor((64,), "int8", scale, zp), builder.tensor((64,), "float32")
    builder.op("QUANTIZE", [real], [quantised])
    builder.op("DEQUANTIZE", [quantised], [back])
    q_want, back_want = oracle.Oracle(builder.finish([real], [quantised, back])).run(x)
    q_got = ops.get("quantize").numpy(x, scale=scale, zp=zp)
    np.testing.assert_array_equal(q_got, q_want)
    np.testing.assert_array_equal(ops.get("dequantize").numpy(q_got, scale=scale, zp=zp), back_want)
