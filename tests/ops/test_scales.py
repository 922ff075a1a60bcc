# SPDX-License-Identifier: Apache-2.0
"""Scales whose quotients come close to a half: the last bit of a multiplier then decides results, so it has to be the reference's."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.tflite_graphs import GraphBuilder
from tests.support.tiny_builder import evaluate
from tvm_tiny.frontend import load
from tvm_tiny.passes.quantize_to_integer import QuantizeToInteger
from tvm_tiny.reference import Reference

SHAPE = (1, 4, 8, 8)
RATIOS = (3 / 10, 5 / 10, 3 / 4, 4 / 5, 5 / 4, 7 / 4, 11 / 8, 5 / 2, 7 / 3, 9 / 16)
FUNCTIONS = {"RELU": {}, "LEAKY_RELU": {"alpha": 0.3}, "ABS": {}, "HARD_SWISH": {}, "ELU": {}, "QUANTIZE": {}}
PAIRS = ("ADD", "SUB", "MUL")


def outputs_of(kind: str, b: GraphBuilder, scale: float, rng: np.random.Generator) -> list[int]:
    """The operator of inputs of this scale, for output scales of all ratios to it."""
    found = []
    if kind == "FULLY_CONNECTED":
        x = b.input((1, 16), scale, 0)
        for ratio in RATIOS:
            weight = b.tensor((60, 16), ratio / 100, data=rng.integers(-9, 10, (60, 16)))
            bias = b.tensor((60,), scale * ratio / 100, dtype="int32", data=np.zeros(60))
            found.append(b.op(kind, [x, weight, bias], b.tensor((1, 60), 32 * scale * ratio / 100, 0)))
        return found
    if kind == "BATCH_MATMUL":
        x = b.input((1, 8, 16), scale, 0)
        others = [(ratio, b.input((1, 16, 12), ratio / 10, 0)) for ratio in RATIOS]
        return [b.op(kind, [x, y], b.tensor((1, 8, 12), 256 * scale * ratio / 10, 0)) for ratio, y in others]
    x = b.input(SHAPE, scale, 0)
    for ratio in RATIOS:
        if kind in PAIRS:
            y = b.input(SHAPE, scale * ratio, 0)
            found.append(b.op(kind, [x, y], b.tensor(SHAPE, scale * (1 if kind == "MUL" else 2), 0)))
        else:
            found.append(b.op(kind, [x], b.tensor(SHAPE, scale * ratio, 0), **FUNCTIONS[kind]))
    return found


@pytest.mark.parametrize("kind", [*FUNCTIONS, *PAIRS, "FULLY_CONNECTED", "BATCH_MATMUL"])
def test_multipliers_are_the_references_to_the_last_bit(kind: str, rng: np.random.Generator) -> None:
    for scale in (1 / 64, 0.02, 0.03, 0.05, 0.1, 0.07):
        b = GraphBuilder()
        model = b.output(*outputs_of(kind, b, scale, rng)).bytes()
        inputs = [rng.integers(-128, 128, b.tensors[i].shape).astype(np.int8) for i in b.inputs]
        inputs[0].reshape(-1)[:] = np.resize(np.arange(-128, 128), inputs[0].size)
        mod = QuantizeToInteger()(load(model))
        for ours, theirs in zip(evaluate(mod, *inputs), Reference(model).run(inputs), strict=True):
            np.testing.assert_array_equal(ours, theirs, f"{kind}, scale {scale}")
