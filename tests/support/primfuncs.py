# SPDX-License-Identifier: Apache-2.0
"""Runs an operator's TIR through TVM's LLVM target, and prints it as the C of TVM's C codegen."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import tvm
from tvm import tirx

from tvm_tiny import ops


def primfunc_of(name: str, arrays: list[np.ndarray], attrs: dict[str, Any]) -> tirx.PrimFunc:
    """The unscheduled TIR of an operator for arguments like `arrays`."""
    infos = [ops.TensorInfo(a.shape, str(a.dtype)) for a in arrays]
    return ops.get(name).primfunc(infos, attrs).with_attr("global_symbol", "kernel")


def run_compiled(func: tirx.PrimFunc, arrays: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    """Compile for the host and run."""
    library = tvm.compile(tvm.IRModule({"kernel": func}), target="llvm")
    out = tvm.runtime.tensor(np.zeros_like(like))
    library["kernel"](*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays), out)
    return out.numpy()


def check_compiled(name: str, arrays: list[np.ndarray], **attrs: Any) -> None:
    """Assert that the compiled TIR, simply scheduled, gives what numpy gives."""
    want = ops.get(name).numpy(*arrays, **attrs)
    func = simply_scheduled(primfunc_of(name, arrays, attrs))
    np.testing.assert_array_equal(run_compiled(func, arrays, want), want)


def simply_scheduled(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The least a schedule does: no padded copy, and reductions initialised outside their loops."""
    schedule = tvm.s_tir.Schedule(func)
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        if schedule.get(block).name_hint == "pad":
            schedule.compute_inline(block)
            continue
        loops = schedule.get_loops(block)
        kinds = [iter_var.iter_type for iter_var in schedule.get(block).iter_vars]
        if tirx.IterVar.CommReduce in kinds:
            schedule.decompose_reduction(block, loops[kinds.index(tirx.IterVar.CommReduce)])
    return next(iter(schedule.mod.functions.values())).with_attr("global_symbol", "kernel")


def c_kernel(func: tirx.PrimFunc) -> str:
    """The function as plain C: the body TVM's C codegen prints, without its calling convention, under a signature of raw pointers."""
    source = tvm.compile(tvm.IRModule({"kernel": func}), target={"kind": "c"}).mod.inspect_source()
    names = [func.buffer_map[p].name for p in func.params] if hasattr(func, "buffer_map") else []
    lines = source.splitlines()
    first = max(i for i, line in enumerate(lines) if "DLTensor*" in line and ".data))" in line) + 1
    last = next(i for i in range(first, len(lines)) if lines[i] == "  return 0;")
    types = re.findall(r"^  (\w+)\* (\w+) = \(\(\w+\*\)\(\(\w+\*\)\(\(\(DLTensor\*\)", source, re.MULTILINE)
    assert len(types) >= len(names)
    return "\n".join([f"void kernel({', '.join(f'{t}* {n}' for t, n in types)}) {{", *lines[first:last], "}", ""])
