# SPDX-License-Identifier: Apache-2.0
"""quantize-to-integer: from `dequantize → float operator → quantize` to integer operators of the `tiny.*` dialect.

Where it may stand: first; its input is the QDQ form of `tvm_tiny.frontend.tflite`.

What it matches, looking back from every `quantize` (with the integer `clip` behind it, which becomes the operator's clamp)
  1. convolution, depthwise convolution, fully connected: `add?(op(dequantize(x), dequantize(w)), dequantize(b))`
  2. add, subtract, multiply of two dequantised values; with a constant number they are one of the functions of 5, by their own arithmetic
  3. average and max pooling, mean, softmax, bilinear resize of one dequantised value; an average that changes the quantisation (ONNX) is a
     mean when it covers the image, else a depthwise convolution with ones
  4. a plain dequantised value: `tiny.requantize`
  5. any elementwise float function of one per-tensor dequantised int8 value: `tiny.lookup`, its 256 results computed here: by the reference
     kernel's own integer arithmetic for logistic, tanh, hard-swish and leaky ReLU of TFLite models, in double precision otherwise
  6. what moves or compares integers: reshape, transpose, pad, concatenate, slice, split, nearest-neighbour resize, maximum, minimum
What it leaves: everything else stays a float island between `tiny.dequantize` and `tiny.quantize`; `float_islands` lists them.

Rounding: "gemmlowp" for TFLite models (bit-identical to TensorFlow Lite Micro), "single" for ONNX ones (nearest, as ONNX Runtime).

rewrite:
    a = dequantize(x, 0.5, -1); w1 = dequantize(w, …); c = nn.conv2d(a, w1); d = add(c, dequantize(b, …))
    y = clip(quantize(d, 0.1, -128), -128, 127)
        →  y = tiny.conv2d(x, w, b, multiplier, shift, x_zp=-1, y_zp=-128, clamp_min=-128, …)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvm_tiny.frontend.elementwise import Elementwise
from tvm_tiny.frontend.qdq_view import Dequantized, QdqView, Quant, constant, dtype_of, ints, is_constant, op_name, shape_of
from tvm_tiny.memory.program import model_info
from tvm_tiny.ops import add, conv2d, dense, mean, mul, registry, requantize, softmax, tables


@tvm.transform.module_pass(opt_level=0, name="quantize-to-integer")
class QuantizeToInteger:
    """See the module's docstring."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite `main`."""
        rounding = "single" if model_info(mod).get("format") == "onnx" else "gemmlowp"
        main = _Converter(mod["main"], rounding, model_info(mod)).run()
        out = tvm.IRModule({"main": main})
        return out.with_attrs(dict(mod.attrs.items())) if mod.attrs is not None else out


def float_islands(mod: tvm.IRModule) -> list[tuple[str, str]]:
    """(variable, operator) of every operator of `main` that computes in float."""
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    calls = [(b.var, b.value) for b in bindings if isinstance(b.value, relax.Call) and not registry.is_tiny(b.value)]
    return [(var.name, op_name(call)) for var, call in calls if isinstance(var.ty, relax.TensorType) and dtype_of(var).startswith("float")]


@dataclass(frozen=True)
class _Result:
    """The quantisation an operator's result must have, and its clamp."""

    quant: Quant
    low: int
    high: int
    name: str

    def attrs(self) -> dict[str, object]:
        return {"y_zp": self.quant.zp, "y_scale": self.quant.real_scale, "clamp_min": self.low, "clamp_max": self.high, "source": self.name}


