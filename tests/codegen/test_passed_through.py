# SPDX-License-Identifier: Apache-2.0
"""Outputs that are also something else: an input, another output, another shape of either."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.ops import registry

TURNED = np.arange(127, -129, -1).astype(np.int8)


def integer() -> tvm.IRModule:
    b = TinyBuilder((1, 8, 8, 4))
    y = b.conv(b.x, 4, 3)
    z = b.conv(y, 4, 3, x_zp=5)
    shaped = [b.call("reshape", value, shape=[1, 256]) for value in (b.x, y)]
    return b.finish(z, b.x, z, *shaped)


def floating() -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType((1, 8, 8, 4), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(registry.call("tiny.quantize", x, scale=0.1, zp=3))
            outputs = [builder.emit_output(v) for v in (registry.call("tiny.lookup", y, relax.const(TURNED)), x)]
        builder.emit_func_output(relax.Tuple(outputs))
    return builder.get()


def same(model: GuardedModel, mod: tvm.IRModule, x: np.ndarray) -> None:
    for mine, wanted in zip(model(x), evaluate(mod, x), strict=True):
        np.testing.assert_array_equal(mine.reshape(-1), wanted.reshape(-1))
    assert not model.faults


@pytest.mark.host_cc
@pytest.mark.parametrize("goal", ["speed", "sram"])
def test_an_input_that_is_an_output_keeps_its_bytes(goal: str, rng: np.random.Generator) -> None:
    model = tvm_tiny.build(integer(), "c", name="net", optimize=goal)
    same(GuardedModel(model), integer(), rng.integers(-128, 128, (1, 8, 8, 4)).astype(np.int8))
    (image,) = (b for b in model.plan.buffers if b.kind == "input")
    assert image.last_use == len(model.plan.steps)


@pytest.mark.host_cc
def test_a_float_input_that_is_an_output_is_handed_out(rng: np.random.Generator) -> None:
    same(GuardedModel(tvm_tiny.build(floating(), "c", name="net")), floating(), rng.normal(size=(1, 8, 8, 4)).astype(np.float32))


@pytest.mark.qemu
def test_an_input_that_is_an_output_on_the_emulated_m7(rng: np.random.Generator) -> None:
    model = tvm_tiny.build(integer(), board="mps2_an500", name="net", optimize="sram")
    x = rng.integers(-128, 128, (1, 8, 8, 4)).astype(np.int8)
    for mine, wanted in zip(model.run(x).values(), evaluate(integer(), x), strict=True):
        np.testing.assert_array_equal(mine.reshape(-1), wanted.reshape(-1))
