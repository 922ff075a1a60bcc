# SPDX-License-Identifier: Apache-2.0
"""3×3 convolution at stride 1 by exact integer Winograd F(2×2, 3×3): 4 multiplications an output and channel pair where direct needs 9.

The results are exactly four times the accumulators, so nothing is divided and the output is bit-identical. The price is flash: the
transformed weights take 16 int16 where the filter has 9 int8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.conv2d import as_products, parameters_of, shape_of
from tvm_tiny.schedules.microkernels import Conv2DShape, Core, MicroKernel, WinogradChoice, winograd
from tvm_tiny.schedules.microkernels.winograd import winograd_applies
from tvm_tiny.schedules.overlap import ascending_distance
from tvm_tiny.schedules.residual import addition_of, rights
from tvm_tiny.schedules.space import Choice, Space
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget

_LEAST_SCRATCH = 4096  # what one tile group may take in any case


def apply(func: tirx.PrimFunc, target: TinyTarget, tunable: bool) -> Applied:
    """Take the convolutions Winograd applies to, on cores with SMLAD (elsewhere its extra additions eat the gain) and on the host."""
    layer = Layer.of(func)
    if layer is None or layer.op != "tiny.conv2d" or not (target.has_dsp or target.is_host) or "tiny.direct" in func.attrs:
        return None
    shape = shape_of(layer)
    if shape is None or shape.out_width < 2 or shape.out_height < 2 or layer.small_code:
        return None
    if tunable:
        alternatives = space(func, target)
        return None if alternatives is None else alternatives.sample(func)
    room = max(layer.scratch_room, _LEAST_SCRATCH, _room_by_sharing(layer, shape))
    kernel, core, parameters = None, Core.of(target.mcpu), parameters_of(layer, shape)
    for choice in _choices(shape):
        candidate = winograd(f"{PREFIX}winograd", shape, parameters, core, choice=choice, residual=addition_of(layer))
        if candidate is None:
            return None
        kernel = candidate
        if candidate.scratch_bytes <= room:
            break
    if kernel is None or kernel.scratch_bytes > room:
        return None
    return tensorized(kernel, func, "winograd", rights=_rights(shape, kernel))


def _rights(shape: Conv2DShape, kernel: MicroKernel) -> dict[int, list[list[Any]]]:
    """Of the output over the input, and over the residual: rows are summed when no tile group is kept."""
    pair, row = 2 * shape.out_width * shape.outputs, shape.out_width // 2
    tiles, groups = int(str(kernel.choices["block"]).split("x")[1].split()[0]), int(str(kernel.choices["groups"]))
    full, rest = divmod(row, min(tiles, row))
    pairs = range(1, shape.out_height // 2 + 1)
    ends = [pair * p for p in pairs if rest or p * full % groups == 0]
    return rights(kernel, _distance(shape), [*ends, pair * pairs[-1]])


def _room_by_sharing(layer: Layer, shape: Conv2DShape) -> int:
    """Bytes of scratch within the chosen peak when the output lies over the input as far as it may."""
    if layer.step_room is None or not layer.last_reader:
        return 0
    before, after = shape.height * shape.width * shape.channels, shape.out_height * shape.out_width * shape.outputs
    return before + after + layer.step_room - max(after, before + max(0, _distance(shape)))


def space(func: tirx.PrimFunc, target: TinyTarget) -> Space | None:
    """The tuning space of the layer, None where Winograd does not apply."""
    layer = Layer.of(func)
    shape = shape_of(layer) if layer is not None and layer.op == "tiny.conv2d" and (target.has_dsp or target.is_host) else None
    if shape is None or not winograd_applies(shape):
        return None
    choices = _choices(shape)
    row = shape.out_width // 2
    groups = {c.groups for c in choices} | {2, 4}
    decisions = {"tiles": tuple(t for t in (1, 2, 3, 4) if t <= row), "groups": tuple(sorted(groups))}
    return Space("winograd", decisions, form=as_products)


def realise(func: tirx.PrimFunc, target: TinyTarget, choice: Choice) -> Schedule | None:
    """The schedule of one candidate of `space`; None where Winograd does not apply."""
    layer = Layer.of(func)
    shape = shape_of(layer) if layer is not None and layer.op == "tiny.conv2d" else None
    if layer is None or shape is None or "tiny.direct" in func.attrs:
        return None
    wanted = WinogradChoice(int(choice["tiles"]), int(choice["groups"]))
    core, added = Core.of(target.mcpu), addition_of(layer)
    kernel = winograd(f"{PREFIX}winograd", shape, parameters_of(layer, shape), core, choice=wanted, residual=added)
    return None if kernel is None else tensorized(kernel, func, "winograd", rights=_rights(shape, kernel))


def _choices(shape: Conv2DShape) -> list[WinogradChoice]:
    """From weights read once to weights read for every group of tiles; then smaller groups."""
    tiles = shape.out_height * shape.out_width // 4
    row = shape.out_width // 2
    if not tiles or not row:
        return []  # no whole tile: a single row or column of outputs
    width = min(4, row)
    whole = -(-tiles // width) if row % width == 0 else 1
    groups = sorted({whole, max(whole // 2, 1), max(whole // 4, 1), 1}, reverse=True)
    return [WinogradChoice(width, g) for g in groups] + [WinogradChoice(2, 1), WinogradChoice(1, 1)]


def _distance(shape: Conv2DShape) -> int:
    """Four input rows are copied to scratch before the two output rows they make are stored."""
    pairs = np.arange(shape.out_height // 2)
    first = np.maximum(2 * pairs - shape.padding[0], 0) * shape.width * shape.channels
    return ascending_distance(first, (2 * pairs + 2) * shape.out_width * shape.outputs)
