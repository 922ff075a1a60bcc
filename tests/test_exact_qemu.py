# SPDX-License-Identifier: Apache-2.0
"""Whole models on emulated Cortex-M cores, bit for bit against TensorFlow Lite Micro; each core runs the form generated for it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import tvm_tiny
from tests.support.random_inputs import random_inputs
from tests.support.shared import ROOT, SHARED, needs_shared, shared_models
from tvm_tiny.boards import find_board
from tvm_tiny.reference import Reference

pytestmark = pytest.mark.qemu

OWN = ROOT / "examples/fashion_mnist/fashion_mnist_int8.tflite"
BOARDS = ("mps2_an385", "mps2_an386", "mps2_an500", "mps2_an505", "mps2_an521")  # M3, M4, M7, M33 with and without DSP
LARGE = "mcunetv2_large"
FEW_LAYERS = ("resnet_layer0", "aww_layer1", "aww_layer2", "vww_layer3")
TIMEOUT = 300.0  # seconds a sample, for the largest model on a busy machine


@lru_cache(maxsize=2)
def reference(path: Path, count: int) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """The same random inputs for every board, and the reference interpreter's answers."""
    samples = random_inputs(path, count)
    interpreter = Reference(path.read_bytes())
    return samples, [interpreter.run(s) for s in samples]


def assert_exact(path: Path, board: str, count: int) -> None:
    """Build `path` for the board's core, run all samples in one boot and compare every output bit."""
    model = tvm_tiny.build(path, find_board(board).target)
    samples, wanted = reference(path, count)
    named = [{t.name: x.reshape(t.shape) for t, x in zip(model.inputs, sample, strict=True)} for sample in samples]
    found = model.run(named, board=board, timeout=TIMEOUT)
    for number, (outputs, theirs) in enumerate(zip(found, wanted, strict=True)):
        for tensor, expected in zip(model.outputs, theirs, strict=True):
            message = f"{path.name} on {board}: {tensor.name}, sample {number}"
            np.testing.assert_array_equal(outputs[tensor.name].reshape(-1), expected.reshape(-1), err_msg=message)


@pytest.mark.parametrize("board", BOARDS)
def test_own_model(board: str) -> None:
    assert_exact(OWN, board, 5)


@needs_shared
@pytest.mark.parametrize("board", ["mps2_an385", "mps2_an500"])
@pytest.mark.parametrize("layer", FEW_LAYERS)
def test_some_layers(layer: str, board: str) -> None:
    assert_exact(SHARED / f"models/layers/{layer}.tflite", board, 5)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in shared_models("tflite/*.tflite") if p.stem != LARGE], ids=lambda p: p.stem)
@pytest.mark.parametrize("board", BOARDS)
def test_shared_models(path: Path, board: str) -> None:
    assert_exact(path, board, 20)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("path", shared_models("layers/*.tflite"), ids=lambda p: p.stem)
@pytest.mark.parametrize("board", BOARDS)
def test_shared_layers(path: Path, board: str) -> None:
    assert_exact(path, board, 20)


@needs_shared
@pytest.mark.slow
def test_largest_model_on_the_m7() -> None:
    assert_exact(SHARED / f"models/tflite/{LARGE}.tflite", "mps2_an500", 2)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
def test_keyword_spotting_on_labelled_samples(board: str) -> None:
    """The bits of 1000 spoken words: all of them on the M7, a tenth on the other cores."""
    path = SHARED / "models/tflite/kws_ref_model.tflite"
    samples = np.load(SHARED / "data/kws01_speechcommands_mfcc_int8_1000.npz")["x"][:: 1 if board == "mps2_an500" else 10]
    model, interpreter = tvm_tiny.build(path, find_board(board).target), Reference(path.read_bytes())
    found = model.run([{model.inputs[0].name: x.reshape(model.inputs[0].shape)} for x in samples], board=board, timeout=TIMEOUT)
    for x, outputs in zip(samples, found, strict=True):
        np.testing.assert_array_equal(outputs[model.outputs[0].name].reshape(-1), interpreter.run([x])[0].reshape(-1))