class _Converter:
    """Demand-driven: starts at the results, so what only the float form needed is never built."""

    def __init__(self, func: relax.Function, rounding: str, model: dict) -> None:
        self.func = func
        self.tensors = model.get("tensors", {})
        self.view = QdqView(func)
        self.rounding = rounding
        self.float_rounding = "half_away" if rounding == "gemmlowp" else "half_even"
        self.builder = relax.BlockBuilder()
        self.done: dict[relax.Var, relax.Expr] = {}

    def run(self) -> relax.Function:
        params = [relax.Var(p.name, p.ty) for p in self.func.params]
        self.done.update(zip(self.func.params, params, strict=True))
        result = self.func.body.body
        fields = list(result.fields) if isinstance(result, relax.Tuple) else None
        definition = self.view.definition(result)
        if fields is None and isinstance(definition, relax.Tuple):
            fields = list(definition.fields)
        with self.builder.function("main", params):
            with self.builder.dataflow():
                values = [self.builder.emit_output(self.value(f), f.name if isinstance(f, relax.Var) else "") for f in fields or [result]]
            self.builder.emit_func_output(values[0] if fields is None else relax.Tuple(values))
        return self.builder.get()["main"].with_attrs(dict(self.func.attrs.items()) if self.func.attrs is not None else {})

    # --- any value ------------------------------------------------------------------------------------------------------------------

    def value(self, expr: relax.Expr) -> relax.Expr:
        """The new form of an expression of the old function, emitted once, under its old name."""
        if not isinstance(expr, relax.Var):
            return expr if is_constant(expr) else self._convert(expr, "")
        if expr not in self.done:
            new = self._convert(self.view.bound[expr], expr.name)
            self.done[expr] = new if isinstance(new, relax.Var) or is_constant(new) else self.builder.emit(new, name_hint=expr.name)
        return self.done[expr]

    def _convert(self, expr: relax.Expr, name: str) -> relax.Expr:
        if isinstance(expr, relax.Var) or is_constant(expr):
            return self.value(expr)
        if isinstance(expr, relax.TupleGetItem):
            return self._tuple_item(expr)
        kind = op_name(expr)
        if kind == "relax.quantize":
            quant = Quant(constant(expr.args[1]), constant(expr.args[2]))
            return self._quantized(expr.args[0], _Result(quant, *_range(dtype_of(expr)), name))
        if kind == "relax.clip" and dtype_of(expr) == "int8":
            return self._clipped(expr, name)
        if kind == "relax.dequantize":
            return self._dequantized(expr, name)
        if kind in _MOVES and dtype_of(expr) in ("int8", "float32", "int32"):
            moved = _MOVES[kind](self, expr, name)
            if moved is not None:
                return moved
        return self._rebuilt(expr)

    def _rebuilt(self, expr: relax.Expr) -> relax.Expr:
        """An operator that stays what it is, over converted arguments."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.value(f) for f in expr.fields])
        if isinstance(expr, relax.Call):
            return relax.Call(expr.op, [self.value(a) for a in expr.args], expr.attrs, expr.ty_args)
        return expr

    def _tuple_item(self, item: relax.TupleGetItem) -> relax.Expr:
        source = self.view.definition(item.tuple_value)
        if isinstance(source, relax.Tuple):
            return self.value(source.fields[item.index])
        if op_name(source) == "relax.split":
            return self._split_part(source, item.index)
        return relax.TupleGetItem(self.value(item.tuple_value), item.index)

    # --- quantised values -----------------------------------------------------------------------------------------------------------

    def _clipped(self, clip: relax.Call, name: str) -> relax.Expr:
        low, high = (int(_scalar(a)) for a in clip.args[1:3])
        inner = self.view.quantized(clip.args[0])
        if inner is not None:
            quant_low, quant_high = _range("int8")
            return self._quantized(inner[0], _Result(inner[1], max(low, quant_low), min(high, quant_high), name))
        table = np.clip(np.arange(-128, 128), low, high).astype(np.int8)
        return registry.call("tiny.lookup", self.value(clip.args[0]), relax.const(table), source=name)

    def _quantized(self, real: relax.Expr, result: _Result) -> relax.Expr:
        definition = self.view.definition(real)
        if result.quant.per_tensor and dtype_of(real) == "float32":
            for convert in (*_ANCHORS.get(op_name(definition), ()), _elementwise):
                call = convert(self, definition, result)
                if call is not None:
                    return call
        rounded = registry.call(
            "tiny.quantize", self.value(real), scale=result.quant.real_scale, zp=result.quant.zp, rounding=self.float_rounding
        )
        if (result.low, result.high) == _range("int8"):
            return rounded
        table = np.clip(np.arange(-128, 128), result.low, result.high).astype(np.int8)
        return registry.call("tiny.lookup", self.builder.emit(rounded), relax.const(table), source=result.name)

    def _dequantized(self, call: relax.Call, name: str) -> relax.Expr:
        quant = Quant(constant(call.args[1]), constant(call.args[2]))
        if is_constant(call.args[0]):
            return relax.const(_dequantize(constant(call.args[0]), quant, int(call.attrs.axis)))
        return registry.call("tiny.dequantize", self.value(call.args[0]), scale=quant.real_scale, zp=quant.zp, source=name)

    # --- pieces shared by the converters below --------------------------------------------------------------------------------------

    def activation(self, expr: relax.Expr) -> Dequantized | None:
        """`expr` as a per-tensor dequantised int8 value."""
        found = self.view.dequantized(expr)
        return found if found is not None and found.quant.per_tensor and dtype_of(found.value) == "int8" else None

    def split_bias(self, expr: relax.Expr) -> tuple[relax.Expr, np.ndarray | None]:
        """`add(value, dequantize(constant int32))` as (value, the int32 constant); (expr, None) otherwise."""
        if op_name(expr) != "relax.add":
            return expr, None
        for value, other in ((expr.args[0], expr.args[1]), (expr.args[1], expr.args[0])):
            bias = self.view.dequantized(other)
            if bias is not None and is_constant(bias.value) and dtype_of(bias.value) == "int32":
                return self.view.definition(value), constant(bias.value).reshape(-1)
        return expr, None

    def _split_part(self, split: relax.Call, index: int) -> relax.Expr:
        shape, axis = shape_of(split.args[0]), int(split.attrs.axis) % len(shape_of(split.args[0]))
        sections = split.attrs.indices_or_sections
        cuts = ints(sections) if hasattr(sections, "__len__") else [shape[axis] // int(sections) * i for i in range(1, int(sections))]
        edges = [0, *cuts, shape[axis]]
        begin, size = [0] * len(shape), list(shape)
        begin[axis], size[axis] = edges[index], edges[index + 1] - edges[index]
        return registry.call("tiny.strided_slice", self.value(split.args[0]), begin=begin, size=size, strides=[1] * len(shape))


# --- converters: (converter, float call, wanted result) -> tiny call, or None when the call is not of this form ---------------------------


def _convolution(cv: _Converter, expr: relax.Expr, result: _Result) -> relax.Expr | None:
    call, bias = cv.split_bias(expr)
    if op_name(call) != "relax.nn.conv2d":
        return None
    x, w = cv.activation(call.args[0]), cv.view.dequantized(call.args[1])
    if x is None or w is None or not is_constant(w.value) or np.any(w.quant.zero_point):
        return None
    attrs = call.attrs
    weight, layout = constant(w.value), str(attrs.kernel_layout)
    depthwise = layout == "HWOI"
    out_channels = weight.shape[2] if depthwise else weight.shape[0]
    extra: dict[str, object] = {} if depthwise else {"groups": int(attrs.groups)}
    params = conv2d.quantize_params(x.quant.real_scale, w.quant.scale.reshape(-1), result.quant.real_scale, out_channels)
    scaling = _constants(bias, params, out_channels)
    return registry.call(
        "tiny.depthwise_conv2d" if depthwise else "tiny.conv2d",
        cv.value(x.value),
        relax.const(weight[:, :, :, 0] if depthwise else weight),
        *scaling,
        strides=ints(attrs.strides),
        padding=ints(attrs.padding),
        dilation=ints(attrs.dilation),
        **_common(cv, x, result),
        **extra,
    )


def _dense(cv: _Converter, expr: relax.Expr, result: _Result) -> relax.Expr | None:
    call, bias = cv.split_bias(expr)
    if op_name(call) != "relax.matmul":
        return None
    x, w = cv.activation(call.args[0]), cv.view.dequantized(call.args[1])
    if x is None or w is None or not is_constant(w.value) or np.any(w.quant.zero_point):
        return None
    weight = np.ascontiguousarray(constant(w.value).T)
    params = dense.quantize_params(x.quant.real_scale, w.quant.scale.reshape(-1), result.quant.real_scale, weight.shape[0])
    scaling = _constants(bias, params, weight.shape[0])
    return registry.call("tiny.dense", cv.value(x.value), relax.const(weight), *scaling, **_common(cv, x, result))


def _constants(bias: np.ndarray | None, params: Mapping[str, np.ndarray], channels: int) -> list[relax.Expr]:
    """Arguments (bias, multiplier, shift), one value a channel."""
    full = np.zeros(channels, np.int32) if bias is None else np.broadcast_to(bias, (channels,)).astype(np.int32)
    return [relax.const(np.ascontiguousarray(a)) for a in (full, params["multiplier"], params["shift"])]


def _common(cv: _Converter, x: Dequantized, result: _Result) -> dict[str, object]:
    return {"x_zp": x.quant.zp, "x_scale": x.quant.real_scale, "rounding": cv.rounding, **result.attrs()}


def _addition(cv: _Converter, expr: relax.Expr, result: _Result) -> relax.Expr | None:
    a, b = (cv.activation(arg) for arg in expr.args)
    if a is None or b is None:
        return None
    params = add.quantize_params(a.quant.real_scale, b.quant.real_scale, result.quant.real_scale)
    name = "tiny.add" if op_name(expr) == "relax.add" else "tiny.sub"
    zero_points = {"a_zp": a.quant.zp, "b_zp": b.quant.zp, "rounding": cv.rounding}
    return _of_two(cv, name, a, b, {**zero_points, **params, **result.attrs()})


def _of_two(cv: _Converter, name: str, a: Dequantized, b: Dequantized, attrs: dict[str, object]) -> relax.Expr:
    """An operator on two values; with one constant number it has 256 results, which are a table."""
    for value, number in ((a, b), (b, a)):
        if not is_constant(number.value) or constant(number.value).size > 1 or is_constant(value.value):
            continue
        if len(shape_of(number.value)) > len(shape_of(value.value)):
            continue
        every = np.arange(-128, 128).astype(np.int8)
        operands = [every if v is value else constant(v.value).reshape(1) for v in (a, b)]
        scales = {"x_scale": value.quant.real_scale, "y_scale": attrs["y_scale"], "source": attrs["source"]}
        return registry.call("tiny.lookup", cv.value(value.value), relax.const(registry.get(name).numpy(*operands, **attrs)), **scales)
    return registry.call(name, cv.value(a.value), cv.value(b.value), **attrs)


def _product(cv: _Converter, expr: relax.Expr, result: _Result) -> relax.Expr | None:
    a, b = (cv.activation(arg) for arg in expr.args)
    if a is None or b is None:
        return None
    params = mul.quantize_params(a.quant.real_scale, b.quant.real_scale, result.quant.real_scale)
    zero_points = {"a_zp": a.quant.zp, "b_zp": b.quant.zp, "rounding": cv.rounding}
    return _of_two(cv, "tiny.mul", a, b, {**zero_points, **params, **result.attrs()})


def _pool(cv: _Converter, expr: relax.Expr, result: _Result) -> relax.Expr | None:
    x = cv.activation(expr.args[0])
    average = op_name(expr) == "relax.nn.avg_pool2d"
    if x is not None and average and not x.quant.equals(result.quant):
        return _rescaled_average(cv, expr, x, result)
    if x is None or not x.quant.equals(result.quant):
        return None
    name = "tiny.avg_pool2d" if average else "tiny.max_pool2d"
    window = {"kernel": ints(expr.attrs.pool_size), "strides": ints(expr.attrs.strides), "padding": ints(expr.attrs.padding)}
    attrs = result.attrs()
    del attrs["y_zp"]
    return registry.call(name, cv.value(x.value), x_scale=x.quant.real_scale, **window, **attrs)


def _rescaled_average(cv: _Converter, pool: relax.Call, x: Dequantized, result: _Result) -> relax.Expr | None:
    """An average pool whose output has another quantisation (ONNX): a mean, or a depthwise convolution with ones, rounded once."""
    height, width, channels = shape_of(pool.args[0])[1:4]
    kernel = ints(pool.attrs.pool_size)
    if any(ints(pool.attrs.padding)):
        return None  # how many elements a window averages depends on where it is
    count = kernel[0] * kernel[1]
    common = _common(cv, x, result)
    if list(kernel) == [height, width] and (result.low, result.high) == _range("int8"):
        params = mean.quantize_params(x.quant.real_scale, result.quant.real_scale, count)
        common = {k: v for k, v in common.items() if not k.startswith("clamp")}
        return registry.call("tiny.mean", cv.value(x.value), axes=[1, 2], keepdims=True, **params, **common)
    scaling = conv2d.quantize_params(x.quant.real_scale, np.array([1 / count]), result.quant.real_scale, channels)
    ones = relax.const(np.ones((*kernel, channels), np.int8))
    window = {"strides": ints(pool.attrs.strides), "padding": [0, 0, 0, 0]}
    return registry.call("tiny.depthwise_conv2d", cv.value(x.value), ones, *_constants(None, scaling, channels), **window, **common)


def _mean(cv: _Converter, expr: relax.Expr, result: _Result) -> relax.Expr | None:
    x = cv.activation(expr.args[0])
    if x is None:
        return None
    shape = shape_of(expr.args[0])
    axes = [a % len(shape) for a in ints(expr.attrs.axis)]
    params = mean.quantize_params(x.quant.real_scale, result.quant.real_scale, int(np.prod([shape[a] for a in axes])))
    common = {k: v for k, v in _common(cv, x, result).items() if not k.startswith("clamp")}
    return registry.call("tiny.mean", cv.value(x.value), axes=axes, keepdims=bool(expr.attrs.keepdims), **params, **common)


def _softmax(cv: _Converter, expr: relax.Expr, result: _Result) -> relax.Expr | None:
    beta, inner = 1.0, expr.args[0]
    scaled = cv.view.definition(inner)
    if op_name(scaled) == "relax.multiply" and is_constant(scaled.args[1]):
        beta, inner = float(_scalar(scaled.args[1])), scaled.args[0]
    x = cv.activation(inner)
    axis = int(expr.attrs.axis) % len(shape_of(expr))
    if x is None or axis != len(shape_of(expr)) - 1 or not _is_probability(result.quant):
        return None
    table = relax.const(softmax.quantize_params(x.quant.real_scale, beta)["table"])
    return registry.call(
        "tiny.softmax", cv.value(x.value), table, x_scale=x.quant.real_scale, y_scale=result.quant.real_scale, source=result.name
    )


def _bilinear(cv: _Converter, expr: relax.Expr, result: _Result) -> relax.Expr | None:
    x, attrs = cv.activation(expr.args[0]), expr.attrs
    modes = {"asymmetric": (False, False), "align_corners": (True, False), "half_pixel": (False, True)}
    mode = modes.get(str(attrs.coordinate_transformation_mode))
    if x is None or mode is None or (str(attrs.method), str(attrs.layout)) != ("linear", "NHWC") or not x.quant.equals(result.quant):
        return None
    size = list(shape_of(expr)[1:3])
    return registry.call(
        "tiny.resize_bilinear", cv.value(x.value), size=size, align_corners=mode[0], half_pixel=mode[1], source=result.name
    )


def _is_probability(quant: Quant) -> bool:
    """TFLite fixes the output of an int8 softmax to scale 1/256, zero point -128."""
    return quant.real_scale == 1 / 256 and quant.zp == -128


def _requantize(cv: _Converter, expr: relax.Expr, result: _Result) -> relax.Expr | None:
    x = cv.activation(expr)
    if x is None:
        return None
    if x.quant.equals(result.quant) and (result.low, result.high) == _range("int8"):
        return cv.value(x.value)
    if cv.tensors.get(result.name, {}).get("op") == "RELU":
        table = tables.relu(
            x.quant.real_scale, x.quant.zp, result.quant.real_scale, result.quant.zp
        )  # a rescaling of its own, see `tables`
        return registry.call(
            "tiny.lookup",
            cv.value(x.value),
            relax.const(table),
            x_scale=x.quant.real_scale,
            y_scale=result.quant.real_scale,
            source=result.name,
        )
    params = requantize.quantize_params(x.quant.real_scale, result.quant.real_scale)
    return registry.call("tiny.requantize", cv.value(x.value), **params, **_common(cv, x, result))


def _elementwise(cv: _Converter, expr: relax.Expr, result: _Result) -> relax.Expr | None:
    """Any float function of one int8 value, as a table of its 256 results."""
    function = Elementwise(cv.view, expr)
    if function.source is None:
        return None
    table = np.clip(_table(function, result.quant, cv.rounding == "gemmlowp"), result.low, result.high).astype(np.int8)
    scales = {"x_scale": function.source.quant.real_scale, "y_scale": result.quant.real_scale}
    return registry.call("tiny.lookup", cv.value(function.source.value), relax.const(table), source=result.name, **scales)


def _table(function: Elementwise, y: Quant, as_tflite: bool) -> np.ndarray:
    """The 256 results: as the reference kernel computes them where it has a kernel of its own, by rounding the real result otherwise."""
    assert function.source is not None
    x = function.source.quant
    kind, parameter = function.kind() if as_tflite else ("other", 0.0)
    if kind == "logistic" and (y.real_scale, y.zp) == (1 / 256, -128):
        return tables.logistic(x.real_scale, x.zp)
    if kind == "tanh" and (y.real_scale, y.zp) == (1 / 128, 0):
        return tables.tanh(x.real_scale, x.zp)
    if kind == "hard_swish":
        return tables.hard_swish(x.real_scale, x.zp, y.real_scale, y.zp)
    if kind == "leaky_relu":
        return tables.leaky_relu(x.real_scale, x.zp, y.real_scale, y.zp, parameter)
    scaled = function.values() / y.real_scale
    return np.clip(np.trunc(scaled + np.copysign(0.5, scaled)) + y.zp, -128, 127)


_Convert = Callable[[_Converter, relax.Expr, _Result], relax.Expr | None]

# By the outermost float operator. An `add` may be a bias or an addition: the bias converters ask first.
_ANCHORS: dict[str, tuple[_Convert, ...]] = {
    "relax.add": (_convolution, _dense, _addition),
    "relax.subtract": (_addition,),
    "relax.multiply": (_product,),
    "relax.nn.conv2d": (_convolution,),
    "relax.matmul": (_dense,),
    "relax.nn.avg_pool2d": (_pool,),
    "relax.nn.max_pool2d": (_pool,),
    "relax.mean": (_mean,),
    "relax.nn.softmax": (_softmax,),
    "relax.image.resize2d": (_bilinear,),
    "relax.dequantize": (_requantize,),
}


# --- data movement on integers -----------------------------------------------------------------------------------------------------------


def _reshape(cv: _Converter, call: relax.Call, _name: str) -> relax.Expr:
    return registry.call("tiny.reshape", cv.value(call.args[0]), shape=list(shape_of(call)))


def _transpose(cv: _Converter, call: relax.Call, name: str) -> relax.Expr:
    axes = ints(call.attrs.axes) if call.attrs.axes is not None else list(range(len(shape_of(call))))[::-1]
    return registry.call("tiny.transpose", cv.value(call.args[0]), axes=axes, source=name)


def _pad(cv: _Converter, call: relax.Call, name: str) -> relax.Expr:
    value = float(_scalar(call.args[1])) if len(call.args) > 1 else float(call.attrs.pad_value)
    width = ints(call.attrs.pad_width)
    return registry.call("tiny.pad", cv.value(call.args[0]), before=width[0::2], after=width[1::2], value=int(value), source=name)


def _concat(cv: _Converter, call: relax.Call, name: str) -> relax.Expr:
    parts = cv.view.definition(call.args[0])
    return registry.call("tiny.concat", *(cv.value(f) for f in parts.fields), axis=int(call.attrs.axis), source=name)


def _slice(cv: _Converter, call: relax.Call, name: str) -> relax.Expr:
    axes, begin, end, strides = ([int(_scalar(v)) for v in arg.fields] for arg in call.args[1:5])
    shape = shape_of(call.args[0])
    bounds = {"begin": [0] * len(shape), "size": list(shape), "strides": [1] * len(shape)}
    for axis, first, last, step in zip(axes, begin, end, strides, strict=True):
        bounds["begin"][axis], bounds["size"][axis], bounds["strides"][axis] = first, -(-(last - first) // step), step
    return registry.call("tiny.strided_slice", cv.value(call.args[0]), source=name, **bounds)


def _resize(cv: _Converter, call: relax.Call, name: str) -> relax.Expr | None:
    mode = {"align_corners": (True, False), "tf_half_pixel_for_nn": (False, True), "asymmetric": (False, False)}
    attrs = call.attrs
    if str(attrs.method) != "nearest_neighbor" or str(attrs.layout) != "NHWC" or str(attrs.coordinate_transformation_mode) not in mode:
        return None
    align, half = mode[str(attrs.coordinate_transformation_mode)]
    size = list(shape_of(call)[1:3])
    return registry.call("tiny.resize_nearest", cv.value(call.args[0]), size=size, align_corners=align, half_pixel=half, source=name)


def _extreme(cv: _Converter, call: relax.Call, name: str) -> relax.Expr | None:
    if dtype_of(call) != "int8":
        return None
    function = "maximum" if op_name(call) == "relax.maximum" else "minimum"
    for value, number in ((call.args[0], call.args[1]), (call.args[1], call.args[0])):
        if is_constant(number) and constant(number).size == 1 and shape_of(value) == shape_of(call):
            table = getattr(np, function)(np.arange(-128, 128), int(_scalar(number))).astype(np.int8)
            return registry.call("tiny.lookup", cv.value(value), relax.const(table), source=name)
    return registry.call(f"tiny.{function}", *(cv.value(a) for a in call.args), source=name)


_MOVES: dict[str, Callable[[_Converter, relax.Call, str], relax.Expr | None]] = {
    **dict.fromkeys(("relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten"), _reshape),
    "relax.permute_dims": _transpose,
    "relax.nn.pad": _pad,
    "relax.concat": _concat,
    "relax.strided_slice": _slice,
    "relax.image.resize2d": _resize,
    "relax.maximum": _extreme,
    "relax.minimum": _extreme,
}


# --- small things -------------------------------------------------------------------------------------------------------------------------


def _range(dtype: str) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def _scalar(expr: relax.Expr) -> float:
    return constant(expr).reshape(-1)[0] if is_constant(expr) else expr.value


def _dequantize(array: np.ndarray, quant: Quant, axis: int) -> np.ndarray:
    shape = [1] * array.ndim
    if not quant.per_tensor:
        shape[axis] = -1
    scale, zero_point = quant.scale.reshape(shape), quant.zero_point.reshape(shape)
    return ((array.astype(np.float32) - zero_point.astype(np.float32)) * scale).astype(np.float32)
