# SPDX-License-Identifier: Apache-2.0
"""`tiny.stage`: several operators that are computed together, row by row or patch by patch. Its meaning is theirs, one after the other.

Arguments: every value and constant the inner operators take from outside, the activations first. Attribute `program` (JSON) lists the inner
operators in order, each {"op", "attrs", "args"} with args ["arg", i] (the i-th argument of the stage) or ["node", j] (the result of the
j-th inner operator); the last one's result is the stage's. `schedule` (JSON) carries what the pass that formed the stage decided.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te

from tvm_tiny.ops import registry
from tvm_tiny.ops.registry import Attrs, TensorInfo, TinyOp, register

NAME = "tiny.stage"
_INT32 = ("bias", "multiplier", "shift")


@dataclass(frozen=True)
class Inner:
    """One operator inside a stage. `args` are ("arg" | "node", index)."""

    op: str
    attrs: dict[str, Any]
    args: tuple[tuple[str, int], ...]


def program_of(attrs: Attrs) -> list[Inner]:
    """The inner operators of a stage's attributes, in order."""
    return [Inner(n["op"], n["attrs"], tuple((str(k), int(i)) for k, i in n["args"])) for n in json.loads(attrs["program"])]


def stage_call(inner: list[Inner], args: list[relax.Expr], schedule: dict[str, Any]) -> relax.Call:
    """Build a call of a stage."""
    program = json.dumps([{"op": n.op, "attrs": n.attrs, "args": [list(a) for a in n.args]} for n in inner])
    return registry.call(NAME, *args, program=program, schedule=json.dumps(schedule), source=inner[-1].attrs.get("source", ""))


def _chain(attrs: Attrs, args: list[Any], step: Any) -> list[Any]:
    """Results of all inner operators; `step(op, attrs, arguments)` computes one."""
    results: list[Any] = []
    for node in program_of(attrs):
        values = [args[i] if kind == "arg" else results[i] for kind, i in node.args]
        results.append(step(registry.get(node.op), node.attrs, values))
    return results


def inner_infos(attrs: Attrs, infos: list[TensorInfo]) -> list[TensorInfo]:
    """Shape and dtype of every inner result."""
    return _chain(attrs, infos, lambda op, a, values: op.infer(values, a))


def _infer(infos: list[TensorInfo], attrs: Attrs) -> TensorInfo:
    return inner_infos(attrs, infos)[-1]


def _numpy(arrays: list[np.ndarray], attrs: Attrs) -> np.ndarray:
    return _chain(attrs, arrays, lambda op, a, values: op.numpy(*values, **a))[-1]


def _te(tensors: list[te.Tensor], attrs: Attrs) -> te.Tensor:
    return _chain(attrs, tensors, lambda op, a, values: op.te_fn(values, op.complete_attrs(a)))[-1]


def _macs(shapes: list[tuple[int, ...]], attrs: Attrs) -> int:
    total, known = 0, [TensorInfo(s, "int8") for s in shapes]
    results: list[TensorInfo] = []
    for node in program_of(attrs):
        op = registry.get(node.op)
        values = [known[i].shape if kind == "arg" else results[i].shape for kind, i in node.args]
        total += op.macs(values, node.attrs)
        results.append(TensorInfo(_shape_only(op, values, node.attrs), "int8"))
    return total


def _shape_only(op: TinyOp, shapes: list[tuple[int, ...]], attrs: Attrs) -> tuple[int, ...]:
    """Result shape; biases and rescalings are int32, all else int8."""
    dtypes = ["int32" if name in _INT32 else "int8" for name in op.arg_names(len(shapes))]
    return op.infer([TensorInfo(s, d) for s, d in zip(shapes, dtypes, strict=True)], attrs).shape


OP = register(TinyOp(NAME, ("*tensors",), _infer, _numpy, _te, _macs, {"program": registry.REQUIRED, "schedule": "{}"}))
