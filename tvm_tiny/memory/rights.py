# SPDX-License-Identifier: Apache-2.0
"""Aliasing rights on the calls of lowered functions: what passes granted, and so what the planner may use.

A kernel promises how its outputs may lie over its arguments (`tiny.overlap` of the function, see `schedules/base.py`); a right is granted
call by call, in the attribute `rights` of the `R.call_tir`: JSON of the same form, {"<output>:<argument>": [[order, distance], …]}.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import tvm
from tvm import relax, tirx

Rights: TypeAlias = dict[tuple[int, int], list[tuple[str, int]]]
"""(output, argument) → alternatives (order, distance in bytes); scratch buffers are counted after the outputs."""


def promised(func: tirx.PrimFunc) -> Rights:
    """What a kernel promises for any call."""
    return _read(func.attrs.get("tiny.overlap") if func.attrs is not None else None)


def granted(call: relax.Call) -> Rights:
    """What passes have granted to a call."""
    return _read(call.attrs.get("rights") if isinstance(call.attrs, tvm.ir.attrs.DictAttrs) else None)


def grant(call: relax.Call, rights: Rights) -> relax.Call:
    """The call with `rights` beside those it has."""
    merged: dict[str, list[list[Any]]] = {}
    for source in (granted(call), rights):
        for (out, arg), alternatives in source.items():
            known = merged.setdefault(f"{out}:{arg}", [])
            known += [list(a) for a in alternatives if list(a) not in known]
    if not merged:
        return call
    return relax.Call(call.op, call.args, tvm.ir.make_node("ir.DictAttrs", rights=json.dumps(merged)), call.ty_args)


def _read(text: Any) -> Rights:
    if text is None:
        return {}
    pairs = ((key.split(":"), alternatives) for key, alternatives in json.loads(str(text)).items())
    return {(int(out), int(arg)): [(str(order), int(distance)) for order, distance in alternatives] for (out, arg), alternatives in pairs}
