# SPDX-License-Identifier: Apache-2.0
"""What a layer's kernel does, read from what its annotation says of the kernel and from the layer's geometry."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.cycle_columns import Blocks
from tvm_tiny.schedules.cycle_terms import (
    Planes,
    Terms,
    conv2d_terms,
    dense_terms,
    depthwise_terms,
    elementwise_terms,
    shares_planes,
    winograd_terms,
)

_OF_PRODUCTS = frozenset({"tiny.conv2d", "tiny.dense", "tiny.depthwise_conv2d"})


def kernel_terms(layer: Layer, kernel: Mapping[str, Any], core: str) -> Terms:
    """Terms of a layer that is no stage; `kernel` is its annotation `tiny.kernel`."""
    if kernel.get("rule") == "winograd":
        return _winograd(layer, kernel, core)
    if layer.op in ("tiny.conv2d", "tiny.dense") and "block" in kernel:
        pixels = _pixels(layer.shapes[-1], layer.op, str(layer.attrs.get("y_layout", "NHWC")))
        blocks = _blocks(layer, kernel)
        return (
            dense_terms(layer, blocks, pixels, core) if kernel.get("rule") == "dense" else conv2d_terms(layer, blocks, [(pixels, 1)], core)
        )
    if layer.op == "tiny.depthwise_conv2d" and "block" in kernel:
        return _depthwise(layer, kernel, core)
    rule = " ".join(str(kernel[k]) for k in ("rule", "operand") if k in kernel)
    if rule == "fallback" and layer.op in _OF_PRODUCTS:
        return Counter({"plain products": math.prod(layer.shapes[-1]) * math.prod(layer.shapes[1]) // _outputs(layer)})
    if rule == "fallback" and layer.op == "tiny.batch_matmul":
        return Counter({"plain products": math.prod(layer.shapes[-1]) * layer.shapes[0][-1]})
    return elementwise_terms(layer, rule, math.prod(layer.shapes[-1]))


def _outputs(layer: Layer) -> int:
    """Sums that share an input's products: those of a depthwise convolution's channel do not."""
    return layer.shapes[1][-1] if layer.op == "tiny.depthwise_conv2d" else layer.shapes[1][0]


def _blocks(layer: Layer, kernel: Mapping[str, Any]) -> Blocks:
    """The blocks that a kernel's annotation tells."""
    requantise = str(kernel.get("requantise", "double"))
    channels, pixels = _together(kernel)
    driven = kernel.get("code") == "shared"
    unroll, tile = int(kernel.get("unroll", 16)), int(kernel.get("tile", 1))
    shared, weights = driven or bool(layer.small_code), str(kernel.get("weights", "flash"))
    weights = "flash" if weights == "block" and tile == 1 else weights
    operand, fixed = str(kernel["operand"]), bool(layer.short_code)
    return Blocks(channels, pixels, operand, requantise, shared, fixed, driven, unroll, tile, weights)


def _winograd(layer: Layer, kernel: Mapping[str, Any], core: str) -> Terms:
    tiles, groups = int(str(kernel["block"]).split("x")[1].split()[0]), int(kernel["groups"])
    _, height, width, _ = layer.shapes[-1]
    walks = -(-(height // 2 * (width // 2)) // (tiles * groups))
    return winograd_terms(layer, "", tiles, walks, core, str(kernel.get("requantise", "single")))


def _depthwise(layer: Layer, kernel: Mapping[str, Any], core: str) -> Terms:
    _, height, width, _ = _nhwc(layer.shapes[-1], str(layer.attrs.get("y_layout", "NHWC")))
    strip = int(kernel.get("strip", height))
    heights = [strip] * (height // strip) + ([height % strip] if height % strip else [])
    small = bool(layer.small_code) and shares_planes(layer)
    form = "plain C" if kernel["operand"] == "plain C" else "shared" if small else "own"
    pixels, layout = int(str(kernel["block"]).split("+")[0].split("x")[1]), str(layer.attrs.get("x_layout", "NHWC"))
    planes = Planes(form, pixels, bool(layer.short_code), core == "cortex-m7", layout, str(kernel.get("requantise", "single")))
    channels = _nhwc(layer.shapes[0], planes.layout)[3]
    return depthwise_terms(layer, planes, [(h, width, 1) for h in heights], channels)


def _together(kernel: Mapping[str, Any]) -> tuple[int, int]:
    """Channels and pixels a block computes together."""
    channels, pixels = str(kernel["block"]).split("x")
    return int(channels), int(pixels)


def _pixels(shape: Sequence[int], op: str, layout: str) -> int:
    if op == "tiny.dense":
        return math.prod(shape[:-1])
    _, height, width, _ = _nhwc(shape, layout)
    return height * width


def _nhwc(shape: Sequence[int], layout: str) -> tuple[int, int, int, int]:
    n, a, b, c = shape
    return (n, a, b, c) if layout == "NHWC" else (n, b, c, a)
