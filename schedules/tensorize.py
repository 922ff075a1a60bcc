# SPDX-License-Identifier: Apache-2.0
"""From a generated microkernel to a tensorized schedule of its layer.

A `TensorIntrin` is registered for every kernel: its description is the layer's own TIR (`layer_form`), requantisation and all, on the
shape of one call; its implementation is the call of the generated C. `sch.tensorize` then proves, statement by statement, that the
nest it replaces is that description. What remains of the layer in TIR are the loops outside the call. Constants that the
kernel has in `packed` leave the parameter list.

The kernel is called as `name(activations…, out, packed or 0, scratch or 0)`. Names of C functions start with `PREFIX`, which code
generation replaces by the model's own, so that two models link into one image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import tvm
from tvm import s_tir, tirx
from tvm.s_tir import Schedule, TensorIntrin
from tvm_ffi import structural_hash

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.ops import registry
from tvm_tiny.ops.registry import TensorInfo
from tvm_tiny.schedules.base import Layer, annotate
from tvm_tiny.schedules.layer_form import BLOCK, KernelBuffers, per_element, substitute, whole, whole_layer, without
from tvm_tiny.schedules.memo import remembered
from tvm_tiny.schedules.microkernels import CFunction, MicroKernel
from tvm_tiny.schedules.microkernels.c_source import PREAMBLE
from tvm_tiny.schedules.nests.base import Nest, remember
from tvm_tiny.schedules.overlap import to_attribute

Rights = Sequence[list[Any]] | Mapping[int, list[list[Any]]]
Loops = Callable[..., tirx.Stmt]


def tensorized(
    kernel: MicroKernel,
    func: tirx.PrimFunc,
    rule: str,
    *,
    rows: int | None = None,
    nest: Nest | None = None,
    rights: Rights = (),
    scratch_rights: Mapping[int, list[list[Any]]] | None = None,
    fetched: Sequence[int] = (),
    **notes: Any,
) -> Schedule:
    """Return a schedule of the layer `func` (as `lower-ops` made it: output last) whose inner nest is `kernel`.

    The kernel takes the activations in their order among the arguments, wherever constants stand between them.

    Parameters
    ----------
    rows : int, optional
        What the kernel computes of the outermost axis of the output that is longer than one: an even part, and the schedule loops over
        the parts. None = all of the layer in one call. Only layers without padding have parts that are all alike. A part of one row
        needs a further axis that is longer than one.
    nest : Nest, optional
        Loops and calls of blocks that take the place of the kernel's function (`schedules/nests`).
    rights : sequence of [order, distance], or a mapping from the activation's number to one
        How the output may lie over any of the activations (`tvm_tiny.memory.plan.Right`); alternatives.
    scratch_rights : mapping
        The same for the scratch buffer over activations.
    fetched : sequence of int
        Activations that are no arrays but functions of the application (`schedules/fetch.py`).
    notes
        Further entries of `tiny.kernel`.
    """
    functions, renamed = named_by_content(kernel.functions if nest is None else nest.functions)
    name = renamed[kernel.name if nest is None else nest.functions[-1].name]
    order = _activations_first(func, kernel.inputs)
    func = _reordered(func, order)
    scratch_bytes = kernel.scratch_bytes if nest is None else nest.scratch_bytes
    buffers = KernelBuffers((len(kernel.packed),) if kernel.packed else (), (scratch_bytes,) if scratch_bytes else ())
    if rows is not None:
        main, intrinsic = _in_parts(func, name, order, kernel.inputs, buffers, rows)
    elif nest is not None:
        main, intrinsic = _as_nest(func, name, kernel.inputs, buffers, nest, renamed)
    else:
        main, intrinsic = _as_one_function(func, name, kernel.inputs, buffers)
    body = without(main, main.params[kernel.inputs : len(func.params) - 1])
    choices = kernel.choices if rows is None else {**kernel.choices, "rows": rows}
    keep = {k: v for k, v in func.attrs.items() if k.startswith("tiny.")}
    return annotate(
        Schedule(tvm.IRModule({"main": body.with_attrs(keep)})),
        {"rule": rule, "kernel": name.removeprefix(PREFIX), **{k: str(v) for k, v in choices.items()}, **notes},
        args=[*(f"arg:{i}" for i in order[: kernel.inputs]), *(f"packed:{i}" for i in range(len(buffers.packed)))],
        packed=[tvm.runtime.tensor(np.frombuffer(kernel.packed, np.uint8))] if kernel.packed else [],
        c_sources=[["preamble", PREAMBLE], *([f.name, f.source] for f in functions)],
        intrinsics=[intrinsic],
        **({"scratch": list(buffers.scratch)} if buffers.scratch else {}),
        **_overlap(kernel, rights, scratch_rights or {}),
        **({"fetched": list(fetched)} if fetched else {}),
    )


def _overlap(kernel: MicroKernel, rights: Rights, scratch_rights: Mapping[int, list[list[Any]]]) -> dict[str, str]:
    """The attribute `tiny.overlap`: rights of the output (0) and of scratch (1) over activations."""
    each = rights if isinstance(rights, Mapping) else {i: list(rights) for i in range(kernel.inputs)}
    return to_attribute({f"0:{i}": each[i] for i in each if each[i]} | {f"1:{i}": found for i, found in scratch_rights.items()})


def _activations_first(func: tirx.PrimFunc, activations: int) -> list[int]:
    """Numbers of the arguments, those the kernel takes first."""
    layer, numbers = Layer.of(func), list(range(len(func.params) - 1))
    computed = [i for i in numbers if layer is not None and i not in layer.constants]
    return [*computed, *(i for i in numbers if i not in computed)] if len(computed) == activations else numbers


def _reordered(func: tirx.PrimFunc, order: Sequence[int]) -> tirx.PrimFunc:
    """The function with its arguments in another order."""
    params = [*(func.params[i] for i in order), func.params[-1]]
    new = tirx.PrimFunc(params, func.body)
    return new.with_attrs(dict(func.attrs.items())) if func.attrs is not None else new


def _as_nest(
    func: tirx.PrimFunc, name: str, activations: int, buffers: KernelBuffers, nest: Nest, renamed: Mapping[str, str]
) -> tuple[tirx.PrimFunc, str]:
    """The layer as loops and calls; what they came from is remembered, to be shown."""
    main, intrinsic = _in_one_call(func, name, activations, buffers, lambda *around: nest.on(around, renamed))
    remember(intrinsic, nest)
    return main, intrinsic


def _as_one_function(func: tirx.PrimFunc, name: str, activations: int, buffers: KernelBuffers) -> tuple[tirx.PrimFunc, str]:
    bare = tirx.PrimFunc(func.params, func.body).with_attr({"s_tir": True, "tirx.noalias": True})
    return remembered(bare, (name, activations, buffers), partial(_in_one_call, bare, name, activations, buffers, None))


def _in_one_call(
    func: tirx.PrimFunc, name: str, activations: int, buffers: KernelBuffers, loops: Loops | None
) -> tuple[tirx.PrimFunc, str]:
    form = whole_layer(func, buffers)
    sch = Schedule(tvm.IRModule({"main": form}))
    layer = sch.get_sblock(BLOCK)
    intrinsic = register_intrinsic(name, form, sch.get(layer).body, activations, buffers, loops)
    sch.tensorize(layer, intrinsic)
    return sch.mod["main"], intrinsic


def _in_parts(
    func: tirx.PrimFunc, name: str, order: Sequence[int], activations: int, buffers: KernelBuffers, rows: int
) -> tuple[tirx.PrimFunc, str]:
    layer, form = Layer.of(func), per_element(func, activations, buffers)
    assert layer is not None, name
    assert form is not None, f"{name}: the layer is no nest over its elements"
    sch = Schedule(tvm.IRModule({"main": form}))
    loops = sch.get_loops(sch.get_sblock(BLOCK))
    part = sch.blockize(sch.split(loops[0], [None, rows])[1] if rows > 1 else loops[1])
    shapes = {region.source: tuple(int(r.extent) for r in region.region) for region in sch.get(part).reads}
    infos = {i: TensorInfo(shapes[p], str(p.ty.dtype)) for i, p in zip(order, func.params, strict=False)}
    of_a_part = registry.get(layer.op).primfunc([infos[i] for i in sorted(infos)], layer.attrs)
    small = per_element(_reordered(of_a_part, order), activations, buffers)
    assert small is not None, name
    intrinsic = register_intrinsic(name, small, small.body.block.body, activations, buffers)
    sch.tensorize(part, intrinsic)
    return sch.mod["main"], intrinsic


def register_intrinsic(
    function: str, form: tirx.PrimFunc, body: tirx.Stmt, activations: int, buffers: KernelBuffers, loops: Loops | None = None
) -> str:
    """Register the intrinsic whose meaning is `body` of the layer `form` and which calls the C function `function`; returns its name.

    Its parameters are those of `form` and then the intermediate tensors. Equal kernels of equal meaning are one intrinsic. With `loops` the
    implementation is what they make of the activations, packed, output and scratch, and `function` is one of those it calls.
    """
    description, implementation = (_Intrinsic(form, activations, buffers) for _ in range(2))
    meaning = description.func(substitute(body, description.of))
    call = implementation.func(implementation.call(function) if loops is None else loops(*implementation.outside))
    meant = structural_hash(meaning) if loops is None else hash((structural_hash(meaning), structural_hash(call)))
    name = f"tvm_tiny.{function.removeprefix(PREFIX)}.{meant & 0xFFFFFFFFFFFFFFFF:016x}"
    if TensorIntrin.get(name, allow_missing=True) is None:
        TensorIntrin.register(name, meaning, call)
    return name


class _Intrinsic:
    """Parameters of an intrinsic: buffers like a layer's, each of which may be a part of another one."""

    def __init__(self, form: tirx.PrimFunc, activations: int, buffers: KernelBuffers) -> None:
        inner = list(form.body.block.alloc_buffers)
        self.of = {b: _anywhere(b) for b in (*form.params, *inner)}
        params, packed, scratch = list(self.of.values()), len(buffers.packed), len(buffers.scratch)
        end = len(form.params) - scratch
        self.reads, self.output, self.scratch = params[: end - 1], params[end - 1], params[end : end + scratch]
        self.inputs, self.packed = self.reads[:activations], self.reads[end - 1 - packed :]
        self.inner = params[len(form.params) :]

    @property
    def outside(self) -> list[tirx.Var]:
        """Activations, packed constants, output, scratch."""
        return [*self.inputs, *self.packed, self.output, *self.scratch]

    def func(self, body: tirx.Stmt) -> tirx.PrimFunc:
        """The parameters with a body; reads and writes in the order of the layer's block."""
        writes = [*self.inner, self.output, *self.scratch]
        root = s_tir.SBlock([], [whole(b) for b in self.reads], [whole(b) for b in writes], "root", body)
        return tirx.PrimFunc(list(self.of.values()), s_tir.SBlockRealize([], True, root)).with_attr("s_tir", True)

    def call(self, function: str) -> tirx.Stmt:
        """The generated C; where there are no constants or there is no scratch it gets a null pointer."""
        null = [tirx.const(0, "int32")]
        pointers = [_address(b) for b in (*self.inputs, self.output)]
        pointers += [_address(b) for b in self.packed] or null
        pointers += [_address(b) for b in self.scratch] or null
        return tirx.Evaluate(tirx.call_extern("int32", function, *pointers))


