# SPDX-License-Identifier: Apache-2.0
"""What networks of other families have and those of the benchmarks have not: each in small, exact on the host and on emulated cores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.oracle import Oracle
from tests.support.tflite_graphs import GraphBuilder

BOARDS = [pytest.param(b, marks=pytest.mark.qemu) for b in ("mps2_an500", "mps2_an386")]


def normalised_input(b: GraphBuilder) -> int:
    """x * scalar - scalar before the first layer, the scalars without dimensions (MobileNetV2 of Keras)."""
    shape = (1, 6, 5, 3)
    scaled = b.op("MUL", [b.input(shape, 0.02, -100), b.tensor((), 0.01, data=[99])], b.tensor(shape, 0.015, -120))
    return b.op("SUB", [scaled, b.tensor((), 0.008, -3, data=[125])], b.tensor(shape, 0.015, -7))


def number_first(b: GraphBuilder) -> int:
    """scalar - x and scalar + x."""
    x = b.input((1, 3, 7), 0.02, 9)
    rest = b.op("SUB", [b.tensor((), 0.01, 3, data=[100]), x], b.tensor((1, 3, 7), 0.03, -1))
    return b.op("ADD", [b.tensor((1,), 0.05, data=[-77]), rest], b.tensor((1, 3, 7), 0.06, 20), activation=1)


NETWORKS: dict[str, Callable[[GraphBuilder], int | list[int]]] = {
    "normalised input": normalised_input,
    "number first": number_first,
}


def model_of(name: str) -> bytes:
    """The network's file."""
    b = GraphBuilder()
    outputs = NETWORKS[name](b)
    return b.output(*([outputs] if isinstance(outputs, int) else outputs)).bytes()


def samples(model: tvm_tiny.CompiledModel, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Two random inputs and one of extremes."""
    drawn = [[rng.integers(0, 256, t.shape).astype(np.uint8).view(t.dtype) for t in model.inputs] for _ in range(2)]
    return [*drawn, [rng.choice([0, 127, 128, 255], t.shape).astype(np.uint8).view(t.dtype) for t in model.inputs]]


@pytest.mark.host_cc
@pytest.mark.parametrize("goal", ["balanced", "sram"])
@pytest.mark.parametrize("name", NETWORKS)
def test_on_the_host(name: str, goal: str, rng: np.random.Generator) -> None:
    data = model_of(name)
    library, oracle = GuardedModel(tvm_tiny.build(data, "c", name="net", optimize=goal)), Oracle(data)
    for sample in samples(library.model, rng):
        for ours, theirs in zip(library(*sample), oracle.run(*sample), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert not library.faults


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_on_emulated_cores(name: str, board: str, rng: np.random.Generator) -> None:
    data = model_of(name)
    model, oracle = tvm_tiny.build(data, board=board, name="net"), Oracle(data)
    drawn = samples(model, rng)
    found = model.run([{t.name: x for t, x in zip(model.inputs, sample, strict=True)} for sample in drawn])
    for ours, sample in zip(found, drawn, strict=True):
        for mine, theirs in zip(ours.values(), oracle.run(*sample), strict=True):
            np.testing.assert_array_equal(mine, theirs)
