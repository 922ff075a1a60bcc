# SPDX-License-Identifier: Apache-2.0
"""What makes two layers the same to the tuner: operator, shapes, the attributes that change the kernel, and the core.

Weights, zero points and scales are no part of it: they decide which requantisation is exact, and each kernel is generated for its own layer
anyway, so a record of one layer can serve another of the same geometry without harm to exactness.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm_tiny.ops.residual import ARGUMENT, residual_of
from tvm_tiny.schedules.base import Layer
from tvm_tiny.target import TinyTarget

_GEOMETRY = ("strides", "padding", "dilation", "groups", "rounding", "x_layout", "y_layout")
_INSTRUCTIONS = ("dsp", "mve")  # features that kernels use; with or without FPU is the same to an int8 layer


@dataclass(frozen=True)
class Workload:
    """A layer as the tuner knows it.

    Attributes
    ----------
    op : str
        Operator without `tiny.`.
    shapes : tuple of tuple of int
        Activations and weights, output last; constants a channel are left out.
    attrs : str
        Canonical JSON of the attributes that change the kernel.
    mcpu : str
    features : tuple of str
        Instruction sets the kernels use.
    """

    op: str
    shapes: tuple[tuple[int, ...], ...]
    attrs: str
    mcpu: str
    features: tuple[str, ...]

    @staticmethod
    def of(layer: Layer, target: TinyTarget) -> Workload:
        """The workload of a lowered layer on a target."""
        attrs = {name: layer.attrs[name] for name in _GEOMETRY if name in layer.attrs}
        if layer.by_rows:
            attrs["by_rows"] = True  # the kernel of a streamed stage
        beside = {ARGUMENT} if residual_of(layer.attrs) is not None else set()  # the same kernel, which adds something at the end
        shapes = [s for i, s in enumerate(layer.shapes) if i not in beside and (i not in layer.constants or len(s) > 1)]
        features = tuple(f for f in _INSTRUCTIONS if f in target.features)
        return Workload(layer.op.removeprefix("tiny."), tuple(shapes), _canonical(attrs), target.mcpu, features)

    @property
    def key(self) -> str:
        """Short name, equal for equal workloads in every process."""
        return hashlib.sha256(_canonical(self.to_dict()).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.op} {' '.join('x'.join(map(str, s)) for s in self.shapes)}"

    def to_dict(self) -> dict[str, Any]:
        """For a record."""
        return {
            "op": self.op,
            "shapes": [list(s) for s in self.shapes],
            "attrs": json.loads(self.attrs),
            "mcpu": self.mcpu,
            "features": list(self.features),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Workload:
        """Read what `to_dict` wrote."""
        shapes = tuple(tuple(int(d) for d in s) for s in data["shapes"])
        return Workload(str(data["op"]), shapes, _canonical(data["attrs"]), str(data["mcpu"]), tuple(data["features"]))


def _canonical(data: object) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))
