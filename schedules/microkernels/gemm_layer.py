# SPDX-License-Identifier: Apache-2.0
"""Packing of a weight matrix for GEMM blocks, and the block functions a layer needs: main block and the tails in channels and pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..requantize_forms import Form, Requantization, RequantParameters, find_form
from .c_source import CFunction
from .gemm_block import GemmBlock, gemm_function
from .gemm_shared import multiple_of, shareable, shared_gemm_function, shared_shape, whole_bytes
from .layer import LayerParameters, words
from .requantize import RequantShape, constant_words

_TAIL_UNROLL = 8
_SHORT = 4
_REPEATED_GROUPS = 16  # about 400 instructions


@dataclass(frozen=True)
class BlockChoice:
    """What may be tuned of a GEMM layer.

    Attributes
    ----------
    channels, pixels : int
        Block; M7 likes 2x3 (spare registers hide latency), M4 2x4 (fewest instructions), one pixel 4 to 6 channels.
    operand : str or None
        "r8", "w8", "w16", or None for the best legal one.
    unroll : int
        Groups (four k) per iteration.
    tile : int
        Pixel groups expanded before the weights are walked; more than one keeps each channel block over the whole tile (weight-stationary).
    shared : bool
        Use the block that serves layers of every length (`gemm_shared`), and for pointwise layers the driver that has their geometry as
        data (`gemm_driver`): a few per cent slower, next to no code for each layer after the first.
    fixed : bool
        Of shared blocks: the one for sums of this length, if they are short.
    weights : str
        Where a block reads its weights: "flash", or in scratch after the whole "layer", or one channel "block" before its walk over a
        tile, was copied there. For flash that costs a wait at every read.
    ends : tuple of (pixels, group), optional
        Of a row form that is called for one row at a time: the last pixels of a row are computed in groups of `group`. None: what is left
        after groups of `pixels` is computed one by one, however long the call.
    runs : int
        Of a row form: channels are computed in so many runs over all pixels, which widen the columns again; a run's weights stay in the
        data cache before the flash.
    pairs : bool
        Of a row form without `ends` that walks single groups: what is left over after groups of `pixels` is computed two by two first.
    """

    channels: int = 2
    pixels: int = 3
    operand: str | None = None
    unroll: int = 16
    tile: int = 1
    shared: bool = False
    fixed: bool = False
    weights: str = "flash"
    ends: tuple[int, int] | None = None
    runs: int = 1
    pairs: bool = False


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A weight matrix recoded for one block: the stream and the code part of its requantisation."""

    operand: str
    k: int
    outputs: int
    block_channels: int
    requant: RequantShape
    stream: bytes
    main_bytes: int
    fallback: bytes  # multipliers and shifts for Form.ACCUMULATOR
    multiple: int = 1  # the sums are padded to a multiple of this many groups

    @property
    def groups(self) -> int:
        """Number of groups of four k, padding included."""
        return _padded_groups(self.k, self.multiple)

    @property
    def block_bytes(self) -> int:
        """Bytes of a full block in the stream."""
        return self.main_bytes // max(1, self.outputs // self.block_channels)

    @property
    def tail_channels(self) -> int:
        """Channels left after the full blocks."""
        return self.outputs % self.block_channels


