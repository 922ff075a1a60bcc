# SPDX-License-Identifier: Apache-2.0
"""PrimFuncs printed as plain C functions."""

from __future__ import annotations

import pytest
import tvm
from tvm.script import tirx as T

from tvm_tiny.codegen.primfunc_to_c import to_c

C = tvm.target.Target("c")


@T.prim_func(s_tir=True)
def scale(x: T.Buffer((4, 8), "int8"), w: T.Buffer((8,), "int32"), y: T.Buffer((4, 8), "int32")):
    for i, j in T.grid(4, 8):
        with T.sblock("y"):
            vi, vj = T.axis.remap("SS", [i, j])
            y[vi, vj] = T.Cast("int32", x[vi, vj]) * w[vj]


def test_read_only_parameters_are_const() -> None:
    assert to_c(scale, "f", C).prototype == "void f(const int8_t *x, const int32_t *w, int32_t *y)"


def test_nothing_of_the_hosted_runtime_is_left() -> None:
    text = to_c(scale, "f", C).definition
    assert "TVM" not in text
    assert "#include" not in text


def test_parameters_that_are_simplified_away_are_marked_unread() -> None:
    """As slopes of a PRELU whose input is never negative are: the C compiles without a warning."""

    @T.prim_func(s_tir=True)
    def first(x: T.Buffer((4,), "int8"), slope: T.Buffer((4,), "int8"), y: T.Buffer((4,), "int8")):
        for i in range(4):
            with T.sblock("y"):
                vi = T.axis.spatial(4, i)
                y[vi] = x[vi]

    function = to_c(first, "f", C)
    assert function.body.startswith("{\n  (void)slope;\n  for")
    assert function.body.count("(void)") == 1


def test_pointers_given_to_extern_calls_are_writable_when_the_function_says_so() -> None:
    @T.prim_func(s_tir=True)
    def call(x: T.Buffer((4,), "int8"), y: T.Buffer((4,), "int8")):
        with T.sblock("layer"):
            T.reads()
            T.writes()
            T.evaluate(T.call_extern("int32", "kernel", x.data, y.data))

    function = to_c(call.with_attr("tiny.outputs", ["y"]), "f", C)
    assert function.prototype == "void f(const int8_t *x, int8_t *y)"
    assert "kernel(x, y);" in function.body


def test_scalar_parameters_are_refused() -> None:
    @T.prim_func(s_tir=True)
    def scalar(n: T.int32, y: T.Buffer((4,), "int32")):
        for i in range(4):
            with T.sblock("y"):
                vi = T.axis.spatial(4, i)
                y[vi] = n

    with pytest.raises(TypeError, match="only buffer parameters"):
        to_c(scalar, "f", C)
