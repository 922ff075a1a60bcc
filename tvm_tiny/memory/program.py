# SPDX-License-Identifier: Apache-2.0
"""The lowered module as a straight list of kernel calls over named buffers: what planning and code generation both read.

A lowered module's `main` is one dataflow block of

    y  = R.call_tir(kernel, (x, consts…), out)             one output
    t  = R.call_tir(kernel, (x, consts…), [out, scratch])  outputs, then scratch buffers (`tiny.num_outputs` of them are outputs)
    y  = t[0]
    z  = tiny.reshape(y)                                   another name for the same bytes

`extract` turns it into a `Program`; nothing is decided here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import numpy as np
import tvm
from tvm import relax, tirx

from tvm_tiny.memory.rights import Rights, granted

ALIASING_OPS = frozenset({"tiny.reshape", "relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten"})


@dataclass(frozen=True)
class TensorInfo:
    """A model input or output as the user knows it.

    `scale`/`zero_point` are None for float tensors. `fetched`: the application hands it over through a function.
    """

    name: str
    c_name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None
    buffer: str
    fetched: bool = False

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class BufferInfo:
    """Bytes in the arena.

    `kind` is input, output, intermediate or scratch; or external: a tensor that stays in the caller's memory, whole (float) or fetched.
    """

    name: str
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class KernelCall:
    """One call of a kernel: its arguments in order, each ("buffer" | "constant", name), and the aliasing rights granted to it."""

    kernel: str
    args: tuple[tuple[str, str], ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    scratch: tuple[str, ...]
    op: str
    layer: str
    macs: int
    rights: Rights = field(default_factory=dict)


@dataclass
class Program:
    """A network ready to be planned and printed. `decisions` is what passes and the search leave for the report (`_DECISIONS`)."""

    name: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    buffers: dict[str, BufferInfo] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    kernels: dict[str, tirx.PrimFunc] = field(default_factory=dict)
    calls: list[KernelCall] = field(default_factory=list)
    model: dict = field(default_factory=dict)
    decisions: dict = field(default_factory=dict)

    def is_external_input(self, buffer: str) -> bool:
        """An input that is read where the caller has it."""
        return any(t.buffer == buffer and self.is_external(t) and not t.fetched for t in self.inputs)

    def is_fetched(self, buffer: str) -> bool:
        """The buffer is an input that the application hands over through a function."""
        return any(t.fetched and t.buffer == buffer for t in self.inputs)

    def is_external(self, tensor: TensorInfo) -> bool:
        """The tensor stays in the caller's memory."""
        return self.buffers[tensor.buffer].kind == "external"


def extract(mod: tvm.IRModule, name: str) -> Program:
    """Read a lowered module (see the module's docstring) as a `Program` called `name`."""
    return _Extractor(mod, name).run()


def model_info(mod: tvm.IRModule) -> dict:
    """The module's `tiny.model` attribute (see `tvm_tiny.frontend`) as a dictionary; empty when the module has none."""
    text = mod.attrs.get("tiny.model") if mod.attrs is not None else None
    return json.loads(str(text)) if text is not None else {}


_DECISIONS = ("recompute", "patches", "stream", "code", "curve", "cycles")


def _decisions(mod: tvm.IRModule) -> dict:
    found = {name: mod.attrs.get(f"tiny.{name}") for name in _DECISIONS} if mod.attrs is not None else {}
    return {name: json.loads(str(text)) for name, text in found.items() if text is not None}


