# SPDX-License-Identifier: Apache-2.0
"""What a layer brings to a microkernel (its parameters) and what it gets back (C functions, a packed blob, scratch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..requantize_forms import Requantization
from .c_source import CFunction, merge

if TYPE_CHECKING:
    from .depthwise_block import DepthwiseBlock
    from .gemm_layer import BlockChoice, PackedMatrix
    from .planes import PlaneRow
    from .pool_block import PoolBlock


@dataclass(frozen=True, eq=False)
class LayerParameters:
    """Constants of a linear int8 layer in the order of the `tiny` ops.

    Attributes
    ----------
    weights : numpy.ndarray of int8
        conv2d OHWI, depthwise (kh, kw, channels), dense (outputs, inputs).
    bias, multiplier, shift : numpy.ndarray of int32, shape (channels,)
    x_zero_point, y_zero_point : int
    clamp : tuple of int
    rounding : str
        "gemmlowp" or "single".
    """

    weights: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray
    x_zero_point: int
    y_zero_point: int
    clamp: tuple[int, int] = (-128, 127)
    rounding: str = "gemmlowp"

    def requantization(self, rows: np.ndarray) -> Requantization:
        """Return the requantisation problem; `rows` are the weights as (channels, taps), from which the accumulators' bounds follow."""
        w, bias = rows.astype(np.int64), self.bias.astype(np.int64)
        low, high = -128 - self.x_zero_point, 127 - self.x_zero_point
        acc_min = bias + np.minimum(w * low, w * high).sum(axis=1)
        acc_max = bias + np.maximum(w * low, w * high).sum(axis=1)
        multiplier, shift = (np.broadcast_to(v, bias.shape).astype(np.int64) for v in (self.multiplier, self.shift))
        return Requantization(multiplier, shift, self.y_zero_point, self.clamp, acc_min, acc_max, self.rounding)


@dataclass(frozen=True)
class Core:
    """What the generator must know of a processor.

    Attributes
    ----------
    dual_issue : bool
        Cortex-M7 (and M85): interleave MACs with loads; otherwise group the loads (M4, M33).
    """

    dual_issue: bool = True

    @staticmethod
    def of(mcpu: str) -> Core:
        """Return the core of a `-mcpu` name."""
        return Core(dual_issue=mcpu.startswith(("cortex-m7", "cortex-m85")))


@dataclass(frozen=True, eq=False)
class MicroKernel:
    """A generated layer function with everything it needs.

    Attributes
    ----------
    name : str
        The external function, `void name(const int8_t *in, int8_t *out, const void *packed, void *scratch)`; see `row_name`.
    functions : tuple of CFunction
        Callees first; `merge` makes one translation unit of several kernels and keeps one copy of equal functions.
    packed : bytes
        Parameter blob; must lie at a multiple of four.
    scratch_bytes : int
        Exact size of `scratch`, which must lie at a multiple of four (of eight for depthwise).
    reference : callable
        numpy meaning: int8 input of `input_shape` to int8 output of `output_shape`.
    choices : dict
        What was decided (operand form, block, requantisation), for reports.
    row_name : str or None
        External row form, when asked for.
    inputs : int
        Input pointers of the function; the bytes of two inputs follow each other in `reference`'s one.
    packing : tuple, optional
        Of a GEMM layer: the block (`BlockChoice`) and the packed weights (`PackedMatrix`) that the function is made from.
    planes : tuple, optional
        Of a depthwise layer that goes through planes of four channels: block, way into the planes, and output rows of a strip.
    windows : tuple of PoolBlock, optional
        Of a pooling layer: what computes the channels of one window. The function is that block; the layer is its nest.
    """

    name: str
    functions: tuple[CFunction, ...]
    packed: bytes
    scratch_bytes: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    macs: int
    reference: Callable[[np.ndarray], np.ndarray]
    choices: dict[str, object] = field(default_factory=dict)
    row_name: str | None = None
    inputs: int = 1
    packing: tuple[BlockChoice, PackedMatrix] | None = None
    planes: tuple[DepthwiseBlock, PlaneRow, int] | None = None
    windows: tuple[PoolBlock, ...] | None = None

    @property
    def c_source(self) -> str:
        """One self-contained translation unit."""
        return merge([self.functions])

    @property
    def prototype(self) -> str:
        """C declaration of the layer function."""
        sources = "const int8_t *in" if self.inputs == 1 else "const int8_t *a, const int8_t *b"
        return f"void {self.name}({sources}, int8_t *out, const void *packed, void *scratch);"


def words(array: np.ndarray) -> bytes:
    """Little-endian bytes of integers taken modulo 2**32."""
    return (array.astype(np.int64) & 0xFFFFFFFF).astype("<u4").tobytes()
