# SPDX-License-Identifier: Apache-2.0
"""A building block: a generated C function, what it means in TIR, and the `TensorIntrin` that puts one in the place of the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorRegion
from tvm.s_tir import TensorIntrin
from tvm_ffi import structural_hash, structural_walk

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.layer_form import substitute
from tvm_tiny.schedules.microkernels.c_source import CFunction


@dataclass(frozen=True, eq=False)
class Meaning:
    """A description still open: its operands and a statement over them.

    Attributes
    ----------
    operands : tuple of Var
        Buffers, each of which may be a part of a larger one; the function gets the addresses of some.
    body : Stmt
    """

    operands: tuple[tirx.Var, ...]
    body: tirx.Stmt

    def prim_func(self, body: tirx.Stmt | None = None, on: Sequence[tirx.Var] | None = None) -> tirx.PrimFunc:
        """The operands with `body` (the meaning itself by default) as one block; or the corner of larger buffers `on`."""
        operands = list(self.operands if on is None else on)

        def region(number: int) -> TensorRegion:
            ranges = [tvm.ir.Range(0, int(d)) for d in self.operands[number].ty.shape]
            return tirx.BufferRegion(operands[number], ranges)

        body = substitute(self.body, dict(zip(self.operands, operands, strict=True))) if body is None else body
        reads, writes = ([region(n) for n in order] for order in self._accesses())
        root = s_tir.SBlock([], reads, writes, "root", body)
        func = tirx.PrimFunc(operands, s_tir.SBlockRealize([], True, root)).with_attr({"s_tir": True, "tirx.noalias": True})
        return s_tir.transform.StmtSimplify()(tvm.IRModule({"main": func}))["main"]

    def _accesses(self) -> tuple[list[int], list[int]]:
        """Numbers of the operands read and written, each in the order in which blocks declare them: TVM compares regions in order."""
        blocks: list[s_tir.SBlock] = []
        structural_walk(self.body, [(s_tir.SBlock, blocks.append)], order="pre")

        def numbers(regions: list[Any]) -> list[int]:
            found = [n for r in regions for n, b in enumerate(self.operands) if b.same_as(r.source)]
            return list(dict.fromkeys(found))

        return numbers([r for b in blocks for r in b.reads]), numbers([r for b in blocks for r in b.writes])


@dataclass(frozen=True, eq=False)
class Block:
    """A building block on operands of certain shapes.

    Attributes
    ----------
    function : CFunction
        Portable C and assembly; the same for all shapes that are arguments to it.
    intrinsic : str
        Name of the `TensorIntrin`.
    meaning : Meaning
    before : tuple of CFunction
        What is called before it or by it.
    """

    function: CFunction
    intrinsic: str
    meaning: Meaning
    before: tuple[CFunction, ...] = ()

    @property
    def description(self) -> tirx.PrimFunc:
        """What it computes, in TIR."""
        return TensorIntrin.get(self.intrinsic).desc

    @property
    def implementation(self) -> tirx.PrimFunc:
        """The call, in TIR."""
        return TensorIntrin.get(self.intrinsic).impl


Arguments = Callable[..., Sequence[Any]]


def block(function: CFunction, meaning: Meaning, arguments: Arguments, before: Sequence[tuple[CFunction, Arguments]] = ()) -> Block:
    """Register the intrinsic that means `meaning` and calls `function` with `arguments(*operands)`. Equal ones are one intrinsic.

    `before` are further functions with their arguments, called in this order before `function`.
    """
    description, call = meaning.prim_func(), [_fresh(b) for b in meaning.operands]
    name = f"tvm_tiny.{function.name.removeprefix(PREFIX)}.{structural_hash(description) & 0xFFFFFFFFFFFFFFFF:016x}"
    if TensorIntrin.get(name, allow_missing=True) is None:
        calls = [tirx.Evaluate(tirx.call_extern("int32", f.name, *given(*call))) for f, given in (*before, (function, arguments))]
        TensorIntrin.register(name, description, meaning.prim_func(calls[0] if len(calls) == 1 else tirx.SeqStmt(calls), call))
    return Block(function, name, meaning, tuple(f for f, _ in before))


def address(buffer: tirx.Var, *at: int) -> tvm.ir.Expr:
    """The address of an element, by default the first; one past the last is fine."""
    return tirx.address_of(tirx.BufferLoad(buffer, list(at) or [0] * len(buffer.ty.shape)))


def cast(ctype: str, pointer: tvm.ir.Expr) -> tvm.ir.Expr:
    """A pointer as another type, printed as a C cast."""
    return tirx.call_pure_extern("handle", f"({ctype})", pointer)


def _fresh(buffer: tirx.Var) -> tirx.Var:
    shape, strides = ([int(v) for v in values] for values in (buffer.ty.shape, buffer.ty.strides))
    return tirx.decl_buffer(shape, str(buffer.ty.dtype), str(buffer.name), strides=strides or None, offset_factor=1)
