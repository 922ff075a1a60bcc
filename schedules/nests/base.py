# SPDX-License-Identifier: Apache-2.0
"""From a scheduled nest to statements over a layer's own buffers: loops and calls of blocks, everything between in scratch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_equal, structural_map, structural_walk

from tvm_tiny.schedules.layer_form import substitute
from tvm_tiny.schedules.microkernels import CFunction

_ALIGNMENT = 4
_LOWERING = (
    s_tir.transform.PlanAndUpdateBufferAllocationLocation,
    s_tir.transform.ConvertBlocksToOpaque,
    s_tir.transform.CompactBufferAllocation,
    s_tir.transform.LowerMatchBuffer,
    s_tir.transform.StmtSimplify,
    s_tir.transform.LowerOpaqueBlock,
)


@dataclass(frozen=True)
class Place:
    """Where a nest's operand lies: `offset` bytes into a buffer of the layer."""

    buffer: tirx.Var
    offset: int = 0


@dataclass(frozen=True)
class Nest:
    """A layer's loops.

    Attributes
    ----------
    buffers : tuple of Var
        Stand for the layer's activations, packed constants, output and scratch.
    body : Stmt
        Loops and calls over them.
    functions : tuple of CFunction
        What is called, callees first.
    scratch_bytes : int
    scheduled : tuple of PrimFunc
        The nests as TVM scheduled them, over packed operands.
    traces : tuple of str
        The schedule primitives that made them.
    intrinsics : tuple of str
        Names of the `TensorIntrin`s of their blocks.
    """

    buffers: tuple[tirx.Var, ...]
    body: tirx.Stmt
    functions: tuple[CFunction, ...]
    scratch_bytes: int
    scheduled: tuple[tirx.PrimFunc, ...]
    traces: tuple[str, ...] = ()
    intrinsics: tuple[str, ...] = ()

    def on(self, buffers: Sequence[tirx.Var], renamed: Mapping[str, str]) -> tirx.Stmt:
        """The loops over a layer's buffers, functions under other names."""
        body = substitute(self.body, dict(zip(self.buffers, buffers, strict=True)))

        def call(found: tvm.ir.Call) -> tvm.ir.Call:
            if not isinstance(found.op, tvm.ir.Op) or found.op.name != "tirx.call_extern" or str(found.args[0].value) not in renamed:
                return found
            return tirx.call_extern("int32", renamed[str(found.args[0].value)], *found.args[1:])

        return structural_map(body, [(tvm.ir.Call, call)])


_NESTS: dict[str, Nest] = {}


def remember(intrinsic: str, nest: Nest) -> None:
    """Keep what the intrinsic of a layer was made from, so that it can be shown."""
    _NESTS[intrinsic] = nest


def nest_of(intrinsic: str) -> Nest | None:
    """The nest of a layer's intrinsic; None where that is the call of one function."""
    return _NESTS.get(intrinsic)


def statements(func: tirx.PrimFunc, places: Mapping[str, Place], scratch: tirx.Var, base: int) -> tuple[tirx.Stmt, int]:
    """The loops of a scheduled nest over the layer's buffers, its own tensors in scratch from `base` on; and where those end.

    Only addresses of tensors may be left in the nest: every block is a call.
    """
    flat = tvm.ir.transform.Sequential([make() for make in _LOWERING])(tvm.IRModule({"main": func}))["main"]
    used = _addressed(flat.body)
    own: dict[tirx.Var, Place] = {}
    size = base
    for buffer in used:
        if str(buffer.name) not in places:
            own[buffer] = Place(scratch, size)
            size += aligned(_nbytes(buffer))
    where = {b: own[b] if b in own else places[str(b.name)] for b in used}

    def moved(call: tvm.ir.Call) -> tvm.ir.Call:
        if not _is_address(call) or call.args[0].source not in where:
            return call
        place, load = where[call.args[0].source], call.args[0]
        return _address(place, load)

    body = structural_map(flat.body, [(tvm.ir.Call, moved), (tirx.AllocBuffer, lambda _: tirx.Evaluate(0))])
    return _without_nothing(body), size


