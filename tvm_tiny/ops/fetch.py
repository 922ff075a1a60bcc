# SPDX-License-Identifier: Apache-2.0
"""`tiny.fetch`: an input that the application delivers part by part, through a function it provides, when the network asks for it.

Its meaning is the identity; of a float32 input it is `tiny.quantize` with the same `scale`, `zp` and `rounding`, of a uint8 one
`tiny.flip_sign`. In C its argument is no
array but a function and its context, so that the input need not exist whole anywhere.
"""

from __future__ import annotations

import numpy as np
from tvm import te

from tvm_tiny.ops import flip_sign, quantize
from tvm_tiny.ops.registry import Attrs, TensorInfo, TinyOp, check, register

NAME = "tiny.fetch"


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    (x,) = infos
    check(x.dtype in ("int8", "uint8", "float32"), NAME, f"x must be int8, uint8 or float32, got {x.dtype}")
    check(len(x.shape) == 4 and x.shape[0] == 1, NAME, f"x must be one image (1, height, width, channels), got {list(x.shape)}")
    check(x.dtype != "float32" or attrs["scale"] > 0, NAME, f"a float x needs a positive scale, got {attrs['scale']}")
    return TensorInfo(x.shape, "int8")


def _as_quantize(attrs: Attrs) -> dict:
    return quantize.OP.complete_attrs({k: attrs[k] for k in ("scale", "zp", "rounding")})


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    (x,) = arrays
    if x.dtype == np.uint8:
        return flip_sign.OP.numpy_fn(arrays, {})
    return x if x.dtype == np.int8 else quantize.OP.numpy_fn(arrays, _as_quantize(attrs))


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    (x,) = tensors
    if str(x.dtype) == "uint8":
        return flip_sign.OP.te_fn(tensors, {})
    if str(x.dtype) == "int8":
        return te.compute(x.shape, lambda *i: x(*i), name="y")
    return quantize.OP.te_fn(tensors, _as_quantize(attrs))


OP = register(TinyOp(NAME, ("x",), _infer, _numpy, _te, attrs={"scale": 0.0, "zp": 0, "rounding": "half_away"}))
