# SPDX-License-Identifier: Apache-2.0
"""What average and max pooling share: attributes, type inference, window geometry."""

from __future__ import annotations

from tvm_tiny.ops import layout as lay
from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, check

POOL_ATTRS = {"kernel": REQUIRED, **lay.WINDOW_ATTRS, "clamp_min": -128, "clamp_max": 127}


def infer(op: str, infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    """Return shape and dtype of a pooling's result."""
    (x,) = infos
    check(len(x.shape) == 4 and x.dtype == "int8", op, f"x must be 4-D int8, got {x.dtype} {x.shape}")
    lay.check_layouts(op, attrs, 4)
    nhwc = lay.to_nhwc(x.shape, attrs["x_layout"])
    kernel, padding = attrs["kernel"], attrs["padding"]
    # A window inside the padding alone has no elements to pool.
    check(
        max(padding[0], padding[2]) < kernel[0] and max(padding[1], padding[3]) < kernel[1],
        op,
        f"padding {padding} is not smaller than kernel {kernel}",
    )
    height, width = lay.out_shape(op, nhwc, kernel, attrs)
    return TensorInfo(lay.from_nhwc((nhwc[0], height, width, nhwc[3]), attrs["y_layout"]), "int8")
