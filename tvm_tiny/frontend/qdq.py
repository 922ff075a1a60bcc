# SPDX-License-Identifier: Apache-2.0
"""Imported NCHW float-with-QDQ Relax → the QDQ form of `tvm_tiny.frontend.tflite`, NHWC.

One walk over the bindings. A value is not emitted where it is defined but where it is needed, as a `Value` that knows how it lies: a stored
variable and the order `perm` of its axes (stored axis j is axis perm[j] of the source model), so transposes cost nothing until an operator
insists on a layout; "integers with a scale" instead of a `dequantize`, so data movement lands on the integers; "clamped" instead of a
float ReLU, so it becomes an integer clip behind the `quantize`; "moved" float data, which is moved after its quantisation instead.

    rewrite:  permute_dims(x, NCHW); q; d; nn.conv2d NCHW OIHW; add(reshape(d(b))); nn.relu; q; d; permute_dims(NHWC)
         →    q(x); d; nn.conv2d NHWC OHWI; add(d(b)); q; clip
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tvm
from tvm import relax
from tvm.relax import op as R

from tvm_tiny.frontend.naming import Names, TensorInfo

NHWC = (0, 2, 3, 1)


@dataclass(frozen=True)
class Origin:
    """Where a value comes from: the source model's tensor, operator and node index."""

    tensor: str
    op: str
    node: int


@dataclass(frozen=True)
class Scale:
    """Per-tensor quantisation."""

    scale: float
    zero_point: int

    def round(self, real: np.ndarray | float) -> np.ndarray:
        """Real → int8, halves to even as ONNX rounds."""
        scaled = np.rint(np.asarray(real, np.float32) / np.float32(self.scale))
        return np.clip(scaled + self.zero_point, -128, 127).astype(np.int8)


@dataclass(frozen=True)
class Value:
    """A value of the source model not yet (or already) emitted; `shape` is the source model's.

    Exactly one of: `var` (stored so that its axis j is axis perm[j]; with `quant` it means the real values of those integers or, when
    `raw`, the integers themselves), `data` (a constant in the source's own layout; `scales` and `zero` make it real), `base` (that value
    clamped to `bounds`), `sources` (what `move` makes of them, given their variables and their quantisation).
    `flat` is the same flattened image without its transpose, and the source's index of each of its columns: a matrix product takes it,
    with the rows of its weights in that order.
    """

    shape: tuple[int, ...]
    perm: tuple[int, ...]
    origin: Origin | None = None
    var: relax.Expr | None = None
    quant: Scale | None = None
    raw: bool = False
    data: np.ndarray | None = None
    scales: np.ndarray | None = None
    zero: int = 0
    base: Value | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    sources: tuple[Value, ...] = ()
    move: Callable[[list[relax.Expr], Scale | None], relax.Expr] | None = None
    flat: tuple[Value, np.ndarray] | None = None

    @property
    def real(self) -> np.ndarray:
        """The real values of a constant."""
        assert self.data is not None
        return self.data if self.scales is None else (self.data.astype(np.int32) - self.zero).astype(np.float32) * self.scales


@dataclass(frozen=True)
class Product:
    """A convolution or matrix product that may still take a bias: the scale of its accumulator, if quantised, and its channels."""

    scale: np.ndarray | None
    channels: int


def _f32(value: float | np.ndarray) -> relax.Expr:
    return relax.const(np.asarray(value, np.float32))


def _i32(value: int | np.ndarray) -> relax.Expr:
    return relax.const(np.asarray(value, np.int32))


def preferred(values: Sequence[Value]) -> tuple[int, ...]:
    """The order of axes in which values meet: the device's (what is not the source's own) where one has it."""
    own = identity(len(values[0].shape))
    return next((v.perm for v in values if v.perm != own), own)


def identity(rank: int) -> tuple[int, ...]:
    """The order of axes of the source model itself."""
    return tuple(range(rank))


