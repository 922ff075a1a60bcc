# SPDX-License-Identifier: Apache-2.0
"""`tiny.pad`: constant padding; `before` and `after` give elements per axis as the tensor lies in memory, `value` the raw filler.

Any dtype. Meaning: TensorFlow Lite's PAD (value = zero point) and PADV2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register

NAME = "tiny.pad"


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    (x,), before, after = infos, attrs["before"], attrs["after"]
    check(len(before) == len(after) == len(x.shape), NAME, f"before {before} and after {after} need {len(x.shape)} entries each")
    check(all(p >= 0 for p in (*before, *after)), NAME, f"padding must not be negative, got {before}, {after}")
    return TensorInfo(tuple(d + b + a for d, b, a in zip(x.shape, before, after, strict=True)), x.dtype)


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    pairs = list(zip(attrs["before"], attrs["after"], strict=True))
    return np.pad(arrays[0], pairs, constant_values=arrays[0].dtype.type(attrs["value"]))


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    (x,) = tensors
    sizes = [int(d) for d in x.shape]
    shape = [d + b + a for d, b, a in zip(sizes, attrs["before"], attrs["after"], strict=True)]

    def body(*index: Any) -> Any:
        source = [i - b for i, b in zip(index, attrs["before"], strict=True)]
        tests = [s >= 0 for s, b in zip(source, attrs["before"], strict=True) if b]
        tests += [s < d for s, d, a in zip(source, sizes, attrs["after"], strict=True) if a]
        if not tests:
            return x[tuple(source)]
        return tirx.if_then_else(tirx.all(*tests), x[tuple(source)], tirx.const(attrs["value"], str(x.dtype)))

    return te.compute(shape, body, name="y")


OP = register(TinyOp(NAME, ("x",), _infer, _numpy, _te, attrs={"before": REQUIRED, "after": REQUIRED, "value": REQUIRED}))
