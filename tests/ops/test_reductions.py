# SPDX-License-Identifier: Apache-2.0
"""Pooling, mean and softmax are bit-identical to the reference interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.ops.test_convolutions import windows
from tests.support import oracle
from tests.support.op_cases import activations, int8s, scales, seeds, window_padding, zero_points
from tests.support.tflite_builder import single_op
from tvm_tiny import ops
from tvm_tiny.ops.scales import activation_range


@settings(max_examples=200)
@given(
    kind=st.sampled_from(["avg_pool2d", "max_pool2d"]),
    w=windows,
    c=st.sampled_from([1, 3, 8]),
    scale=scales(1e-2, 1.0),
    zp=zero_points,
    activation=activations,
    seed=seeds,
)
def test_pooling(kind: str, w: dict[str, Any], c: int, scale: float, zp: int, activation: str, seed: int) -> None:
    assume(w["mode"] == "SAME" or all(k <= s for k, s in zip(w["kernel"], w["hw"], strict=True)))
    low, high = activation_range(activation, scale, zp)
    assume(low <= high)
    x = int8s(np.random.default_rng(seed), (1, *w["hw"], c))
    padding = window_padding(w["mode"], w["hw"], w["kernel"], w["strides"], (1, 1))
    attrs = {"kernel": list(w["kernel"]), "strides": list(w["strides"]), "padding": padding, "clamp_min": low, "clamp_max": high}
    got = ops.get(kind).numpy(x, **attrs)
    code = {"avg_pool2d": "AVERAGE_POOL_2D", "max_pool2d": "MAX_POOL_2D"}[kind]
    fields = dict(zip(("stride_h", "stride_w", "filter_height", "filter_width"), (*w["strides"], *w["kernel"]), strict=True))
    spec = {"scale": scale, "zero_point": zp}
    model = single_op(
        code,
        [{"shape": x.shape, **spec}],
        {"shape": got.shape, **spec},
        (),
        "Pool2DOptions",
        padding=w["mode"],
        fused_activation_function=activation,
        **fields,
    )
    np.testing.assert_array_equal(got, oracle.run(model, [x]))


@settings(max_examples=150)
@given(
    shape_axes=st.sampled_from(
        [
            ((1, 7, 7, 5), (1, 2)),
            ((1, 1, 1, 3), (1, 2)),
            ((1, 5, 3, 4), (3,)),
            ((3, 4), (1,)),
            ((2, 3, 4), (0, 2)),
            ((1, 32, 16, 3), (1, 2)),
        ]
    ),
    keepdims=st.booleans(),
    x=st.tuples(scales(), zero_points),
    y=st.tuples(scales(), zero_points),
    seed=seeds,
)
def test_mean(shape_axes: Any, keepdims: bool, x: tuple[float, int], y: tuple[float, int], seed: int) -> None:
    shape, axes = shape_axes
    data = int8s(np.random.default_rng(seed), shape)
    count = int(np.prod([shape[a] for a in axes]))
    params = ops.mean.quantize_params(x[0], y[0], count)
    got = ops.get("mean").numpy(data, axes=list(axes), keepdims=keepdims, x_zp=x[1], y_zp=y[1], **params)
    model = single_op(
        "MEAN",
        [{"shape": shape, "scale": x[0], "zero_point": x[1]}],
        {"shape": got.shape, "scale": y[0], "zero_point": y[1]},
        [(np.array(axes, np.int32), {})],
        "ReducerOptions",
        keep_dims=keepdims,
    )
    np.testing.assert_array_equal(got, oracle.run(model, [data]))


@settings(max_examples=200)
@given(
    shape=st.sampled_from([(1, 1), (1, 2), (1, 10), (3, 12), (1, 2, 2, 5), (1, 200)]),
    scale=scales(1e-3, 4.0),
    zp=zero_points,
    beta=st.sampled_from([1.0, 0.5, 2.0]),
    seed=seeds,
    narrow=st.booleans(),
)
def test_softmax(shape: tuple[int, ...], scale: float, zp: int, beta: float, seed: int, narrow: bool) -> None:
    x = int8s(np.random.default_rng(seed), shape)
    x = x // 32 if narrow else x
    spec = {"shape": shape, "scale": scale, "zero_point": zp}
    model = single_op("SOFTMAX", [spec], {"shape": shape, "scale": 1 / 256, "zero_point": -128}, (), "SoftmaxOptions", beta=beta)
    got = ops.get("softmax").numpy(x, ops.softmax.quantize_params(scale, beta)["table"])
    np.testing.assert_array_equal(got, oracle.run(model, [x]))


@pytest.mark.parametrize("depth", [1, 2, 4, 64, 255, 511])
def test_softmax_of_equal_inputs(depth: int) -> None:
    """The sum is an exact power of two at some depths, where the reciprocal saturates."""
    x = np.full((1, depth), 5, np.int8)
    spec = {"shape": x.shape, "scale": 0.1, "zero_point": 0}
    model = single_op("SOFTMAX", [spec], {"shape": x.shape, "scale": 1 / 256, "zero_point": -128}, (), "SoftmaxOptions", beta=1.0)
    np.testing.assert_array_equal(ops.get("softmax").numpy(x, ops.softmax.quantize_params(0.1)["table"]), oracle.run(model, [x]))
