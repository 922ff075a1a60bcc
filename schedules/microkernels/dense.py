# SPDX-License-Identifier: Apache-2.0
"""Whole fully connected layers: packing of the weights for the pair blocks, and the function that calls them.

Where the pair blocks do not apply (inputs no multiple of four, a weight of -128, accumulators past 2**23, requantisation without an
assembly form) the layer is a GEMM of one pixel (`conv2d`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..requantize_forms import Form, Requantization, RequantParameters, find_form
from . import reference
from .c_source import CFunction
from .conv2d import conv2d
from .conv2d_shape import Conv2DShape
from .dense_block import DenseBlock, common_function, dense_function
from .expand import Expand, expand_function
from .gemm_layer import recode_pairs
from .layer import Core, LayerParameters, MicroKernel, words
from .requantize import RequantShape, constant_words


@dataclass(frozen=True)
class DenseChoice:
    """What may be tuned of a fully connected layer.

    Attributes
    ----------
    channels : int
        Outputs computed together, even.
    unroll : int
        Groups of four inputs an iteration.
    expanded : bool
        Widen the inputs once, into scratch of twice their size.
    """

    channels: int = 6
    unroll: int = 8
    expanded: bool = False


def default_choice(inputs: int, outputs: int, scratch_limit: int = 0) -> DenseChoice:
    """Block without tuning: widened once where that scratch costs no memory, in the loop otherwise."""
    groups = -(-inputs // 4)
    unroll = groups if groups <= 10 else min(range(10, 6, -1), key=lambda u: groups % u)
    return DenseChoice(min(6, outputs), unroll, 2 * inputs <= scratch_limit)


def dense(name: str, layer: LayerParameters, core: Core, *, batch: int = 1, choice: DenseChoice | None = None) -> MicroKernel:
    """Generate a fully connected layer, weights (outputs, inputs); `batch` input rows lie one after the other."""
    paired = paired_dense(name, layer, core, batch=batch, choice=choice)
    if paired is not None:
        return paired
    outputs, inputs = layer.weights.shape
    four = replace(layer, weights=layer.weights.reshape(outputs, 1, 1, inputs))
    return conv2d(name, Conv2DShape(batch, 1, inputs, outputs), four, core)


def paired_dense(name: str, layer: LayerParameters, core: Core, *, batch: int = 1, choice: DenseChoice | None = None) -> MicroKernel | None:
    """The same by pair blocks, or None where they don't apply.

    Raises
    ------
    RegisterPressureError
        The choice's block needs more registers than there are.
    """
    outputs, inputs = layer.weights.shape
    choice = choice or default_choice(inputs, outputs)
    choice = replace(choice, channels=min(choice.channels, outputs), unroll=min(choice.unroll, max(inputs // 4, 1)))
    found = pair_requantization(layer)
    if inputs % 4 or found is None:
        return None
    four = replace(layer, weights=layer.weights.reshape(outputs, 1, 1, inputs))
    writer = _Writer(name, layer, core, batch, choice, found)
    function = writer.function()
    return MicroKernel(
        name=name,
        functions=(*writer.callees.values(), function),
        packed=b"".join(writer.streams),
        scratch_bytes=2 * inputs if choice.expanded else 0,
        input_shape=(batch, 1, inputs),
        output_shape=(batch, 1, outputs),
        macs=batch * inputs * outputs,
        reference=lambda x: reference.conv2d(x, four, (1, 1), (0, 0, 0, 0), (1, 1)),
        choices={
            "operand": "pairs" + (", widened" if choice.expanded else ""),
            "block": f"{choice.channels}x1",
            "unroll": choice.unroll,
            "requantise": found.form.value + ("" if writer.requant.shift is not None else " per channel"),
        },
    )


def pair_requantization(layer: LayerParameters) -> RequantParameters | None:
    """The requantisation of a layer whose outputs are summed up in pairs; None where pairs or the requantisation would not be exact."""
    problem = layer.requantization(layer.weights)
    found = _find(problem)
    if layer.weights.min() < -127 or found.form is Form.ACCUMULATOR:
        return None
    widest = max(np.abs(bound + found.offset).max() for bound in (problem.acc_min, problem.acc_max))
    return found if widest < 2**23 else None


def _find(problem: Requantization) -> RequantParameters:
    """One set of constants for all channels where they share multiplier and shift (one scale a tensor) and there is one, else one each."""
    channels = len(problem.shift)
    if len(set(problem.multiplier.tolist())) == len(set(problem.shift.tolist())) == 1:
        widest = np.array([problem.acc_min.min()]), np.array([problem.acc_max.max()])
        one = replace(problem, multiplier=problem.multiplier[:1], shift=problem.shift[:1], acc_min=widest[0], acc_max=widest[1])
        found = find_form(one)
        if found.form is not Form.ACCUMULATOR:
            arrays = (np.repeat(values, channels) for values in (found.offset, found.multiplier, found.constant, found.shift))
            return RequantParameters(found.form, found.scale_log2, found.uniform, found.clamp, *arrays)
    return find_form(problem)


class _Writer:
    """Packs one layer and writes its C."""

    def __init__(self, prefix: str, layer: LayerParameters, core: Core, batch: int, choice: DenseChoice, found: RequantParameters) -> None:
        self.prefix, self.layer, self.core, self.batch, self.choice, self.found = prefix, layer, core, batch, choice, found
        self.outputs, self.inputs = layer.weights.shape
        self.requant = RequantShape.of(found)
        self.constants = constant_words(found, self.requant)
        self.uniform = bool((self.constants == self.constants[:, :1]).all())
        self.callees: dict[str, CFunction] = {}
        self.streams: list[bytes] = []

    def _add(self, function: CFunction) -> str:
        self.callees[function.name] = function
        return function.name

    def _parts(self) -> list[tuple[int, int, int]]:
        """(first channel, channels a block, blocks) of each call; a left-over pair is two blocks of four with its neighbours."""
        block = self.choice.channels
        full, left = divmod(self.outputs, block)
        if left == 2 and block == 6 and full:
            full, left = full - 1, 8
        step = 4 if left == 8 else left
        parts = [(0, block, full), (full * block, step, left // step if step else 0)]
        return [part for part in parts if part[2]]

    def _pack(self, start: int, channels: int) -> bytes:
        """The stream of the block of `channels` channels from `start` on."""
        w = self.layer.weights[start : start + channels].astype(np.int64)
        bias = self.layer.bias[start : start + channels].astype(np.int64) - self.layer.x_zero_point * w.sum(axis=1)
        bias = bias + self.found.offset[start : start + channels]
        if channels % 2:
            w, bias = np.vstack([w, np.zeros_like(w[:1])]), np.append(bias, 0)
        high, low = w[0::2].reshape(-1, self.inputs // 4, 4), w[1::2].reshape(-1, self.inputs // 4, 4)
        products = (low[..., 0] * low[..., 1] + low[..., 2] * low[..., 3]).sum(axis=1)
        starts = np.stack([256 * bias[0::2] + bias[1::2], bias[1::2] - products], axis=1)
        halves = 256 * high + low
        pair_words = np.stack([recode_pairs(halves[..., 0], halves[..., 2]), recode_pairs(halves[..., 1], halves[..., 3])], axis=-1)
        constants = self.constants[:, :1] if self.uniform else self.constants[:, start : start + channels]
        return words(starts) + words(pair_words.transpose(1, 0, 2)) + words(constants)

    def function(self) -> CFunction:
        """The layer's function; fills `streams` and `callees`."""
        groups = self.inputs // 4
        unroll = self.choice.unroll
        common = self._add(common_function(self.prefix, max(u for u in range(1, 9) if groups % u == 0), dual_issue=self.core.dual_issue))
        text = f"void {self.name_and_parameters};\nvoid {self.name_and_parameters} {{\n  const uint8_t *stream = packed;\n"
        text += "  (void)scratch;\n" if not self.choice.expanded else ""
        text += f"  for (int32_t row = 0; row < {self.batch}; ++row, in += {self.inputs}, out += {self.outputs}) {{\n    int32_t share;\n"
        text += f"    {common}(in, in + {self.inputs}, &share);\n"
        source = "in"
        if self.choice.expanded:
            expand = Expand(groups, 1, 0, 8, "w8", self.core.dual_issue)
            text += f"    {self._add(expand_function(self.prefix, expand))}(in, scratch);\n"
            source = "(const uint8_t *)scratch"
        at = 0
        for start, channels, blocks in self._parts():
            block = DenseBlock(channels, unroll, groups % unroll, self.requant, self.uniform, self.choice.expanded, self.core.dual_issue)
            name = self._add(dense_function(self.prefix, block))
            self.streams += [self._pack(start + channels * i, channels) for i in range(blocks)]
            nbytes = blocks * block.stream_bytes(groups)
            whole = block.input_bytes * (groups - groups % unroll)
            text += f"    {name}({source}, stream + {at}, out + {start}, stream + {at + nbytes}, {source} + {whole}, share);\n"
            at += nbytes
        return CFunction(self.prefix, text + "  }\n}\n")

    @property
    def name_and_parameters(self) -> str:
        return f"{self.prefix}(const int8_t *in, int8_t *out, const void *packed, void *scratch)"
