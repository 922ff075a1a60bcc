# SPDX-License-Identifier: Apache-2.0
"""Whole fully connected layers that leave out inputs at their zero point: packing of the columns, and the function of the layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..requantize_forms import RequantParameters
from . import reference
from .c_source import CFunction
from .dense import pair_requantization
from .dense_columns_block import (
    ENTRIES,
    OUTPUTS,
    ColumnsBlock,
    ColumnsCode,
    Gather,
    columns_code,
    columns_function,
    gather_function,
    gather_loop,
)
from .layer import LayerParameters, MicroKernel, words
from .requantize import RequantShape, constant_words

_FARTHEST = 4095  # bytes an immediate offset can reach
_CALLS = 150  # cycles of the calls and of the end of the list, rounded up


@dataclass(frozen=True, eq=False)
class ColumnsKernel:
    """A kernel, and what of its assembly runs how often.

    Attributes
    ----------
    kernel : MicroKernel
    block, rest : ColumnsCode
        Of eight outputs, and of those left over.
    blocks, rests : int
        How often each is run for one row of inputs.
    gather : Gather
    """

    kernel: MicroKernel
    block: ColumnsCode
    rest: ColumnsCode
    blocks: int
    rests: int
    gather: Gather

    def cycles(self, listed: int, of: Callable[[Sequence[str]], float]) -> float:
        """Cycles, rather too many, of a row with `listed` inputs not at their zero point; `of` gives those of a piece of assembly."""
        loop, iterations = gather_loop(self.gather)
        entries = max(1, -(-listed // 2))
        total = iterations * of(loop) + _CALLS
        for code, blocks in ((self.block, self.blocks), (self.rest, self.rests)):
            each = of(code.started) + -(-entries // ENTRIES) * of(code.turned) + of(code.finished)
            total += (of(code.entered) + blocks * (each + entries * max(map(of, set(code.entries))))) if blocks else 0
        return total


def columns_dense(name: str, layer: LayerParameters, *, batch: int = 1) -> ColumnsKernel | None:
    """Generate a fully connected layer, weights (outputs, inputs), whose time depends on how many inputs are at their zero point.

    Ordered for a core that issues one instruction a cycle. None where the blocks do not apply: a weight of -128, accumulators past 2**23,
    requantisation without an assembly form, more inputs than the list can hold.
    """
    outputs, inputs = layer.weights.shape
    found = pair_requantization(layer)
    half = 2 * (inputs + inputs % 2)  # bytes of the distances, and of the values
    if found is None or half + 4 * ENTRIES > _FARTHEST:
        return None
    writer = _Writer(name, layer, batch, half, found)
    function = writer.function()
    four = replace(layer, weights=layer.weights.reshape(outputs, 1, 1, inputs))
    kernel = MicroKernel(
        name=name,
        functions=(*writer.callees.values(), function),
        packed=writer.packed(),
        scratch_bytes=2 * half,
        input_shape=(batch, 1, inputs),
        output_shape=(batch, 1, outputs),
        macs=batch * inputs * outputs,
        reference=lambda x: reference.conv2d(x, four, (1, 1), (0, 0, 0, 0), (1, 1)),
        choices={
            "operand": "columns",
            "block": f"{OUTPUTS}x1",
            "unroll": ENTRIES,
            "requantise": found.form.value + ("" if writer.block.requant.shift is not None else " per channel"),
        },
    )

    full, left = divmod(outputs, OUTPUTS)
    rest = replace(writer.block, outputs=left or OUTPUTS)
    return ColumnsKernel(kernel, columns_code(writer.block), columns_code(rest), full, int(left > 0), writer.gather)


class _Writer:
    """Packs one layer and writes its C."""

    def __init__(self, prefix: str, layer: LayerParameters, batch: int, half: int, found: RequantParameters) -> None:
        self.prefix, self.layer, self.batch, self.found = prefix, layer, batch, found
        self.outputs, self.inputs = layer.weights.shape
        requant = RequantShape.of(found)
        self.constants = constant_words(found, requant)
        uniform = bool((self.constants == self.constants[:, :1]).all())
        self.block = ColumnsBlock(OUTPUTS, OUTPUTS * self.inputs, half, requant, uniform)
        self.callees: dict[str, CFunction] = {}

    def _add(self, function: CFunction) -> str:
        self.callees[function.name] = function
        return function.name

    def packed(self) -> bytes:
        """The columns of all blocks, then the parameters of all blocks."""
        high, low = _pairs(self.layer.weights.astype(np.int64))
        halves = np.zeros((-(-self.outputs // OUTPUTS) * OUTPUTS // 2, self.inputs), np.int64)
        halves[: len(high)] = 256 * high + low
        columns = halves.reshape(-1, OUTPUTS // 2, self.inputs).transpose(0, 2, 1) & 0xFFFF
        return columns.astype("<u2").tobytes() + b"".join(self._parameters(i) for i in range(0, self.outputs, OUTPUTS))

    def _parameters(self, start: int) -> bytes:
        rows = slice(start, start + OUTPUTS)
        bias = self.layer.bias[rows].astype(np.int64) + self.found.offset[rows]
        high, low = _pairs(bias)
        constants = self.constants[:, :1] if self.block.uniform else self.constants[:, rows]
        return words(np.stack([256 * high + low, low], axis=1)) + words(constants)

    def function(self) -> CFunction:
        """The layer's function; fills `callees`."""
        text = f"void {self.name_and_parameters};\nvoid {self.name_and_parameters} {{\n"
        text += f"  for (int32_t row = 0; row < {self.batch}; ++row, in += {self.inputs}, out += {self.outputs}) {{\n"
        gather = self._add(gather_function(self.prefix, self.gather))
        text += f"    const uint8_t *const weights = packed, *const end = {gather}(in, in + {self.inputs}, scratch);\n"
        full, left = divmod(self.outputs, OUTPUTS)
        at = (full + bool(left)) * self.block.block_bytes
        for first, blocks, block in ((0, full, self.block), (full, bool(left), replace(self.block, outputs=left))):
            if blocks:
                name, size = self._add(columns_function(self.prefix, block)), blocks * block.parameter_bytes
                place = f"weights + {first * block.block_bytes}, out + {first * OUTPUTS}"
                text += f"    {name}(scratch, {place}, weights + {at}, weights + {at + size}, end);\n"
                at += size
        return CFunction(self.prefix, text + "  }\n}\n")

    @property
    def gather(self) -> Gather:
        """What makes the list."""
        return Gather(self.inputs, self.layer.x_zero_point, self.block.values_at)

    @property
    def name_and_parameters(self) -> str:
        return f"{self.prefix}(const int8_t *in, int8_t *out, const void *packed, void *scratch)"


def _pairs(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and second of every pair; an odd one has a partner of zeros."""
    rows = np.concatenate([rows, np.zeros_like(rows[: len(rows) % 2])])
    return rows[0::2], rows[1::2]
