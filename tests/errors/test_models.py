# SPDX-License-Identifier: Apache-2.0
"""Model files that can't be compiled: each refused with a reason and a remedy, never with a traceback."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.support.fuzz import load_damaged
from tests.support.onnx_builder import OnnxBuilder
from tests.support.shared import ROOT, SHARED, needs_shared, shared_models
from tvm_tiny.errors import InputError, ModelFormatError, UnsupportedModelError
from tvm_tiny.frontend import load
from tvm_tiny.frontend.check import check

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


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "named.tflite"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n")
    with pytest.raises(ModelFormatError, match=r"named: a Git LFS pointer, not the model itself\n  remedy: run `git lfs pull`"):
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
    load_damaged(path.read_bytes(), 300 if path.stat().st_size < 100_000 else 30, seed=7)


# --- ONNX -------------------------------------------------------------------------------------------------------------------------------


def qdq_model() -> OnnxBuilder:
    """A sound model without outputs yet; its last tensor is named "y"."""
    b = OnnxBuilder()
    x = b.qdq(b.input("x", [1, 2, 5, 5]), 0.05, 3)
    weights = b.weights(np.arange(36).reshape(2, 2, 3, 3), 0.01)
    b.nodes.append(helper.make_node("Identity", [b.qdq(b.node("Conv", x, weights, kernel_shape=[3, 3]), 0.1, 0)], ["y"]))
    return b


def problems_of(data: bytes) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        load(data)
    assert check(data).problems == tuple(caught.value.problems)
    assert all(p.remedy for p in caught.value.problems)
    return str(caught.value)


def test_onnx_float_model() -> None:
    b = OnnxBuilder()
    b.output(b.node("Relu", b.input("x", [1, 4])))
    assert "model: no tensor is quantised: this is a float model; quantise the model to int8 first" in problems_of(b.bytes())


def test_onnx_qoperator_form() -> None:
    b = OnnxBuilder(21)
    x = b.input("x", [1, 2, 5, 5], TensorProto.INT8)
    scale, zero = b.const(np.float32(0.1)), b.const(np.int8(0))
    y = b.node("QLinearReduceMean", x, scale, zero, scale, zero, name="c1", domain="com.microsoft", axes=[2], keepdims=1)
    b.output(y, [1, 2, 1, 5], TensorProto.INT8)
    text = problems_of(b.bytes())
    assert "node 0 QLinearReduceMean 'c1' (c1_0): this form of a QOperator is not supported; quantise in QDQ form instead" in text


def test_onnx_nodes_are_numbered_as_in_the_file() -> None:
    """Whatever has taken the place of others before the checks."""
    b = OnnxBuilder()
    x = b.qdq(b.node("Identity", b.input("x", [1, 4, 9])), 0.1, 0)
    pooled = b.node("AveragePool", x, name="thin", kernel_shape=[2], ceil_mode=1)
    b.output(b.qdq(b.node("Round", pooled, name="even"), 0.1, 0))
    text = problems_of(b.bytes())
    assert "node 3 AveragePool 'thin'" in text
    assert "node 4 Round 'even'" in text


def test_onnx_everything_wrong_at_once() -> None:
    b = qdq_model()
    b.input("side", [1, 2, 3, "width"])
    rooted = b.qdq(b.node("Round", "y"), 0.1, 12)
    grouped = b.node("Conv", rooted, b.const(np.ones((4, 1, 3, 3), np.float32)), kernel_shape=[3, 3], auto_pad="SAME_UPPER", group=2)
    b.output(b.node("AveragePool", grouped, kernel_shape=[2, 2], ceil_mode=1))
    text = problems_of(b.bytes())
    for reason in ("Round", "ceil_mode=1", "(side): dynamic shape"):
        assert reason in text
    assert "can't be compiled: 3 problems" in text


def test_onnx_weights_that_are_computed() -> None:
    b = OnnxBuilder()
    x, w = b.qdq(b.input("x", [3, 4]), 0.1, 0), b.qdq(b.input("w", [4, 5]), 0.1, 0)
    b.output(b.node("Gemm", x, w))
    assert "weights must be constant, but are computed at run time; export with constant weights" in problems_of(b.bytes())


def test_onnx_weights_with_a_zero_point() -> None:
    b = OnnxBuilder()
    weights = b.dequantize(b.const(np.ones((4, 5), np.int8)), 0.1, 7)
    b.output(b.node("MatMul", b.qdq(b.input("x", [3, 4]), 0.1, 0), weights))
    with pytest.raises(UnsupportedModelError, match=r"MatMul \(matmul_3\): weights with zero point 7 \(only 0\); export"):
        load(b.bytes())


def test_onnx_weights_scaled_along_the_wrong_axis() -> None:
    b = OnnxBuilder()
    weights = b.weights(np.ones((4, 5)), np.full(4, 0.1), axis=0)
    b.output(b.node("MatMul", b.qdq(b.input("x", [3, 4]), 0.1, 0), weights))
    with pytest.raises(UnsupportedModelError, match=r"weight scales of shape \[4, 1\] \(one a channel along axis 1\)"):
        load(b.bytes())


@pytest.mark.parametrize("cut", [20, 0.3, 0.6, 0.97])
def test_onnx_truncated(cut: float) -> None:
    b = qdq_model()
    b.output("y")
    data = b.bytes()
    with pytest.raises(ModelFormatError, match="damaged ONNX file"):
        load(data[: int(cut if cut > 1 else cut * len(data))])


def test_onnx_damaged_copies() -> None:
    b = qdq_model()
    b.output("y")
    load(b.bytes())
    ends = load_damaged(b.bytes(), 300, seed=3)
    assert ends["TINY101"] > 50


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("stem", ["kws_ref_model", "resnet", "vww_96_float"])
def test_many_damaged_copies_of_onnx_reference_models(stem: str) -> None:
    load_damaged((SHARED / "models" / "onnx" / f"{stem}.onnx").read_bytes(), 60, seed=9)


@needs_shared
@pytest.mark.parametrize("stem", ["pretrainedResnet", "vww_96_float"])
def test_onnx_float_reference_models(stem: str) -> None:
    text = problems_of((SHARED / "models" / "onnx" / f"{stem}.onnx").read_bytes())
    assert "1 problem\n" in text
    assert "this is a float model" in text
