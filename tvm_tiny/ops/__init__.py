# SPDX-License-Identifier: Apache-2.0
"""The `tiny.*` dialect: integer operators on Relax, one a file. Importing this package registers all of them."""

from __future__ import annotations

from tvm_tiny.ops import (
    add,
    avg_pool2d,
    concat,
    conv2d,
    dense,
    depthwise_conv2d,
    dequantize,
    fetch,
    flip_sign,
    lookup,
    max_pool2d,
    mean,
    mul,
    pad,
    quantize,
    requantize,
    reshape,
    resize_nearest,
    softmax,
    stage,
    strided_slice,
    sub,
    tables,
    transpose,
)
from tvm_tiny.ops.registry import TensorInfo, TinyOp, all_ops, arg_infos_of, attrs_of, call, get, is_tiny, register
from tvm_tiny.tvm_errors import register_errors

__all__ = [
    "TensorInfo",
    "TinyOp",
    "add",
    "all_ops",
    "arg_infos_of",
    "attrs_of",
    "avg_pool2d",
    "call",
    "concat",
    "conv2d",
    "dense",
    "depthwise_conv2d",
    "dequantize",
    "fetch",
    "flip_sign",
    "get",
    "is_tiny",
    "lookup",
    "max_pool2d",
    "mean",
    "mul",
    "pad",
    "quantize",
    "register",
    "requantize",
    "reshape",
    "resize_nearest",
    "softmax",
    "stage",
    "strided_slice",
    "sub",
    "tables",
    "transpose",
]

register_errors()