def _address(place: Place, load: TensorLoad) -> tvm.ir.Call:
    """The address of an element of an operand as that of an element of the layer's buffer, counted in its last axis."""
    element, at = np.dtype(str(load.source.ty.dtype)).itemsize, tirx.const(0, "int32")
    for stride, index in zip(_strides(load.source), load.indices, strict=True):
        at = at + index * stride
    unit = np.dtype(str(place.buffer.ty.dtype)).itemsize
    at = at * (element // unit) + place.offset // unit
    return tirx.address_of(tirx.BufferLoad(place.buffer, [*[0] * (len(place.buffer.ty.shape) - 1), at]))


def _is_address(call: tvm.ir.Call) -> bool:
    return isinstance(call.op, tvm.ir.Op) and call.op.name == "tirx.address_of" and isinstance(call.args[0], TensorLoad)


def _addressed(body: tirx.Stmt) -> list[tirx.Var]:
    """Buffers that calls get, in order."""
    found: list[tirx.Var] = []

    def note(call: tvm.ir.Call) -> None:
        if _is_address(call) and not any(call.args[0].source.same_as(b) for b in found):
            found.append(call.args[0].source)

    structural_walk(body, [(tvm.ir.Call, note)])
    return found


def _without_nothing(body: tirx.Stmt) -> tirx.Stmt:
    def kept(seq: tirx.SeqStmt) -> tirx.Stmt:
        left = [s for s in seq.seq if not _is_nothing(s)]
        return left[0] if len(left) == 1 else tirx.SeqStmt(left)

    return structural_map(body, [(tirx.SeqStmt, kept)])


def _is_nothing(stmt: tirx.Stmt) -> bool:
    return isinstance(stmt, tirx.Evaluate) and not isinstance(stmt.value, tvm.ir.Call)


def aligned(nbytes: int) -> int:
    """Bytes up to where the next tensor may lie."""
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _nbytes(buffer: tirx.Var) -> int:
    return int(buffer.ty.shape[0]) * _strides(buffer)[0] * np.dtype(str(buffer.ty.dtype)).itemsize


def _strides(buffer: tirx.Var) -> list[int]:
    """Elements from each index to the next, axis by axis."""
    if buffer.ty.strides:
        return [int(n) for n in buffer.ty.strides]
    shape = [int(d) for d in buffer.ty.shape]
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def joined(bodies: Sequence[tirx.Stmt]) -> tirx.Stmt:
    """Statements one after the other."""
    return bodies[0] if len(bodies) == 1 else tirx.SeqStmt(list(bodies))


def hoisted(body: tirx.Stmt, functions: frozenset[str]) -> tirx.Stmt:
    """Calls of `functions` at the start of a loop on which none of their arguments depends, before it: each does what it did the last time.

    That nothing else in the loop writes what they write is for the caller to know.
    """

    def moved(loop: tirx.For) -> tirx.Stmt:
        first, rest = _leading_calls(loop.body, functions)
        if not first or any(_uses(call, loop.loop_var) for call in first):
            return loop
        return tirx.SeqStmt([*first, tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, joined(rest))])

    return structural_map(body, [(tirx.For, moved)])


def without_repeats(bodies: Sequence[tirx.Stmt], functions: frozenset[str]) -> list[tirx.Stmt]:
    """Statements one after the other without calls of `functions` that the one just before begins with as well."""
    found: list[tirx.Stmt] = []
    before: list[tirx.Stmt] = []
    for body in bodies:
        first, rest = _leading_calls(body, functions)
        found.append(joined(rest if first and len(first) == len(before) and all(map(structural_equal, first, before)) else [*first, *rest]))
        before = first
    return found


def _leading_calls(body: tirx.Stmt, functions: frozenset[str]) -> tuple[list[tirx.Stmt], list[tirx.Stmt]]:
    """The calls of `functions` that a body begins with, and what follows them."""
    each = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    count = next((i for i, stmt in enumerate(each) if not _is_call_of(stmt, functions)), len(each))
    return each[:count], each[count:]


def _is_call_of(stmt: tirx.Stmt, functions: frozenset[str]) -> bool:
    call = stmt.value if isinstance(stmt, tirx.Evaluate) else None
    return isinstance(call, tvm.ir.Call) and call.op.name == "tirx.call_extern" and str(call.args[0].value) in functions


def _uses(stmt: tirx.Stmt, var: tirx.Var) -> bool:
    found: list[tirx.Var] = []
    structural_walk(stmt, [(tvm.ir.Var, found.append)])
    return any(var.same_as(v) for v in found)
