# SPDX-License-Identifier: Apache-2.0
"""Convolutions that add a residual to their own result: what the rules for convolutions share about it.

The kernel stores its result and adds the residual to it shortly after, in place. So the output may lie over the residual at a small
distance: the bytes that are stored and not yet summed. It may lie over the input as without a residual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm_tiny.ops.residual import ARGUMENT, ATTR, residual_of
from tvm_tiny.schedules import add as add_rule
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels import AddLayer, MicroKernel
from tvm_tiny.schedules.microkernels.residual import LEAST


def addition_of(layer: Layer) -> AddLayer | None:
    """The addition a layer ends in."""
    params = residual_of(layer.attrs)
    return None if params is None else add_rule.described(params)


def without_residual(layer: Layer) -> Layer:
    """The layer without its addition; itself where it has none."""
    if addition_of(layer) is None:
        return layer
    kept = [i for i in range(len(layer.shapes)) if i != ARGUMENT]
    shapes, dtypes = tuple(layer.shapes[i] for i in kept), tuple(layer.dtypes[i] for i in kept)
    return replace(layer, attrs={**layer.attrs, ATTR: ""}, shapes=shapes, dtypes=dtypes)


def rights(kernel: MicroKernel, distance: int, stores: Sequence[int]) -> dict[int, list[list[Any]]]:
    """How the output may lie over the input, at `distance`, and over the residual, if any; by number of the kernel's input.

    Parameters
    ----------
    stores : sequence of int
        Bytes of the output that lie there after each group of stores, after which the kernel may sum.
    """
    found: dict[int, list[list[Any]]] = {0: [["ascending", distance]]}
    return found if kernel.inputs == 1 else {**found, 1: [["ascending", unsummed(stores)]]}


def unsummed(stores: Sequence[int], least: int = LEAST) -> int:
    """The most bytes of the output that are stored and not yet summed, where sums are made of `least` elements and more."""
    most = summed = 0
    for stored in stores:
        most = max(most, int(stored) - summed)
        summed = int(stored) if stored - summed >= least else summed
    return most
