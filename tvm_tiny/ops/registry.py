# SPDX-License-Identifier: Apache-2.0
"""What a `tiny.*` operator is, and the table of all of them.

An operator is one `TinyOp`: its arguments, its attributes with defaults, and four functions that give its meaning to the compiler
(type inference), to tests (numpy), to code generation (tensor expressions) and to reports (multiply-accumulates). `register` also makes it
a Relax operator, so that it prints, type-checks and is rewritten by stock TVM passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import tvm
from tvm import ir, relax, te, tirx

from tvm_tiny.errors import DialectError

Attrs = Mapping[str, Any]
"""Attributes as plain Python values: int, float, str, bool and lists of them."""


class TensorInfo(NamedTuple):
    """Static shape and dtype of one tensor."""

    shape: tuple[int, ...]
    dtype: str


class _Required:
    """Marks an attribute without a default."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Any = _Required()

COMMON_ATTRS: Attrs = {"source": "", "x_scale": 0.0, "y_scale": 0.0, "in_place": []}
"""Carried by every operator, without influence on its meaning: the source model's output tensor and scales (0.0 = unknown) for reports, and
the numbers of the arguments whose bytes the result may take (granted by the pass `in-place`)."""


@dataclass(frozen=True)
class TinyOp:
    """One operator of the dialect.

    Attributes
    ----------
    name : str
        Relax operator name, `tiny.<name>`.
    args : tuple of str
        Names of the tensor arguments. A last name with a leading `*` takes one or more tensors, one with a leading `?` one or none.
    infer_fn : (list of TensorInfo, attrs) -> TensorInfo
        Shape and dtype of the result; raises `DialectError` through `check` on a misuse.
    numpy_fn : (list of arrays, attrs) -> array
        The meaning, bit for bit.
    te_fn : (list of te.Tensor, attrs) -> te.Tensor
        The same meaning as integer tensor expressions; stages are named (`pad`, `acc`, `y`) for schedule rules.
    macs_fn : (list of shapes, attrs) -> int
        Nominal multiply-accumulates, padding included; 0 for data movement.
    attrs : mapping
        Attribute names and defaults; `REQUIRED` where there is none.
    """

    name: str
    args: tuple[str, ...]
    infer_fn: Callable[[list[TensorInfo], Attrs], TensorInfo]
    numpy_fn: Callable[[list[np.ndarray], Attrs], np.ndarray]
    te_fn: Callable[[list[te.Tensor], Attrs], te.Tensor]
    macs_fn: Callable[[list[tuple[int, ...]], Attrs], int] = lambda _shapes, _attrs: 0
    attrs: Attrs = field(default_factory=dict)

    def complete_attrs(self, attrs: Attrs) -> dict[str, Any]:
        """Return all attributes as plain Python values, defaults filled in.

        Raises
        ------
        DialectError
            An attribute is unknown or missing.
        """
        known = {**COMMON_ATTRS, **self.attrs}
        unknown = sorted(set(attrs) - set(known))
        check(not unknown, self.name, f"unknown attribute {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        full = {key: _plain(attrs.get(key, default)) for key, default in known.items()}
        missing = sorted(key for key, value in full.items() if value is REQUIRED)
        check(not missing, self.name, f"attribute {', '.join(missing)} has no default and is missing")
        return full

    def infer(self, infos: Sequence[TensorInfo], attrs: Attrs) -> TensorInfo:
        """Return shape and dtype of the result for arguments of the given shapes and dtypes."""
        self._check_arity(len(infos))
        return self.infer_fn([TensorInfo(tuple(int(d) for d in i[0]), str(i[1])) for i in infos], self.complete_attrs(attrs))

    def numpy(self, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        """Evaluate on arrays, exactly. Arguments are checked as the compiler checks them."""
        full = self.complete_attrs(attrs)
        out = self.infer([TensorInfo(a.shape, str(a.dtype)) for a in arrays], full)
        result = np.ascontiguousarray(self.numpy_fn(list(arrays), full))
        assert (result.shape, str(result.dtype)) == tuple(out), (self.name, result.shape, result.dtype, out)
        return result

    def primfunc(self, arg_infos: Sequence[TensorInfo], attrs: Attrs) -> tirx.PrimFunc:
        """Return the unscheduled TIR function. Parameters: the arguments in order, then the output."""
        self.infer(arg_infos, attrs)
        inputs = [te.placeholder(info[0], info[1], name=name) for info, name in zip(arg_infos, self.arg_names(len(arg_infos)), strict=True)]
        return te.create_prim_func([*inputs, self.te_fn(inputs, self.complete_attrs(attrs))])

    def macs(self, shapes: Sequence[tuple[int, ...]], attrs: Attrs) -> int:
        """Return the nominal number of multiply-accumulates."""
        return self.macs_fn([tuple(s) for s in shapes], self.complete_attrs(attrs))

    def arg_names(self, count: int) -> list[str]:
        """Names of `count` arguments."""
        fixed = [a for a in self.args if not a.startswith(("*", "?"))]
        rest = self.args[-1]
        if rest.startswith("?"):
            return [*fixed, rest.removeprefix("?")][:count]
        return fixed + [f"{rest.removeprefix('*')}{i}" for i in range(count - len(fixed))]

    def _check_arity(self, count: int) -> None:
        most = len(self.args)
        variadic, optional = (self.args[-1].startswith(mark) for mark in "*?")
        right = count >= most if variadic else most - optional <= count <= most
        many = f"at least {most}" if variadic else f"{most - 1} or {most}" if optional else f"{most}"
        names = ", ".join(name.replace("?", "optional ") for name in self.args)
        check(right, self.name, f"takes {many} tensors ({names}), got {count}")


_OPS: dict[str, TinyOp] = {}


def register(op: TinyOp) -> TinyOp:
    """Add `op` to the table and to TVM's operator registry, and return it.

    Registering the same object again does nothing; another object of the same name is refused unless it comes from a reload of the module
    that defined the first.

    Raises
    ------
    DialectError
        The name is taken, or does not start with `tiny.`.
    """
    check(op.name.startswith("tiny."), op.name, "the name of an operator of this dialect starts with 'tiny.'")
    old = _OPS.get(op.name)
    if old is op:
        return op
    owner = op.infer_fn.__module__
    check(old is None or old.infer_fn.__module__ == owner, op.name, f"is registered already; {owner} can't register it again")
    _OPS[op.name] = op
    if op.name not in ir.Op.list_op_names():
        _register_with_tvm(op)
    return op


def get(name: str) -> TinyOp:
    """Return the operator called `name`, with or without the `tiny.` prefix."""
    full = name if name.startswith("tiny.") else f"tiny.{name}"
    check(full in _OPS, full, f"no such operator; known: {', '.join(sorted(_OPS))}")
    return _OPS[full]


def all_ops() -> tuple[TinyOp, ...]:
    """Return every operator, sorted by name."""
    return tuple(_OPS[name] for name in sorted(_OPS))


def call(name: str, *args: relax.Expr, **attrs: Any) -> relax.Call:
    """Build a Relax call of a tiny operator.

    Attributes are completed with their defaults. Where the types of all arguments are known the call is checked at once, so that a misuse
    raises `DialectError` here instead of TVM's RuntimeError at normalisation; the type itself is set when a BlockBuilder emits the call.
    """
    op = get(name)
    full = op.complete_attrs(attrs)
    if all(isinstance(a.ty, relax.TensorType) for a in args):
        op.infer([_tensor_info(op.name, a.ty) for a in args], full)
    return relax.Call(ir.Op.get(op.name), list(args), ir.make_node("ir.DictAttrs", **full))


def is_tiny(expr: relax.Expr, name: str | None = None) -> bool:
    """Whether `expr` is a call of a tiny operator (of the one called `name`, if given)."""
    if not isinstance(expr, relax.Call) or not isinstance(expr.op, ir.Op):
        return False
    return expr.op.name in _OPS and (name is None or expr.op.name == get(name).name)


def attrs_of(expr: relax.Call) -> dict[str, Any]:
    """Return the attributes of a tiny call as plain Python values."""
    return get(expr.op.name).complete_attrs({key: _plain(value) for key, value in expr.attrs.items()})


def arg_infos_of(expr: relax.Call) -> list[TensorInfo]:
    """Return shape and dtype of every argument of a tiny call."""
    return [_tensor_info(expr.op.name, arg.ty) for arg in expr.args]


def check(condition: bool, op_name: str, problem: str) -> None:
    """Raise `DialectError` naming the operator unless `condition` holds."""
    if not condition:
        raise DialectError(f"{op_name}: {problem}")


def _register_with_tvm(op: TinyOp) -> None:
    tvm.get_global_func("ir.RegisterOp")(op.name, f"Integer operator of tvm_tiny; arguments: {', '.join(op.args)}")
    relax_op = ir.Op.get(op.name)
    relax_op.set_attr("FPurity", True)
    # By name, not by object: after a reload of the defining module the new definition counts.
    relax_op.set_attr("FInferType", lambda expr, _builder: _infer_call(get(expr.op.name), expr))


def _infer_call(op: TinyOp, expr: relax.Call) -> relax.TensorType:
    out = op.infer(arg_infos_of(expr), attrs_of(expr))
    return relax.TensorType(out.shape, out.dtype)


def _tensor_info(op_name: str, ty: ir.Type) -> TensorInfo:
    check(isinstance(ty, relax.TensorType), op_name, f"arguments must be tensors, not {ty}")
    static = ty.shape is not None and all(isinstance(d, tirx.IntImm) for d in ty.shape)
    check(static, op_name, f"shapes must be static, got {ty.shape}")
    return TensorInfo(tuple(int(d) for d in ty.shape), str(ty.dtype))


def _plain(value: Any) -> Any:
    """FFI containers and numpy scalars as the Python values they stand for."""
    if value is REQUIRED or value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return value.item()
    if isinstance(value, (tirx.IntImm, tirx.FloatImm)):
        return value.value
    return [_plain(v) for v in value]
