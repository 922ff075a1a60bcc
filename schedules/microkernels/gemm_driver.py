# SPDX-License-Identifier: Apache-2.0
"""Pointwise layers whose geometry is data: one driver for all of them, and a pair of block and expansion for each form they take.

What a layer has of its own is the head of its constants. Pixels go in threes; where their number is no multiple of three, the last three
are computed together, some of them again. An odd number of channels ends in a pair that computes the last but one again. Weights that
should be read once a tile of pixels are walked over it block by block, copied to scratch before where that is asked for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..requantize_forms import Form
from .add import AddLayer
from .c_source import CFunction, copy_function, function_name
from .conv2d_shape import Conv2DShape
from .gemm_block import GemmBlock
from .gemm_layer import BlockChoice, PackedMatrix, pack_matrix
from .gemm_shared import WALK_TYPE, shared_gemm_function, whole_bytes
from .layer import Core, LayerParameters, MicroKernel, words
from .residual import LEAST, ResidualSum, input_shape, residual_sum, with_residual
from .widen import widen_function

CHANNELS, PIXELS = 2, 3
"""The block; layers of fewer than three pixels take one pixel, and so do rows."""

_COPIES = {"flash": 0, "layer": 1, "block": 2}
_TYPES = (
    WALK_TYPE
    + """\
#ifndef TINY_GEMM
#define TINY_GEMM
typedef void tiny_gemm_block(const void *x, const void *w, int8_t *y, const tiny_walk *walk);
typedef void tiny_gemm_widen(const int8_t *src, uint8_t *dst, uint32_t words, uint32_t stride, uint32_t shift);
/* The head of a layer's constants: pixels and pixels of a row; bytes of an input and an output pixel; whole words of an input pixel, and
 * the shift of those left over; bytes of a block's columns, those of whole iterations first; bytes of a block of the stream and of its
 * requantisation; pixel groups of a tile; 0: weights are read where they are, 1: all are copied to scratch, 2: block by block. */
