# SPDX-License-Identifier: Apache-2.0
"""The supported TFLite operators that only move or compare integers: their checks, as in `tflite_operators`."""

from __future__ import annotations

import math

import numpy as np

from tvm_tiny.frontend.tflite_rules import slice_bounds
from tvm_tiny.frontend.tflite_site import SHARED, Rule, Site, axes_of


def _reshape(site: Site) -> None:
    x, y, shape = site.need(0), site.out, site.arg(1)
    site.same_quantisation(x, y)
    if shape is not None and shape.data is None:
        site.problem("the new shape must be constant, but is computed at run time", "convert with a fixed input shape", shape)
    if math.prod(x.shape) != math.prod(y.shape) or not y.shape:
        site.contradiction(f"{list(x.shape)} can't become {list(y.shape)}")


def _pad(site: Site) -> None:
    x, y = site.need(0), site.out
    site.same_quantisation(x, y)
    widths = site.constant(1, "the padding")
    if widths is None:
        return
    if widths.shape != (len(x.shape), 2) or np.any(widths < 0):
        site.contradiction(f"padding {widths.tolist()} of an input of shape {list(x.shape)}")
        return
    value = site.arg(2)
    if value is not None:
        data = site.constant(2, "the padding value", x.dtype)
        site.same_quantisation(x, value)
        if data is not None and data.size != 1:
            site.contradiction(f"{data.size} padding values")
    site.expect_shape([int(e + a + b) for e, (a, b) in zip(x.shape, widths.tolist(), strict=True)])


def _transpose(site: Site) -> None:
    x = site.need(0)
    site.same_quantisation(x, site.out)
    axes = site.constant(1, "the permutation")
    if axes is None:
        return
    order = [int(a) for a in axes.ravel()]
    if sorted(order) != list(range(len(x.shape))):
        site.contradiction(f"permutation {order} of an input of shape {list(x.shape)}")
        return
    site.expect_shape([x.shape[a] for a in order])


def _concatenation(site: Site) -> None:
    site.activation(none=True)
    parts = [site.need(i) for i in range(len(site.op.inputs))]
    site.same_quantisation(site.out, *parts)
    rank, axis = len(site.out.shape), site.op.options["axis"]
    if not -rank <= axis < rank or any(len(p.shape) != rank for p in parts):
        site.contradiction(f"axis {axis} of {[list(p.shape) for p in parts]}")
        return
    axis %= rank
    shape = [*parts[0].shape]
    shape[axis] = sum(p.shape[axis] for p in parts)
    site.expect_shape(shape)
    for part in parts[1:]:
        site.expect_shape([*parts[0].shape[:axis], part.shape[axis], *parts[0].shape[axis + 1 :]], part)


def _resize(site: Site) -> None:
    x, options = site.need(0), site.op.options
    site.same_quantisation(x, site.out)
    size = site.constant(1, "the size")
    if options["align_corners"] and options["half_pixel_centers"]:
        site.problem("align_corners together with half_pixel_centers", "choose one of the two")
    if size is None:
        return
    if len(x.shape) != 4 or size.size != 2 or np.any(size < 1):
        site.contradiction(f"size {size.tolist()} for an input of shape {list(x.shape)}")
        return
    site.expect_shape((x.shape[0], *(int(s) for s in size.ravel()), x.shape[3]))


def _strided_slice(site: Site) -> None:
    x, options = site.need(0), site.op.options
    site.same_quantisation(x, site.out)
    vectors = [site.constant(i, what) for i, what in ((1, "begin"), (2, "end"), (3, "strides"))]
    if any(v is None for v in vectors):
        return
    begin, end, strides = (v.ravel() for v in vectors if v is not None)
    if not begin.size == end.size == strides.size <= len(x.shape) or np.any(strides == 0):
        site.contradiction(f"begin {begin.tolist()}, end {end.tolist()}, strides {strides.tolist()} of {len(x.shape)} dimensions")
        return
    if options["ellipsis_mask"] or options["new_axis_mask"] or options["offset"]:
        site.problem("ellipsis, new axis and offset are not supported", "write the slice with plain begin and end")
        return
    _slice_shape(site)


