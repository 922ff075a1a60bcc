# SPDX-License-Identifier: Apache-2.0
"""What row kernels do inside streams, strips and patches, counted in the terms of `schedules/cycle_terms.py`, and what drives them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tvm_tiny.memory.rows import RowOp
from tvm_tiny.schedules.band_costs import band_of, bands_in_row, weights_read, widened
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.conv2d import shape_of
from tvm_tiny.schedules.cycle_columns import Blocks
from tvm_tiny.schedules.cycle_terms import (
    CONSTANTS,
    Planes,
    Terms,
    conv2d_terms,
    depthwise_terms,
    elementwise_terms,
    lines,
    product_terms,
    shares_planes,
    sum_terms,
)
from tvm_tiny.schedules.microkernels import Conv2DShape, Core, LayerParameters
from tvm_tiny.schedules.microkernels.conv2d_shape import default_choice, shared_choice
from tvm_tiny.schedules.microkernels.depthwise_block import default_pixels
from tvm_tiny.schedules.microkernels.gemm_layer import BlockChoice
from tvm_tiny.schedules.microkernels.requantize import RequantShape
from tvm_tiny.schedules.requantize_forms import find_form
from tvm_tiny.schedules.row_blocks import row_pixels
from tvm_tiny.schedules.row_kernels import conv_choice, strip_choice

_GROUP = 4  # products a group
_SHORT_SUMS = 4  # groups up to which no runs of channels are made
_DRIVEN = (4, 2, 3)  # input and output channels from which on the shared driver takes a pixel's products, and the pixels it takes at once


def stream_terms(layer: Layer, width: int, firings: int, core: str) -> Terms:
    """An operator inside a stream: `firings` rows of `width`, one at a time."""
    calls = [(1, width, firings)]
    if layer.op != "tiny.conv2d" or not width:
        return row_terms(layer, calls, core)
    if (found := _band_terms(layer, {1: firings}, core)) is not None:
        return found
    return _conv_terms(layer, conv_choice(layer, Core.of(core)), calls, core)


def strip_terms(layer: Layer, width: int, calls: Mapping[int, int], most: int, core: str, *, together: bool, over: bool) -> Terms:
    """An operator in strips: `calls` are how often its kernel makes so many rows of `width`, at most `most`; its input rows lie `together`
    or do not, and it writes `over` them or does not."""
    rows = [(count, width, times) for count, times in calls.items()]
    if layer.op == "tiny.depthwise_conv2d":
        return _spread_together(layer, row_terms(layer, rows, core), calls)
    if layer.op != "tiny.conv2d":
        return row_terms(layer, rows, core)
    if (found := _band_terms(layer, calls, core)) is not None:
        return found
    return _conv_terms(layer, strip_choice(layer, Core.of(core), most, over=over), rows, core, together=together)


def _spread_together(layer: Layer, found: Terms, calls: Mapping[int, int]) -> Terms:
    """`found` of a depthwise kernel of code of its own, whose rows of one strip lie together and go to planes as a whole layer's do; those
    kept from the strip before go one by one."""
    rows = "depthwise spread fours rows own-rows"
    if not found[rows]:
        return found
    new = sum(count * times for count, times in calls.items()) * layer.attrs["strides"][0] * -(-layer.shapes[0][3] // _GROUP)
    share = min(1.0, new / found[rows])
    for name in (rows, "depthwise spread fours own-rows"):
        together = int(share * found[name])
        found[name] -= together
        found[name.replace("own-rows", "own")] += together
    return found


def _band_terms(layer: Layer, calls: Mapping[int, int], core: str) -> Terms | None:
    """A convolution whose rows are cut into bands; `calls` are how often its kernel makes so many rows. None where they are not."""
    shape, dual_issue = _shape(layer), core == "cortex-m7"
    band = None if layer.small_code else band_of(shape, dual_issue)
    if band is None:
        return None
    rows, times = sum(n * count for n, count in calls.items()), sum(calls.values())
    blocks = Blocks(min(2, shape.outputs), band.pixels, requantise=requantised(layer, 8), tile=max(1, band.width // band.pixels), rows=True)
    groups, rest = divmod(shape.out_width, band.pixels)
    nbytes, bands = shape.outputs * (shape.k + CONSTANTS), bands_in_row(shape, band) * rows
    found = product_terms(blocks, shape.outputs, shape.k, groups * rows, band.pixels)
    found.update(product_terms(replace(blocks, tile=1), shape.outputs, shape.k, rows * (rest > 0), max(rest, 1)))
    found["band words"] += band.runs * widened(shape, band) // _GROUP * rows
    found["bands"] += band.runs * bands
    found["conv calls own"] += times
    found["conv words copied"] += bands * nbytes // 4 if band.copied else 0
    found["flash lines"] += lines(nbytes, times if band.runs > 1 else weights_read(shape, band, dual_issue) * rows, core)
    return +(found + sum_terms(layer, rows * shape.out_width * shape.outputs, times, rows=True))


def row_terms(layer: Layer, calls: Sequence[tuple[int, int, int]], core: str) -> Terms:
    """An operator on tiles; `calls` are (rows, columns, times)."""
    if layer.op == "tiny.conv2d":
        found: Terms = Counter()
        for width in {w for _, w, _ in calls}:
            rows = [call for call in calls if call[1] == width]
            found.update(_conv_terms(layer, _tile_choice(layer, max(r for r, _, _ in rows) * width, Core.of(core)), rows, core))
        return found
    if layer.op == "tiny.depthwise_conv2d":
        return depthwise_terms(layer, row_planes(layer, core), calls, layer.shapes[0][3])
    channels, times = layer.shapes[-1][-1], sum(times for _, _, times in calls)
    if layer.op in ("tiny.mean", "tiny.avg_pool2d") and layer.shapes[-1][1:3] in ((1, 1), ()):
        op = layer.op.removeprefix("tiny.")
        return Counter({f"{op} rows inputs": math.prod(layer.shapes[0]), f"{op} calls": times})
    gated = layer.op == "tiny.mul" and layer.shapes[1] != layer.shapes[0] and 1 not in layer.constants
    return elementwise_terms(layer, "rows gate" if gated else "rows", sum(h * w * n for h, w, n in calls) * channels, times)


def _tile_choice(layer: Layer, pixels: int, core: Core) -> BlockChoice:
    """The block of a convolution for calls of up to so many pixels."""
    shape = _shape(layer)
    choice = default_choice(shape, core)
    if choice.pixels > 1:
        choice = replace(choice, pixels=row_pixels(pixels, shape.k, by_words=shape.channels % _GROUP == 0), tile=1, weights="flash")
    return shared_choice(shape, core, choice, fixed=bool(layer.short_code)) if layer.small_code else choice


def _conv_terms(layer: Layer, choice: BlockChoice, calls: Sequence[tuple[int, int, int]], core: str, *, together: bool = False) -> Terms:
    """A convolution by the blocks of `choice`; `calls` are (rows, columns, times)."""
    shape = _shape(layer)
    driven = _is_driven(shape, choice)
    if driven and not together:  # the driver goes from row to row
        calls = [(1, width, rows * times) for rows, width, times in calls]
    blocks = _blocks(layer, choice, shape, driven=driven, together=together)
    found: Terms = Counter()
    for rows, width, times in calls:
        own = replace(blocks, pixels=1) if driven and width < _DRIVEN[2] else blocks
        found.update(conv2d_terms(layer, own, [(rows * width, times)], core))
    return found


def whole_blocks(layer: Layer, core: str, scratch_limit: int) -> Blocks:
    """How a whole layer is cut whose kernel is not known yet, and may take so many bytes of scratch."""
    shape = _shape(layer)
    choice = default_choice(shape, Core.of(core), scratch_limit)
    if layer.small_code:
        choice = shared_choice(shape, Core.of(core), choice, scratch_limit, fixed=bool(layer.short_code))
    return replace(_blocks(layer, choice, shape, driven=_is_driven(shape, choice), together=True), rows=False)


def _is_driven(shape: Conv2DShape, choice: BlockChoice) -> bool:
    """Whether the driver of shared code takes a layer."""
    return choice.shared and shape.is_pointwise and shape.channels >= _DRIVEN[0] and shape.outputs >= _DRIVEN[1]


def _blocks(layer: Layer, choice: BlockChoice, shape: Conv2DShape, *, driven: bool, together: bool) -> Blocks:
    """How `choice` cuts a convolution."""
    pixels = _DRIVEN[2] if driven and choice.pixels > 1 else choice.pixels
    channels = _DRIVEN[1] if driven else min(choice.channels, shape.outputs)
    split = choice.tile == 1 and -(-shape.k // _GROUP) > _SHORT_SUMS and shape.outputs % (choice.runs * channels) == 0
    return Blocks(
        channels, pixels, choice.operand or "r8", requantised(layer, 8, shared=choice.shared), choice.shared, choice.fixed, driven,
        choice.unroll, choice.tile, "flash" if choice.tile == 1 and choice.weights == "block" else choice.weights, rows=True,
        run=shape.is_pointwise and (driven or (together and shape.channels % _GROUP == 0)),
        ends=choice.ends or (0, 1), pairs=choice.pairs, runs=choice.runs if split and not driven else 1,
    )  # fmt: skip


def _shape(layer: Layer) -> Conv2DShape:
    found = shape_of(layer)
    assert found is not None, layer
    return found


def row_planes(layer: Layer, core: str) -> Planes:
    """How a depthwise row kernel is cut."""
    (kh, kw, _), stride, dilation = layer.shapes[1], tuple(layer.attrs["strides"]), tuple(layer.attrs.get("dilation", (1, 1)))
    pixels = default_pixels((kh, kw), stride, dilation, dual_issue=core == "cortex-m7")
    form = "shared" if layer.small_code and shares_planes(layer) else "own"
    return Planes(form, pixels, bool(layer.short_code), core == "cortex-m7", requantise=requantised(layer, 0), rows=True)


def requantised(layer: Layer, scale_log2: int, *, shared: bool = False) -> str:
    """The form of a row kernel's requantisation of sums times a power of two, as kernels tell it; what most trained layers have where
    constants are not known yet."""
    weights = layer.constants.get(1)
    if weights is None:
        return "single per channel" if shared else "single"
    depthwise = layer.op == "tiny.depthwise_conv2d"
    rows = weights.reshape(-1, weights.shape[-1]).T if depthwise else weights.reshape(len(weights), -1)
    bias, multiplier, shift = (layer.constants[i] for i in (2, 3, 4))
    a = layer.attrs
    parameters = LayerParameters(weights, bias, multiplier, shift, a["x_zp"], a["y_zp"], (a["clamp_min"], a["clamp_max"]), a["rounding"])
    found = RequantShape.of(find_form(parameters.requantization(rows), scale_log2))
    return found.form.value + (" per channel" if shared or found.shift is None else "")


def firing_terms(op: RowOp, firings: int) -> Terms:
    """What the driver of a stream does for an operator that fires so often."""
    return Counter({"stream firings": firings, "stream pointers": firings * _pointers(op, 1)})


def call_terms(op: RowOp, calls: Mapping[tuple[int, int], int]) -> Terms:
    """What the driver of patches does for an operator: `calls` are how often its kernel computes (rows, columns)."""
    pointers = sum(n * _pointers(op, rows) for (rows, _), n in calls.items())
    return Counter({"patch calls": sum(calls.values()), "patch pointers": pointers})


def strip_call_terms(op: RowOp, calls: Mapping[int, int]) -> Terms:
    """What the driver of strips does for an operator: `calls` are how often its kernel makes so many rows."""
    pointers = sum(n * _pointers(op, rows) for rows, n in calls.items())
    return Counter({"strip calls": sum(calls.values()), "strip pointers": pointers})


def _pointers(op: RowOp, rows: int) -> int:
    elementwise = op.inputs[1:] if op.kind == "window" else op.inputs
    return rows * len(elementwise) + ((rows - 1) * op.rows.stride + op.rows.extent if op.kind == "window" else 0)