@dataclass
class Emitter:
    """Emits values into a block builder, in the QDQ form, and keeps the names."""

    builder: relax.BlockBuilder
    names: Names = field(default_factory=Names)
    hints: dict[relax.Var, str] = field(default_factory=dict)
    table: dict[str, TensorInfo] = field(default_factory=dict)
    reshaped: dict[relax.Var, relax.Expr] = field(default_factory=dict)
    products: dict[relax.Var, Product] = field(default_factory=dict)
    rounded: set[relax.Var] = field(default_factory=set)

    def emit(self, expr: relax.Expr, origin: Origin | None = None, quant: Scale | None = None) -> relax.Expr:
        """Bind `expr`; with an origin under its tensor's name."""
        var = expr if isinstance(expr, relax.Var) else self.builder.emit(expr)
        if origin is not None and var not in self.hints:
            hint = self.hints[var] = self.names.unique(origin.tensor)
            shape, dtype = tuple(int(e) for e in var.ty.shape), str(var.ty.dtype)
            scale, zero_point = (None, None) if quant is None or dtype != "int8" else (quant.scale, quant.zero_point)
            self.table[hint] = TensorInfo(origin.tensor, shape, dtype, scale, zero_point, origin.op, origin.node)
        return var

    # --- moving data ----------------------------------------------------------------------------------------------------------------

    def reshape(self, var: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        """`reshape`, of a reshape's source rather than of a reshape."""
        var = self.reshaped.get(var, var)
        if tuple(int(e) for e in var.ty.shape) == tuple(shape):
            return var
        out = self.emit(R.reshape(var, tuple(shape)))
        self.reshaped[out] = var
        return out

    def transpose(self, var: relax.Expr, axes: Sequence[int]) -> relax.Expr:
        """`permute_dims`, or a `reshape` where only axes of extent 1 change places."""
        shape = [int(e) for e in var.ty.shape]
        moving = [a for a in axes if shape[a] != 1]
        if moving == sorted(moving):
            return self.reshape(var, [shape[a] for a in axes])
        return self.emit(R.permute_dims(var, list(axes)))

    def moved(
        self,
        sources: Sequence[Value],
        move: Callable[[list[relax.Expr], Scale | None], relax.Expr],
        shape: tuple[int, ...],
        perm: tuple[int, ...],
        origin: Origin | None = None,
    ) -> Value:
        """Data movement over stored values: at once on integers of one scale, put off on real ones until they are quantised."""
        first = sources[0]
        same = all(s.var is not None and s.quant == first.quant and s.raw == first.raw for s in sources)
        if same and (first.raw or first.quant is not None):
            var = move([self.stored(s) for s in sources], first.quant)
            return Value(shape, perm, origin, var=self.emit(var, origin, first.quant), quant=first.quant, raw=first.raw)
        return Value(shape, perm, origin, sources=tuple(sources), move=move)

    def laid(self, value: Value, perm: tuple[int, ...]) -> Value:
        """The value stored in the order `perm`."""
        if value.perm == perm or value.data is not None:
            return value
        if value.base is not None:
            return replace(value, base=self.laid(value.base, perm), perm=perm)
        axes = [value.perm.index(a) for a in perm]
        return self.moved([value], lambda parts, _: self.transpose(parts[0], axes), value.shape, perm)

    # --- real and integer -----------------------------------------------------------------------------------------------------------

    def real(self, value: Value, perm: tuple[int, ...] | None = None, origin: Origin | None = None) -> relax.Expr:
        """The real values as a variable (or constant), stored in the order `perm` (its own when None)."""
        perm = value.perm if perm is None else perm
        if value.data is not None:
            return self.constant(value, perm)
        value = self.laid(value, perm)
        if value.base is not None:
            return self.emit(R.clip(self.real(value.base), *(_finite(b) for b in value.bounds)), origin)
        if value.move is not None:
            return self.emit(value.move([self.real(s) for s in value.sources], None), origin)
        assert value.var is not None
        if value.quant is None or value.raw:
            return self.emit(value.var, origin, value.quant)
        return self.emit(R.dequantize(value.var, _f32(value.quant.scale), _i32(value.quant.zero_point), axis=-1), origin)

    def constant(self, value: Value, perm: tuple[int, ...]) -> relax.Expr:
        """A constant operand; int8 with one scale stays int8 behind a `dequantize`. Lower ranks broadcast as they do in the source."""
        assert value.data is not None
        data = value.data if value.scales is None or value.scales.size == 1 else value.real
        if data.ndim == len(perm):
            data = data.transpose(perm)
        elif data.ndim and perm != identity(len(perm)):
            data = data.reshape((1,) * (len(perm) - data.ndim) + data.shape).transpose(perm)
        data = relax.const(np.ascontiguousarray(data).reshape(data.shape))
        if value.scales is None or value.scales.size > 1:
            return data
        return self.emit(R.dequantize(data, _f32(value.scales.ravel()[0]), _i32(value.zero), axis=-1))

    def quantize(self, value: Value, quant: Scale, origin: Origin | None) -> Value:
        """int8 of `value` in the scale `quant`."""
        if value.data is not None:
            return Value(value.shape, value.perm, origin, data=quant.round(value.real))
        if value.var is not None and value.quant == quant and not value.raw:
            return replace(value, raw=True)
        if value.base is not None:
            return self.clamped(value, quant, origin)
        if value.move is not None:
            parts = [self.quantize(s, quant, None) for s in value.sources]
            expr = value.move([self.stored(p) for p in parts], quant)
            return Value(value.shape, value.perm, origin, var=self.emit(expr, origin, quant), quant=quant, raw=True)
        expr = R.quantize(self.real(value), _f32(quant.scale), _i32(quant.zero_point), axis=-1, out_dtype="int8")
        var = self.emit(expr, origin, quant)
        self.rounded.add(var)
        return Value(value.shape, value.perm, origin, var=var, quant=quant, raw=True)

    def clamped(self, value: Value, quant: Scale, origin: Origin | None) -> Value:
        """int8 of a clamped value: `clip(q(base))`, without the clamp where it does nothing."""
        assert value.base is not None
        inner = self.quantize(value.base, quant, None)
        low, high = (int(quant.round(b)) for b in value.bounds)
        assert inner.var is not None
        if (low, high) == (-128, 127):
            return replace(inner, origin=origin, var=self.emit(inner.var, origin, quant))
        var = inner.var
        if var not in self.rounded:  # Integers that were there before: a requantise to their own scale keeps the form clip(q(…)).
            real = self.real(replace(inner, raw=False))
            var = self.emit(R.quantize(real, _f32(quant.scale), _i32(quant.zero_point), axis=-1, out_dtype="int8"))
        return Value(value.shape, inner.perm, origin, var=self.emit(R.clip(var, low, high), origin, quant), quant=quant, raw=True)

    def stored(self, value: Value) -> relax.Expr:
        """The variable or constant of an integer value."""
        if value.data is not None:
            return relax.const(np.ascontiguousarray(value.data.transpose(value.perm)))
        assert value.var is not None
        return value.var

    # --- products -------------------------------------------------------------------------------------------------------------------

    def product(self, make: Callable[[relax.Expr], relax.Expr], weight: Value, weights: np.ndarray, axis: int, x: Value) -> relax.Expr:
        """A convolution or matmul with constant `weights` (laid out already, output channels along `axis`); it may take a bias later."""
        scales = None if weight.scales is None else np.atleast_1d(weight.scales.ravel())
        if scales is None:
            operand = relax.const(np.ascontiguousarray(weights))
        else:
            scale = scales if scales.size > 1 else scales[0]
            zeros = np.zeros_like(scale, np.int32)
            operand = self.emit(R.dequantize(relax.const(np.ascontiguousarray(weights)), _f32(scale), _i32(zeros), axis=axis))
        out = self.emit(make(operand))
        accumulator = None
        if scales is not None and x.quant is not None:
            accumulator = (np.float64(np.float32(x.quant.scale)) * scales.astype(np.float64)).astype(np.float32)
        self.products[out] = Product(accumulator, weights.shape[axis])
        return out

    def biased(self, var: relax.Expr, bias: Value) -> relax.Expr | None:
        """`add(product, d(bias))` when `var` is a product and `bias` one constant a channel; None otherwise."""
        product = self.products.get(var)
        if product is None or bias.data is None or bias.data.size != product.channels:
            return None
        scale = product.scale
        if scale is None:
            return self.emit(R.add(var, _f32(bias.real.reshape(-1))))
        # The integer kernels take the bias in the accumulator's scale; a bias kept in another (or in float) is rounded to it.
        integers = bias.data.reshape(-1)
        if not _same_scale(bias, scale):
            integers = np.rint(bias.real.reshape(-1).astype(np.float64) / scale)
        integers = np.clip(integers, -(2**31), 2**31 - 1).astype(np.int32)
        scale = scale if scale.size > 1 else scale[0]
        zeros = np.zeros_like(scale, np.int32)
        real = self.emit(R.dequantize(relax.const(integers), _f32(scale), _i32(zeros), axis=0))
        return self.emit(R.add(var, real))


def _same_scale(bias: Value, scale: np.ndarray) -> bool:
    if bias.scales is None or bias.zero != 0 or bias.scales.size not in (1, scale.size):
        return False
    return np.allclose(bias.scales.ravel(), scale, rtol=1e-5, atol=0)


def _finite(bound: float) -> float:
    return float(np.clip(bound, np.finfo(np.float32).min, np.finfo(np.float32).max))


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """The static shape of an expression."""
    return tuple(int(e) for e in expr.ty.shape)


def array(expr: relax.Expr) -> np.ndarray:
    """The data of a Relax constant."""
    assert isinstance(expr, tvm.ir.GenericConst)
    return expr.value.numpy()
