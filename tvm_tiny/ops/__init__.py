# SPDX-License-Identifier: Apache-2.0
"""The `tiny.*` dialect: integer operators on Relax, one a file. Importing this package registers all of them."""

from __future__ import annotations

from tvm_tiny.ops import conv2d, dense, depthwise_conv2d
from tvm_tiny.ops.registry import TensorInfo, TinyOp, all_ops, arg_infos_of, attrs_of, call, get, is_tiny, register

__all__ = [
    "TensorInfo",
    "TinyOp",
    "all_ops",
    "arg_infos_of",
    "attrs_of",
    "call",
    "conv2d",
    "dense",
    "depthwise_conv2d",
    "get",
    "is_tiny",
    "register",
]
