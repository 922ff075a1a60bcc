# SPDX-License-Identifier: Apache-2.0
"""From a generated microkernel to a scheduled PrimFunc that calls it.

The function has the parameters (activations, packed, output, scratch); its one block stands for the whole layer and its body is the
call. Names of C functions start with `PREFIX`, which code generation replaces by the model's own, so that two models link into one image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import s_tir, tirx
from tvm.s_tir import Schedule

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.base import annotate
from tvm_tiny.schedules.microkernels import CFunction, MicroKernel
from tvm_tiny.schedules.microkernels.c_source import PREAMBLE
from tvm_tiny.schedules.overlap import to_attribute

Rights = Sequence[list[Any]] | Mapping[int, list[list[Any]]]


def extern_schedule(
    kernel: MicroKernel,
    func: tirx.PrimFunc,
    rule: str,
    *,
    rights: Rights = (),
    scratch_rights: Mapping[int, list[list[Any]]] | None = None,
    fetched: Sequence[int] = (),
    **notes: Any,
) -> Schedule:
    """Return a schedule that calls `kernel` for the layer `func` (as `lower-ops` made it: activations first, output last).

    Parameters
    ----------
    rights : sequence of [order, distance], or a mapping from the activation's number to one
        How the output may lie over any of the activations (`tvm_tiny.memory.plan.Right`); alternatives.
    scratch_rights : mapping
        The same for the scratch buffer over activations.
    fetched : sequence of int
        Activations that are no arrays but functions of the application (`schedules/fetch.py`).
    notes
        Further entries of `tiny.kernel`.
    """
    functions, renamed = named_by_content(kernel.functions)
    name = renamed[kernel.name]
    activations, output = func.params[: kernel.inputs], func.params[-1]
    blobs = [kernel.packed] if kernel.packed else []
    body = call_function(name, activations, output, [len(b) for b in blobs], kernel.scratch_bytes)
    keep = {k: v for k, v in func.attrs.items() if k.startswith("tiny.")}
    scratch = {"scratch": [kernel.scratch_bytes]} if kernel.scratch_bytes else {}
    each = rights if isinstance(rights, Mapping) else {i: list(rights) for i in range(kernel.inputs)}
    pairs = {f"0:{i}": each[i] for i in each if each[i]} | {f"1:{i}": alternatives for i, alternatives in (scratch_rights or {}).items()}
    overlap = to_attribute(pairs)
    return annotate(
        Schedule(tvm.IRModule({"main": body.with_attrs(keep)})),
        {"rule": rule, "kernel": name.removeprefix(PREFIX), **{k: str(v) for k, v in kernel.choices.items()}, **notes},
        args=[*(f"arg:{i}" for i in range(kernel.inputs)), *(f"packed:{i}" for i in range(len(blobs)))],
        packed=[tvm.runtime.tensor(np.frombuffer(b, np.uint8)) for b in blobs],
        c_sources=[["preamble", PREAMBLE], *([f.name, f.source] for f in functions)],
        **scratch,
        **overlap,
        **({"fetched": list(fetched)} if fetched else {}),
    )


def call_function(name: str, activations: Sequence[tirx.Var], output: tirx.Var, blobs: Sequence[int], scratch_bytes: int) -> tirx.PrimFunc:
    """A PrimFunc with parameters (activations, packed blobs, output, scratch) whose body is `name(activations, output, blobs, scratch)`.

    The C function has one `packed` and one `scratch` parameter at least: where there is none the call gives it a null pointer.
    """
    ins = [tirx.decl_buffer([int(d) for d in v.ty.shape], str(v.ty.dtype), f"x{i}") for i, v in enumerate(activations)]
    packed = [tirx.decl_buffer((n,), "uint8", f"packed{i}") for i, n in enumerate(blobs)]
    out = tirx.decl_buffer([int(d) for d in output.ty.shape], str(output.ty.dtype), "y")
    scratch = [tirx.decl_buffer((scratch_bytes,), "uint8", "scratch")] if scratch_bytes else []
    null = tirx.const(0, "int32")
    pointers = [*(b.data for b in (*ins, out)), *([b.data for b in packed] or [null]), *([b.data for b in scratch] or [null])]
    call = tirx.Evaluate(tirx.call_extern("int32", name, *pointers))
    layer = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "layer", call))
    root = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", layer))
    return tirx.PrimFunc([*ins, *packed, out, *scratch], root).with_attr({"s_tir": True, "tirx.noalias": True})


def named_by_content(functions: Sequence[CFunction]) -> tuple[list[CFunction], dict[str, str]]:
    """Rename functions (callees first) after the digest of their text, so that equal functions of different layers are one function.

    Renaming what is renamed already changes nothing.

    Returns
    -------
    functions, renamed
        The renamed functions, and {old name: new name}.
    """
    renamed: dict[str, str] = {}
    result = []
    for function in functions:
        text = _substitute(function.source, renamed)
        stem = re.sub(r"_([0-9a-f]{8}|[0-9a-f]{10})$", "", function.name.removeprefix(PREFIX))
        digest = hashlib.sha256(_substitute(text, {function.name: "@"}).encode()).hexdigest()[:10]
        renamed[function.name] = f"{PREFIX}{stem}_{digest}"
        result.append(CFunction(renamed[function.name], _substitute(text, renamed)))
    return result, renamed


def _substitute(text: str, names: Mapping[str, str]) -> str:
    return re.sub(rf"\b{PREFIX}\w+", lambda m: names.get(m.group(), m.group()), text)
