# SPDX-License-Identifier: Apache-2.0
"""A layer's TIR in the forms that are tensorized: the layer's own meaning, plus the buffers a kernel wants beside its arguments.

A generated kernel reads its constants recoded (`packed`) and works in `scratch`. Neither is in the operator's definition, so the forms
declare them where the layer is one block: `packed` is read by it, `scratch` and every intermediate tensor (`pad`, `acc`) may be overwritten
by it. That makes them arguments a `TensorIntrin` can bind, without changing what is computed.

  whole_layer   the function's statements inside one block "layer"; only lookups are written as searches, which TVM can compare.
  per_element   one block "layer" an output element, the sum over the window inside: its loops can be split, and any sub-nest tensorized.

Both come out simplified as TVM simplifies the description of an intrinsic before it compares, unit loops gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad, TensorRegion
from tvm.sym import Analyzer
from tvm_ffi import structural_equal, structural_map, structural_walk

BLOCK = "layer"


@dataclass(frozen=True)
class KernelBuffers:
    """Bytes of the buffers a kernel has beside the layer's own: packed constants and scratch, one entry each."""

    packed: tuple[int, ...] = ()
    scratch: tuple[int, ...] = ()

    def declare(self) -> tuple[list[tirx.Var], list[tirx.Var]]:
        """New uint8 buffers."""

        def all_of(name: str, sizes: Sequence[int]) -> list[tirx.Var]:
            names = [name] if len(sizes) == 1 else [f"{name}{i}" for i in range(len(sizes))]
            return [tirx.decl_buffer((n,), "uint8", label) for label, n in zip(names, sizes, strict=True)]

        return all_of("packed", self.packed), all_of("scratch", self.scratch)


def whole_layer(func: tirx.PrimFunc, buffers: KernelBuffers) -> tirx.PrimFunc:
    """The layer as one block. Parameters: the arguments, packed, the output, scratch."""
    func = _without_lookups(func)
    root = func.body.block
    *arguments, output = func.params
    packed, scratch = buffers.declare()
    reads = [whole(b) for b in (*arguments, *packed)]
    writes = [whole(b) for b in (*root.alloc_buffers, output, *scratch)]
    block = s_tir.SBlock([], reads, writes, BLOCK, root.body)
    return _function([*arguments, *packed, output, *scratch], s_tir.SBlockRealize([], True, block), root.alloc_buffers)


def per_element(func: tirx.PrimFunc, activations: int, buffers: KernelBuffers) -> tirx.PrimFunc | None:
    """The layer as a nest over its output elements; None when it is neither a map nor a sum followed by a map.

    Padding is inlined where there is any. Of the first `activations` arguments an element reads its window, of the others all.
    """
    func = _without_padding(func)
    stages = [realize.block for realize in _stages(func)]
    if len(stages) not in (1, 2):
        return None
    last, sums = stages[-1], stages[0].writes[0].source if len(stages) == 2 else None
    if any(iv.iter_type != tirx.IterVar.DataPar for iv in last.iter_vars):
        return None
    before = [] if sums is None else _sum(stages[0], last)
    packed, scratch = buffers.declare()
    *arguments, output = func.params
    regions = [*last.reads] if sums is None else [*_window(stages[0], last), *last.reads]
    reads = [_region_of(a, regions) for a in arguments[:activations]] + [whole(b) for b in (*arguments[activations:], *packed)]
    here = [tvm.ir.Range.from_min_extent(iv.var, 1) for iv in last.iter_vars]
    writes = [*([tirx.BufferRegion(sums, here)] if sums is not None else []), tirx.BufferRegion(output, here), *map(whole, scratch)]
    body = tirx.SeqStmt([*before, last.body]) if before else last.body
    return _function([*arguments, *packed, output, *scratch], _nest(last.iter_vars, reads, writes, body), [] if sums is None else [sums])