typedef struct {
  uint32_t pixels, width, channels, outputs, words, shift, x_bytes, whole, block, constants, tile, copied;
} tiny_gemm;
/* A form of the layers: code, and the pixels it takes together. */
typedef struct {
  tiny_gemm_block *block;
  tiny_gemm_widen *widen;
  uint32_t pixels;
} tiny_gemm_form;
#endif
"""
)


def pointwise_shared(
    name: str,
    shape: Conv2DShape,
    layer: LayerParameters,
    core: Core,
    choice: BlockChoice,
    *,
    row_form: bool = False,
    together: bool = False,
    residual: AddLayer | None = None,
) -> MicroKernel | None:
    """The kernel of a pointwise layer, with `row_form` by rows too (all of a call at once
    where they lie `together`); None for what the driver does not take.

    With `residual` (as of `conv2d`) the driver is called for some pixels at a time, and what it has stored is summed after each call.

    That is fewer than four channels or two outputs, planar outputs, and requantisation that has no form in assembly.
    """
    if not shape.is_pointwise or shape.planar or shape.channels < 4 or shape.outputs < CHANNELS:
        return None
    least = shape.out_width * (1 if row_form else shape.out_height)
    pixels = PIXELS if choice.pixels > 1 and least >= PIXELS else 1
    choice = replace(choice, channels=CHANNELS, pixels=pixels, tile=max(1, choice.tile), shared=True)
    matrix = _pack(shape, layer, choice)
    if matrix.requant.form is Form.ACCUMULATOR:
        return None
    block = GemmBlock(CHANNELS, pixels, matrix.groups, matrix.operand, matrix.requant, None, dual_issue=core.dual_issue)
    copied = {"flash": 0, "layer": len(matrix.stream), "block": block.stream_bytes}[choice.weights]
    added = residual_sum(name, residual, core) if residual is not None else None
    *callees, whole, rows = _functions(name, block, core, fixed=choice.fixed, together=together, added=added)
    chunk = _chunk(shape, block, choice)
    return MicroKernel(
        name=whole.name,
        functions=(*callees, whole, rows) if row_form else (*callees, whole),
        packed=_head(shape, block, choice) + matrix.stream + (words(np.array([chunk])) + added.packed if added is not None else b""),
        scratch_bytes=block.scratch_bytes * choice.tile + copied,
        input_shape=input_shape(shape, residual),
        output_shape=(shape.out_height, shape.out_width, shape.outputs),
        macs=shape.macs,
        reference=lambda x: with_residual(x, shape, layer, residual),
        choices={
            "operand": matrix.operand, "block": f"{CHANNELS}x{pixels}", "tile": choice.tile, "weights": choice.weights, "code": "shared",
            "requantise": f"{matrix.requant.form.value} per channel",
            **({"residual": added.operand, "chunk": chunk} if added is not None else {}),
        },
        row_name=rows.name if row_form else None,
        inputs=1 if added is None else 2,
    )  # fmt: skip


def _pack(shape: Conv2DShape, layer: LayerParameters, choice: BlockChoice) -> PackedMatrix:
    """The stream of full blocks; an odd number of channels has the last but one twice."""
    of = np.arange(shape.outputs + shape.outputs % CHANNELS)
    of[-CHANNELS:] = np.arange(shape.outputs - CHANNELS, shape.outputs)
    bias, multiplier, shift = (np.broadcast_to(v, (shape.outputs,))[of] for v in (layer.bias, layer.multiplier, layer.shift))
    chosen = replace(layer, weights=layer.weights[of], bias=bias, multiplier=multiplier, shift=shift)
    return pack_matrix(chosen.weights.reshape(len(of), shape.k), chosen, choice)


def _head(shape: Conv2DShape, block: GemmBlock, choice: BlockChoice) -> bytes:
    rest = shape.channels % 4
    fields = [shape.out_height * shape.out_width, shape.out_width, shape.channels, shape.outputs, shape.channels // 4]
    fields += [8 * (4 - rest) if rest else 0, block.scratch_bytes, whole_bytes(block.pixels, block.groups), block.stream_bytes]
    fields += [4 * CHANNELS * block.requant.words, choice.tile, _COPIES[choice.weights]]
    return words(np.array(fields))


def _chunk(shape: Conv2DShape, block: GemmBlock, choice: BlockChoice) -> int:
    """Pixels of a call that a sum follows: whole tiles, as few as are worth the sum's own call; all where every call would copy weights."""
    tile = block.pixels * choice.tile
    return shape.out_height * shape.out_width if choice.weights == "layer" else -(-LEAST // (tile * shape.outputs)) * tile


def _functions(
    name: str, block: GemmBlock, core: Core, *, fixed: bool, together: bool = False, added: ResidualSum | None = None
) -> tuple[CFunction, ...]:
    """Callees first; the whole layer last but one, then its rows."""
    made = [
        shared_gemm_function(name, block, fixed=fixed),
        widen_function(name, block.operand, block.pixels, core.dual_issue),
        copy_function(name),
    ]
    driver = _driver(name, made[2].name)
    form = f"  static const tiny_gemm_form form = {{{made[0].name}, {made[1].name}, {block.pixels}}};\n"
    stem = function_name(name, "pixels", (made[0].name, made[1].name))
    whole = f"void {stem}(const int8_t *in, int8_t *out, const void *packed, void *scratch)"
    rows = f"void {stem}_rows(const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end, const void *packed, void *scratch)"
    once = f"  const tiny_gemm *g = packed;\n  {driver.name}(in, out, g->pixels, g, scratch, &form);\n"
    if added is not None:
        made.append(added.function)
        stem = f"{stem}_{added.name.rpartition('_')[2]}"
        whole = f"void {stem}(const int8_t *in, const int8_t *residual, int8_t *out, const void *packed, void *scratch)"
        once = _in_chunks(driver.name, added.name)
    by_rows = (
        f"  const tiny_gemm *g = packed;\n  for (; begin != end; ++begin, out += g->width * g->outputs)\n"
        f"    {driver.name}(*rows++, out, g->width, g, scratch, &form);\n"
    )
    if together:
        by_rows = f"  const tiny_gemm *g = packed;\n  {driver.name}(*rows, out, (uint32_t)(end - begin) * g->width, g, scratch, &form);\n"
    return (
        *made,
        driver,
        CFunction(stem, f"TINY_NOINLINE {whole};\n{whole} {{\n{form}{once}}}\n"),
        CFunction(f"{stem}_rows", f"{rows};\n{rows} {{\n{form}{by_rows}}}\n"),
    )


def _in_chunks(driver: str, added: str) -> str:
    """C that sums what the driver has made of some pixels. The last call has no fewer: none is computed again that is summed."""
    return (
        f"  const tiny_gemm *g = packed;\n"
        f"  const uint8_t *constants = (const uint8_t *)(g + 1) + (g->outputs + 1) / 2 * g->block;\n"
        f"  const uint32_t chunk = tiny_load(constants);\n"
        f"  for (uint32_t left = g->pixels; left != 0;) {{\n"
        f"    const uint32_t pixels = left < 2 * chunk ? left : chunk, bytes = pixels * g->outputs;\n"
        f"    {driver}(in, out, pixels, g, scratch, &form);\n"
        f"    {added}(out, residual, constants + 4, bytes);\n"
        f"    in += pixels * g->channels;\n    out += bytes;\n    residual += bytes;\n    left -= pixels;\n  }}\n"
    )


def _driver(prefix: str, copy: str) -> CFunction:
    name = f"{prefix}_driver"
    return CFunction(
        name,
        _TYPES + f"TINY_NOINLINE static void {name}(const int8_t *in, int8_t *out, uint32_t left, const tiny_gemm *g, uint8_t *scratch,\n"
        f"    const tiny_gemm_form *form) {{\n"
        f"  const uint32_t pixels = form->pixels, pairs = g->outputs / 2, channels = g->outputs, tile = g->tile;\n"
        f"  const uint8_t *stream = (const uint8_t *)(g + 1);\n"
        f"  uint8_t *copy = scratch + g->x_bytes * tile;\n"
        f"  tiny_walk walk = {{pairs, g->whole, g->x_bytes, -(int32_t)g->x_bytes, (int32_t)g->constants, 2, channels}};\n"
        f"  if (tile != 1) {{\n    walk.x_step = 0;\n    walk.w_step -= (int32_t)g->block;\n    walk.y_step = pixels * channels;\n  }}\n"
        f"  if (g->copied == 1) stream = {copy}(copy, stream, (channels + 1) / 2 * g->block / 4);\n"
        f"  while (left != 0) {{\n"
        f"    if (left < pixels) {{ /* the last ones, some again */\n"
        f"      in -= (pixels - left) * g->channels;\n      out -= (pixels - left) * channels;\n      left = pixels;\n    }}\n"
        f"    uint8_t *to = scratch;\n    uint32_t groups = 0;\n"
        f"    do {{\n"
        f"      form->widen(in, to, g->words, g->channels, g->shift);\n"
        f"      in += pixels * g->channels;\n      to += g->x_bytes;\n      left -= pixels;\n"
        f"    }} while (++groups < tile && left >= pixels);\n"
        f"    if (tile == 1) {{\n"
        f"      walk.blocks = pairs;\n      form->block(scratch, stream, out, &walk);\n"
        f"      if (channels & 1) {{\n"
        f"        walk.blocks = 1;\n        form->block(scratch, stream + pairs * g->block, out + channels - 2, &walk);\n      }}\n"
        f"    }} else {{\n"
        f"      const uint8_t *weights = stream;\n      walk.blocks = groups;\n"
        f"      for (uint32_t c = 0; c < channels; c += 2, weights += g->block)\n"
        f"        form->block(scratch, g->copied == 2 ? {copy}(copy, weights, g->block / 4) : weights,\n"
        f"            out + (c + 2 > channels ? channels - 2 : c), &walk);\n"
        f"    }}\n"
        f"    out += groups * pixels * channels;\n  }}\n}}\n",
    )
