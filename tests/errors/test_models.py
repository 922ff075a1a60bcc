# SPDX-License-Identifier: Apache-2.0
"""Model files that can't be compiled: each refused with a reason and a remedy, never with a traceback."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.fuzz import load_damaged
from tests.support.shared import ROOT, needs_shared, shared_models
from tvm_tiny.errors import InputError, ModelFormatError
from tvm_tiny.frontend import load

OWN = ROOT / "examples" / "fashion_mnist" / "fashion_mnist_int8.tflite"
ALL = shared_models("tflite/*.tflite") + shared_models("layers/*.tflite")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can't read .*none.tflite: No such file or directory\n  remedy: check the path"):
        load(tmp_path / "none.tflite")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"TFL3", b"hello, world", b"\x00" * 4096, b"PK\x03\x04" + b"\x00" * 60, b"\xff" * 100])
def test_not_a_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "named.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"named: not a model .*\n  remedy: give a .tflite or .onnx file"):
        load(path)


def test_every_truncation_is_reported() -> None:
    data = OWN.read_bytes()
    for size in range(8, len(data), max(1, len(data) // 200)):
        with pytest.raises(ModelFormatError, match="damaged model file"):
            load(data[:size])


def test_identifier_alone_does_not_make_a_model() -> None:
    with pytest.raises(ModelFormatError, match="points outside the file"):
        load(b"\xff\xff\xff\x7fTFL3" + b"\x00" * 32)


def test_damaged_copies_of_the_demo_network() -> None:
    ends = load_damaged(OWN.read_bytes(), 150, seed=1)
    assert ends["TINY101"] > 20


@needs_shared
def test_damaged_copies_of_every_reference_model() -> None:
    ends: Counter[str] = Counter()
    for seed, path in enumerate(ALL):
        ends += load_damaged(path.read_bytes(), 20 if path.stat().st_size < 100_000 else 3, seed)
    assert ends["TINY101"] > 100


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_many_damaged_copies_of_every_reference_model(path: Path) -> None:
    load_damaged(path.read_bytes(), 1000 if path.stat().st_size < 100_000 else 100, seed=7)