def _anywhere(buffer: tirx.Var) -> tirx.Var:
    return tirx.decl_buffer([int(d) for d in buffer.ty.shape], str(buffer.ty.dtype), str(buffer.name), offset_factor=1)


def _address(buffer: tirx.Var) -> tvm.ir.Expr:
    return tirx.address_of(tirx.BufferLoad(buffer, [0] * len(buffer.ty.shape)))


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
        used = tuple((name, renamed[name]) for name in _names(function.source) if name in renamed)
        result.append(_named(function, used))
        renamed[function.name] = result[-1].name
    return result, renamed


@lru_cache(maxsize=4096)
def _names(text: str) -> tuple[str, ...]:
    """What a text names that is renamed, each once."""
    return tuple(dict.fromkeys(re.findall(rf"\b{PREFIX}\w+", text)))


@lru_cache(maxsize=4096)
def _named(function: CFunction, used: tuple[tuple[str, str], ...]) -> CFunction:
    """A function under the name of its text, in which other functions were renamed: (old, new)."""
    text = _substitute(function.source, dict(used))
    stem = re.sub(r"_([0-9a-f]{8}|[0-9a-f]{10})$", "", function.name.removeprefix(PREFIX))
    digest = hashlib.sha256(_substitute(text, {function.name: "@"}).encode()).hexdigest()[:10]
    name = f"{PREFIX}{stem}_{digest}"
    return CFunction(name, _substitute(text, {**dict(used), function.name: name}))


def _substitute(text: str, names: Mapping[str, str]) -> str:
    return re.sub(rf"\b{PREFIX}\w+", lambda m: names.get(m.group(), m.group()), text)