class _Extractor:
    def __init__(self, mod: tvm.IRModule, name: str) -> None:
        self.mod = mod
        self.main = mod["main"]
        self.model = model_info(mod)
        self.program = Program(name, [], [], model=self.model, decisions=_decisions(mod))
        self.buffer_of: dict[relax.Var, str | tuple[str, ...]] = {}
        self.constant_names: dict[tuple, str] = {}

    def run(self) -> Program:
        for param in self.main.params:
            self._new_buffer(param, _unique(param.name, self.program.buffers), "input")
        for block in self.main.body.blocks:
            for binding in block.bindings:
                self._binding(binding)
        self._interface()
        return self.program

    def _binding(self, binding: relax.VarBinding) -> None:
        value = binding.value
        if isinstance(value, relax.Var):
            self.buffer_of[binding.var] = self.buffer_of[value]
        elif isinstance(value, relax.TupleGetItem):
            self.buffer_of[binding.var] = self.buffer_of[value.tuple_value][value.index]
        elif isinstance(value, relax.Tuple):
            self.buffer_of[binding.var] = tuple(str(self.buffer_of[v]) for v in value.fields)
        elif isinstance(value, relax.Call) and _op_name(value) in ALIASING_OPS:
            self.buffer_of[binding.var] = self.buffer_of[value.args[0]]
        elif isinstance(value, relax.Call) and _op_name(value) == "relax.call_tir":
            self._call(binding.var, value)
        else:
            raise ValueError(f"{binding.var.name}: {value} is not a lowered form")

    def _call(self, var: relax.Var, call: relax.Call) -> None:
        gvar, args = call.args[0], call.args[1]
        func = self.mod[gvar]
        arguments = [self._argument(a) for a in args.fields]
        out_type = call.ty_args[0]
        outs = list(out_type.fields) if isinstance(out_type, relax.TupleType) else [out_type]
        num_outputs = int(func.attrs.get("tiny.num_outputs", len(outs)))
        names = []
        for i, out in enumerate(outs):
            hint = var.name if i == 0 else f"{var.name}_scratch{i}" if i >= num_outputs else f"{var.name}_{i}"
            kind = "intermediate" if i < num_outputs else "scratch"
            names.append(self._add_buffer(hint, out, kind))
        self.buffer_of[var] = tuple(names) if len(outs) > 1 else names[0]
        self.program.kernels[gvar.name_hint] = func
        self.program.calls.append(
            KernelCall(
                kernel=gvar.name_hint,
                args=tuple(arguments + [("buffer", n) for n in names]),
                reads=tuple(n for kind, n in arguments if kind == "buffer"),
                writes=tuple(names[:num_outputs]),
                scratch=tuple(names[num_outputs:]),
                op=str(func.attrs.get("tiny.op", "float")),
                layer=names[0],
                macs=int(func.attrs.get("tiny.macs", 0)),
                rights=granted(call),
            )
        )

    def _argument(self, expr: relax.Expr) -> tuple[str, str]:
        if isinstance(expr, tvm.ir.GenericConst):
            return "constant", self._constant(expr.value.numpy())
        return "buffer", str(self.buffer_of[expr])

    def _constant(self, array: np.ndarray) -> str:
        """Equal constants are stored once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constant_names:
            name = f"c{len(self.constant_names)}"
            self.constant_names[key] = name
            self.program.constants[name] = array
        return self.constant_names[key]

    def _new_buffer(self, var: relax.Var, hint: str, kind: str) -> None:
        self.buffer_of[var] = self._add_buffer(hint, var.ty, kind)

    def _add_buffer(self, hint: str, type_: relax.TensorType, kind: str) -> str:
        name = _unique(hint, self.program.buffers)
        shape = tuple(int(d) for d in type_.shape.values)
        dtype = str(type_.dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        self.program.buffers[name] = BufferInfo(name, nbytes, dtype, shape, kind)
        return name

    def _interface(self) -> None:
        result = self.main.body.body
        outs = self.buffer_of[result] if not isinstance(result, relax.Tuple) else tuple(self.buffer_of[v] for v in result.fields)
        outs = outs if isinstance(outs, tuple) else (outs,)
        ins = [self.buffer_of[p] for p in self.main.params]
        taken: set[str] = set()
        self.program.inputs = self._tensors(ins, self.model.get("inputs", []), "input", taken)
        taken = set()
        self.program.outputs = self._tensors(outs, self.model.get("outputs", []), "output", taken)
        for name in map(str, outs):
            old = self.program.buffers[name]
            if old.kind != "input":
                self.program.buffers[name] = replace(old, kind="output")
        for name in map(str, [*ins, *outs]):
            if self._stays_outside(name):
                self.program.buffers[name] = replace(self.program.buffers[name], kind="external")

    def _stays_outside(self, name: str) -> bool:
        """A float input that is only quantised, a float output that nobody reads: four bytes an element that the arena need not hold."""
        buffer = self.program.buffers[name]
        readers = [call for call in self.program.calls if name in call.reads]
        if self._is_fetched(name):
            return True
        if not buffer.dtype.startswith("float"):
            return False
        if buffer.kind == "input":
            handed_out = any(t.buffer == name for t in self.program.outputs)
            return bool(readers) and all(call.op == "tiny.quantize" for call in readers) and not handed_out
        return buffer.kind == "output" and not readers

    def _is_fetched(self, name: str) -> bool:
        """A kernel takes it as a function of the application's."""
        for call in self.program.calls:
            for index in self.program.kernels[call.kernel].attrs.get("tiny.fetched", ()):
                if call.args[int(index)] == ("buffer", name):
                    return True
        return False

    def _tensors(self, buffers: tuple | list, infos: list[dict], fallback: str, taken: set[str]) -> list[TensorInfo]:
        tensors = []
        for i, name in enumerate(buffers):
            buffer = self.program.buffers[str(name)]
            info = infos[i] if i < len(infos) else {}
            title = info.get("name") or f"{fallback}_{i}"
            c_name = c_identifier(title, taken)
            shape = tuple(info.get("shape") or buffer.shape)
            quantization = info.get("scale"), info.get("zero_point")
            tensors.append(TensorInfo(title, c_name, shape, buffer.dtype, *quantization, buffer.name, self._is_fetched(buffer.name)))
        return tensors


_C_KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register restrict return "
    "short signed sizeof static struct switch typedef union unsigned void volatile while bool class new delete this template "
    "int8_t uint8_t int32_t".split()
)


def c_identifier(text: str, taken: set[str]) -> str:
    """A legal, unused C identifier that resembles `text`; it is added to `taken`."""
    ident = "".join(ch if ch.isascii() and (ch.isalnum() or ch == "_") else "_" for ch in text).strip("_") or "tensor"
    if ident[0].isdigit() or ident in _C_KEYWORDS:
        ident = f"t_{ident}"
    base, n = ident, 1
    while ident in taken:
        n += 1
        ident = f"{base}_{n}"
    taken.add(ident)
    return ident


def _unique(hint: str, taken: dict) -> str:
    name, n = hint, 1
    while name in taken:
        n += 1
        name = f"{hint}_{n}"
    return name


def _op_name(call: relax.Call) -> str:
    return call.op.name if isinstance(call.op, tvm.ir.Op) else ""
