# SPDX-License-Identifier: Apache-2.0
"""quantize-to-integer: from `dequantize → float operator → quantize` to integer operators of the `tiny.*` dialect.

Where it may stand: first; its input is the QDQ form of `tvm_tiny.frontend.tflite`.

What it matches, looking back from every `quantize` (with the integer `clip` behind it, which becomes the operator's clamp)
  1. convolution, depthwise convolution, fully connected: `add?(op(dequantize(x), dequantize(w)), dequantize(b))`; the product of two
     matrices that are both computed
  2. add, subtract, multiply, squared difference of two dequantised values, PReLU; with a constant number they are one of the functions
     of 5, by their own arithmetic
  3. average and max pooling, mean, sum, least, largest, softmax, bilinear resize of one dequantised value; an average that changes the
     quantisation (ONNX) is a mean when it covers the image, else a depthwise convolution with ones
  4. a plain dequantised value: `tiny.requantize`
  5. any elementwise float function of one per-tensor dequantised int8 value: `tiny.lookup`, its 256 results computed here: by the
     reference kernel's own integer arithmetic for logistic, tanh, hard-swish, leaky ReLU, ELU, abs, exp, log and rsqrt of TFLite models,
     else step by step in its single precision, or (ONNX) in double
  6. what moves or compares integers: reshape, transpose, pad, concatenate, slice, split, flip, take, nearest-neighbour resize, maximum,
     minimum, argmax, argmin
What it leaves: everything else stays a float island between `tiny.dequantize` and `tiny.quantize`; `float_islands` lists them.

Rounding: "gemmlowp" for TFLite models (bit-identical to TensorFlow Lite Micro), "single" for ONNX ones (nearest, as ONNX Runtime).

rewrite:
    a = dequantize(x, 0.5, -1); w1 = dequantize(w, …); c = nn.conv2d(a, w1); d = add(c, dequantize(b, …))
    y = clip(quantize(d, 0.1, -128), -128, 127)
        →  y = tiny.conv2d(x, w, b, multiplier, shift, x_zp=-1, y_zp=-128, clamp_min=-128, …)
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_tiny.frontend.qdq_view import Dequantized, QdqView, Quant, constant, dtype_of, ints, is_constant, op_name, shape_of
from tvm_tiny.memory.program import model_info
from tvm_tiny.ops import registry
from tvm_tiny.passes._quantize_base import Convert, Result, dequantized_constant, full_range, scalar
from tvm_tiny.passes._quantize_functions import FUNCTIONS, elementwise
from tvm_tiny.passes._quantize_moves import MOVES
from tvm_tiny.passes._quantize_products import PRODUCTS
from tvm_tiny.passes._quantize_windows import WINDOWS


@tvm.transform.module_pass(opt_level=0, name="quantize-to-integer")
class QuantizeToInteger:
    """See the module's docstring."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite `main`."""
        rounding = "single" if model_info(mod).get("format") == "onnx" else "gemmlowp"
        main = Converter(mod["main"], rounding, model_info(mod)).run()
        out = tvm.IRModule({"main": main})
        return out.with_attrs(dict(mod.attrs.items())) if mod.attrs is not None else out


def float_islands(mod: tvm.IRModule) -> list[tuple[str, str]]:
    """(variable, operator) of every operator of `main` that computes in float."""
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    calls = [(b.var, b.value) for b in bindings if isinstance(b.value, relax.Call) and not registry.is_tiny(b.value)]
    return [(var.name, op_name(call)) for var, call in calls if isinstance(var.ty, relax.TensorType) and dtype_of(var).startswith("float")]


class Converter:
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
        """The function over integers."""
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
            return self._quantized(expr.args[0], Result(quant, *full_range(dtype_of(expr)), name))
        if kind == "relax.clip" and dtype_of(expr) == "int8":
            return self._clipped(expr, name)
        if kind == "relax.dequantize":
            return self._dequantized(expr, name)
        if kind in MOVES and dtype_of(expr) in ("int8", "float32", "int32"):
            moved = MOVES[kind](self, expr, name)
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
        low, high = (int(scalar(a)) for a in clip.args[1:3])
        inner = self.view.quantized(clip.args[0])
        if inner is not None:
            quant_low, quant_high = full_range("int8")
            return self._quantized(inner[0], Result(inner[1], max(low, quant_low), min(high, quant_high), name))
        table = np.clip(np.arange(-128, 128), low, high).astype(np.int8)
        return registry.call("tiny.lookup", self.value(clip.args[0]), relax.const(table), source=name)

    def _quantized(self, real: relax.Expr, result: Result) -> relax.Expr:
        definition = self.view.definition(real)
        if result.quant.per_tensor and dtype_of(real) == "float32":
            for convert in (*_ANCHORS.get(op_name(definition), ()), elementwise):
                call = convert(self, definition, result)
                if call is not None:
                    return call
        rounded = registry.call(
            "tiny.quantize", self.value(real), scale=result.quant.real_scale, zp=result.quant.zp, rounding=self.float_rounding
        )
        if (result.low, result.high) == full_range("int8"):
            return rounded
        table = np.clip(np.arange(-128, 128), result.low, result.high).astype(np.int8)
        return registry.call("tiny.lookup", self.builder.emit(rounded), relax.const(table), source=result.name)

    def _dequantized(self, call: relax.Call, name: str) -> relax.Expr:
        quant = Quant(constant(call.args[1]), constant(call.args[2]))
        if is_constant(call.args[0]):
            return relax.const(dequantized_constant(constant(call.args[0]), quant, int(call.attrs.axis)))
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


# By the outermost float operator. An `add` may be a bias, a PReLU or an addition: the converters of biases ask first.
_ANCHORS: dict[str, tuple[Convert, ...]] = {
    name: (*PRODUCTS.get(name, ()), *WINDOWS.get(name, ()), *FUNCTIONS.get(name, ())) for name in {**PRODUCTS, **WINDOWS, **FUNCTIONS}
}
