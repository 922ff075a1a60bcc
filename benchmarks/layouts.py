# SPDX-License-Identifier: Apache-2.0
"""Cycles of a pointwise convolution and the depthwise one behind it, the tensor between them in NHWC and in NCHW.

    python -m benchmarks.layouts [BOARD]

Prints the measured (emulated, estimated) cycles of both layers and the difference that `schedules/layout_costs.py` expects.
"""

from __future__ import annotations

import sys

import numpy as np
import tvm
from tvm import relax

import tvm_tiny
from tvm_tiny.ops import registry
from tvm_tiny.profiler import profile_model
from tvm_tiny.schedules.layout_costs import cycles_of, read_cycles, store_cycles
from tvm_tiny.schedules.microkernels import Conv2DShape, DepthwiseShape
from tvm_tiny.target import parse_target

CASES = ((24, 24, 2), (24, 24, 3), (24, 24, 5), (24, 24, 8), (24, 24, 30), (6, 6, 30), (3, 3, 30))
_INPUTS = 8


def network(height: int, width: int, channels: int, layout: str) -> tvm.IRModule:
    """A pointwise convolution to `channels` and a 3x3 depthwise one, with random weights."""
    rng = np.random.default_rng(0)
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((1, height, width, _INPUTS), "int8"))

    def constants(weight: np.ndarray, shift: int) -> list[relax.Expr]:
        multiplier = rng.integers(2**30, 2**31 - 1, channels)
        arrays = (weight.astype(np.int8), rng.integers(-500, 500, channels), multiplier, np.full(channels, shift))
        return [relax.const(a if a.dtype == np.int8 else a.astype(np.int32)) for a in arrays]

    with builder.function("main", [x]):
        with builder.dataflow():
            wide = constants(rng.integers(-127, 128, (channels, 1, 1, _INPUTS)), -8)
            y = builder.emit(registry.call("tiny.conv2d", x, *wide, x_zp=-3, y_zp=-128, y_layout=layout))
            taps = constants(rng.integers(-127, 128, (3, 3, channels)), -8)
            attrs = {"x_zp": -128, "y_zp": -128, "padding": [1] * 4, "x_layout": layout}
            z = builder.emit_output(registry.call("tiny.depthwise_conv2d", y, *taps, **attrs))
        builder.emit_func_output(z)
    return builder.get()


def measured(board: str, height: int, width: int, channels: int, layout: str) -> float:
    """Estimated cycles of both layers, run on the emulated board."""
    disable = ("select-layout", "remove-constant-channels", "in-place", "stream-rows", "patch-inference")
    model = tvm_tiny.build(network(height, width, channels, layout), board=board, optimize="speed", records=False, disable=disable)
    profile = profile_model(model, board, np.zeros((1, height, width, _INPUTS), np.int8))
    assert model.board is not None
    return sum(layer.counts.cycles[model.board.target.mcpu] for layer in profile.layers)


def expected(board: str, height: int, width: int, channels: int) -> float:
    """Cycles that the model of costs expects NCHW to take more than NHWC."""
    costs = cycles_of(parse_target(tvm_tiny.boards.find_board(board).target))
    reader, writer = DepthwiseShape(height, width, channels, channels), Conv2DShape(height, width, _INPUTS, channels)
    read, store = ([f(s, costs, planar=p) for p in (True, False)] for f, s in ((read_cycles, reader), (store_cycles, writer)))
    return read[0] - read[1] + store[0] - store[1]


def main(board: str = "mps2_an500") -> None:
    """Print the table."""
    print(f"{'height x width x channels':26} {'NHWC':>10} {'NCHW':>10} {'difference':>11} {'expected':>9}   ({board})")
    for case in CASES:
        nhwc, nchw = (measured(board, *case, layout) for layout in ("NHWC", "NCHW"))
        title = "x".join(str(d) for d in case)
        print(f"{title:26} {nhwc:10,.0f} {nchw:10,.0f} {nchw - nhwc:+11,.0f} {expected(board, *case):+9,.0f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
