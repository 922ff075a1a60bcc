# SPDX-License-Identifier: Apache-2.0
"""`tiny.sub`: difference a - b of two int8 tensors of different scales, with broadcasting; otherwise as `tiny.add`.

Meaning: TensorFlow Lite's SUB, int8 (reference_ops::Sub).
"""

from __future__ import annotations

from tvm_tiny.ops import add
from tvm_tiny.ops.registry import TinyOp, register
from tvm_tiny.ops.scales import f32

NAME = "tiny.sub"


def quantize_params(a_scale: float, b_scale: float, y_scale: float) -> dict[str, int]:
    """Return the integer attributes for float scales; SUB's Prepare divides in float32 where ADD's does in float64."""
    twice_max = f32(2.0) * max(f32(a_scale), f32(b_scale))
    y = float(twice_max / (f32(1 << add.LEFT_SHIFT) * f32(y_scale)))
    return add.multipliers(NAME, float(f32(a_scale) / twice_max), float(f32(b_scale) / twice_max), y)


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
