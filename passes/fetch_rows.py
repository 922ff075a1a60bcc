# SPDX-License-Identifier: Apache-2.0
"""fetch-rows: an image comes from the application through a function, row by row, instead of lying in memory whole.

Where it may stand: after the passes that change the readers of model inputs, before `stream-rows`, which decides how many rows exist.

What it matches: the model inputs it was asked for; each must be one image (1, height, width, channels) in NHWC that is
  1. int8;
  2. float32 and read by one `tiny.quantize` only. The application hands over float rows, which are quantised one at a time; or, asked for
     "int8", rows that it has quantised itself: the model's input then is int8, with the scale and zero point of that `tiny.quantize`;
  3. uint8 and read by one `tiny.flip_sign` only: uint8 rows, or "int8" ones, 128 lower.
What it leaves: every other input; the whole module when nothing was asked for.

Why it is exact: `tiny.fetch` is the identity (1), or the `tiny.quantize` (2) or `tiny.flip_sign` (3) it replaces.

rewrite:
    q = tiny.quantize(x, scale, zp)          →    q = tiny.fetch(x, scale, zp)
    a = tiny.conv2d(q, w, b, m, s, …)             a = tiny.conv2d(q, w, b, m, s, …)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax

from tvm_tiny.errors import OptionError
from tvm_tiny.explain import Explainer
from tvm_tiny.frontend.naming import ATTRIBUTE
from tvm_tiny.memory.program import model_info
from tvm_tiny.ops import registry
from tvm_tiny.ops.graph import Node, TinyGraph, substitute

Camera = bool | str | Mapping[str, bool | str]
TYPES = ("int8",)

_MADE_BY = {"float32": "quantize", "uint8": "flip_sign"}  # by dtype of an input: the operator that makes it int8

WHY = Explainer("fetch-rows")


@tvm.transform.module_pass(opt_level=0, name="fetch-rows")
class FetchRows:
    """See the module's docstring.

    Parameters
    ----------
    camera : bool, str or mapping
        Which inputs: False none, True every image in the type it has in the model, "int8" every image already quantised; or one of these
        for each input by name.

    Raises
    ------
    OptionError
        An input of that name does not exist, or can't be fetched by rows.
    """

    def __init__(self, camera: Camera = False) -> None:
        self.camera = camera

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with every input asked for behind a `tiny.fetch`."""
        if not self.camera:
            return mod
        graph, info = TinyGraph(mod["main"]), model_info(mod)
        titles = _titles(graph, info)
        asked = _asked(self.camera, graph, titles)
        for param, as_int8 in asked.items():
            _check(graph, param, titles[param], as_int8)
            WHY.accepted(str(param.name), "fetched by rows" + (" of int8" if as_int8 else ""), "asked for")
        out = mod.clone()
        out.update_func(mod.get_global_var("main"), _rewrite(graph, asked))
        return out.with_attr(ATTRIBUTE, json.dumps(_described(info, graph, asked))) if info else out


def _titles(graph: TinyGraph, info: Mapping[str, Any]) -> dict[relax.Var, str]:
    """The names of the inputs in the model, or those they get (`tvm_tiny.memory.program`)."""
    named = [entry.get("name") for entry in info.get("inputs", [])]
    return {p: str(named[i] if i < len(named) else f"input_{i}") for i, p in enumerate(graph.params)}


def _asked(camera: Camera, graph: TinyGraph, titles: Mapping[relax.Var, str]) -> dict[relax.Var, bool]:
    """The inputs to fetch, and whether as int8 whatever the model takes."""
    if isinstance(camera, Mapping):
        unknown = sorted(set(camera) - set(titles.values()))
        if unknown:
            raise OptionError(f"camera: no input is called {', '.join(unknown)}", remedy=f"the inputs are {', '.join(titles.values())}")
        wanted = {p: camera.get(title, False) for p, title in titles.items()}
    else:
        wanted = {p: camera if len(graph.shape(p)) == 4 else False for p in graph.params}
        if not any(wanted.values()):
            shapes = ", ".join(f"{titles[p]}: {list(graph.shape(p))}" for p in graph.params)
            raise OptionError(f"camera={camera!r}: no input is an image ({shapes})", remedy="leave it out")
    wrong = sorted({repr(v) for v in wanted.values() if not isinstance(v, bool) and v not in TYPES})
    if wrong:
        raise OptionError(f"camera={', '.join(wrong)} is no type of a row", remedy='use True for the type the model takes, or "int8"')
    return {p: v == "int8" for p, v in wanted.items() if v}


