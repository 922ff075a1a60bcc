# SPDX-License-Identifier: Apache-2.0
"""One scheduled PrimFunc → one plain C function with raw pointers.

TVM does the lowering and prints the statements; what is replaced here is only what its C target wraps around them for a hosted runtime:
the packed calling convention, the headers and the export macros. A function comes out as

    void name(const int8_t *x, const int8_t *w, int8_t *y)

with `const` on every pointer the body never writes through. Local buffers become arrays on the stack, so schedules keep them small and
ask for scratch (an extra buffer parameter) when they are not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import s_tir, tirx
from tvm.ir import PointerType, PrimType
from tvm_ffi import structural_map, structural_walk

from tvm_tiny.codegen.c_text import float_literal

# Passes of TVM's own s_tir pipeline, in its order, without those for accelerators and without the packed calling convention
# (SplitHostDevice, MakePackedAPI) and the run-time's workspace calls (LowerTVMBuiltin).
_LOWERING = (
    s_tir.transform.CanonicalizeLoop,
    s_tir.transform.LowerInitBlock,
    s_tir.transform.PlanAndUpdateBufferAllocationLocation,
    s_tir.transform.ConvertBlocksToOpaque,
    s_tir.transform.CompactBufferAllocation,
    s_tir.transform.LowerMatchBuffer,
    s_tir.transform.StmtSimplify,
    s_tir.transform.LowerOpaqueBlock,
    tirx.transform.FlattenBuffer,
    lambda: tirx.transform.NarrowDataType(32),
    s_tir.transform.LoopPartition,
    tirx.transform.StorageRewrite,
    s_tir.transform.HoistIfThenElse,
    tirx.transform.UnrollLoop,
    s_tir.transform.RenormalizeSplitPattern,
    tirx.transform.StmtSimplify,
    tirx.transform.RemoveNoOp,
    s_tir.transform.RewriteUnsafeSelect,
    tirx.transform.CommonSubexprElim,
)


_FLOAT_BITS = {"float32": (np.float32, np.int32), "float64": (np.float64, np.int64)}


@dataclass(frozen=True)
class CFunction:
    """A printed C function: `prototype` without the semicolon, `body` with its braces, `uses_math` when it calls <math.h>."""

    name: str
    prototype: str
    body: str
    uses_math: bool

    @property
    def definition(self) -> str:
        """Prototype and body."""
        return f"{self.prototype} {self.body}"


def lower(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Lower a scheduled s_tir PrimFunc to flat loops and buffers with TVM's own passes."""
    mod = tvm.IRModule({"main": func})
    return tvm.ir.transform.Sequential([make() for make in _LOWERING])(mod)["main"]


def to_c(func: tirx.PrimFunc, name: str, target: tvm.target.Target) -> CFunction:
    """Print `func` as the C function `name`.

    Parameters
    ----------
    func : PrimFunc
        Scheduled, buffer parameters only.
    name : str
        The C symbol.
    target : Target
        A TVM target of kind "c".
    """
    flat = lower(func)
    raw, written = _with_raw_pointers(flat)
    raw = raw.with_attr("global_symbol", name).with_attr("target", target)
    mod = tirx.transform.LowerIntrin()(tvm.IRModule({name: raw}))
    mod = tvm.IRModule({name: _with_exact_floats(mod[name])})
    source = tvm.get_global_func("target.build.c")(mod, target).inspect_source()
    return _strip(source, name, [p.name in written for p in raw.params])


