# SPDX-License-Identifier: Apache-2.0
"""`tiny.concat`: tensors put side by side along `axis` (as they lie in memory); all of one scale and zero point, any dtype.

Meaning: TensorFlow Lite's CONCATENATION, int8, which refuses inputs whose scales differ from the output's; requantise those first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from tvm_tiny.ops.registry import REQUIRED, Attrs, TensorInfo, TinyOp, check, register

NAME = "tiny.concat"


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    first, axis = infos[0], attrs["axis"]
    check(0 <= axis < len(first.shape), NAME, f"axis must be in 0..{len(first.shape) - 1}, got {axis}")
    rest = [i.shape[:axis] + i.shape[axis + 1 :] for i in infos]
    check(all(i.dtype == first.dtype for i in infos), NAME, f"dtypes differ: {', '.join(i.dtype for i in infos)}")
    check(all(r == rest[0] for r in rest), NAME, f"shapes differ beyond axis {axis}: {', '.join(str(i.shape) for i in infos)}")
    total = sum(i.shape[axis] for i in infos)
    return TensorInfo((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype)


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    return np.concatenate(arrays, axis=attrs["axis"])


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    axis = attrs["axis"]
    starts = np.cumsum([0, *(int(t.shape[axis]) for t in tensors)]).tolist()
    shape = [int(d) for d in tensors[0].shape]
    shape[axis] = starts[-1]

    def body(*index: Any) -> Any:
        def piece(k: int) -> Any:
            own = (*index[:axis], index[axis] - starts[k], *index[axis + 1 :])
            return tensors[k][own]

        value = piece(len(tensors) - 1)
        for k in reversed(range(len(tensors) - 1)):
            value = tirx.if_then_else(index[axis] < starts[k + 1], piece(k), value)
        return value

    return te.compute(shape, body, name="y")


OP = register(TinyOp(NAME, ("*x",), _infer, _numpy, _te, attrs={"axis": REQUIRED}))
