# SPDX-License-Identifier: Apache-2.0
"""lower-ops: every operator becomes a call of a TIR function that says what it was."""

from __future__ import annotations

import json

import numpy as np
import tvm
from tvm import relax

from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.lower_ops import LowerOps


def called(mod: tvm.IRModule) -> list[tvm.tirx.PrimFunc]:
    """The functions `main` calls, in order."""
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    calls = [b.value for b in bindings if isinstance(b.value, relax.Call) and b.value.op.name == "relax.call_tir"]
    return [mod[call.args[0]] for call in calls]


def network() -> tuple[tvm.IRModule, tvm.IRModule]:
    """A small network before and after the pass."""
    b = TinyBuilder((1, 6, 6, 4))
    y = b.depthwise(b.conv(b.x, 8, 3, strides=[2, 2], source="stem"), 3, x_zp=5)
    mod = b.finish(b.dense(b.call("reshape", y, shape=[1, 72]), 5, x_zp=5))
    return mod, LowerOps()(mod)


def test_each_operator_is_one_function_and_reshape_stays() -> None:
    _, out = network()
    assert [str(f.attrs["tiny.op"]) for f in called(out)] == ["tiny.conv2d", "tiny.depthwise_conv2d", "tiny.dense"]
    names = [b.value.op.name for block in out["main"].body.blocks for b in block.bindings if isinstance(b.value, relax.Call)]
    assert names == ["relax.call_tir", "relax.call_tir", "tiny.reshape", "relax.call_tir"]


def test_a_function_says_what_a_schedule_needs() -> None:
    mod, out = network()
    before, func = TinyGraph(mod["main"]).nodes[0], called(out)[0]
    assert json.loads(str(func.attrs["tiny.attrs"])) == before.attrs
    assert func.attrs["tiny.macs"] == 3 * 3 * 8 * 3 * 3 * 4  # outputs of a 3x3x8 tensor times taps
    assert str(func.attrs["tiny.source"]) == "stem"
    constants = func.attrs["tiny.constants"]
    assert sorted(constants.keys()) == ["1", "2", "3", "4"]
    np.testing.assert_array_equal(constants["1"].numpy(), before.constant(1))


def test_the_lowered_network_computes_the_same(rng: np.random.Generator) -> None:
    mod, out = network()
    bare = relax.transform.LegalizeOps({"tiny.reshape": lambda bb, call: bb.call_te(tvm.topi.reshape, call.args[0], call.ty.shape)})(out)
    for gvar, func in list(bare.functions_items()):
        if isinstance(func, tvm.tirx.PrimFunc):
            for key in [k for k in func.attrs.keys() if k.startswith("tiny.") or k == "global_symbol"]:
                func = func.without_attr(key)
            bare.update_func(gvar, func)
    machine = relax.VirtualMachine(tvm.compile(bare, tvm.target.Target("llvm")), tvm.cpu())
    for _ in range(3):
        x = rng.integers(-128, 128, (1, 6, 6, 4)).astype(np.int8)
        np.testing.assert_array_equal(machine["main"](tvm.runtime.tensor(x)).numpy(), evaluate(mod, x)[0])


def test_float_islands_are_legalised_by_tvm() -> None:
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((1, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(builder.emit(relax.op.exp(x)))
        builder.emit_func_output(out)
    (func,) = called(LowerOps()(builder.get()))
    assert "tiny.op" not in func.attrs
