# SPDX-License-Identifier: Apache-2.0
"""quantize-to-integer: QDQ becomes integer operators whose meaning is the reference interpreter's, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.support.tflite_builder import ModelBuilder, single_op
from tests.support.tiny_builder import evaluate, op_names
from tvm_tiny.frontend import load
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.quantize_to_integer import QuantizeToInteger, float_islands
from tvm_tiny.reference import Reference

X = {"shape": (1, 6, 5, 4), "scale": 0.05, "zero_point": -3}
RNG = np.random.default_rng(7)


def conv(**fields: Any) -> bytes:
    w_scales = np.array([0.02, 0.004, 0.01], np.float32)
    weight = RNG.integers(-127, 128, (3, 3, 3, 4)).astype(np.int8)
    bias = RNG.integers(-3000, 3000, 3).astype(np.int32)
    constants = [(weight, {"scale": w_scales, "axis": 0}), (bias, {"scale": w_scales * np.float32(0.05)})]
    out = {"shape": (1, 3, 3, 3), "scale": 0.1, "zero_point": 11}
    return single_op("CONV_2D", [X], out, constants, "Conv2DOptions", padding="SAME", stride_h=2, stride_w=2, **fields)


def unary(code: str, shape: tuple[int, ...] = (1, 6, 5, 4), scale: float = 1 / 256, zero: int = -128) -> bytes:
    return single_op(code, [X], {"shape": shape, "scale": scale, "zero_point": zero})


def two_layers() -> bytes:
    """A tensor with two readers: an addition of a value to its own square."""
    b = ModelBuilder()
    x = b.tensor(**X)
    square, total = b.tensor((1, 6, 5, 4), scale=0.3, zero_point=-100), b.tensor((1, 6, 5, 4), scale=0.4, zero_point=2)
    b.op("MUL", [x, x], [square], "MulOptions")
    b.op("ADD", [square, x], [total], "AddOptions")
    return b.finish([x], [total])


CASES = {
    "conv2d": (conv(fused_activation_function="relu6"), ["conv2d"]),
    "logistic": (unary("LOGISTIC"), ["lookup"]),
    "tanh": (unary("TANH", scale=1 / 128, zero=0), ["lookup"]),
    "quantize": (unary("QUANTIZE", scale=0.07, zero=5), ["requantize"]),
    "mul-add": (two_layers(), ["mul", "add"]),
}


@pytest.mark.parametrize("case", CASES)
def test_meaning_is_the_references(case: str, rng: np.random.Generator) -> None:
    data, expected = CASES[case]
    out = QuantizeToInteger()(load(data))
    assert op_names(out) == expected
    assert float_islands(out) == []
    reference = Reference(data)
    for _ in range(10):
        x = rng.integers(-128, 128, X["shape"]).astype(np.int8)
        np.testing.assert_array_equal(evaluate(out, x)[0], reference.run([x])[0])


def test_the_activation_becomes_the_clamp() -> None:
    """RELU6 at scale 0.1 and zero point 11 is the interval [11, 71]."""
    nodes = TinyGraph(QuantizeToInteger()(load(CASES["conv2d"][0]))["main"]).nodes
    (node,) = [n for n in nodes if n.op]
    assert (node.attrs["clamp_min"], node.attrs["clamp_max"]) == (11, 71)
    assert node.attrs["strides"] == [2, 2]
    assert node.attrs["padding"] == [0, 1, 1, 1]  # SAME at stride 2: 6 rows need one row below, 5 columns one on each side
    assert node.attrs["rounding"] == "gemmlowp"


def test_a_float_operator_between_quantised_ones_stays_an_island() -> None:
    """Exponential of the sum of two tensors: no 256-entry table can hold it."""
    builder = relax.BlockBuilder()
    params = [relax.Var(name, relax.TensorType((1, 8), "int8")) for name in "ab"]
    scale, zero = relax.const(0.05, "float32"), relax.const(0, "int32")
    with builder.function("main", params):
        with builder.dataflow():
            a, b = (builder.emit(relax.op.dequantize(p, scale, zero, axis=1)) for p in params)
            value = builder.emit(relax.op.exp(builder.emit(relax.op.add(a, b))))
            out = builder.emit_output(builder.emit(relax.op.quantize(value, scale, zero, axis=1, out_dtype="int8")))
        builder.emit_func_output(out)
    mod = tvm.ir.transform.Sequential([QuantizeToInteger(), relax.transform.DeadCodeElimination()])(builder.get())
    assert "relax.exp" in {op for _, op in float_islands(mod)}
    assert op_names(mod).count("dequantize") == 2
    assert op_names(mod)[-1] == "quantize"


def test_it_runs_in_a_stock_sequential_and_keeps_the_models_facts() -> None:
    mod = load(CASES["conv2d"][0])
    out = tvm.ir.transform.Sequential([QuantizeToInteger(), relax.transform.DeadCodeElimination()])(mod)
    assert str(out.attrs["tiny.model"]) == str(mod.attrs["tiny.model"])
    assert "nn.conv2d" in mod.script()
    assert "nn.conv2d" not in out.script()
