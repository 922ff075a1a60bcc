# SPDX-License-Identifier: Apache-2.0
"""Convolution over few channels, as first layers have it: windows are put together from bytes, a kernel row at a time, and widened at once.

Such layers have few weights and short sums, so that requantisation and the gathering of windows are most of the work. On an M7 weights of
short sums are kept as int16, which the loop need not widen.
"""

from __future__ import annotations

from dataclasses import replace

from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.conv2d import block_of, gemm, is_gathered, keep_within, room_by_sharing, shape_of, space_of
from tvm_tiny.schedules.microkernels import Conv2DShape, Core
from tvm_tiny.schedules.microkernels.conv2d_shape import default_choice
from tvm_tiny.schedules.microkernels.gemm_layer import BlockChoice
from tvm_tiny.schedules.space import Choice, Space
from tvm_tiny.target import TinyTarget

_FEW_TAPS = 32  # of a sum; longer ones are better off with a byte a weight


def apply(func: tirx.PrimFunc, target: TinyTarget, tunable: bool) -> Applied:
    """Take ungrouped `tiny.conv2d` whose pixels are no whole number of words, one image, NHWC in and out."""
    layer = Layer.of(func)
    shape = _takes(layer)
    if layer is None or shape is None:
        return None
    if tunable:
        return space_of(shape, "first_layer").sample(func)
    core = Core.of(target.mcpu)
    choice = default_choice(shape, core, layer.scratch_room)
    if (room := _room_by_sharing(layer, shape, choice)) > layer.scratch_room:
        roomy = default_choice(shape, core, room)
        choice = roomy if roomy.tile == choice.tile else choice  # whose output may lie as far over the input
    choice = keep_within(layer, shape, choice)
    if core.dual_issue and shape.k <= _FEW_TAPS:
        choice = replace(choice, operand="w16")
    return gemm(func, layer, shape, choice, target, "first_layer")


def _room_by_sharing(layer: Layer, shape: Conv2DShape, choice: BlockChoice) -> int:
    """Bytes of widened columns and weights within the chosen peak when the output lies over the input as far as it may."""
    if layer.step_room is None or not layer.last_reader or choice.tile > 1:
        return 0
    gathered = 4 * -(-shape.k // 4) * choice.pixels  # bytes beside the widened ones
    return room_by_sharing(layer, shape, choice.pixels) - gathered


def space(func: tirx.PrimFunc, _target: TinyTarget) -> Space | None:
    """The tuning space of the layer, None when the rule does not take it."""
    shape = _takes(Layer.of(func))
    return None if shape is None else space_of(shape, "first_layer")


def realise(func: tirx.PrimFunc, target: TinyTarget, choice: Choice) -> Schedule | None:
    """The schedule of one candidate of `space`; None when the rule does not take the layer.

    Raises
    ------
    RegisterPressureError
        The block needs more registers than there are.
    """
    layer = Layer.of(func)
    shape = _takes(layer)
    if layer is None or shape is None:
        return None
    return gemm(func, replace(layer, small_code=frozenset()), shape, block_of(choice), target, "first_layer")


def _takes(layer: Layer | None) -> Conv2DShape | None:
    shape = shape_of(layer) if layer is not None and layer.op == "tiny.conv2d" else None
    return shape if shape is not None and is_gathered(shape) else None