def _slice_shape(site: Site) -> None:
    shrink = site.op.options["shrink_axis_mask"]
    begin, end, strides = slice_bounds(site.graph, site.op)
    extents = [-(-(e - b) // s) for b, e, s in zip(begin, end, strides, strict=True)]
    if min(extents) < 1 or any(not 0 <= b < e for b, e in zip(begin, site.need(0).shape, strict=True)):
        site.contradiction(f"the slice takes {extents} elements")
        return
    site.expect_shape([e for axis, e in enumerate(extents) if not shrink >> axis & 1])


def _split(site: Site) -> None:
    x = site.need(1)
    parts = [site.graph.tensors[i] for i in site.op.outputs]
    site.same_quantisation(x, *parts)
    data = site.constant(0, "the axis")
    if data is None:
        return
    axes = axes_of(site, data, len(x.shape))
    if axes is None:
        return
    if len(axes) != 1 or site.op.options["num_splits"] != len(parts) or x.shape[axes[0]] % len(parts):
        site.contradiction(f"{list(x.shape)} into {len(parts)} parts (num_splits {site.op.options['num_splits']}) along {axes}")
        return
    for part in parts:
        site.expect_shape([e // len(parts) if i == axes[0] else e for i, e in enumerate(x.shape)], part)


def _slice(site: Site) -> None:
    x = site.need(0)
    site.same_quantisation(x, site.out)
    begin, size = (site.constant(i, what) for i, what in ((1, "begin"), (2, "the size")))
    if begin is None or size is None:
        return
    extents = [e - b if s == -1 else s for e, b, s in zip(x.shape, begin.ravel().tolist(), size.ravel().tolist(), strict=False)]
    inside = begin.size == size.size == len(x.shape) and min(extents) >= 1 and np.all(begin.ravel() >= 0)
    if not inside or np.any(begin.ravel() + extents > x.shape):
        site.contradiction(f"begin {begin.tolist()} and size {size.tolist()} of an input of shape {list(x.shape)}")
        return
    site.expect_shape(extents)


def _split_v(site: Site) -> None:
    x = site.need(0)
    parts = [site.graph.tensors[i] for i in site.op.outputs]
    site.same_quantisation(x, *parts)
    sizes, data = site.constant(1, "the sizes"), site.constant(2, "the axis")
    axes = None if data is None else axes_of(site, data, len(x.shape))
    if sizes is None or axes is None:
        return
    extents = sizes.ravel().tolist()
    if len(axes) != 1 or len(extents) != len(parts) or extents.count(-1) > 1:
        site.contradiction(f"{list(x.shape)} into parts of {extents} along {axes}")
        return
    rest = x.shape[axes[0]] - sum(e for e in extents if e != -1)
    for part, extent in zip(parts, extents, strict=True):
        site.expect_shape([(rest if extent == -1 else extent) if i == axes[0] else e for i, e in enumerate(x.shape)], part)


def _pack(site: Site) -> None:
    parts = [site.need(i) for i in range(len(site.op.inputs))]
    site.same_quantisation(site.out, *parts)
    rank, axis = len(site.out.shape), site.op.options["axis"]
    if not -rank <= axis < rank or any(p.shape != parts[0].shape for p in parts) or site.op.options["values_count"] != len(parts):
        site.contradiction(f"axis {axis} of {[list(p.shape) for p in parts]}")
        return
    shape = [*parts[0].shape]
    shape.insert(axis % rank, len(parts))
    site.expect_shape(shape)


def _unpack(site: Site) -> None:
    x = site.need(0)
    parts = [site.graph.tensors[i] for i in site.op.outputs]
    site.same_quantisation(x, *parts)
    rank, axis = len(x.shape), site.op.options["axis"]
    if not -rank <= axis < rank or x.shape[axis] != len(parts):
        site.contradiction(f"{list(x.shape)} into {len(parts)} parts along axis {axis}")
        return
    for part in parts:
        site.expect_shape([e for i, e in enumerate(x.shape) if i != axis % rank], part)


def _blocks(site: Site) -> None:
    """DEPTH_TO_SPACE, SPACE_TO_DEPTH."""
    x, block = site.need(0), site.op.options["block_size"]
    site.same_quantisation(x, site.out)
    deep = site.op.kind == "DEPTH_TO_SPACE"
    if (
        len(x.shape) != 4
        or block < 1
        or any(e % d for e, d in zip(x.shape[1:], (1, 1, block * block) if deep else (block, block, 1), strict=True))
    ):
        site.contradiction(f"blocks of {block} of an input of shape {list(x.shape)}")
        return
    n, h, w, c = x.shape
    site.expect_shape((n, h * block, w * block, c // block**2) if deep else (n, h // block, w // block, c * block**2))


def _extreme(site: Site) -> None:
    """MAXIMUM, MINIMUM: the reference kernel compares integers, whatever they mean."""
    left, right = site.need(0), site.need(1)
    site.same_quantisation(site.out, left, right)
    try:
        site.expect_shape(np.broadcast_shapes(left.shape, right.shape))
    except ValueError:
        site.contradiction(f"shapes {list(left.shape)} and {list(right.shape)} do not broadcast")


def _reduce_extreme(site: Site) -> None:
    """REDUCE_MAX, REDUCE_MIN."""
    site.same_quantisation(site.need(0), site.out)
    site.reduced()


def _arg_extreme(site: Site) -> None:
    """ARG_MAX, ARG_MIN."""
    x = site.need(0)
    data = site.constant(1, "the axis")
    axes = None if data is None else axes_of(site, data, len(x.shape))
    if axes is None:
        return
    if len(axes) != 1 or len(x.shape) < 2 or x.dtype != "int8":
        site.problem(f"{site.op.kind} of {x.dtype} {list(x.shape)} along {axes} is not supported (int8, one of two axes or more)", "", x)
        return
    site.expect_shape([e for i, e in enumerate(x.shape) if i != axes[0]])


def _gather(site: Site) -> None:
    x, indices = site.need(0), site.constant(1, "the indices")
    site.same_quantisation(x, site.out)
    if indices is None:
        return
    axis = site.op.options["axis"]
    if site.op.options["batch_dims"]:
        site.problem("batch dimensions are not supported", "gather along one axis for the whole batch")
    elif not -len(x.shape) <= axis < len(x.shape) or not np.all((indices >= 0) & (indices < x.shape[axis])) or not site.out.shape:
        site.contradiction(f"indices {indices.ravel()[:8].tolist()} along axis {axis} of an input of shape {list(x.shape)}")
    else:
        axis %= len(x.shape)
        site.expect_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _mirror_pad(site: Site) -> None:
    x, widths = site.need(0), site.constant(1, "the padding")
    site.same_quantisation(x, site.out)
    if widths is None:
        return
    mode = site.op.options["mode"]
    room = np.array([e - 1 if mode == 0 else e for e in x.shape])[:, None]
    if mode not in (0, 1) or widths.shape != (len(x.shape), 2) or np.any((widths < 0) | (widths > room)):
        site.contradiction(f"padding {widths.tolist()} (mode {mode}) of an input of shape {list(x.shape)}")
        return
    site.expect_shape([int(e + a + b) for e, (a, b) in zip(x.shape, widths.tolist(), strict=True)])


def _broadcast_to(site: Site) -> None:
    x, shape = site.need(0), site.constant(1, "the shape")
    site.same_quantisation(x, site.out)
    if shape is None:
        return
    try:
        site.expect_shape(np.broadcast_shapes(x.shape, tuple(int(e) for e in shape.ravel())))
    except ValueError:
        site.contradiction(f"{list(x.shape)} can't become {shape.ravel().tolist()}")


def _reverse(site: Site) -> None:
    x, data = site.need(0), site.constant(1, "the axes")
    site.same_quantisation(x, site.out)
    if data is not None and axes_of(site, data, len(x.shape)) is not None:
        site.expect_shape(x.shape)


def _space_and_batch(site: Site) -> None:
    """SPACE_TO_BATCH_ND, BATCH_TO_SPACE_ND."""
    x, blocks, widths = site.need(0), site.constant(1, "the blocks"), site.constant(2, "the padding")
    site.same_quantisation(x, site.out)
    if blocks is None or widths is None:
        return
    count = blocks.size
    if count not in (1, 2) or len(x.shape) < count + 2 or widths.shape != (count, 2) or np.any(blocks < 1) or np.any(widths < 0):
        site.contradiction(f"blocks {blocks.tolist()} and widths {widths.tolist()} of an input of shape {list(x.shape)}")
        return
    each, around, inner = int(np.prod(blocks)), [int(a + b) for a, b in widths], x.shape[1 + count :]
    if site.op.kind == "SPACE_TO_BATCH_ND":
        whole = [e + w for e, w in zip(x.shape[1:], around, strict=False)]
        fits, shape = not any(e % b for e, b in zip(whole, blocks, strict=True)), [e // int(b) for e, b in zip(whole, blocks, strict=True)]
        batch = x.shape[0] * each
    else:
        fits, shape = x.shape[0] % each == 0, [e * int(b) - w for e, b, w in zip(x.shape[1:], blocks, around, strict=False)]
        batch = x.shape[0] // each
    if not fits or min(shape) < 1:
        site.contradiction(f"blocks {blocks.tolist()} and widths {widths.tolist()} of an input of shape {list(x.shape)}")
        return
    site.expect_shape((batch, *shape, *inner))


MOVES: dict[str, Rule] = {
    "ARG_MAX": Rule(_arg_extreme, (2, 2), results="int32", notes="int8, a constant axis"),
    "ARG_MIN": Rule(_arg_extreme, (2, 2), results="int32", notes="int8, a constant axis"),
    "BATCH_TO_SPACE_ND": Rule(_space_and_batch, (3, 3), notes=f"constant blocks and crops; {SHARED}"),
    "BROADCAST_TO": Rule(_broadcast_to, (2, 2), notes=f"constant shape; {SHARED}"),
    "CONCATENATION": Rule(_concatenation, (1, 64), range(64), notes=f"{SHARED}; no fused activation"),
    "DEPTH_TO_SPACE": Rule(_blocks, (1, 1), notes=SHARED),
    "EXPAND_DIMS": Rule(_reshape, (2, 2), notes=SHARED),
    "GATHER": Rule(_gather, (2, 2), notes=f"constant indices, no batch dimensions; {SHARED}"),
    "MAXIMUM": Rule(_extreme, (2, 2), (0, 1), notes=f"broadcasting; {SHARED}"),
    "MINIMUM": Rule(_extreme, (2, 2), (0, 1), notes=f"broadcasting; {SHARED}"),
    "MIRROR_PAD": Rule(_mirror_pad, (2, 2), notes=f"constant padding; {SHARED}"),
    "PACK": Rule(_pack, (1, 64), range(64), notes=SHARED),
    "PAD": Rule(_pad, (2, 2), notes=f"constant padding; {SHARED}"),
    "PADV2": Rule(_pad, (3, 3), notes=f"constant padding and value; {SHARED}"),
    "REDUCE_MAX": Rule(_reduce_extreme, (2, 2), notes=f"constant axes; at least one dimension stays; {SHARED}"),
    "REDUCE_MIN": Rule(_reduce_extreme, (2, 2), notes=f"constant axes; at least one dimension stays; {SHARED}"),
    "RESHAPE": Rule(_reshape, (1, 2), notes=f"constant shape; {SHARED}"),
    "RESIZE_BILINEAR": Rule(_resize, (2, 2), notes=f"constant size; align_corners or half_pixel_centers; {SHARED}"),
    "RESIZE_NEAREST_NEIGHBOR": Rule(_resize, (2, 2), notes=f"constant size; align_corners or half_pixel_centers; {SHARED}"),
    "REVERSE_V2": Rule(_reverse, (2, 2), notes=f"constant axes; {SHARED}"),
    "SLICE": Rule(_slice, (3, 3), notes=f"constant bounds; {SHARED}"),
    "SPACE_TO_BATCH_ND": Rule(
        _space_and_batch,
        (3, 3),
        notes=f"constant blocks and padding, which holds the zero point (the reference: what lay in memory); {SHARED}",
    ),
    "SPACE_TO_DEPTH": Rule(_blocks, (1, 1), notes=SHARED),
    "SPLIT": Rule(_split, (2, 2), (1,), outputs=0, notes=f"constant axis, equal parts; {SHARED}"),
    "SPLIT_V": Rule(_split_v, (3, 3), outputs=0, notes=f"constant axis and sizes; {SHARED}"),
    "SQUEEZE": Rule(_reshape, (1, 1), notes=SHARED),
    "STRIDED_SLICE": Rule(_strided_slice, (4, 4), notes=f"constant bounds, no ellipsis or new axis; {SHARED}"),
    "TRANSPOSE": Rule(_transpose, (2, 2), notes=f"constant permutation; {SHARED}"),
    "UNPACK": Rule(_unpack, (1, 1), outputs=0, notes=SHARED),
}
