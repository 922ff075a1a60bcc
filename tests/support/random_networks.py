# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategy: small random networks in tiny form, with branches, residuals, odd sizes and every kind of padding."""

from __future__ import annotations

import numpy as np
import tvm
from hypothesis import strategies as st
from tvm import relax

from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.ops import add, mean, mul, softmax, sub

_ZERO_POINTS = st.sampled_from([-128, -128, 127, 0, -3, 31])


@st.composite
def networks(draw: st.DrawFn, most_layers: int = 5) -> tvm.IRModule:
    """A network of up to `most_layers` operators over a small image, and perhaps a classifier."""
    shape = (1, draw(st.integers(1, 13)), draw(st.integers(1, 13)), draw(st.sampled_from([1, 2, 3, 4, 5, 8, 11, 16])))
    b = TinyBuilder(shape, seed=draw(st.integers(0, 2**31)))
    b.dead = draw(st.sampled_from([0.0, 0.0, 0.4]))
    tensors: list[relax.Var] = [b.x]
    for _ in range(draw(st.integers(1, most_layers))):
        source = tensors[-1] if draw(st.integers(0, 3)) else draw(st.sampled_from(tensors))
        tensors.append(draw(_layer(b, source, tensors)))
    outputs = [draw(_head(b, tensors[-1])) if draw(st.booleans()) else tensors[-1]]
    if len(tensors) > 2 and draw(st.integers(0, 4)) == 0 and tensors[1] is not outputs[0]:
        outputs.append(draw(st.sampled_from(tensors[:2])))  # the input too
    return b.finish(*outputs)


def _shape(x: relax.Expr) -> tuple[int, ...]:
    return tuple(int(d) for d in x.ty.shape.values)


def _quantisation(draw: st.DrawFn) -> dict[str, int | str]:
    y_zp = draw(_ZERO_POINTS)
    low, high = draw(st.sampled_from([(-128, 127), (-128, 127), (y_zp, 127), (max(-128, y_zp - 40), min(127, y_zp + 77))]))
    rounding = draw(st.sampled_from(["gemmlowp", "gemmlowp", "single"]))
    return {"x_zp": draw(_ZERO_POINTS), "y_zp": y_zp, "clamp_min": low, "clamp_max": high, "rounding": rounding}


def _window(draw: st.DrawFn, shape: tuple[int, ...], kernel: int, dilation: int = 1) -> dict[str, list[int]]:
    """Strides and a padding smaller than the kernel on each side, grown until one window fits."""
    reach = (kernel - 1) * dilation + 1
    sides = [draw(st.integers(0, kernel - 1)) for _ in range(4)]
    for axis in (0, 1):
        lack = reach - (shape[1 + axis] + sides[axis] + sides[axis + 2])
        if lack > 0:
            sides[axis] += (lack + 1) // 2
            sides[axis + 2] += lack // 2
    return {"strides": [draw(st.integers(1, 3)), draw(st.integers(1, 3))], "padding": sides}


@st.composite
def _layer(draw: st.DrawFn, b: TinyBuilder, x: relax.Var, earlier: list[relax.Var]) -> relax.Var:
    shape = _shape(x)
    kinds = ["pointwise", "conv", "conv3x3", "depthwise", "depthwise", "pool", "lookup", "pad"]
    twins = [t for t in earlier if _shape(t) == shape]  # itself too
    beside = [t for t in earlier if _shape(t)[:3] == shape[:3]]
    kind = draw(st.sampled_from([*kinds, "concat", "resize", *(["add"] * 5 if len(twins) > 1 else ["add"]), "sub", "mul"]))
    if kind in ("add", "sub", "mul"):
        return draw(_elementwise(b, kind, [x, draw(st.sampled_from(twins))]))
    if kind == "concat":
        return b.call("concat", x, draw(st.sampled_from(beside)), axis=3)
    if kind == "resize":
        size = [draw(st.sampled_from([n, 2 * n, n + 1, 1 + n // 2])) if n < 20 else n for n in shape[1:3]]
        corners, half = draw(st.sampled_from([(False, False), (False, True), (True, False)]))
        name = draw(st.sampled_from(["resize_nearest", "resize_bilinear"]))
        return b.call(name, x, size=size, align_corners=corners, half_pixel=half)
    if kind == "pad":
        sides = [[0, draw(st.integers(0, 2)), draw(st.integers(0, 2)), 0] for _ in range(2)]
        return b.call("pad", x, before=sides[0], after=sides[1], value=draw(_ZERO_POINTS))
    if kind == "lookup":
        return b.call("lookup", x, b.rng.integers(-128, 128, 256).astype(np.int8))
    if kind == "pool":
        kernel = draw(st.integers(1, min(3, shape[1], shape[2])))
        name = draw(st.sampled_from(["avg_pool2d", "max_pool2d"]))
        padding = [draw(st.integers(0, kernel - 1)) for _ in range(4)]
        return b.call(name, x, kernel=[kernel] * 2, strides=[draw(st.integers(1, 2))] * 2, padding=padding, clamp_min=-128, clamp_max=127)
    quantisation = _quantisation(draw)
    channels = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 13, 16]))
    if kind == "pointwise":
        return b.conv(x, channels, 1, strides=[1, 1], **quantisation)
    if kind == "conv3x3":  # size kept: Winograd's, and residuals'
        return b.conv(x, draw(st.sampled_from([channels, shape[3]])), 3, strides=[1, 1], **quantisation)
    kernel, dilation = draw(st.integers(1, 5)), draw(st.sampled_from([1, 1, 1, 2]))
    same = {"strides": [1, 1], "padding": [kernel // 2] * 4}
    plain = kind == "depthwise" and dilation == 1 and kernel % 2 and draw(st.booleans())
    window = same if plain else _window(draw, shape, kernel, dilation)
    if kind == "depthwise":
        return b.depthwise(x, kernel, dilation=[dilation] * 2, **window, **quantisation)
    return b.conv(x, channels, kernel, dilation=[dilation] * 2, **window, **quantisation)


@st.composite
def _elementwise(draw: st.DrawFn, b: TinyBuilder, kind: str, operands: list[relax.Var]) -> relax.Var:
    scales = [draw(st.sampled_from([0.02, 0.05, 0.11])) for _ in range(3)]
    points = {"a_zp": draw(_ZERO_POINTS), "b_zp": draw(_ZERO_POINTS), "y_zp": draw(_ZERO_POINTS)}
    return b.call(kind, *operands, **points, **{"add": add, "sub": sub, "mul": mul}[kind].quantize_params(*scales))


@st.composite
def _head(draw: st.DrawFn, b: TinyBuilder, x: relax.Var) -> relax.Var:
    """Mean over the image, a fully connected layer, perhaps softmax."""
    shape, zp = _shape(x), draw(_ZERO_POINTS)
    params = mean.quantize_params(0.04, 0.03, shape[1] * shape[2])
    pooled = b.call("mean", x, axes=[1, 2], keepdims=False, x_zp=zp, y_zp=draw(_ZERO_POINTS), **params)
    logits = b.dense(pooled, draw(st.integers(1, 12)), **_quantisation(draw))
    return b.call("softmax", logits, softmax.quantize_params(0.1, 1.0)["table"]) if draw(st.booleans()) else logits
