# SPDX-License-Identifier: Apache-2.0
"""Real networks and single layers, evaluated operator by operator in numpy, are bit-identical to the reference interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.graph_eval import evaluate
from tests.support.op_cases import int8s
from tests.support.oracle import Oracle
from tests.support.shared import ROOT, needs_shared, shared_models
from tvm_tiny.frontend.graph import Tensor
from tvm_tiny.frontend.tflite_reader import read_graph

SLOW = {"mcunetv2_large"}


def random_input(rng: np.random.Generator, tensor: Tensor) -> np.ndarray:
    if tensor.dtype == "int8":
        return int8s(rng, tensor.shape)
    return rng.normal(size=tensor.shape).astype(np.float32)


def check_model(path: Path, runs: int) -> None:
    data = path.read_bytes()
    graph, reference = read_graph(data), Oracle(data)
    rng = np.random.default_rng(11)
    for _ in range(runs):
        inputs = [random_input(rng, graph.tensors[i]) for i in graph.inputs]
        for mine, want in zip(evaluate(graph, inputs), reference.run(*inputs), strict=True):
            np.testing.assert_array_equal(mine, want)


def test_demo_network() -> None:
    check_model(ROOT / "examples" / "fashion_mnist" / "fashion_mnist_int8.tflite", 3)


@needs_shared
@pytest.mark.parametrize("path", shared_models("layers/*.tflite"), ids=lambda p: p.stem)
def test_layer(path: Path) -> None:
    check_model(path, 2)


@needs_shared
@pytest.mark.parametrize("path", [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in SLOW)) for p in shared_models("tflite/*.tflite")])
def test_network(path: Path) -> None:
    check_model(path, 1)
