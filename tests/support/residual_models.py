# SPDX-License-Identifier: Apache-2.0
"""TFLite models and small networks of a convolution and the residual addition behind it, of odd shapes and with extreme zero points."""

from __future__ import annotations

import numpy as np
from tvm import relax

from tests.support.op_cases import int8s
from tests.support.tflite_builder import ModelBuilder, same_padding
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.ops import add as add_op

ZERO_POINTS = (-128, 127, 0, -3, 31)


def _sizes(rng: np.random.Generator) -> tuple[list[int], list[int], int, int, int]:
    """Height and width, kernel, stride, channels in and out."""
    hw = [int(v) for v in rng.choice([1, 2, 5, 7, 8, 13], 2)]
    kernel = [int(v) for v in rng.choice([1, 1, 2, 3, 3], 2)]
    return hw, kernel, int(rng.choice([1, 1, 2])), int(rng.choice([1, 3, 4, 7, 8])), int(rng.choice([1, 2, 4, 5, 8, 13]))


def residual_model(rng: np.random.Generator, *, swapped: bool) -> tuple[bytes, list[tuple[int, ...]]]:
    """A file of CONV_2D and ADD with two inputs, and the inputs' shapes; `swapped`: the convolution's result is ADD's second operand."""
    hw, kernel, stride, channels, outputs = _sizes(rng)
    shape, out = (1, *hw, channels), (1, *(-(-n // stride) for n in hw), outputs)
    zero = [int(z) for z in rng.choice(ZERO_POINTS, 4)]
    scale = [float(np.float32(s)) for s in rng.uniform(0.02, 0.12, 4)]
    b = ModelBuilder()
    x, r = b.tensor(shape, scale=scale[0], zero_point=zero[0]), b.tensor(out, scale=scale[1], zero_point=zero[1])
    w_scales = rng.uniform(0.01, 0.2, outputs).astype(np.float32) / (kernel[0] * kernel[1] * channels) ** 0.5
    w = b.constant(int8s(rng, (outputs, *kernel, channels), -127), [float(s) for s in w_scales])
    bias = b.constant(rng.integers(-2000, 2000, outputs).astype(np.int32), [float(np.float32(s * scale[0])) for s in w_scales])
    a, y = b.tensor(out, scale=scale[2], zero_point=zero[2]), b.tensor(out, scale=scale[3], zero_point=zero[3])
    activations = [str(v) for v in rng.choice(["none", "relu", "relu6"], 2)]
    windows = {"stride_h": stride, "stride_w": stride, "dilation_h_factor": 1, "dilation_w_factor": 1, "padding": "SAME"}
    b.op("CONV_2D", [x, w, bias], [a], "Conv2DOptions", fused_activation_function=activations[0], **windows)
    b.op("ADD", [r, a] if swapped else [a, r], [y], "AddOptions", fused_activation_function=activations[1])
    return b.finish([x, r], [y]), [shape, out]


def residual_layer(rng: np.random.Generator, kind: str) -> tuple[TinyBuilder, relax.Expr]:
    """A convolution of x0 of one kind of kernel ("pointwise", "conv2d", "winograd") and the sum with x1."""
    hw, kernel, stride, channels, outputs = _sizes(rng)
    if kind == "pointwise":
        kernel, stride = [1, 1], 1
        hw = [int(rng.choice([1, 6, 12, 18])), int(rng.choice([1, 5, 12, 13]))]
    if kind == "winograd":
        kernel, stride, channels, outputs = [3, 3], 1, int(rng.choice([4, 8])), int(rng.choice([2, 4, 6, 16]))
        hw = [2 * int(rng.integers(1, 7)), 2 * int(rng.integers(1, 8))]
    sides = [same_padding(n, k, stride) for n, k in zip(hw, kernel, strict=True)]
    out = (1, *(-(-n // stride) for n in hw), outputs)
    b = TinyBuilder((1, *hw, channels), out, seed=int(rng.integers(2**31)))
    zero = [int(z) for z in rng.choice(ZERO_POINTS, 4)]
    weight = int8s(rng, (outputs, *kernel, channels), -127)
    padding = [sides[0][0], sides[1][0], sides[0][1], sides[1][1]]
    clamp = {"clamp_min": int(rng.choice([-128, -128, -20])), "rounding": str(rng.choice(["gemmlowp", "single"]))}
    y = b.conv(b.x, outputs, weight=weight, x_zp=zero[0], y_zp=zero[1], strides=[stride, stride], padding=padding, **clamp)
    scales = [float(s) for s in rng.uniform(0.01, 0.12, 3)]
    points = {"a_zp": zero[1], "b_zp": zero[2], "y_zp": zero[3], "clamp_max": int(rng.choice([127, 127, 90]))}
    return b, b.call("add", y, b.params[1], **points, **add_op.quantize_params(*scales))