def _nest(iter_vars: Sequence[tirx.IterVar], reads: Sequence[TensorRegion], writes: Sequence[TensorRegion], body: tirx.Stmt) -> tirx.Stmt:
    """The block under its loops; axes of length one are gone."""
    long = [iv for iv in iter_vars if int(iv.dom.extent) > 1]
    block = s_tir.SBlock(long, reads, writes, BLOCK, body)
    block = substitute(block, {iv.var: iv.dom.min for iv in iter_vars if int(iv.dom.extent) == 1})
    loops = [tirx.Var(f"i{n}", "int32") for n in range(len(long))]
    nest: tirx.Stmt = s_tir.SBlockRealize(loops, True, block)
    for loop, iv in reversed(list(zip(loops, long, strict=True))):
        nest = tirx.For(loop, iv.dom.min, iv.dom.extent, tirx.ForKind.SERIAL, nest)
    return nest


def substitute(node: Any, mapping: Mapping[tirx.Var, Any]) -> Any:
    """`node` with variables (buffers too) replaced."""
    return structural_map(node, [(tvm.ir.Var, lambda v: mapping.get(v, v))])


def whole(buffer: tirx.Var) -> TensorRegion:
    """All of a buffer."""
    return tirx.BufferRegion(buffer, [tvm.ir.Range(0, int(d)) for d in buffer.ty.shape])


def without(func: tirx.PrimFunc, dropped: Sequence[tirx.Var]) -> tirx.PrimFunc:
    """`func` without parameters nothing computes with, wherever blocks still declare or bind them; local buffers go as well."""
    gone = [*dropped, *func.body.block.alloc_buffers]

    def kept(source: tirx.Var) -> bool:
        return not any(source.same_as(b) for b in gone)

    def strip(block: s_tir.SBlock) -> s_tir.SBlock:
        return s_tir.SBlock(
            block.iter_vars,
            [r for r in block.reads if kept(r.source)],
            [r for r in block.writes if kept(r.source)],
            block.name_hint,
            block.body,
            block.init,
            [b for b in block.alloc_buffers if kept(b)],
            [m for m in block.match_buffers if kept(m.source.source)],
            block.annotations,
        )

    body = structural_map(func.body, [(s_tir.SBlock, strip)])
    return tirx.PrimFunc([p for p in func.params if kept(p)], body).with_attrs(dict(func.attrs.items()))


def _function(params: Sequence[tirx.Var], body: tirx.Stmt, allocated: Sequence[tirx.Var]) -> tirx.PrimFunc:
    root = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body, alloc_buffers=list(allocated)))
    func = tirx.PrimFunc(list(params), root).with_attr({"s_tir": True, "tirx.noalias": True})
    return s_tir.transform.StmtSimplify()(tvm.IRModule({"main": func}))["main"]


