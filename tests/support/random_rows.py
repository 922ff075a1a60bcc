# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies: random small networks of row operators, with odd sizes, asymmetric padding, branches and joins."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import strategies as st

from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor


@st.composite
def axes(draw: st.DrawFn, size: int) -> Axis:
    """A window that fits an axis of `size`, with any padding smaller than its extent."""
    kernel, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 1, 2]))
    axis = Axis(kernel, stride, 0, 0, dilation)
    before, after = draw(st.integers(0, axis.extent - 1)), draw(st.integers(0, axis.extent - 1))
    axis = replace(axis, before=before, after=after)
    return axis if size + before + after >= axis.extent else Axis()


class Builder:
    """Adds operators and keeps the graph's tensors."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        shape = draw(st.integers(3, 14)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
        self.tensors = {"x": RowTensor("x", *shape)}
        self.ops: list[RowOp] = []

    def add(self, kind: str, inputs: tuple[str, ...], shape: tuple[int, int, int], **fields: object) -> str:
        name = f"t{len(self.ops)}"
        self.tensors[name] = RowTensor(name, *shape)
        self.ops.append(RowOp(f"{kind}{len(self.ops)}", kind, inputs, name, **fields))  # type: ignore[arg-type]
        return name

    def window(self, source: str, same: bool = False) -> str:
        data = self.tensors[source]
        if same:
            kernel = self.draw(st.sampled_from([1, 3, 5]))
            rows = columns = Axis(kernel, 1, kernel // 2, kernel // 2)
        else:
            rows, columns = self.draw(axes(data.height)), self.draw(axes(data.width))
        height, width = rows.output_size(data.height), columns.output_size(data.width)
        depthwise = self.draw(st.booleans())
        channels = data.channels if depthwise or same else self.draw(st.integers(1, 3))
        shape = (height, width, channels)
        fits = data.nbytes >= height * width * channels
        fields = {"in_place": (0,) if depthwise and fits else (), "pointwise": rows == columns == Axis(), "macs": height * width}
        return self.add("window", (source,), shape, rows=rows, columns=columns, **fields)

    def residual(self, source: str) -> str:
        branch = source
        for _ in range(self.draw(st.integers(1, 3))):
            branch = self.window(branch, same=True)
        data = self.tensors[branch]
        other = source if self.tensors[source] == replace(data, name=source) else self.window(source, same=True)
        fits = self.tensors[other].nbytes == data.nbytes
        shape = (data.height, data.width, data.channels)
        return self.add("rows", (branch, other), shape, in_place=(0, 1) if fits else (0,), pointwise=True)

    def upsample(self, source: str) -> str:
        data = self.tensors[source]
        height = self.draw(st.sampled_from([data.height * 2, data.height + 1, 1 + data.height // 2]))
        reach, scale = self.draw(st.integers(1, 2)), data.height / height
        sources = tuple((int(r * scale), min(data.height, int(r * scale) + reach)) for r in range(height))
        return self.add("resize", (source,), (height, data.width, data.channels), sources=sources)


@st.composite
def row_graphs(draw: st.DrawFn, max_blocks: int = 5) -> RowGraph:
    """A network of windows, residual blocks (with or without shortcut operators) and upsamplings, perhaps pooled at the end."""
    net = Builder(draw)
    last = "x"
    for _ in range(draw(st.integers(1, max_blocks))):
        block = draw(st.sampled_from(["window", "window", "residual", "upsample"]))
        small = net.tensors[last].height <= 16
        last = net.residual(last) if block == "residual" else net.upsample(last) if block == "upsample" and small else net.window(last)
    if draw(st.booleans()):
        last = net.add("reduce", (last,), (1, 1, net.tensors[last].channels), pointwise=True)
        last = net.add("whole", (last,), (1, 1, 2))
    assert all(a.output != b.output for a, b in pairwise(net.ops))
    return RowGraph(net.tensors, tuple(net.ops), ("x",), (last,))
