# SPDX-License-Identifier: Apache-2.0
"""Pointwise convolution: a loop over strips of pixels, each strip all channels of a GEMM microkernel.

A strip is a few rows, a whole number of the block's pixel groups, so that no strip has pixels left over; where the rows do not allow that
the whole plane is one strip. Inside a strip the weights are walked once a tile of pixel groups.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.conv2d import block_of, distance, keep_within, parameters_of, shape_of, space_of, stores
from tvm_tiny.schedules.microkernels import BlockChoice, Conv2DShape, Core, MicroKernel, RegisterPressureError, conv2d
from tvm_tiny.schedules.microkernels.conv2d_shape import default_choice, shared_choice
from tvm_tiny.schedules.nests.gemm import gemm_nest
from tvm_tiny.schedules.residual import addition_of, rights
from tvm_tiny.schedules.space import Choice, Space
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget

_LEAST_PIXELS = 32  # of a strip: a call costs about ten cycles, a strip of 8 channels in and out at least a thousand


def apply(func: tirx.PrimFunc, target: TinyTarget, tunable: bool) -> Applied:
    """Take `tiny.conv2d` with a 1×1 kernel at stride 1 without padding, one image, NHWC in and out."""
    layer = Layer.of(func)
    shape = _takes(layer)
    if layer is None or shape is None:
        return None
    if tunable:
        return _space(shape).sample(func)
    core = Core.of(target.mcpu)
    usual = default_choice(shape, core, layer.scratch_room)
    choice = keep_within(layer, shape, usual)
    if layer.small_code and choice == usual:  # shared code computes three pixels together
        with contextlib.suppress(RegisterPressureError):  # the shared form needs more registers; wide blocks keep code of their own
            shared = shared_choice(shape, core, choice, layer.scratch_room, fixed=bool(layer.short_code))
            return _schedule_of(func, shape, _kernel(layer, shape, shape.height, shared, target), shape.height)
    return _schedule(func, layer, shape, choice, target)


def space(func: tirx.PrimFunc, _target: TinyTarget) -> Space | None:
    """The tuning space of the layer, None when the rule does not take it."""
    shape = _takes(Layer.of(func))
    return None if shape is None else _space(shape)


def _space(shape: Conv2DShape) -> Space:
    """What a GEMM has to choose, and the rows of a strip."""
    gemm = space_of(shape, "pointwise")
    rows = tuple(r for r in range(1, shape.height + 1) if shape.height % r == 0 and (r * shape.width >= _LEAST_PIXELS or r == shape.height))

    def legal(choice: Choice) -> bool:
        even = int(choice["rows"]) * shape.width % (int(choice["pixels"]) * int(choice["tile"])) == 0
        return gemm.legal(choice) and (even or int(choice["rows"]) == shape.height)

    return Space("pointwise", {**gemm.decisions, "rows": rows}, legal, gemm.form, gemm.loops)


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
    rows = int(choice["rows"])
    if rows == shape.height:
        return _schedule(func, replace(layer, small_code=frozenset()), shape, block_of(choice), target)
    kernel = _kernel(layer, shape, rows, block_of(choice), target)
    if rows < shape.height and rows * shape.width % _group(kernel):  # the kernel has cut the block down
        return None
    return _schedule_of(func, shape, kernel, rows)


def strip_rows(height: int, width: int, group: int) -> int:
    """Rows of a strip: the fewest that are a whole number of groups of `group` pixels and no small change; else all."""
    even = (r for r in range(1, height) if height % r == 0 and r * width % group == 0 and r * width >= _LEAST_PIXELS)
    return next(even, height)


def _takes(layer: Layer | None) -> Conv2DShape | None:
    shape = shape_of(layer) if layer is not None and layer.op == "tiny.conv2d" else None
    return shape if shape is not None and shape.is_pointwise else None


def _schedule(func: tirx.PrimFunc, layer: Layer, shape: Conv2DShape, choice: BlockChoice, target: TinyTarget) -> Schedule:
    kernel, core = _kernel(layer, shape, shape.height, choice, target), Core.of(target.mcpu)
    nest = gemm_nest(f"{PREFIX}gemm", shape, parameters_of(layer, shape), kernel, core, layer.shapes)
    if nest is not None:
        return tensorized(kernel, func, "pointwise", nest=nest, rights=[["ascending", distance(shape, kernel)]])
    whole = choice.weights == "layer"  # copied once, not strip by strip
    rows = shape.height if whole else strip_rows(shape.height, shape.width, choice.pixels * choice.tile)
    kernel = _kernel(layer, shape, rows, choice, target)
    if rows < shape.height and rows * shape.width % _group(kernel):  # the kernel has cut the block down
        rows = strip_rows(shape.height, shape.width, _group(kernel))
        kernel = _kernel(layer, shape, rows, choice, target)
    return _schedule_of(func, shape, kernel, rows)


def _schedule_of(func: tirx.PrimFunc, shape: Conv2DShape, kernel: MicroKernel, rows: int) -> Schedule:
    strips = rows if rows < shape.height else None
    allowed = rights(kernel, distance(shape, kernel), stores(_strip(shape, rows), kernel))
    return tensorized(kernel, func, "pointwise", rows=strips, rights=allowed)


def _strip(shape: Conv2DShape, rows: int) -> Conv2DShape:
    """Some rows as one."""
    return replace(shape, height=1, width=shape.width * rows)


def _group(kernel: MicroKernel) -> int:
    """Pixels whose columns lie in scratch together."""
    return int(str(kernel.choices["block"]).split("x")[1]) * int(str(kernel.choices["tile"]))


def _kernel(layer: Layer, shape: Conv2DShape, rows: int, choice: BlockChoice, target: TinyTarget) -> MicroKernel:
    strip, core = _strip(shape, rows), Core.of(target.mcpu)
    return conv2d(f"{PREFIX}gemm", strip, parameters_of(layer, strip), core, choice=choice, residual=addition_of(layer))
