# SPDX-License-Identifier: Apache-2.0
"""`tiny.dense`: fully connected layer with requantisation and clamp.

x int8 (..., K); weight int8 (N, K), symmetric; bias, multiplier, shift int32 (N,); y int8 (..., N).
`skip_zeros` changes no bit: bytes of scratch a kernel may cost that leaves out inputs at their zero point; -1: no such kernel.
Meaning: TensorFlow Lite's FULLY_CONNECTED, int8, per tensor or per channel (reference_integer_ops::FullyConnected).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te

from tvm_tiny.ops.conv2d import REQUANTIZE_ATTRS, check_int8_with_params
from tvm_tiny.ops.registry import Attrs, TensorInfo, TinyOp, check, register
from tvm_tiny.ops.requantize_math import i32, requantize, requantize_tir, wrap_int32
from tvm_tiny.ops.scales import per_channel

NAME = "tiny.dense"


def quantize_params(x_scale: float, w_scales: Sequence[float] | np.ndarray | float, y_scale: float, channels: int) -> dict[str, np.ndarray]:
    """Return the `multiplier` and `shift` arguments (int32, one per output) for float scales; one weight scale serves all outputs."""
    multiplier, shift = per_channel(x_scale, w_scales, y_scale, channels)
    return {"multiplier": multiplier, "shift": shift}


def _infer(infos: list[TensorInfo], _attrs: Attrs) -> TensorInfo:
    x, weight = infos[0], infos[1]
    check(len(x.shape) >= 1 and len(weight.shape) == 2, NAME, f"weight must be 2-D, got {weight.shape}")
    check_int8_with_params(NAME, infos, weight.shape[0])
    check(x.shape[-1] == weight.shape[1], NAME, f"x ends in {x.shape[-1]}, weight {weight.shape} takes {weight.shape[1]}")
    return TensorInfo((*x.shape[:-1], weight.shape[0]), "int8")


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    x, weight, bias, multiplier, shift = arrays
    acc = wrap_int32((x.astype(np.int64) - attrs["x_zp"]) @ weight.astype(np.int64).T + bias)
    return requantize(acc, multiplier, shift, attrs["y_zp"], (attrs["clamp_min"], attrs["clamp_max"]), attrs["rounding"])


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    x, weight, bias, multiplier, shift = tensors
    shape = [*x.shape[:-1], weight.shape[0]]
    k = te.reduce_axis((0, int(weight.shape[1])), "k")

    def mac(*index: Any) -> Any:
        source = (*index[:-1], k)
        return te.sum((i32(x[source]) - i32(attrs["x_zp"])) * i32(weight[index[-1], k]), axis=k)

    acc = te.compute(shape, mac, name="acc")
    clamp = (attrs["clamp_min"], attrs["clamp_max"])
    return te.compute(
        shape,
        lambda *i: requantize_tir(acc[i] + bias[i[-1]], multiplier[i[-1]], shift[i[-1]], attrs["y_zp"], clamp, attrs["rounding"]),
        name="y",
    )


def _macs(shapes: list[tuple[int, ...]], _attrs: Attrs) -> int:
    return int(np.prod(shapes[0])) * shapes[1][0]


ATTRS: Attrs = {**REQUANTIZE_ATTRS, "skip_zeros": -1}
OP = register(TinyOp(NAME, ("x", "weight", "bias", "multiplier", "shift"), _infer, _numpy, _te, _macs, ATTRS))
