# SPDX-License-Identifier: Apache-2.0
"""The TFLite importer: the form of what comes out, its names, and its meaning against the reference interpreter."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.support.qdq import bindings, check_qdq, model_of, name_of, run_qdq
from tests.support.shared import needs_shared, shared_models
from tvm_tiny.frontend import load
from tvm_tiny.frontend.check import check, supported_operators

NETWORKS = shared_models("tflite/*.tflite")
LAYERS = shared_models("layers/*.tflite")


def steps_apart(path: Path, seed: int) -> float:
    """The largest difference between TVM's float arithmetic and the reference interpreter on a random input, in output units."""
    runtime = pytest.importorskip("tflite_micro").runtime
    mod = load(path)
    rng = np.random.default_rng(seed)
    inputs = [_random(port, rng) for port in model_of(mod)["inputs"]]
    interpreter = runtime.Interpreter.from_file(str(path), arena_size=8_000_000)
    for position, x in enumerate(inputs):
        interpreter.set_input(x, position)
    interpreter.invoke()
    want = interpreter.get_output(0).astype(np.float64)
    return float(np.abs(run_qdq(mod, *inputs)[0].astype(np.float64) - want).max())


def _random(port: dict, rng: np.random.Generator) -> np.ndarray:
    if port["dtype"] == "int8":
        return rng.integers(-128, 128, port["shape"]).astype(np.int8)
    return rng.standard_normal(port["shape"]).astype(np.float32)


@needs_shared
@pytest.mark.parametrize("path", NETWORKS + LAYERS, ids=lambda p: p.stem)
def test_reference_models_come_in_as_qdq(path: Path) -> None:
    mod = load(path)
    check_qdq(mod)
    model = model_of(mod)
    assert model["name"] == path.stem
    assert model["format"] == "tflite"
    counts = Counter(info["op"] for info in model["tensors"].values())
    assert counts.pop("INPUT") == len(model["inputs"])
    assert counts == {use.name: use.count for use in check(path).operators}


@needs_shared
@pytest.mark.parametrize("path", LAYERS, ids=lambda p: p.stem)
def test_layers_mean_what_the_reference_computes(path: Path) -> None:
    """Within one step: float arithmetic rounds elsewhere than the integer kernels do."""
    assert steps_apart(path, 2) <= 1


@needs_shared
@pytest.mark.parametrize("stem", ["kws_ref_model", "ad01_int8", "hello_world_int8", "micro_speech_quantized", "str_ww_ref_model"])
def test_networks_mean_what_the_reference_computes(stem: str) -> None:
    """The roundings of several layers add up (and softmax magnifies them); a wrong operator would be off by far more."""
    (path,) = [p for p in NETWORKS if p.stem == stem]
    assert steps_apart(path, 1) <= 10


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("stem", ["pretrainedResnet_quant", "vww_96_int8", "person_detect", "mcunet_vww_80"])
def test_large_networks_mean_what_the_reference_computes(stem: str) -> None:
    (path,) = [p for p in NETWORKS if p.stem == stem]
    assert steps_apart(path, 3) <= 10


@needs_shared
def test_form_of_a_whole_network() -> None:
    """kws: convolutions, depthwise, average pool, reshape, fully connected, softmax, in the documented order of operators."""
    (path,) = [p for p in NETWORKS if p.stem == "kws_ref_model"]
    names = [name_of(v).removeprefix("relax.") for v in bindings(load(path)).values()]
    convolution = ["dequantize", "dequantize", "nn.conv2d", "dequantize", "add", "quantize"]
    pool = ["dequantize", "nn.avg_pool2d", "quantize", "reshape"]
    dense = ["dequantize", "dequantize", "matmul", "dequantize", "add", "quantize"]
    assert names == [*convolution * 9, *pool, *dense, "dequantize", "nn.softmax", "quantize"]


def test_table_of_supported_operators() -> None:
    rows = supported_operators()
    assert len({(row.format, row.name) for row in rows}) == len(rows)
    promised = (
        "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED ADD MUL SUB AVERAGE_POOL_2D MAX_POOL_2D MEAN PAD RESHAPE TRANSPOSE CONCATENATION "
        "RESIZE_NEAREST_NEIGHBOR STRIDED_SLICE SPLIT SQUEEZE SOFTMAX LOGISTIC TANH HARD_SWISH RELU RELU6 LEAKY_RELU QUANTIZE DEQUANTIZE"
    )
    assert set(promised.split()) <= {row.name for row in rows if row.format == "tflite"}
