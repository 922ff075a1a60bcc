# SPDX-License-Identifier: Apache-2.0
"""From a generated microkernel to a scheduled PrimFunc that calls it.

The function has the parameters (input, packed, output, scratch); its one block stands for the whole layer and its body is the call. Names of C
functions start with `PREFIX`, which code generation replaces by the model's own, so that two models link into one image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.script import tirx as T

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.base import annotate
from tvm_tiny.schedules.overlap import to_attribute
from tvm_tiny.schedules.microkernels.c_source import PREAMBLE, CFunction
from tvm_tiny.schedules.microkernels.layer import MicroKernel




def extern_schedule(kernel: MicroKernel, func: tirx.PrimFunc, rule: str, *, rights: Sequence[list[Any]] = (), **notes: Any) -> Schedule:
    """Return a schedule that calls `kernel` for the layer `func` (as `lower-ops` made it: input first, output last).

    Parameters
    ----------
    rights : sequence of [order, distance]
        How the output may lie over the input (`tvm_tiny.memory.plan.Right`); alternatives.
    notes
        Further entries of `tiny.kernel`.
    """
    packed = np.frombuffer(kernel.packed, np.uint8)
    x, y = func.params[0], func.params[-1]
    functions, renamed = named_by_content(kernel.functions)
    name = renamed[kernel.name]
    body = _call(name, x, len(packed), y, kernel.scratch_bytes)
    keep = {k: v for k, v in func.attrs.items() if k.startswith("tiny.")}
    scratch = {"scratch": [kernel.scratch_bytes]} if kernel.scratch_bytes else {}
    overlap = to_attribute({"0:0": list(rights)} if rights else {})
    return annotate(
        Schedule(tvm.IRModule({"main": body.with_attrs(keep)})),
        {"rule": rule, "kernel": name.removeprefix(PREFIX), **{k: str(v) for k, v in kernel.choices.items()}, **notes},
        args=["arg:0", "packed:0"],
        packed=[tvm.runtime.tensor(packed)],
        c_sources=[["preamble", PREAMBLE], *([f.name, f.source] for f in functions)],
        **scratch,
        **overlap,
    )


def named_by_content(functions: Sequence[CFunction]) -> tuple[list[CFunction], dict[str, str]]:
    """Rename functions (callees first) after the digest of their text, so that equal functions of different layers are one function.

    Returns
    -------
    functions, renamed
        The renamed functions, and {old name: new name}.
    """
    renamed: dict[str, str] = {}
    result = []
    for function in functions:
        text = _substitute(function.source, renamed)
        stem = re.sub(r"_[0-9a-f]{8}$", "", function.name.removeprefix(PREFIX))
        digest = hashlib.sha256(_substitute(text, {function.name: "@"}).encode()).hexdigest()[:10]
        renamed[function.name] = f"{PREFIX}{stem}_{digest}"
        result.append(CFunction(renamed[function.name], _substitute(text, renamed)))
    return result, renamed


def _substitute(text: str, names: Mapping[str, str]) -> str:
    return re.sub(rf"\b{PREFIX}\w+", lambda m: names.get(m.group(), m.group()), text)


def _call(name: str, x: tirx.Var, packed_bytes: int, y: tirx.Var, scratch_bytes: int) -> tirx.PrimFunc:
    x_shape, y_shape = ([int(d) for d in p.ty.shape] for p in (x, y))

    if scratch_bytes:

        @T.prim_func(s_tir=True)
        def with_scratch(
            x: T.Buffer(x_shape, "int8"), packed: T.Buffer((packed_bytes,), "uint8"), y: T.Buffer(y_shape, "int8"), scratch: T.Buffer((scratch_bytes,), "uint8")
        ):
            with T.sblock("layer"):
                T.reads()
                T.writes()
                T.evaluate(T.call_extern("int32", name, x.data, y.data, packed.data, scratch.data))

        return with_scratch

    @T.prim_func(s_tir=True)
    def without_scratch(x: T.Buffer(x_shape, "int8"), packed: T.Buffer((packed_bytes,), "uint8"), y: T.Buffer(y_shape, "int8")):
        with T.sblock("layer"):
            T.reads()
            T.writes()
            T.evaluate(T.call_extern("int32", name, x.data, y.data, packed.data, 0))

    return without_scratch
