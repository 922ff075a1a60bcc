# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies: random small networks in tiny form whose operators can all be computed row by row."""

from __future__ import annotations

import tvm
from hypothesis import strategies as st
from tvm import relax

from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.ops import add as add_op
from tvm_tiny.ops.mul import quantize_params as mul_params
from tvm_tiny.ops.prelu import quantize_params as prelu_params


class RandomNet:
    """Adds random operators with odd sizes, strides, dilation and asymmetric padding."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        shape = (1, draw(st.integers(4, 13)), draw(st.integers(3, 9)), draw(st.integers(1, 9)))
        self.b = TinyBuilder(shape, seed=draw(st.integers(0, 10**6)))

    def _size(self, x: relax.Expr) -> tuple[int, int, int]:
        _, h, w, c = (int(d) for d in x.ty.shape.values)
        return h, w, c

    def _windows(self, x: relax.Expr) -> tuple[tuple[int, int], dict]:
        """A kernel (kh, kw) that fits and its attributes."""
        h, w, _ = self._size(x)
        sizes, before, after, strides, dilation = [], [], [], [], []
        for size in (h, w):
            kernel, stretch = self.draw(st.integers(1, 4)), self.draw(st.sampled_from([1, 1, 1, 2]))
            extent = (kernel - 1) * stretch + 1
            a, b = self.draw(st.integers(0, extent - 1)), self.draw(st.integers(0, extent - 1))
            if size + a + b < extent:
                kernel, stretch, a, b = 1, 1, 0, 0
            sizes.append(kernel)
            before.append(a)
            after.append(b)
            dilation.append(stretch)
            strides.append(self.draw(st.sampled_from([1, 1, 2, 3])))
        return (sizes[0], sizes[1]), {"padding": [*before, *after], "strides": strides, "dilation": dilation}

    def conv(self, x: relax.Expr) -> relax.Var:
        (kh, kw), attrs = self._windows(x)
        channels, depth = self.draw(st.integers(1, 9)), self._size(x)[2]
        weight = self.b.rng.integers(-127, 128, (channels, kh, kw, depth)).astype("int8")
        return self.b.conv(x, channels, weight=weight, **self._clamp(), **attrs)

    def depthwise(self, x: relax.Expr) -> relax.Var:
        (kh, kw), attrs = self._windows(x)
        weight = self.b.rng.integers(-127, 128, (kh, kw, self._size(x)[2])).astype("int8")
        return self.b.depthwise(x, weight=weight, **self._clamp(), **attrs)

    def _clamp(self) -> dict[str, int]:
        return {"clamp_min": self.draw(st.sampled_from([-128, 5])), "x_zp": self.draw(st.sampled_from([-128, -3, 127]))}

    def pool(self, x: relax.Expr) -> relax.Var:
        (kh, kw), attrs = self._windows(x)
        padding = [min(p, k - 1) for p, k in zip(attrs["padding"], (kh, kw, kh, kw), strict=True)]
        h, w, _ = self._size(x)
        if h + padding[0] + padding[2] < kh or w + padding[1] + padding[3] < kw:
            kh, kw, padding = 1, 1, [0] * 4
        return self.b.call(
            self.draw(st.sampled_from(["avg_pool2d", "max_pool2d"])), x, kernel=[kh, kw], padding=padding, strides=attrs["strides"]
        )

    def residual(self, x: relax.Expr) -> relax.Var:
        depth = self._size(x)[2]
        y = self.b.conv(x, self.draw(st.integers(1, 8)), self.draw(st.sampled_from([1, 3])))
        for _ in range(self.draw(st.integers(0, 2))):
            y = self.b.depthwise(y, self.draw(st.sampled_from([3, 5])))
        y = self.b.conv(y, depth)
        operands = [y, x] if self.draw(st.booleans()) else [x, y]
        params = add_op.quantize_params(0.11, self.draw(st.sampled_from([0.11, 0.37])), 0.2)
        return self.b.call("add", *operands, a_zp=3, b_zp=-7, y_zp=1, **params)

    def product(self, x: relax.Expr) -> relax.Var:
        y = self.b.depthwise(x, 3)
        return self.b.call("mul", y, x, a_zp=3, b_zp=-7, y_zp=1, **mul_params(0.1, 0.1, 0.9))

    def squeeze(self, x: relax.Expr) -> relax.Var:
        """Squeeze-and-excite: every channel scaled by a value made of its mean over width, then height."""
        h, w, depth = self._size(x)
        mean = {"x_zp": -3, "y_zp": -3, "rounding": "gemmlowp"}
        rows = self.b.call("mean", x, axes=[2], keepdims=True, multiplier=(1 << 30) // w, shift=1, **mean)
        one = self.b.call("mean", rows, axes=[1], keepdims=True, multiplier=(1 << 30) // h, shift=1, **mean)
        return self.b.call("mul", x, self.b.conv(one, depth), a_zp=3, b_zp=-7, y_zp=1, **mul_params(0.1, 0.1, 0.9))

    def concat(self, x: relax.Expr) -> relax.Var:
        """Two to four tensors beside each other, as of a dense connection: x itself and what windows of its size make of it."""
        parts = [x, *(self._beside(x) for _ in range(self.draw(st.integers(1, 3))))]
        return self.b.call("concat", *self.draw(st.permutations(parts)), axis=3)

    def resize(self, x: relax.Expr) -> relax.Var:
        """Larger or smaller by any factor, each axis by its own."""
        h, w, _ = self._size(x)
        size = [self.draw(st.sampled_from([n, 2 * n, 3 * n, n + 1, 1 + n // 2])) if n < 20 else n for n in (h, w)]
        corners, half = self.draw(st.sampled_from([(False, False), (False, True), (True, False)]))
        return self.b.call(
            self.draw(st.sampled_from(["resize_nearest", "resize_bilinear"])), x, size=size, align_corners=corners, half_pixel=half
        )

    def _beside(self, x: relax.Expr) -> relax.Var:
        y = self.b.conv(x, self.draw(st.integers(1, 6)), self.draw(st.sampled_from([1, 3])))
        return self.b.depthwise(y, 3) if self.draw(st.booleans()) else y

    def table(self, x: relax.Expr) -> relax.Var:
        if self.draw(st.booleans()):
            return self.b.call("lookup", x, self.b.rng.integers(-128, 128, 256).astype("int8"))
        return self.b.call("requantize", x, x_zp=-3, y_zp=9, multiplier=1518500250, shift=self.draw(st.integers(-2, 1)))

    def by_channel(self, x: relax.Expr) -> relax.Var:
        """A function with a constant a channel, the larger (smaller) of two tensors, or more channels."""
        depth, kind = self._size(x)[2], self.draw(st.sampled_from(["prelu", "mul", "maximum", "minimum", "both", "pad"]))
        numbers = self.b.rng.integers(-128, 128, self.draw(st.sampled_from([(depth,), (1, 1, depth), (1,)]))).astype("int8")
        if kind == "pad":
            before, after = self.draw(st.integers(0, 3)), self.draw(st.integers(0, 3))
            return self.b.call("pad", x, before=[0, 0, 0, before], after=[0, 0, 0, after], value=-5)
        if kind == "both":
            return self.b.call(self.draw(st.sampled_from(["maximum", "minimum"])), self.b.depthwise(x, 3), x)
        if kind == "prelu":
            return self.b.call(
                "prelu", x, numbers, x_zp=-3, slope_zp=9, y_zp=4, **prelu_params(0.1, 0.01, self.draw(st.sampled_from([0.05, 0.3])))
            )
        scaling = {"a_zp": 3, "b_zp": -7, "y_zp": 1, **mul_params(0.1, 0.1, 0.9)} if kind == "mul" else {}
        return self.b.call(kind, x, numbers, **scaling)

    def end(self, x: relax.Expr) -> relax.Var:
        h, w, _ = self._size(x)
        if self.draw(st.booleans()):
            return self.b.call("avg_pool2d", x, kernel=[h, w])
        return self.b.call("mean", x, axes=[1, 2], x_zp=-3, y_zp=4, multiplier=1400000000 // (h * w), shift=0)


@st.composite
def tiny_chains(draw: st.DrawFn, least: int = 2, most: int = 5, more: tuple[str, ...] = ()) -> tvm.IRModule:
    """A network of windows, residual blocks, dense connections, products, tables, poolings and what `more` names, perhaps with a global
    mean at the end."""
    net = RandomNet(draw)
    x: relax.Expr = net.b.x
    once = ["depthwise", "product", "pool", "table", "by_channel", "concat", *more]
    for _ in range(draw(st.integers(least, most))):
        x = getattr(net, draw(st.sampled_from([*["conv", "residual"] * 2, *once])))(x)
    return net.b.finish(net.end(x) if draw(st.booleans()) else x)
