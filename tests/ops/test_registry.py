# SPDX-License-Identifier: Apache-2.0
"""The dialect is a set of real Relax operators: they print, type-check, carry attributes, and can be registered once."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_tiny import ops
from tvm_tiny.errors import DialectError
from tvm_tiny.ops import registry


def variables(*specs: tuple[tuple[int, ...], str]) -> list[relax.Var]:
    return [relax.Var(f"v{i}", relax.TensorType(shape, dtype)) for i, (shape, dtype) in enumerate(specs)]


def dense_module() -> tvm.IRModule:
    args = variables(((2, 10), "int8"), ((7, 10), "int8"), ((7,), "int32"), ((7,), "int32"), ((7,), "int32"))
    builder = relax.BlockBuilder()
    with builder.function("main", args):
        with builder.dataflow():
            y = builder.emit_output(builder.emit(ops.call("dense", *args, x_zp=np.int64(-3), y_zp=4, source="logits", x_scale=0.1)))
        builder.emit_func_output(y)
    return builder.get()


def dense_call(mod: tvm.IRModule) -> relax.Call:
    return mod["main"].body.blocks[0].bindings[0].value


def test_call_is_typed_and_well_formed() -> None:
    mod = dense_module()
    relax.analysis.well_formed(mod)
    assert "tiny.dense" in mod.script()
    assert (list(map(int, dense_call(mod).ty.shape)), str(dense_call(mod).ty.dtype)) == ([2, 7], "int8")


def test_attributes_come_back_as_python_values_with_defaults() -> None:
    expr = dense_call(dense_module())
    assert ops.is_tiny(expr)
    assert ops.is_tiny(expr, "dense")
    assert not ops.is_tiny(expr, "conv2d")
    attrs = ops.attrs_of(expr)
    assert attrs == {
        "x_zp": -3, "y_zp": 4, "clamp_min": -128, "clamp_max": 127, "rounding": "gemmlowp", "source": "logits",
        "x_scale": 0.1, "y_scale": 0.0, "in_place": [], "skip_zeros": -1,
    }  # fmt: skip
    x, w, b, *_ = variables(((1, 4, 4, 3), "int8"), ((5, 3, 3, 3), "int8"), ((5,), "int32"))
    conv = ops.call("tiny.conv2d", x, w, b, b, b, x_zp=0, y_zp=0, padding=(1, 0, 1, np.int32(2)))
    assert ops.attrs_of(conv)["padding"] == [1, 0, 1, 2]
    assert all(type(p) is int for p in ops.attrs_of(conv)["padding"])


def test_module_survives_saving_and_loading() -> None:
    mod = dense_module()
    again = tvm.ir.load_json(tvm.ir.save_json(mod))
    tvm.ir.assert_structural_equal(mod, again)
    assert ops.attrs_of(dense_call(again)) == ops.attrs_of(dense_call(mod))


def test_types_are_inferred_anew_after_a_change() -> None:
    """FInferType runs inside TVM's own passes."""
    mod = relax.transform.Normalize()(dense_module())
    relax.analysis.well_formed(mod)


def test_registering_twice_is_safe_and_a_second_owner_is_refused() -> None:
    assert registry.register(ops.dense.OP) is ops.dense.OP
    with pytest.raises(DialectError, match=r"tiny\.dense: is registered already"):
        registry.register(replace(ops.dense.OP, infer_fn=lambda infos, attrs: infos[0]))
    assert ops.get("dense") is ops.dense.OP


def test_reloading_a_module_replaces_its_operator() -> None:
    importlib.reload(ops.transpose)
    assert ops.get("transpose") is ops.transpose.OP
    (x,) = variables(((2, 3), "int8"))
    assert list(map(int, relax.BlockBuilder().normalize(ops.call("transpose", x, axes=[1, 0])).ty.shape)) == [3, 2]


def test_macs() -> None:
    conv = ops.get("conv2d")
    shapes = [(1, 49, 10, 1), (64, 10, 4, 1), (64,), (64,), (64,)]
    assert conv.macs(shapes, {"strides": [2, 2], "padding": [4, 1, 5, 1], "x_zp": 0, "y_zp": 0}) == 25 * 5 * 64 * 40
    assert (
        ops.get("depthwise_conv2d").macs([(1, 25, 5, 64), (3, 3, 64)], {"padding": [1, 1, 1, 1], "x_zp": 0, "y_zp": 0}) == 25 * 5 * 64 * 9
    )
    assert ops.get("dense").macs([(1, 64), (12, 64)], {"x_zp": 0, "y_zp": 0}) == 768
    assert ops.get("add").macs([(4,), (4,)], {k: 0 for k, v in ops.add.OP.attrs.items() if v is registry.REQUIRED}) == 0


def test_every_operator_has_a_file_of_its_name() -> None:
    for op in ops.all_ops():
        module = importlib.import_module(f"tvm_tiny.ops.{op.name.removeprefix('tiny.')}")
        assert op is module.OP
        assert op.name == module.NAME
