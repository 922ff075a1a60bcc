# SPDX-License-Identifier: Apache-2.0
"""TFLite operators that only move or compare integers: the QDQ form of each is said in `tflite`.

Every function takes the converter and the operator, and returns the value (or values) to bind under the operator's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from tvm import relax
from tvm.relax import op as R

from tvm_tiny.frontend.graph import Operator, Tensor
from tvm_tiny.frontend.tflite_rules import block_axes, mirrored, slice_bounds

if TYPE_CHECKING:
    from tvm_tiny.frontend.tflite import QdqConverter

# (align_corners, half_pixel_centers) → coordinate transformation, rounding
_RESIZE = {
    (False, False): ("asymmetric", "floor"),
    (True, False): ("align_corners", "round_prefer_ceil"),
    (False, True): ("tf_half_pixel_for_nn", "floor"),
}


# --- shapes and order -------------------------------------------------------------------------------------------------------------------


def reshape(cv: QdqConverter, op: Operator) -> relax.Expr:
    """RESHAPE, SQUEEZE, EXPAND_DIMS."""
    return R.reshape(cv.raw(cv.graph.need(op, 0)), cv.graph.out(op).shape)


def transpose(cv: QdqConverter, op: Operator) -> relax.Expr:
    """TRANSPOSE."""
    return R.permute_dims(cv.raw(cv.graph.need(op, 0)), [int(n) for n in cv.graph.need(op, 1).values.ravel()])


def depth_to_space(cv: QdqConverter, op: Operator) -> relax.Expr:
    """DEPTH_TO_SPACE."""
    block = op.options["block_size"]
    return spread(cv, cv.raw(cv.graph.need(op, 0)), (block, block))


def spread(cv: QdqConverter, value: relax.Expr, block: tuple[int, int]) -> relax.Expr:
    """(N, H, W, h*w*C) → (N, H*h, W*w, C)."""
    n, height, width, depth = (int(e) for e in value.ty.shape)
    channels = depth // (block[0] * block[1])
    split = cv.bb.emit(R.reshape(value, (n, height, width, *block, channels)))
    turned = cv.bb.emit(R.permute_dims(split, [0, 1, 3, 2, 4, 5]))
    return cv.bb.emit(R.reshape(turned, (n, height * block[0], width * block[1], channels)))


def space_to_depth(cv: QdqConverter, op: Operator) -> relax.Expr:
    """SPACE_TO_DEPTH."""
    x, y, block = cv.graph.need(op, 0), cv.graph.out(op), op.options["block_size"]
    n, height, width, channels = x.shape
    split = cv.bb.emit(R.reshape(cv.raw(x), (n, height // block, block, width // block, block, channels)))
    return R.reshape(cv.bb.emit(R.permute_dims(split, [0, 1, 3, 2, 4, 5])), y.shape)


def space_to_batch(cv: QdqConverter, op: Operator) -> relax.Expr:
    """SPACE_TO_BATCH_ND."""
    x, y = cv.graph.need(op, 0), cv.graph.out(op)
    blocks, padding = block_axes(cv.graph, op)
    widths = [0, 0, *(n for pair in padding for n in pair), *[0] * 2 * (len(x.shape) - 1 - len(blocks))]
    value = cv.raw(x)
    if any(widths):
        value = cv.bb.emit(R.nn.pad(value, widths, "constant", 0.0 if y.quant is None else float(y.zero_point)))
    whole = [int(value.ty.shape[1 + i]) // block for i, block in enumerate(blocks)]
    inner = x.shape[1 + len(blocks) :]
    split = cv.bb.emit(R.reshape(value, (x.shape[0], *(e for pair in zip(whole, blocks, strict=True) for e in pair), *inner)))
    rank = 1 + 2 * len(blocks) + len(inner)
    order = [*range(2, 1 + 2 * len(blocks), 2), 0, *range(1, 1 + 2 * len(blocks), 2), *range(1 + 2 * len(blocks), rank)]
    return R.reshape(cv.bb.emit(R.permute_dims(split, order)), y.shape)


def batch_to_space(cv: QdqConverter, op: Operator) -> relax.Expr:
    """BATCH_TO_SPACE_ND."""
    x, y = cv.graph.need(op, 0), cv.graph.out(op)
    blocks, crops = block_axes(cv.graph, op)
    count, inner = len(blocks), x.shape[1 + len(blocks) :]
    split = cv.bb.emit(R.reshape(cv.raw(x), (*blocks, y.shape[0], *x.shape[1:])))
    order = [count, *(a for i in range(count) for a in (count + 1 + i, i)), *range(2 * count + 1, 2 * count + 1 + len(inner))]
    whole = [e * b for e, b in zip(x.shape[1 : 1 + count], blocks, strict=True)]
    laid = cv.bb.emit(R.reshape(cv.bb.emit(R.permute_dims(split, order)), (y.shape[0], *whole, *inner)))
    return window_of(cv, laid, [0, *(c[0] for c in crops), *[0] * len(inner)], y.shape)


# --- parts ------------------------------------------------------------------------------------------------------------------------------


def window_of(cv: QdqConverter, value: relax.Expr, begin: Sequence[int], size: Sequence[int]) -> relax.Expr:
    """`size` elements along every axis from `begin` on; the value itself where that is all."""
    if [int(e) for e in value.ty.shape] == list(size):
        return value
    ends = [b + s for b, s in zip(begin, size, strict=True)]
    return R.strided_slice(value, list(range(len(size))), list(begin), ends, [1] * len(size))


def strided_slice(cv: QdqConverter, op: Operator) -> relax.Expr:
    """STRIDED_SLICE: forwards, then turned round along the axes it takes backwards."""
    x, y = cv.graph.need(op, 0), cv.graph.out(op)
    begin, end, strides = slice_bounds(cv.graph, op)
    backwards = [a for a, s in enumerate(strides) if s < 0]
    for axis in backwards:
        last = begin[axis] + (-(-(end[axis] - begin[axis]) // strides[axis]) - 1) * strides[axis]
        begin[axis], end[axis], strides[axis] = last, begin[axis] + 1, -strides[axis]
    value = R.strided_slice(cv.raw(x), list(range(len(x.shape))), begin, end, strides)
    for axis in backwards:
        value = R.flip(cv.bb.emit(value), axis)
    return R.reshape(cv.bb.emit(value), y.shape) if len(y.shape) != len(x.shape) else value


def slice_(cv: QdqConverter, op: Operator) -> relax.Expr:
    """SLICE."""
    begin = [int(n) for n in cv.graph.need(op, 1).values.ravel()]
    return window_of(cv, cv.raw(cv.graph.need(op, 0)), begin, cv.graph.out(op).shape)


def split(cv: QdqConverter, op: Operator) -> list[relax.Expr]:
    """SPLIT."""
    x = cv.graph.need(op, 1)
    return _parts(cv, op, x, int(cv.graph.need(op, 0).values.item()) % len(x.shape))


def split_v(cv: QdqConverter, op: Operator) -> list[relax.Expr]:
    """SPLIT_V."""
    x = cv.graph.need(op, 0)
    return _parts(cv, op, x, int(cv.graph.need(op, 2).values.item()) % len(x.shape))


def unpack(cv: QdqConverter, op: Operator) -> list[relax.Expr]:
    """UNPACK."""
    x = cv.graph.need(op, 0)
    axis = op.options["axis"] % len(x.shape)
    parts = _parts(cv, op, x, axis, [1] * len(op.outputs))
    return [R.reshape(cv.bb.emit(part), cv.graph.out(op, i).shape) for i, part in enumerate(parts)]


def _parts(cv: QdqConverter, op: Operator, x: Tensor, axis: int, extents: Sequence[int] | None = None) -> list[relax.Expr]:
    """The parts of `x` along `axis`, of the given extents or those of the outputs; a single one is all of it."""
    ends = np.cumsum(extents or [cv.graph.out(op, i).shape[axis] for i in range(len(op.outputs))])
    if len(ends) == 1:
        return [R.reshape(cv.raw(x), x.shape)]
    parts = cv.bb.emit(R.split(cv.raw(x), [int(e) for e in ends[:-1]], axis))
    return [parts[i] for i in range(len(op.outputs))]


# --- put together -----------------------------------------------------------------------------------------------------------------------


def concatenation(cv: QdqConverter, op: Operator) -> relax.Expr:
    """CONCATENATION."""
    return R.concat([cv.raw(cv.graph.tensors[i]) for i in op.inputs], op.options["axis"] % len(cv.graph.out(op).shape))


def pack(cv: QdqConverter, op: Operator) -> relax.Expr:
    """PACK."""
    axis = op.options["axis"] % len(cv.graph.out(op).shape)
    shape = [*cv.graph.need(op, 0).shape]
    shape.insert(axis, 1)
    return R.concat([cv.bb.emit(R.reshape(cv.raw(cv.graph.tensors[i]), shape)) for i in op.inputs], axis)


def pad(cv: QdqConverter, op: Operator) -> relax.Expr:
    """PAD, PADV2."""
    x, value = cv.graph.need(op, 0), cv.graph.arg(op, 2)
    default = 0 if x.quant is None else x.zero_point
    fill = default if value is None else value.values.item()
    widths = [int(n) for n in cv.graph.need(op, 1).values.ravel()]
    return R.nn.pad(cv.raw(x), widths, "constant", float(fill))


# --- by index ---------------------------------------------------------------------------------------------------------------------------


def taken(cv: QdqConverter, value: relax.Expr, indices: np.ndarray, axis: int) -> relax.Expr:
    """The slices of `value` along `axis` at constant places."""
    return cv.bb.emit(R.take(value, relax.const(np.asarray(indices, np.int32).ravel()), axis, mode="fast"))


def gather(cv: QdqConverter, op: Operator) -> relax.Expr:
    """GATHER."""
    x = cv.graph.need(op, 0)
    value = taken(cv, cv.raw(x), cv.graph.need(op, 1).values, op.options["axis"] % len(x.shape))
    return R.reshape(value, cv.graph.out(op).shape)


def mirror_pad(cv: QdqConverter, op: Operator) -> relax.Expr:
    """MIRROR_PAD."""
    x, value = cv.graph.need(op, 0), cv.raw(cv.graph.need(op, 0))
    for axis, (before, after) in enumerate(cv.graph.need(op, 1).values.tolist()):
        if before or after:
            value = taken(cv, value, mirrored(x.shape[axis], before, after, op.options["mode"]), axis)
    return R.reshape(value, cv.graph.out(op).shape)


def broadcast_to(cv: QdqConverter, op: Operator) -> relax.Expr:
    """BROADCAST_TO."""
    x, shape = cv.graph.need(op, 0), cv.graph.out(op).shape
    value = cv.bb.emit(R.reshape(cv.raw(x), (1,) * (len(shape) - len(x.shape)) + x.shape))
    for axis, extent in enumerate(shape):
        if int(value.ty.shape[axis]) != extent:
            value = taken(cv, value, np.zeros(extent), axis)
    return R.reshape(value, shape)


def reverse(cv: QdqConverter, op: Operator) -> relax.Expr:
    """REVERSE_V2."""
    x, value = cv.graph.need(op, 0), cv.raw(cv.graph.need(op, 0))
    for axis in sorted({int(a) % len(x.shape) for a in cv.graph.need(op, 1).values.ravel()}):
        value = cv.bb.emit(R.flip(value, axis))
    return R.reshape(value, x.shape)


def resize_nearest(cv: QdqConverter, op: Operator) -> relax.Expr:
    """RESIZE_NEAREST_NEIGHBOR."""
    mode, rounding = _RESIZE[op.options["align_corners"], op.options["half_pixel_centers"]]
    x, size = cv.raw(cv.graph.need(op, 0)), cv.graph.out(op).shape[1:3]
    form = {"layout": "NHWC", "method": "nearest_neighbor", "coordinate_transformation_mode": mode, "rounding_method": rounding}
    return R.image.resize2d(x, size, **form)


# --- compared ---------------------------------------------------------------------------------------------------------------------------


def extreme(cv: QdqConverter, op: Operator) -> relax.Expr:
    """MAXIMUM, MINIMUM."""
    function = R.maximum if op.kind == "MAXIMUM" else R.minimum
    return function(cv.raw(cv.graph.need(op, 0)), cv.raw(cv.graph.need(op, 1)))


def arg_extreme(cv: QdqConverter, op: Operator) -> relax.Expr:
    """ARG_MAX, ARG_MIN."""
    x = cv.graph.need(op, 0)
    axis = int(cv.graph.need(op, 1).values.item()) % len(x.shape)
    function = R.argmax if op.kind == "ARG_MAX" else R.argmin
    return R.astype(cv.bb.emit(function(cv.raw(x), axis)), "int32")


MOVEMENT: dict[str, Callable[[QdqConverter, Operator], relax.Expr | list[relax.Expr]]] = {
    "ARG_MAX": arg_extreme,
    "ARG_MIN": arg_extreme,
    "BATCH_TO_SPACE_ND": batch_to_space,
    "BROADCAST_TO": broadcast_to,
    "CONCATENATION": concatenation,
    "DEPTH_TO_SPACE": depth_to_space,
    "EXPAND_DIMS": reshape,
    "GATHER": gather,
    "MAXIMUM": extreme,
    "MINIMUM": extreme,
    "MIRROR_PAD": mirror_pad,
    "PACK": pack,
    "PAD": pad,
    "PADV2": pad,
    "RESHAPE": reshape,
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest,
    "REVERSE_V2": reverse,
    "SLICE": slice_,
    "SPACE_TO_BATCH_ND": space_to_batch,
    "SPACE_TO_DEPTH": space_to_depth,
    "SPLIT": split,
    "SPLIT_V": split_v,
    "SQUEEZE": reshape,
    "STRIDED_SLICE": strided_slice,
    "TRANSPOSE": transpose,
    "UNPACK": unpack,
}
