# SPDX-License-Identifier: Apache-2.0
"""The QDQ contract (docstring of `tvm_tiny.frontend.tflite`) as a checker, and a way to run a QDQ module in floating point."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

MOVEMENT = {
    "relax.flip",
    "relax.reshape",
    "relax.take",
    "relax.permute_dims",
    "relax.concat",
    "relax.maximum",
    "relax.minimum",
    "relax.nn.pad",
    "relax.strided_slice",
    "relax.split",
    "relax.image.resize2d",
}


def bindings(mod: tvm.IRModule) -> dict[relax.Var, relax.Expr]:
    """Every binding of `main`, in order."""
    return {b.var: b.value for block in mod["main"].body.blocks for b in block.bindings}


def name_of(value: relax.Expr) -> str:
    """The operator's name of a call, or the kind of another expression."""
    return value.op.name if isinstance(value, relax.Call) else type(value).__name__


def model_of(mod: tvm.IRModule) -> dict:
    """The parsed attribute `tiny.model`."""
    return json.loads(mod.attrs["tiny.model"])


def check_qdq(mod: tvm.IRModule) -> None:
    """Assert that `mod` is in QDQ form: well-formed, constants where they belong, int8 made only by quantise, clamp or movement."""
    relax.analysis.well_formed(mod)
    model, bound = model_of(mod), bindings(mod)
    assert len(mod["main"].params) == len(model["inputs"])
    for var, value in bound.items():
        assert not isinstance(value, relax.Var), f"{var.name} is an alias"
        if isinstance(value, relax.Call):
            _check_call(var, value, bound)
    _check_table(mod, model, bound)


def _check_call(var: relax.Var, call: relax.Call, bound: dict[relax.Var, relax.Expr]) -> None:
    name = name_of(call)
    integer = isinstance(var.ty, relax.TensorType) and var.ty.dtype == "int8"
    if name in ("relax.quantize", "relax.dequantize"):
        scale, zero_point = call.args[1], call.args[2]
        assert isinstance(scale, tvm.ir.GenericConst), name
        assert isinstance(zero_point, tvm.ir.GenericConst), name
        assert (scale.ty.dtype, zero_point.ty.dtype) == ("float32", "int32")
        assert scale.value.shape == zero_point.value.shape
        assert len(scale.value.shape) <= 1
    elif integer and name == "relax.clip":
        assert name_of(bound[call.args[0]]) == "relax.quantize", f"{var.name}: a clamp of something not just quantised"
    elif integer:
        assert name in MOVEMENT, f"{var.name}: int8 made by {name}"


def _check_table(mod: tvm.IRModule, model: dict, bound: dict[relax.Var, relax.Expr]) -> None:
    named = {var.name: var for var in (*mod["main"].params, *bound)}
    assert len(named) == len(bound) + len(model["inputs"]), "names are not unique"
    for hint, info in model["tensors"].items():
        assert [int(e) for e in named[hint].ty.shape] == info["shape"], hint
        assert named[hint].ty.dtype == info["dtype"], hint
    result = mod["main"].body.body
    last = [result] if len(model["outputs"]) == 1 else list(bound[result].fields)
    assert [model["tensors"][var.name]["name"] for var in last] == [output["name"] for output in model["outputs"]]


def compile_qdq(mod: tvm.IRModule) -> Callable[..., list[np.ndarray]]:
    """A QDQ module as a function of arrays, in floating point with TVM's own lowering."""
    machine = relax.VirtualMachine(tvm.compile(mod, tvm.target.Target("llvm")), tvm.cpu())

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        out = machine["main"](*(tvm.runtime.tensor(x) for x in inputs))
        return [out.numpy()] if hasattr(out, "numpy") else [o.numpy() for o in out]

    return run


def run_qdq(mod: tvm.IRModule, *inputs: np.ndarray) -> list[np.ndarray]:
    """Run a QDQ module once."""
    return compile_qdq(mod)(*inputs)