def _readers(graph: TinyGraph, param: relax.Var) -> list[Node]:
    return [node for node, _ in graph.consumers.get(param, [])]


def _check(graph: TinyGraph, param: relax.Var, title: str, as_int8: bool) -> None:
    shape, dtype, readers = graph.shape(param), str(param.ty.dtype), _readers(graph, param)

    def check(good: bool, why: str) -> None:
        if not good:
            kind = '"int8" rows' if as_int8 else "rows"
            raise OptionError(f"camera: input {title} can't be fetched as {kind}: {why}", remedy="leave it out of camera=")

    check(len(shape) == 4 and shape[0] == 1, f"it is no single image but {list(shape)}")
    check(bool(readers) and not any(v.same_as(param) for v in graph.outputs), "no operator reads it")
    layouts = {str(n.attrs.get(k, "NHWC")) for n in readers for k in ("x_layout", "y_layout")}
    check(layouts == {"NHWC"} and not any(n.op == "transpose" for n in readers), "its channels are planes (NCHW), a row is not contiguous")
    if dtype != "int8":
        check(dtype in _MADE_BY, f"it is {dtype}")
        check(len(readers) == 1 and readers[0].op == _MADE_BY[dtype], f"its {dtype} values are used by more than one quantisation")


def _quantization(graph: TinyGraph, param: relax.Var) -> dict[str, Any]:
    """Attributes of `tiny.fetch` for an input as it is in the model."""
    if str(param.ty.dtype) != "float32":
        return {}
    attrs = _readers(graph, param)[0].attrs
    return {key: attrs[key] for key in ("scale", "zp", "rounding", "source", "x_scale", "y_scale")}


def _rewrite(graph: TinyGraph, asked: Mapping[relax.Var, bool]) -> relax.Function:
    builder = relax.BlockBuilder()
    params = [_parameter(p, asked.get(p, False)) for p in graph.params]
    new: dict[relax.Var, relax.Expr] = dict(zip(graph.params, params, strict=True))
    replaced = {_readers(graph, p)[0].var: p for p in asked if str(p.ty.dtype) in _MADE_BY}
    outputs = {v for v in graph.outputs if v in graph.producer}
    with builder.function("main", params):
        with builder.dataflow():
            for param, var in zip(graph.params, params, strict=True):
                if param in asked:
                    attrs = _quantization(graph, param) if str(var.ty.dtype) == "float32" else {}
                    new[param] = builder.emit(registry.call("tiny.fetch", var, **attrs), name_hint=f"{param.name}_rows")
            for node in graph.nodes:
                emit = builder.emit_output if node.var in outputs else builder.emit
                value = new[replaced[node.var]] if node.var in replaced else substitute(node.value, new)
                new[node.var] = emit(value, name_hint=node.name)
        fields = [new[v] for v in graph.outputs]
        builder.emit_func_output(relax.Tuple(fields) if isinstance(graph.result, relax.Tuple) else fields[0])
    out = builder.get()["main"]
    return out.with_attrs(dict(graph.func.attrs.items())) if graph.func.attrs is not None else out


def _parameter(param: relax.Var, as_int8: bool) -> relax.Var:
    return relax.Var(param.name, relax.TensorType(param.ty.shape, "int8")) if as_int8 else relax.Var(param.name, param.ty)


def _described(info: dict[str, Any], graph: TinyGraph, asked: Mapping[relax.Var, bool]) -> dict[str, Any]:
    """The model's description, with inputs that became int8 as such."""
    inputs = [dict(entry) for entry in info.get("inputs", [])]
    for param, entry in zip(graph.params, inputs, strict=False):
        if asked.get(param, False) and str(param.ty.dtype) == "uint8":
            zero_point = entry.get("zero_point")
            entry |= {"dtype": "int8", "zero_point": None if zero_point is None else zero_point - 128}
        if asked.get(param, False) and str(param.ty.dtype) == "float32":
            attrs = _quantization(graph, param)
            entry |= {"dtype": "int8", "scale": attrs["scale"], "zero_point": attrs["zp"]}
    return {**info, "inputs": inputs}
