# SPDX-License-Identifier: Apache-2.0
"""TIR that the blocks' descriptions are written with: nests of one block, local sums, and the instructions' arithmetic.

Sums are int64 and cut to int32 where they are used, as registers that wrap around do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorRegion

from tvm_tiny.schedules.layer_form import whole
from tvm_tiny.schedules.microkernels.requantize import RequantShape
from tvm_tiny.schedules.requantize_forms import Form

Body = Callable[..., list[tirx.Stmt]]
Reads = Callable[..., Sequence[TensorRegion]]


def operand(name: str, shape: Sequence[int], dtype: str, strides: Sequence[int] | None = None) -> tirx.Var:
    """A buffer that may be a part of a larger one; strides in elements, compact where there are none."""
    return tirx.decl_buffer(list(shape), dtype, name, strides=None if strides is None else list(strides), offset_factor=1)


def load(buffer: tirx.Var, *at: Any) -> Any:
    """An element."""
    return tirx.BufferLoad(buffer, list(at))


def store(buffer: tirx.Var, value: Any, *at: Any) -> tirx.Stmt:
    """Assign an element; the value is cut to the buffer's type."""
    dtype = str(buffer.ty.dtype)
    value = value if isinstance(value, tvm.ir.Expr) else tirx.const(value, dtype)
    return tirx.BufferStore(buffer, value if str(value.ty.dtype) == dtype else value.astype(dtype), list(at))


def loop(name: str, extent: Any, body: Callable[[Any], list[tirx.Stmt]]) -> tirx.Stmt:
    """Statements repeated."""
    var = tirx.Var(name, "int32")
    return tirx.For(var, 0, extent, tirx.ForKind.SERIAL, sequence(body(var)))


def sequence(statements: Sequence[tirx.Stmt]) -> tirx.Stmt:
    """One statement of several."""
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))


def nest(name: str, axes: dict[str, int], buffers: Sequence[tirx.Var], body: Body, reads: Reads | None = None) -> tirx.Stmt:
    """Loops over `axes` around one block that reads and writes `buffers`; `body(*axes)` makes its statements.

    Axes of length one have no loop, as TVM leaves none when it simplifies a description. What statements read is found from them, unless
    `reads(*axes)` says what an element reads of some of the buffers, which may be more: functions load words.
    """
    long = [axis for axis, extent in axes.items() if extent > 1]
    inner = {axis: tirx.IterVar(tvm.ir.Range(0, axes[axis]), tirx.Var(f"v_{axis}", "int32"), tirx.IterVar.DataPar) for axis in long}
    at = [inner[axis].var if axis in inner else tirx.const(0, "int32") for axis in axes]
    statements = sequence(body(*at))
    iterators = [inner[axis] for axis in long]
    bare = s_tir.SBlock(iterators, [], [], name, statements)
    found, writes = s_tir.analysis.get_sblock_read_write_region(bare, {b: b for b in buffers})
    written, said = [w.source for w in writes], [] if reads is None else [*reads(*at)]
    found = [next((s for s in said if s.source.same_as(r.source)), r) for r in found]
    found = [r for r in found if not any(r.source.same_as(w) for w in written)]
    told = [*written, *(r.source for r in found)]
    found += [whole(b) for b in buffers if not any(b.same_as(t) for t in told)]  # the function reads it all the same
    loops = [tirx.Var(axis, "int32") for axis in long]
    stmt: tirx.Stmt = s_tir.SBlockRealize(loops, True, s_tir.SBlock(iterators, found, writes, name, statements))
    for var, axis in reversed(list(zip(loops, long, strict=True))):
        stmt = tirx.For(var, 0, axes[axis], tirx.ForKind.SERIAL, stmt)
    return stmt


def region(buffer: tirx.Var, *places: tuple[Any, int]) -> TensorRegion:
    """Part of a buffer: first and extent of every axis."""
    return tirx.BufferRegion(buffer, [tvm.ir.Range.from_min_extent(first, extent) for first, extent in places])


def sums_of(axes: dict[str, int], count: int = 1) -> tirx.Var:
    """Where a nest over `axes` keeps `count` sums an element; what is left there afterwards means nothing."""
    return operand("sums", (*axes.values(), count), "int64")


# ---------------------------------------------------------------- arithmetic of the instructions


def wide(value: Any) -> Any:
    """As int64."""
    return value.astype("int64")


def halfword(word: Any, half: int) -> Any:
    """The low (0) or high (1) half of an int32 word, signed."""
    return (word >> (16 * half)).astype("int16").astype("int32") if half else word.astype("int16").astype("int32")


def byte(word: Any, index: int) -> Any:
    """One of the four bytes of an int32 word, signed."""
    return (word >> (8 * index)).astype("int8").astype("int32") if index else word.astype("int8").astype("int32")


def requantised(shape: RequantShape, acc: Any, constants: Sequence[Any]) -> Any:
    """The int8 of an int32 accumulator that holds its scale and offset (`requantize_forms`); constants are int32, word by word."""
    multiplier, constant = constants[:2]
    if shape.form is Form.SINGLE:
        high = ((wide(acc) * wide(multiplier)) >> 32) + wide(constant)
    else:
        twice = acc * 2 if shape.scale_log2 == 0 else acc >> (shape.scale_log2 - 1)
        high = ((wide(twice) * wide(multiplier) + tirx.const(1 << 31, "int64")) >> 32) + wide(constant) + wide(acc >> 31)
    value = high >> (tirx.const(shape.shift, "int64") if shape.shift is not None else wide(constants[2]))
    low, top = shape.clamp or (-128, 127)
    return tirx.max(tirx.min(value, tirx.const(top, "int64")), tirx.const(low, "int64")).astype("int8")