def _without_lookups(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Elements that are read at a computed index are found by going through all of them: TVM compares no computed indices."""

    def search(store: tirx.BufferStore) -> tirx.Stmt:
        load = _lookup(store.value)
        if load is None:
            return store
        n = tirx.Var("entry", "int32")
        entry, held = tirx.BufferLoad(load.source, [n]), tirx.BufferLoad(store.buffer, store.indices)
        value = structural_map(store.value, [(TensorLoad, lambda other: entry if structural_equal(other, load) else other)])
        found = tirx.Select(load.indices[0].equal(n), value, held)
        loop = tirx.For(n, 0, load.source.ty.shape[0], tirx.ForKind.SERIAL, tirx.BufferStore(store.buffer, found, store.indices))
        if any(other.source.same_as(store.buffer) for other in _loads(store.value)):
            return loop  # a sum goes on from what is held
        return tirx.SeqStmt([tirx.BufferStore(store.buffer, tirx.const(0, str(store.buffer.ty.dtype)), store.indices), loop])

    def declare(block: s_tir.SBlock) -> s_tir.SBlock:
        reads = [whole(r.source) if any(_is_computed(i.min) for i in r.region) else r for r in block.reads]
        return s_tir.SBlock(block.iter_vars, reads, block.writes, block.name_hint, block.body, block.init, block.alloc_buffers)

    body = structural_map(func.body, [(tirx.BufferStore, search)])
    return func if body.same_as(func.body) else func.with_body(structural_map(body, [(s_tir.SBlock, declare)]))


def _lookup(value: tvm.ir.Expr) -> TensorLoad | None:
    """The one element that `value` reads at a computed index; None when there is none, or several."""
    found = [load for load in _loads(value) if len(load.indices) == 1 and _is_computed(load.indices[0])]
    return found[0] if found and all(structural_equal(load, found[0]) for load in found) else None


def _is_computed(index: tvm.ir.Expr) -> bool:
    """Whether an index depends on what tensors hold."""
    return bool(_loads(index))


def _loads(value: tvm.ir.Expr) -> list[TensorLoad]:
    loads: list[TensorLoad] = []
    structural_walk(value, [(TensorLoad, loads.append)])
    return loads


def _without_padding(func: tirx.PrimFunc) -> tirx.PrimFunc:
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    names = [sch.get(b).name_hint for b in sch.get_child_blocks(sch.get_sblock("root"))]
    if "pad" in names:
        sch.compute_inline(sch.get_sblock("pad"))
    return sch.mod["main"]


def _stages(func: tirx.PrimFunc) -> list[s_tir.SBlockRealize]:
    """The blocks of a function made of plain nests, in order."""
    body = func.body.block.body
    found = []
    for stmt in body.seq if isinstance(body, tirx.SeqStmt) else [body]:
        while isinstance(stmt, tirx.For):
            stmt = stmt.body
        found.append(stmt)
    return found


def _split_vars(sums: s_tir.SBlock, last: s_tir.SBlock) -> tuple[dict[tirx.Var, tirx.Var], list[Any]]:
    """The sum's spatial variables as those of the block that uses it, and its reduction variables."""
    spatial = [iv.var for iv in sums.iter_vars if iv.iter_type == tirx.IterVar.DataPar]
    reduced = [iv for iv in sums.iter_vars if iv.iter_type != tirx.IterVar.DataPar]
    return dict(zip(spatial, (iv.var for iv in last.iter_vars), strict=True)), reduced


def _sum(sums: s_tir.SBlock, last: s_tir.SBlock) -> list[tirx.Stmt]:
    """Statements that clear and accumulate one element of the sum."""
    same, reduced = _split_vars(sums, last)
    loops = {iv.var: tirx.Var(str(iv.var.name).removeprefix("v_"), "int32") for iv in reduced}
    update = substitute(sums.body, same | loops)
    for iv in reversed(reduced):
        update = tirx.For(loops[iv.var], iv.dom.min, iv.dom.extent, tirx.ForKind.SERIAL, update)
    return [substitute(sums.init, same), update]


def _window(sums: s_tir.SBlock, last: s_tir.SBlock) -> list[TensorRegion]:
    """What the sum of one element reads: windows grow with every reduction variable."""
    same, reduced = _split_vars(sums, last)
    first = same | {iv.var: iv.dom.min for iv in reduced}
    end = same | {iv.var: iv.dom.min + iv.dom.extent - 1 for iv in reduced}
    analyzer = Analyzer()

    def extent(r: tvm.ir.Range) -> tvm.ir.Range:
        low = substitute(r.min, first)
        return tvm.ir.Range.from_min_extent(analyzer.simplify(low), analyzer.simplify(substitute(r.min, end) - low + r.extent))

    return [tirx.BufferRegion(region.source, [extent(r) for r in region.region]) for region in sums.reads]


def _region_of(argument: tirx.Var, regions: Sequence[TensorRegion]) -> TensorRegion:
    found = [r for r in regions if r.source.same_as(argument)]
    return found[0] if len(found) == 1 else whole(argument)
