# SPDX-License-Identifier: Apache-2.0
"""Speed as a promise: estimated core cycles (zero wait states) a nominal MAC of each family, requantisation and layout changes included.

The limits are a few per cent above what is measured today; print the table with `-s`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.kernel_runner import build_image
from tvm_tiny.profiler import profile_elf
from tvm_tiny.schedules.microkernels import (
    Conv2DShape,
    Core,
    DepthwiseShape,
    LayerParameters,
    MicroKernel,
    conv2d,
    dense,
    depthwise,
    winograd,
)

_SAME, _STRIDED = (1, 1, 1, 1), (0, 0, 1, 1)
# name: (kind, shape), limit on the M7, limit on the M4
GOALS: dict[str, tuple[Conv2DShape | DepthwiseShape, float, float]] = {
    "pointwise_64": (Conv2DShape(12, 12, 64, 64), 0.60, 1.23),
    "pointwise_32": (Conv2DShape(24, 24, 32, 32), 0.66, 1.33),
    "pointwise_8": (Conv2DShape(48, 48, 8, 16), 1.00, 1.93),
    "conv_s2": (Conv2DShape(16, 16, 32, 64, (3, 3), (2, 2), _STRIDED), 0.60, 1.23),
    "first_conv": (Conv2DShape(32, 32, 3, 16, (3, 3), (1, 1), _SAME), 0.89, 1.78),
    "winograd_16": (Conv2DShape(32, 32, 16, 16, (3, 3), (1, 1), _SAME), 0.39, 0.76),
    "winograd_32": (Conv2DShape(16, 16, 32, 32, (3, 3), (1, 1), _SAME), 0.32, 0.64),
    "winograd_64": (Conv2DShape(8, 8, 64, 64, (3, 3), (1, 1), _SAME), 0.28, 0.58),
    "dense": (Conv2DShape(1, 1, 640, 128), 0.57, 1.25),
    "depthwise_3x3": (DepthwiseShape(12, 12, 64, 64), 1.17, 2.07),
    "depthwise_3x3_s2": (DepthwiseShape(24, 24, 32, 32, (3, 3), (2, 2), _STRIDED), 1.51, 3.04),
    "depthwise_7x7": (DepthwiseShape(24, 24, 16, 16, (7, 7), (1, 1), (3, 3, 3, 3)), 0.73, 1.42),
}


def plausible_layer(weights: np.ndarray, seed: int) -> LayerParameters:
    """Parameters of a plausible layer: per-channel scales that use the int8 range, TFLite zero points."""
    rng = np.random.default_rng(seed)
    outputs = weights.shape[0]
    bias = np.asarray(rng.integers(-1000, 1000, outputs))
    spread = np.sqrt((weights.reshape(outputs, -1).astype(np.float64) ** 2).sum(axis=1) + 1) * 74
    scale = 60.0 / spread * rng.uniform(0.7, 1.4, outputs)
    shift = np.floor(np.log2(scale)).astype(np.int64) + 1
    multiplier = np.minimum(np.round(scale / 2.0**shift * 2**31), 2**31 - 1).astype(np.int64)
    return LayerParameters(weights, bias, multiplier, shift, -128, -128)


def build(name: str, shape: Conv2DShape | DepthwiseShape, core: Core) -> MicroKernel:
    rng = np.random.default_rng(1)
    taps = (shape.outputs, *shape.kernel, shape.channels if isinstance(shape, Conv2DShape) else 1)
    layer = plausible_layer(rng.integers(-127, 128, taps).astype(np.int8), 3)
    if isinstance(shape, DepthwiseShape):
        return depthwise(name, shape, replace(layer, weights=layer.weights[..., 0].transpose(1, 2, 0)), core)
    if name.startswith("winograd"):
        made = winograd(name, shape, layer, core)
        assert made is not None
        return made
    if name == "dense":
        return dense(name, replace(layer, weights=layer.weights.reshape(shape.outputs, -1)), core)
    return conv2d(name, shape, layer, core)


@pytest.mark.qemu
@pytest.mark.parametrize(("mcpu", "column"), [("cortex-m7", 1), ("cortex-m4", 2)])
def test_kernels_keep_their_speed(mcpu: str, column: int, tmp_path: Path) -> None:
    kernels = [build(name, goal[0], Core.of(mcpu)) for name, goal in GOALS.items()]
    rng = np.random.default_rng(2)
    inputs = [rng.integers(-128, 128, k.input_shape).astype(np.int8) for k in kernels]
    image, command = build_image(kernels, inputs, mcpu, tmp_path, ("-O2", "-fno-inline"))
    profile = profile_elf(image, command, mcpu, cut_at=[*GOALS, "differing"])
    measured = {}
    for segment in profile.segments:
        index = -1 if segment.opened_by is None else segment.opened_by - 256  # segments cut at functions count from 256
        if 0 <= index < len(kernels):
            kernel = kernels[index]
            measured[kernel.name] = segment.cycles[mcpu] / kernel.macs
            print(f"{mcpu} {kernel.name:18s} {segment.instructions / kernel.macs:.3f} ins/MAC {measured[kernel.name]:.3f} cycles/MAC")
    late = {name: round(measured[name], 3) for name, goal in GOALS.items() if measured[name] > goal[column]}
    assert not late
