# SPDX-License-Identifier: Apache-2.0
"""What the layout of a tensor costs the kernels that write and read it: estimated cycles beyond what they spend in any layout.

Measured on the emulated cores and fitted to rows of 3 to 40 pixels (benchmarks/layouts.py prints both beside each other): a depthwise
kernel spreads every input row over padded planes, four channels a load from NHWC, four pixels a load from NCHW; two or three channels in
NHWC go byte by byte. A convolution stores bytes either way, but where its sums are short NHWC hides a little more of the stores.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_tiny.schedules.microkernels import Conv2DShape, DepthwiseShape
from tvm_tiny.schedules.microkernels.depthwise import DepthwiseChoice, default_strip
from tvm_tiny.target import TinyTarget


@dataclass(frozen=True)
class LayoutCycles:
    """Cycles of one core: (a value, a row) of four channels from NHWC and of one plane; a value byte by byte; a byte stored planar."""

    spread: tuple[float, float]
    lines: tuple[float, float]
    single: float
    store: float
    move: float


_CYCLES = {True: LayoutCycles((0.83, 16.0), (0.80, 10.0), 8.5, 0.5, 9.0), False: LayoutCycles((1.94, 24.0), (1.69, 17.0), 7.6, 0.7, 14.0)}
_SHORT = 16  # products a sum


def cycles_of(target: TinyTarget) -> LayoutCycles:
    """The figures of the target's core; cores that issue one instruction a cycle are like a Cortex-M4."""
    return _CYCLES[target.mcpu == "cortex-m7"]


def read_cycles(shape: DepthwiseShape, costs: LayoutCycles, *, planar: bool) -> float:
    """Spreading the whole input of a depthwise convolution over padded planes."""
    strip = default_strip(shape, DepthwiseChoice().scratch_limit)
    strips = -(-shape.out_height // strip)
    rows = min(shape.height, shape.plane_rows(shape.out_height)) + (strips - 1) * (shape.kernel[0] - 1) * shape.dilation[0]
    if planar or shape.channels == 1:
        a, b = costs.lines
        return shape.channels * rows * (a * shape.width + b)
    if shape.channels < 4:
        return shape.channels * rows * costs.single * shape.row_bytes / 2
    a, b = costs.spread
    return -(-shape.channels // 4) * rows * (a * 4 * shape.width + b)


def store_cycles(shape: Conv2DShape, costs: LayoutCycles, *, planar: bool) -> float:
    """What storing planes costs a convolution more than storing NHWC."""
    return costs.store * shape.out_height * shape.out_width * shape.outputs if planar and shape.k <= _SHORT else 0.0


def move_cycles(elements: int, costs: LayoutCycles) -> float:
    """An explicit transpose."""
    return costs.move * elements
