# SPDX-License-Identifier: Apache-2.0
"""Fully connected layers by pair blocks: int8 inputs widened in the loop, no scratch; or widened once, where scratch costs no memory.

Where the pass `skip-zeros` allows it, columns of weights whose input is at its zero point are left out instead: then the time depends on
the input, and the report says how far.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.profiler.model import cycles_of_block
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.conv2d import as_products
from tvm_tiny.schedules.microkernels import Core, DenseChoice, LayerParameters, MicroKernel, paired_dense
from tvm_tiny.schedules.microkernels.dense import default_choice
from tvm_tiny.schedules.microkernels.dense_columns import ColumnsKernel, columns_dense
from tvm_tiny.schedules.nests.products import TILED
from tvm_tiny.schedules.overlap import ALL_READ_FIRST
from tvm_tiny.schedules.space import Choice, Space
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget


def apply(func: tirx.PrimFunc, target: TinyTarget, tunable: bool) -> Applied:
    """Take `tiny.dense` where pair blocks apply; what is left is a GEMM of one pixel (rule conv2d)."""
    layer = Layer.of(func)
    if layer is None or layer.op != "tiny.dense" or len(layer.shapes[0]) != 2:
        return None
    outputs, inputs = layer.shapes[1]
    kernel = _kernel(layer, target, default_choice(inputs, outputs, layer.scratch_room))
    if kernel is None:
        return None
    if tunable:
        return _space(inputs, outputs).sample(func)
    columns = _columns_that_fit(layer)
    if columns is None:
        return _schedule(func, kernel, layer)
    return tensorized(columns.kernel, func, "dense", rights=[["ascending", ALL_READ_FIRST]], **_time(columns, target))


def space(func: tirx.PrimFunc, target: TinyTarget) -> Space | None:
    """The tuning space of the layer, None when the rule does not take it."""
    layer = Layer.of(func)
    if layer is None or apply(func, target, False) is None:
        return None
    outputs, inputs = layer.shapes[1]
    return _space(inputs, outputs)


def _space(inputs: int, outputs: int) -> Space:
    """Channels of a block, groups of inputs an iteration, and whether the inputs are widened once."""
    unrolls = tuple(sorted({min(u, inputs // 4) for u in (4, 8, 10, 16)}))
    channels = tuple(c for c in (2, 4, 6) if c <= outputs) or (outputs,)
    decisions = {"channels": channels, "unroll": unrolls, "expanded": (0, 1)}
    return Space("dense", decisions, form=as_products, loops=replace(TILED, fixed={"pixels": 1, "tile": 1}))


def realise(func: tirx.PrimFunc, target: TinyTarget, choice: Choice) -> Schedule | None:
    """The schedule of one candidate of `space`; None when the rule does not take the layer.

    Raises
    ------
    RegisterPressureError
        The block needs more registers than there are.
    """
    layer = Layer.of(func)
    if layer is None or layer.op != "tiny.dense" or len(layer.shapes[0]) != 2:
        return None
    wanted = DenseChoice(int(choice["channels"]), int(choice["unroll"]), bool(choice["expanded"]))
    kernel = _kernel(layer, target, wanted)
    return None if kernel is None else _schedule(func, kernel, layer)


def columns_kernel(layer: Layer) -> ColumnsKernel | None:
    """The kernel that leaves out inputs at their zero point; None where it does not apply."""
    return columns_dense(f"{PREFIX}dense_columns", _parameters(layer)) if layer.shapes[0][0] == 1 else None


def columns_cycles(columns: ColumnsKernel, mcpu: str) -> tuple[int, int]:
    """Cycles of the core when half of the inputs are at their zero point, and when none is; waiting for flash is not counted."""
    inputs = columns.kernel.input_shape[-1]
    half, most = (columns.cycles(n, lambda lines: cycles_of_block(lines, mcpu)) for n in (inputs // 2, inputs))
    return round(half), round(most)


def pair_cycles(inputs: int, outputs: int) -> float:
    """Estimated cycles of the pair blocks on a Cortex-M4: fitted to the profiler's figures of 8 to 640 outputs, 128 to 640 inputs."""
    return 1.23 * inputs * outputs + 9.5 * outputs


def _columns_that_fit(layer: Layer) -> ColumnsKernel | None:
    """The kernel, where the pass allows it and its list finds its bytes."""
    allowed = int(layer.attrs.get("skip_zeros", -1))
    columns = columns_kernel(layer) if allowed >= 0 else None
    room = max(layer.scratch_room, allowed) if layer.step_room is None else layer.step_room
    return columns if columns is not None and columns.kernel.scratch_bytes <= room else None


def _time(columns: ColumnsKernel, target: TinyTarget) -> dict[str, Any]:
    half, most = columns_cycles(columns, target.mcpu)
    return {"half_cycles": half, "most_cycles": most, "note": f"data-dependent: up to {most:,} cycles"}


def _kernel(layer: Layer, target: TinyTarget, choice: DenseChoice) -> MicroKernel | None:
    batch = 1 if _row_by_row(layer) else layer.shapes[0][0]
    return paired_dense(f"{PREFIX}dense", _parameters(layer), Core.of(target.mcpu), batch=batch, choice=choice)


def _parameters(layer: Layer) -> LayerParameters:
    weights, bias, multiplier, shift = (layer.constants[i] for i in (1, 2, 3, 4))
    a = layer.attrs
    return LayerParameters(weights, bias, multiplier, shift, a["x_zp"], a["y_zp"], (a["clamp_min"], a["clamp_max"]), a["rounding"])


def _row_by_row(layer: Layer) -> bool:
    """Whether the schedule loops over the rows of inputs."""
    rows, outputs = layer.shapes[-1]
    return rows > 1 and outputs > 1


def _schedule(func: tirx.PrimFunc, kernel: MicroKernel, layer: Layer) -> Schedule:
    """Widened inputs of a single row are read before anything is stored; otherwise input and output lie apart."""
    rights = [["ascending", ALL_READ_FIRST]] if kernel.scratch_bytes and layer.shapes[0][0] == 1 else []
    return tensorized(kernel, func, "dense", rows=1 if _row_by_row(layer) else None, rights=rights)
