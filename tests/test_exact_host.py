# SPDX-License-Identifier: Apache-2.0
"""Whole models on host C, bit for bit against TensorFlow Lite Micro."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tvm_tiny
from tests.support.host import HostModel
from tests.support.random_inputs import random_values
from tests.support.shared import ROOT, SHARED, needs_shared, shared_models
from tvm_tiny.reference import Reference

pytestmark = pytest.mark.host_cc

OWN = ROOT / "examples/fashion_mnist/fashion_mnist_int8.tflite"
FEWER = {"mcunetv2_large": 2}
UBSAN = ("-fsanitize=undefined", "-fno-sanitize-recover=all", "-static-libubsan")
COMPILERS = {"gcc -O2": ("gcc", ("-O2",)), "gcc -O3": ("gcc", ("-O3",)), "clang -O3": ("clang", ("-O3",)), "gcc UBSan": ("gcc", UBSAN)}


def assert_exact(path: Path, rng: np.random.Generator, count: int, **options: object) -> None:
    """Build `path` for the host and compare every output bit on `count` random inputs."""
    model = tvm_tiny.build(path, "c", **options)
    library, reference = HostModel(model), Reference(path.read_bytes())
    for _ in range(count):
        sample = [random_values(rng, t.shape, t.dtype) for t in model.inputs]
        for ours, theirs, tensor in zip(library(*sample), reference.run(sample), model.outputs, strict=True):
            np.testing.assert_array_equal(ours.reshape(-1), theirs.reshape(-1), err_msg=f"{path.name}: {tensor.name}")


def test_own_model_on_its_samples() -> None:
    model = tvm_tiny.build(OWN, "c")
    library, reference = HostModel(model), Reference(OWN.read_bytes())
    samples = np.load(OWN.with_name("samples.npz"))
    images = samples[samples.files[0]]
    tensor = model.inputs[0]
    for image in images:
        x = (image.reshape(tensor.shape).astype(np.int16) - 128).astype(np.int8) if image.dtype == np.uint8 else image.reshape(tensor.shape)
        np.testing.assert_array_equal(library(x)[0], reference.run([x])[0].reshape(model.outputs[0].shape))


def assert_exact_however_compiled(path: Path, rng: np.random.Generator, optimize: str) -> None:
    """The portable kernels have no undefined behaviour that an optimiser could take at its word."""
    model, reference = tvm_tiny.build(path, "c", optimize=optimize), Reference(path.read_bytes())
    sample = [random_values(rng, t.shape, t.dtype) for t in model.inputs]
    wanted = reference.run(sample)
    for name, (compiler, flags) in COMPILERS.items():
        for ours, theirs in zip(HostModel(model, compiler=compiler, flags=flags)(*sample), wanted, strict=True):
            np.testing.assert_array_equal(ours.reshape(-1), theirs.reshape(-1), err_msg=f"{path.name}, {optimize}: {name}")


@pytest.mark.parametrize("optimize", ["speed", "sram"])
def test_own_model_however_compiled(rng: np.random.Generator, optimize: str) -> None:
    assert_exact_however_compiled(OWN, rng, optimize)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("optimize", ["speed", "balanced", "sram"])
@pytest.mark.parametrize("path", [*shared_models("tflite/*.tflite"), *shared_models("layers/*.tflite")], ids=lambda p: p.stem)
def test_shared_models_however_compiled(path: Path, rng: np.random.Generator, optimize: str) -> None:
    assert_exact_however_compiled(path, rng, optimize)


def test_own_model_on_random_inputs(rng: np.random.Generator) -> None:
    assert_exact(OWN, rng, 20)


@needs_shared
@pytest.mark.parametrize("path", shared_models("tflite/*.tflite"), ids=lambda p: p.stem)
def test_shared_models(path: Path, rng: np.random.Generator) -> None:
    assert_exact(path, rng, FEWER.get(path.stem, 20))


@needs_shared
@pytest.mark.parametrize("path", shared_models("layers/*.tflite"), ids=lambda p: p.stem)
def test_shared_layers(path: Path, rng: np.random.Generator) -> None:
    assert_exact(path, rng, 20)


@needs_shared
def test_keyword_spotting_answers_are_the_references() -> None:
    """Every output bit on every labelled sample, so the accuracy is the reference's too."""
    path = SHARED / "models/tflite/kws_ref_model.tflite"
    data = np.load(SHARED / "data/kws01_speechcommands_mfcc_int8_1000.npz")
    library, reference = HostModel(tvm_tiny.build(path, "c")), Reference(path.read_bytes())
    ours = np.stack([library(x)[0].reshape(-1) for x in data["x"]])
    theirs = np.stack([reference.run([x])[0].reshape(-1) for x in data["x"]])
    np.testing.assert_array_equal(ours, theirs)
    assert int((ours.argmax(axis=1) == data["y"]).sum()) == 901
