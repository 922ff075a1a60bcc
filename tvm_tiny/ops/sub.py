# SPDX-License-Identifier: Apache-2.0
"""`tiny.sub`: difference a - b of two int8 tensors of different scales, with broadcasting; otherwise as `tiny.add`.

Meaning: TensorFlow Lite's SUB, int8 (reference_ops::Sub).
"""

from __future__ import annotations

from tvm_tiny.ops import add
from tvm_tiny.ops.registry import TinyOp, register

NAME = "tiny.sub"
quantize_params = add.quantize_params


OP = register(
    TinyOp(
        NAME,
        ("a", "b"),
        lambda infos, attrs: add.infer_int8(NAME, infos, attrs),
        lambda arrays, attrs: add.sum_numpy(arrays, attrs, -1),
        lambda tensors, attrs: add.sum_te(tensors, attrs, -1),
        attrs=add.ADD_ATTRS,
    )
)
