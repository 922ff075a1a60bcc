# SPDX-License-Identifier: Apache-2.0
"""Convolution, depthwise convolution and dense are bit-identical to the reference interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import oracle
from tests.support.op_cases import activations, int8s, scales, seeds, window_padding, zero_points
from tests.support.tflite_builder import single_op
from tvm_tiny import ops
from tvm_tiny.ops.scales import activation_range

windows = st.fixed_dictionaries(
    {
        "hw": st.tuples(st.integers(1, 9), st.integers(1, 9)),
        "kernel": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "mode": st.sampled_from(["SAME", "VALID"]),
    }
).filter(lambda w: w["mode"] == "SAME" or all((k - 1) * d < s for k, d, s in zip(w["kernel"], w["dilation"], w["hw"], strict=True)))
channels = st.sampled_from([1, 2, 3, 5, 7, 8, 13])
quantisation = st.fixed_dictionaries(
    {
        "x_scale": scales(),
        "w_scale": scales(1e-4, 0.1),
        "y_scale": scales(1e-2, 10.0),
        "x_zp": zero_points,
        "y_zp": zero_points,
        "activation": activations,
        "per_channel": st.booleans(),
    }
)


def weights(
    rng: np.random.Generator, shape: tuple[int, ...], channels: int, q: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random (weight, bias, weight scales: one or one per channel)."""
    spread = rng.uniform(0.01, 1.0, channels) if q["per_channel"] and channels > 1 else np.ones(1)
    return int8s(rng, shape, -127), rng.integers(-(2**15), 2**15, channels).astype(np.int32), (q["w_scale"] * spread).astype(np.float32)


def run_both(
    name: str, code: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray, w_scales: np.ndarray, q: dict[str, Any], y_shape: tuple[int, ...],
    file_weight: np.ndarray, axis: int, attrs: dict[str, Any], options: str, **fields: Any,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return (reference, numpy) outputs."""
    model = single_op(
        code,
        [{"shape": x.shape, "scale": q["x_scale"], "zero_point": q["x_zp"]}],
        {"shape": y_shape, "scale": q["y_scale"], "zero_point": q["y_zp"]},
        [
            (file_weight, {"scale": w_scales, "axis": axis}),
            (bias, {"scale": (w_scales * np.float32(q["x_scale"])).astype(np.float32)}),
        ],
        options,
        fused_activation_function=q["activation"],
        **fields,
    )
    params = getattr(ops, name).quantize_params(q["x_scale"], w_scales, q["y_scale"], len(bias))
    low, high = activation_range(q["activation"], q["y_scale"], q["y_zp"])
    mine = ops.get(name).numpy(
        x, w, bias, params["multiplier"], params["shift"], x_zp=q["x_zp"], y_zp=q["y_zp"], clamp_min=low, clamp_max=high, **attrs
    )
    return oracle.run(model, [x]), mine


def window_attrs(w: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a window operator."""
    padding = window_padding(w["mode"], w["hw"], w["kernel"], w["strides"], w["dilation"])
    return {"strides": list(w["strides"]), "padding": padding, "dilation": list(w["dilation"])}


def window_fields(w: dict[str, Any]) -> dict[str, Any]:
    """Fields of Conv2DOptions and DepthwiseConv2DOptions."""
    keys = ("stride_h", "stride_w", "dilation_h_factor", "dilation_w_factor")
    return {"padding": w["mode"], **dict(zip(keys, (*w["strides"], *w["dilation"]), strict=True))}


def has_legal_range(q: dict[str, Any]) -> bool:
    """Whether the activation leaves a range to clamp to (the reference aborts on an empty one)."""
    low, high = activation_range(q["activation"], q["y_scale"], q["y_zp"])
    return low <= high


@settings(max_examples=150)
@given(
    w=windows, c=channels, groups=st.sampled_from([1, 1, 1, 2, 3]), o=channels, batch=st.sampled_from([1, 1, 2]), q=quantisation, seed=seeds
)
def test_conv2d(w: dict[str, Any], c: int, groups: int, o: int, batch: int, q: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    if not has_legal_range(q):
        return
    x = int8s(rng, (batch, *w["hw"], c * groups))
    weight, bias, w_scales = weights(rng, (o * groups, *w["kernel"], c), o * groups, q)
    attrs = {**window_attrs(w), "groups": groups}
    infos = [ops.TensorInfo(a.shape, str(a.dtype)) for a in (x, weight, bias, bias, bias)]
    shape = ops.get("conv2d").infer(infos, {**attrs, "x_zp": 0, "y_zp": 0}).shape
    want, got = run_both("conv2d", "CONV_2D", x, weight, bias, w_scales, q, shape, weight, 0, attrs, "Conv2DOptions", **window_fields(w))
    np.testing.assert_array_equal(got, want)


@settings(max_examples=150)
@given(w=windows, c=channels, multiple=st.sampled_from([1, 1, 2, 3]), q=quantisation, seed=seeds)
def test_depthwise_conv2d(w: dict[str, Any], c: int, multiple: int, q: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    if not has_legal_range(q):
        return
    x = int8s(rng, (1, *w["hw"], c))
    weight, bias, w_scales = weights(rng, (*w["kernel"], c * multiple), c * multiple, q)
    attrs = window_attrs(w)
    infos = [ops.TensorInfo(a.shape, str(a.dtype)) for a in (x, weight, bias, bias, bias)]
    shape = ops.get("depthwise_conv2d").infer(infos, {**attrs, "x_zp": 0, "y_zp": 0}).shape
    want, got = run_both(
        "depthwise_conv2d", "DEPTHWISE_CONV_2D", x, weight, bias, w_scales, q, shape, weight[None], 3, attrs, "DepthwiseConv2DOptions",
        depth_multiplier=multiple, **window_fields(w),
    )  # fmt: skip
    np.testing.assert_array_equal(got, want)


@settings(max_examples=150)
@given(rows=st.integers(1, 3), k=st.integers(1, 70), n=st.integers(1, 11), q=quantisation, seed=seeds)
def test_dense(rows: int, k: int, n: int, q: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    if not has_legal_range(q):
        return
    x = int8s(rng, (rows, k))
    weight, bias, w_scales = weights(rng, (n, k), n, q)
    want, got = run_both("dense", "FULLY_CONNECTED", x, weight, bias, w_scales, q, (rows, n), weight, 0, {}, "FullyConnectedOptions")
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("y_scale", [1e-7, 1e5])
def test_extreme_multipliers(y_scale: float) -> None:
    """Left shifts that still fit int32, and multipliers so small that all is rounded away."""
    q = {"x_scale": 0.5 if y_scale > 1 else 1e-4, "w_scale": 1e-3, "y_scale": y_scale, "x_zp": 3, "y_zp": -7, "activation": "none"}
    x = np.arange(-3, 9, dtype=np.int8).reshape(1, 12)
    weight = np.ones((2, 12), np.int8)
    bias = np.array([5, -90], np.int32)
    scales = np.array([q["w_scale"]], np.float32)
    want, got = run_both("dense", "FULLY_CONNECTED", x, weight, bias, scales, q, (1, 2), weight, 0, {}, "FullyConnectedOptions")
    np.testing.assert_array_equal(got, want)
