# SPDX-License-Identifier: Apache-2.0
"""Instructions and cycles of a compiled model, layer by layer: the segments of a profiled run joined with the artifact's layers.

The image brackets every layer with a marker instruction (hook `profile` of the device templates) and runs one inference. Copying inputs
in and outputs out, and the start-up, lie outside the layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from tvm_tiny.errors import InputError
from tvm_tiny.profiler.model import MODELS, has_model
from tvm_tiny.profiler.profile import FunctionShare, Segment, profile_elf

_BESIDE = {"cortex-m7": "cortex-m4", "cortex-m4": "cortex-m7"}  # one binary runs on both: Armv7E-M
_WITHOUT_DBG = frozenset("cortex-m0 cortex-m0plus cortex-m1 cortex-m23".split())  # marked by `yield`


@dataclass(frozen=True)
class LayerProfile:
    """One layer of one inference.

    Attributes
    ----------
    index, name, op, kernel, source
        As in the artifact's metadata; `source` are the source model's tensors.
    macs : int
        Multiply-accumulates of the layer, as the model defines it.
    counts : Segment
        Instructions, cycles by core, memory accesses, functions.
    """

    index: int
    name: str
    op: str
    kernel: str
    source: tuple[str, ...]
    macs: int
    counts: Segment

    @property
    def instructions(self) -> int:
        """Executed instructions, exact."""
        return self.counts.instructions

    @property
    def cycles(self) -> dict[str, float]:
        """Estimated cycles by core, board term included."""
        return self.counts.cycles

    @property
    def instructions_per_mac(self) -> float | None:
        """None for a layer without multiplications."""
        return self.instructions / self.macs if self.macs else None

    @property
    def cycles_per_mac(self) -> dict[str, float]:
        """By core; empty for a layer without multiplications."""
        return {core: cycles / self.macs for core, cycles in self.cycles.items()} if self.macs else {}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "index": self.index,
            "name": self.name,
            "op": self.op,
            "kernel": self.kernel,
            "source": list(self.source),
            "macs": self.macs,
            **_counts_to_dict(self.counts),
            "instructions_per_mac": self.instructions_per_mac,
            "cycles_per_mac": self.cycles_per_mac,
            "top_functions": [_share_to_dict(share) for share in self.counts.top_functions[:3]],
        }


@dataclass(frozen=True)
class ModelProfile:
    """One inference, layer by layer.

    Attributes
    ----------
    model, board : str
        Names of the compiled model and of the emulated board.
    cores : tuple of str
        Cores with an estimate of cycles; the first is the board's. Empty where no model of the core is known.
    board_term : str
        What is added for the memory of a real board (board_terms.py).
    layers : tuple of LayerProfile
    outside : Segment
        Start-up, copies of inputs and outputs, the end of the program.
    """

    model: str
    board: str
    cores: tuple[str, ...]
    board_term: str
    layers: tuple[LayerProfile, ...]
    outside: Segment

    @property
    def total(self) -> Segment:
        """The sum of the layers."""
        return reduce(Segment.__add__, (layer.counts for layer in self.layers))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; cycles come with the source of each core's model."""
        return {
            "model": self.model,
            "board": self.board,
            "board_term": self.board_term,
            "cores": {core: MODELS[core].source for core in self.cores if core in MODELS},
            "layers": [layer.to_dict() for layer in self.layers],
            "total": {"macs": self.macs, **_counts_to_dict(self.total)},
            "outside": _counts_to_dict(self.outside),
        }


def _counts_to_dict(counts: Segment) -> dict[str, Any]:
    return {
        "instructions": counts.instructions,
        "cycles": {core: round(cycles, 2) for core, cycles in counts.cycles.items()},
        "loads": counts.loads,
        "stores": counts.stores,
        "cache_misses": counts.cache_misses,
    }


def _share_to_dict(share: FunctionShare) -> dict[str, Any]:
    return {"name": share.name, "instructions": share.instructions, "cycles": {c: round(n, 2) for c, n in share.cycles.items()}}


def cores_for(mcpu: str) -> tuple[str, ...]:
    """Cores to estimate for an image compiled for `mcpu`: that one, and the other of Cortex-M4 and M7. Empty without a model."""
    return (mcpu, *([_BESIDE[mcpu]] if mcpu in _BESIDE else [])) if has_model(mcpu) else ()


def profile_layers(
    elf: str | Path,
    qemu_command: Sequence[str],
    layers: Sequence[Mapping[str, Any]],
    *,
    model: str,
    board: str,
    mcpu: str,
    board_term: str = "none",
    timeout: float = 600.0,
) -> ModelProfile:
    """Profile an image that runs one inference with a marker before every layer and one after the last.

    Parameters
    ----------
    elf, qemu_command
        As for `profile_elf`.
    layers : sequence of dict
        The entries ``layers`` of the artifact's metadata.json: index, name, op, macs, source, kernel.
    mcpu : str
        The core the image was compiled for.

    Raises
    ------
    InputError
        The image marks another number of layers.
    """
    cores = cores_for(mcpu)
    profile = profile_elf(elf, qemu_command, cores, board_term, yield_marks=mcpu in _WITHOUT_DBG, timeout=timeout)
    before, *marked = profile.segments
    if len(marked) != len(layers) + 1:
        remedy = "build it with the hook `profile`, for one inference"
        raise InputError(f"{elf} ran {len(marked)} markers; {len(layers)} layers have {len(layers) + 1}", remedy=remedy)
    rows = tuple(_row(layer, counts) for layer, counts in zip(layers, marked[:-1], strict=True))
    return ModelProfile(model, board, cores, board_term, rows, before + marked[-1])


def _row(layer: Mapping[str, Any], counts: Segment) -> LayerProfile:
    source, kernel = tuple(map(str, layer.get("source", ()))), str(layer.get("kernel") or "")
    return LayerProfile(int(layer["index"]), str(layer["name"]), str(layer["op"]), kernel, source, int(layer.get("macs") or 0), counts)