def _with_exact_floats(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """TVM prints float constants with six digits; each becomes a call that carries its bits, and a hexadecimal literal in the text."""

    def bits(imm: tirx.FloatImm) -> tvm.ir.Expr:
        dtype = str(imm.ty.dtype)
        if dtype not in _FLOAT_BITS:
            return imm
        kind, integer = _FLOAT_BITS[dtype]
        value = int(np.array([imm.value], kind).view(integer)[0])
        return tirx.call_pure_extern(dtype, f"TINY_BITS_{dtype}", tirx.const(value, "int64"))

    return func.with_body(structural_map(func.body, [(tirx.FloatImm, bits)]))


def _float_literals(text: str) -> str:
    def literal(match: re.Match[str]) -> str:
        kind, integer = _FLOAT_BITS[match.group(1)]
        value = np.array([int(match.group(2))], integer).view(kind)[0]
        return float_literal(float(value), "f" if match.group(1) == "float32" else "")

    return re.sub(r"TINY_BITS_(float32|float64)\(\(int64_t\)(-?\d+)\)", literal, text)


def _with_raw_pointers(func: tirx.PrimFunc) -> tuple[tirx.PrimFunc, set[str]]:
    """Buffer parameters become pointer variables; also the names of the parameters that the body may write."""
    pointers = {}
    for param in func.params:
        if not tirx.is_buffer_var(param):
            raise TypeError(f"{param.name}: only buffer parameters can be generated")
        pointers[param] = tirx.Var(param.name, PointerType(PrimType(str(param.ty.dtype)), "global"))

    def pointer_of(call: tvm.ir.Call) -> object:
        if _is_buffer_data(call) and call.args[0] in pointers:
            return pointers[call.args[0]]
        return call

    written = _written_parameters(func, pointers)
    body = structural_map(func.body, [(tvm.ir.Call, pointer_of)])
    raw = tirx.PrimFunc([pointers[p] for p in func.params], body).with_attr("tirx.noalias", True)
    return raw, written


def _is_buffer_data(call: tvm.ir.Call) -> bool:
    return isinstance(call.op, tvm.ir.Op) and call.op.name == "tirx.buffer_data"


def _written_parameters(func: tirx.PrimFunc, pointers: dict) -> set[str]:
    """Names of parameters stored to. A pointer handed to an extern call counts as written when the function says so in `tiny.params`."""
    root = {}  # decl_buffer view → parameter
    stored: set[str] = set()

    def on_decl(decl: tirx.DeclBuffer) -> None:
        data = decl.data if hasattr(decl, "data") else None
        if isinstance(data, tvm.ir.Call) and _is_buffer_data(data) and data.args[0] in pointers:
            root[decl.buffer] = data.args[0]

    def on_store(store: tirx.BufferStore) -> None:
        buffer = root.get(store.buffer, store.buffer)
        if buffer in pointers:
            stored.add(buffer.name)

    structural_walk(func.body, [(tirx.DeclBuffer, on_decl)], order="pre")
    structural_walk(func.body, [(tirx.BufferStore, on_store)])
    outputs = func.attrs.get("tiny.outputs") if func.attrs is not None else None
    return stored | {str(n) for n in (outputs or [])}


def _strip(source: str, name: str, writable: list[bool]) -> CFunction:
    """Cut TVM's wrapping off the printed source and write our own prototype."""
    match = re.search(rf"TVM_DLL void {re.escape(name)}\(([^)]*)\) (\{{.*)\Z", source, re.DOTALL)
    if match is None:
        raise RuntimeError(f"TVM printed no definition of {name}:\n{source}")
    declared = [p.strip() for p in match.group(1).split(",")]
    params = []
    for text, is_writable in zip(declared, writable, strict=True):
        ctype, _, ident = text.partition("*")
        const = "" if is_writable else "const "
        params.append(f"{const}{ctype.strip()} *{ident.replace('restrict', '').strip()}")
    body = _float_literals(match.group(2).strip())
    names = [p.rpartition("*")[2] for p in params]
    unread = [f"  (void){n};\n" for n in names if not re.search(rf"\b{n}\b", body)]  # simplified away: compilers warn of it
    body = body.replace("{\n", "{\n" + "".join(unread), 1)
    return CFunction(
        name,
        f"void {name}({', '.join(params)})",
        body,
        bool(re.search(r"\b(expf?|tanhf?|logf?|sqrtf?|powf?|floorf?|roundf?|ceilf?|erff?|truncf?|nearbyintf?|fabsf?|fmodf?)\(", body)),
    )