def _padded_groups(k: int, multiple: int) -> int:
    return -(-k // (4 * multiple)) * multiple


def choose_operand(rows: np.ndarray, problem: Requantization, wanted: str | None) -> tuple[str, RequantParameters]:
    """`wanted` or the best operand form that is exact for these weights, and its requantisation.

    r8 refuses weights of -128 and accumulators that leave 24 bits, however they are counted.
    """
    if wanted in (None, "r8") and rows.min(initial=0) >= -127:
        found = find_form(problem, 8)
        bound = int(max(np.abs(problem.acc_min).max(), np.abs(problem.acc_max).max()))
        if found.form is not Form.ACCUMULATOR or bound < 2**23 - 2**9:
            return "r8", found
    return wanted if wanted not in (None, "r8") else "w8", find_form(problem, 0)


def pack_matrix(rows: np.ndarray, layer: LayerParameters, choice: BlockChoice) -> PackedMatrix:
    """Recode `rows` (outputs, k) int8 and find the requantisation.

    The input zero point, and r8's offset of 127 on even activations, go into the bias; so does the requantisation's offset.
    """
    outputs, k = rows.shape
    problem = layer.requantization(rows)
    operand, found = choose_operand(rows, problem, choice.operand)
    multiple = multiple_of(-(-k // 4), fixed=choice.fixed and choice.pixels > 1) if choice.shared else 1
    padded = np.zeros((outputs, 4 * _padded_groups(k, multiple)), np.int64)
    padded[:, :k] = rows
    bias = layer.bias.astype(np.int64) - layer.x_zero_point * padded.sum(axis=1)
    if operand == "r8":
        bias = bias + 127 * padded[:, 0::2].sum(axis=1)
    bias = (bias << found.scale_log2) + found.offset
    shape = shared_shape(RequantShape.of(found)) if choice.shared else RequantShape.of(found)
    stream, main = _stream(recode_weights(padded, operand), bias, found, shape, choice.channels)
    fallback = words(np.stack([found.multiplier, found.shift])) if found.form is Form.ACCUMULATOR else b""
    return PackedMatrix(operand, k, outputs, choice.channels, shape, stream, main, fallback, multiple)


def recode_weights(padded: np.ndarray, operand: str) -> np.ndarray:
    """Weights (outputs, 4 * groups) to words (outputs, groups, words a group)."""
    w = padded.astype(np.int64).reshape(len(padded), -1, 4)
    if operand == "r8":
        halves = 256 * w[..., 0::2] + w[..., 1::2]
        return recode_pairs(halves[..., 0], halves[..., 1])[..., None]
    if operand == "w16":
        return np.stack([recode_pairs(w[..., 0], w[..., 2]), recode_pairs(w[..., 1], w[..., 3])], axis=-1)
    return (w[..., 0] & 0xFF | (w[..., 1] & 0xFF) << 8 | (w[..., 2] & 0xFF) << 16 | (w[..., 3] & 0xFF) << 24)[..., None]


def recode_pairs(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Pack two arrays of int16 values into the halves of words."""
    return (low & 0xFFFF) | ((high & 0xFFFF) << 16)


def _stream(weights: np.ndarray, bias: np.ndarray, found: RequantParameters, shape: RequantShape, block: int) -> tuple[bytes, int]:
    """Interleave biases, weights and constants of each channel block; return the bytes and the length of the full blocks."""
    constants = constant_words(found, shape)
    parts, full = [], len(bias) // block * block
    main = 0
    for start in range(0, len(bias), block):
        rows = slice(start, min(start + block, len(bias)))
        ordered = weights[rows].transpose(1, 0, 2)  # group, channel, word
        parts.append(words(bias[rows]) + words(ordered) + words(constants[:, rows]))
        if start < full:
            main += len(parts[-1])
    return b"".join(parts), main


@dataclass(frozen=True)
class GemmFunctions:
    """The block functions of a layer by (channels, pixels) and the loop order of the main one.

    `plane` is the bytes from one channel's output to the next channel's: 1, or the pixels of a plane (NCHW).
    """

    matrix: PackedMatrix
    choice: BlockChoice
    functions: dict[tuple[int, int], CFunction]
    blocks: dict[tuple[int, int], GemmBlock]
    plane: int = 1

    @property
    def pixel_stride(self) -> int:
        """Bytes from one pixel's output to the next pixel's."""
        return self.matrix.outputs if self.plane == 1 else 1

    def call(self, pixels: int, columns: str, packed: str, out: str) -> list[str]:
        """C statements computing all channels of one group of `pixels` from its expanded columns."""
        m, lines = self.matrix, []
        if m.main_bytes:
            lines.append(self._call(m.block_channels, pixels, columns, packed, 0, m.main_bytes, out))
        if m.tail_channels:
            shift = (m.outputs - m.tail_channels) * (4 * pixels if m.requant.form is Form.ACCUMULATOR else self.plane)
            lines.append(self._call(m.tail_channels, pixels, columns, packed, m.main_bytes, len(m.stream), f"{out} + {shift}"))
        return lines

    def _call(self, channels: int, pixels: int, columns: str, packed: str, start: int, end: int, out: str) -> str:
        """A block over the stream's bytes [start, end)."""
        name, block = self.functions[channels, pixels].name, self.blocks[channels, pixels]
        weights = f"{packed} + {start}" if start else packed
        if not (self.choice.shared and shareable(block, fixed=self.choice.fixed)):
            return f"{name}({columns}, {weights}, {out}, {packed} + {end}, {self.pixel_stride});"
        nbytes, constants = block.scratch_bytes, 4 * channels * block.requant.words
        steps = f"{-nbytes}, {constants}, {channels}, {self.pixel_stride}"
        walk = f"{{{(end - start) // block.stream_bytes}, {whole_bytes(pixels, block.groups)}, {nbytes}, {steps}}}"
        return f"{{ static const tiny_walk walk = {walk}; {name}({columns}, {weights}, {out}, &walk); }}"


def gemm_functions(
    prefix: str, matrix: PackedMatrix, choice: BlockChoice, pixels: set[int], *, dual_issue: bool, plane: int = 1
) -> GemmFunctions:
    """Generate the block functions for every group size in `pixels`; `plane` as in `GemmFunctions`."""
    functions, blocks = {}, {}
    main = GemmBlock(
        choice.channels, choice.pixels, matrix.groups, matrix.operand, matrix.requant, None if plane == 1 else 1, choice.unroll,
        dual_issue=dual_issue, channel_stride=plane,
    )  # fmt: skip
    for p in pixels:
        for c in {choice.channels if matrix.main_bytes else 0, matrix.tail_channels} - {0}:
            is_main = (c, p) == (choice.channels, choice.pixels)
            block = replace(main, channels=c, pixels=p, unroll=choice.unroll if is_main else min(choice.unroll, _TAIL_UNROLL))
            shared = choice.shared and shareable(block, fixed=choice.fixed)
            if is_main and not shared and plane == 1:
                fixed = matrix.outputs if matrix.groups <= _SHORT else None  # where the requantisation is most of the work
                block = replace(block, pixel_stride=fixed)
                block = replace(block, repeat=_repeat(block, matrix.outputs // c))
            blocks[c, p] = block
            functions[c, p] = shared_gemm_function(prefix, block, fixed=choice.fixed) if shared else gemm_function(prefix, block)
    return GemmFunctions(matrix, choice, functions, blocks, plane)


def _repeat(block: GemmBlock, blocks: int) -> int:
    """Channel blocks of one body: short sums are hidden behind their neighbours' requantisation, long ones need no help."""
    if block.groups > block.unroll:
        return 1
    fitting = [n for n in (4, 3, 2) if blocks % n == 0 and n * block.groups <= _REPEATED_GROUPS and n * block.stream_bytes <= 4095]
    return fitting[0] if fitting else 1
