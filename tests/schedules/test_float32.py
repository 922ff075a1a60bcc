# SPDX-License-Identifier: Apache-2.0
"""Float32 functions: the scheduled loops add in the order of the unscheduled ones, so the results are equal to the last bit."""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tvm_tiny.codegen.primfunc_to_c import to_c
from tvm_tiny.schedules.rules import default_schedule
from tvm_tiny.target import parse_target

pytestmark = pytest.mark.host_cc

CASES: dict[str, tuple[Callable[..., relax.Expr], list[tuple[int, ...]], int]] = {
    "matmul": (relax.op.matmul, [(2, 16), (16, 12)], 4),
    "matmul of odd shape": (relax.op.matmul, [(3, 7), (7, 5)], 1),
    "matmul by three": (relax.op.matmul, [(1, 10), (10, 9)], 3),
    "convolution": (lambda a, w: relax.op.nn.conv2d(a, w, padding=1), [(1, 4, 8, 8), (6, 4, 3, 3)], 4),
    "strided convolution": (lambda a, w: relax.op.nn.conv2d(a, w, strides=2), [(1, 3, 7, 7), (2, 3, 3, 3)], 3),
    "mean": (lambda a: relax.op.mean(a, axis=[1]), [(3, 5, 8)], 4),
    "sum of all": (lambda a: relax.op.sum(a), [(3, 5)], 1),
    "softmax": (lambda a: relax.op.nn.softmax(a), [(3, 8)], 1),
    "addition": (relax.op.add, [(3, 5), (3, 5)], 1),
}


def legalised(make: Callable[..., relax.Expr], shapes: list[tuple[int, ...]]) -> tirx.PrimFunc:
    """The TIR TVM makes of one operator."""
    params = [relax.Var(f"a{i}", relax.TensorType(s, "float32")) for i, s in enumerate(shapes)]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            out = builder.emit_output(builder.emit(make(*params)))
        builder.emit_func_output(out)
    mod = relax.transform.LegalizeOps()(builder.get())
    (func,) = [f for _, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)]
    return func


@pytest.mark.parametrize("name", CASES)
def test_sums_side_by_side_keep_their_order(name: str, rng: np.random.Generator, tmp_path: Path) -> None:
    make, shapes, together = CASES[name]
    func = legalised(make, shapes)
    scheduled = default_schedule(func, parse_target("c -mcpu=cortex-m7")).mod["main"]
    told = json.loads(str(scheduled.attrs["tiny.kernel"]))
    assert (told["rule"], told["together"]) == ("float32", together)
    inputs = [rng.normal(size=s).astype(np.float32) for s in shapes]
    want = tvm.runtime.empty(tuple(int(d) for d in func.params[-1].ty.shape), "float32")
    library = tvm.compile(tvm.IRModule({"kernel": func.with_attr("global_symbol", "kernel")}), target="llvm")
    library["kernel"](*map(tvm.runtime.tensor, inputs), want)
    printed = to_c(scheduled.with_attr("tiny.outputs", [func.params[-1].name]), "layer", tvm.target.Target({"kind": "c"}))
    source, built = tmp_path / "layer.c", tmp_path / "layer.so"
    source.write_text(f"#include <math.h>\n#include <stdint.h>\n{printed.prototype};\n{printed.definition}\n")
    subprocess.run(["gcc", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-o", built, source, "-lm"], check=True)
    out = np.empty(want.shape, np.float32)
    ctypes.CDLL(str(built)).layer(*(ctypes.c_void_p(a.ctypes.data) for a in (*inputs, out)))
    if printed.uses_math:
        np.testing.assert_allclose(out, want.numpy(), rtol=1e-6)  # two libraries' exp
    else:
        np.testing.assert_array_equal(out, want.numpy())
