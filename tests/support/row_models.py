# SPDX-License-Identifier: Apache-2.0
"""Row graphs for tests and benchmarks: read from TFLite files by shape alone, and MobileNetV2 built from its paper."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from tflite.BuiltinOperator import BuiltinOperator

from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor

NAMES = {v: k for k, v in vars(BuiltinOperator).items() if isinstance(v, int)}
OPTIONS = {
    "CONV_2D": tflite.Conv2DOptions,
    "DEPTHWISE_CONV_2D": tflite.DepthwiseConv2DOptions,
    "AVERAGE_POOL_2D": tflite.Pool2DOptions,
    "MAX_POOL_2D": tflite.Pool2DOptions,
}
VIEWS = ("RESHAPE", "QUANTIZE", "DEQUANTIZE", "TRANSPOSE")
NO_PAD = ((0, 0), (0, 0))


@dataclass
class _Reader:
    model: Any
    graph: Any
    codes: list[str]
    tensors: dict[str, RowTensor] = field(default_factory=dict)
    ops: list[RowOp] = field(default_factory=list)
    alias: dict[int, int] = field(default_factory=dict)
    pads: dict[int, tuple[int, tuple[tuple[int, int], tuple[int, int]]]] = field(default_factory=dict)

    def name(self, index: int) -> str:
        while index in self.alias:
            index = self.alias[index]
        if f"t{index}" not in self.tensors:
            self.tensors[f"t{index}"] = RowTensor(f"t{index}", *self.shape(index))
        return f"t{index}"

    def shape(self, index: int) -> tuple[int, int, int]:
        dims = [int(d) for d in self.graph.Tensors(index).ShapeAsNumpy()][1:]
        return (*([1] * (3 - len(dims))), *dims)[-3:] if dims else (1, 1, 1)


def read_tflite(path: Path) -> RowGraph:
    """The graph of a model file; PAD is folded into its reader, reshapes and the quantise steps at the ends vanish."""
    file = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
    sub = file.Subgraphs(0)
    codes = [file.OperatorCodes(i) for i in range(file.OperatorCodesLength())]
    reader = _Reader(file, sub, [NAMES[max(c.BuiltinCode(), c.DeprecatedBuiltinCode())] for c in codes])
    for i in range(sub.OperatorsLength()):
        _read_op(reader, sub.Operators(i), i)
    inputs = tuple(reader.name(sub.Inputs(i)) for i in range(sub.InputsLength()))
    outputs = tuple(reader.name(sub.Outputs(i)) for i in range(sub.OutputsLength()))
    used = {n for op in reader.ops for n in (*op.inputs, op.output)}
    return RowGraph({n: t for n, t in reader.tensors.items() if n in used}, tuple(reader.ops), inputs, outputs)


def _read_op(reader: _Reader, op: Any, number: int) -> None:
    kind = reader.codes[op.OpcodeIndex()]
    inputs = [op.Inputs(k) for k in range(op.InputsLength()) if op.Inputs(k) >= 0]
    output = op.Outputs(0)
    if kind in VIEWS:
        reader.alias[output] = inputs[0]
    elif kind == "PAD":
        widths = _constant(reader, inputs[1])
        reader.pads[output] = (inputs[0], ((widths[2], widths[3]), (widths[4], widths[5])))
    elif kind in OPTIONS:
        reader.ops.append(_window_op(reader, op, kind, inputs, output, number))
    elif kind == "MEAN":
        reader.ops.append(_mean(reader, inputs[0], output, number))
    elif kind in ("ADD", "MUL", "SUB"):
        reader.ops.append(_elementwise(reader, kind, inputs, output, number))
    else:
        macs = _size(reader, inputs[1]) if kind == "FULLY_CONNECTED" else 0
        reader.ops.append(RowOp(f"{number} {kind}", "whole", (reader.name(inputs[0]),), reader.name(output), macs=macs))


def _constant(reader: _Reader, index: int) -> list[int]:
    buffer = reader.model.Buffers(reader.graph.Tensors(index).Buffer())
    return [int(v) for v in np.frombuffer(buffer.DataAsNumpy().tobytes(), "<i4")]


def _size(reader: _Reader, index: int) -> int:
    size = 1
    for d in reader.graph.Tensors(index).ShapeAsNumpy():
        size *= int(d)
    return size


def _window_op(reader: _Reader, op: Any, kind: str, inputs: list[int], output: int, number: int) -> RowOp:
    options = OPTIONS[kind]()
    options.Init(op.BuiltinOptions().Bytes, op.BuiltinOptions().Pos)
    source, pad = reader.pads.get(inputs[0], (inputs[0], NO_PAD))
    data, out = reader.tensors[reader.name(source)], reader.tensors[reader.name(output)]
    if "POOL" in kind:
        kernel, dilation = (options.FilterHeight(), options.FilterWidth()), (1, 1)
    else:
        shape = [int(d) for d in reader.graph.Tensors(inputs[1]).ShapeAsNumpy()]
        kernel, dilation = (shape[1], shape[2]), (options.DilationHFactor(), options.DilationWFactor())
    strides = (options.StrideH(), options.StrideW())
    axes = [
        _axis(n, m, k, s, d, p)
        for n, m, k, s, d, p in zip((data.height, data.width), (out.height, out.width), kernel, strides, dilation, pad, strict=True)
    ]
    per_output = kernel[0] * kernel[1] * (data.channels if kind == "CONV_2D" else 0 if "POOL" in kind else 1)
    if "POOL" in kind and kernel == (data.height, data.width):
        return RowOp(f"{number} {kind}", "reduce", (data.name,), out.name, pointwise=True)
    in_place = (0,) if kind == "DEPTHWISE_CONV_2D" and data.channels == out.channels else ()
    pointwise = all(a == Axis() for a in axes)
    macs = out.nbytes * per_output
    return RowOp(f"{number} {kind}", "window", (data.name,), out.name, axes[0], axes[1], macs, in_place, pointwise=pointwise)


def _axis(size: int, out: int, kernel: int, stride: int, dilation: int, pad: tuple[int, int]) -> Axis:
    if pad == (0, 0):  # SAME: what is missing is split, the odd one after; VALID needs none
        missing = max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - size)
        pad = (missing // 2, missing - missing // 2)
    return Axis(kernel, stride, pad[0], pad[1], dilation)


def _mean(reader: _Reader, source: int, output: int, number: int) -> RowOp:
    data = reader.tensors[reader.name(source)]
    out = reader.name(output)
    if data.width > 1 and _size(reader, output) != data.channels:
        reader.tensors[out] = replace(data, name=out, width=1)
        return RowOp(f"{number} MEAN", "window", (data.name,), out, columns=Axis(data.width), pointwise=False)
    reader.tensors[out] = RowTensor(out, 1, 1, data.channels)
    return RowOp(f"{number} MEAN", "reduce", (data.name,), out, pointwise=True)


def _elementwise(reader: _Reader, kind: str, inputs: list[int], output: int, number: int) -> RowOp:
    names = tuple(reader.name(i) for i in inputs if _size(reader, i) > 1)
    out = reader.tensors[reader.name(output)]
    in_place = tuple(i for i, n in enumerate(names) if reader.tensors[n].nbytes == out.nbytes)
    return RowOp(f"{number} {kind}", "rows", names, out.name, in_place=in_place, pointwise=True)


def mobilenet_v2(width: float, size: int) -> RowGraph:
    """MobileNetV2 (Sandler et al. 2018, table 2) up to the classifier, channels rounded to multiples of 8."""
    net = _Net(size)
    net.conv(_round(32 * width), 3, 2)
    for expansion, channels, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(count):
            net.block(expansion, _round(channels * width), stride if i == 0 else 1)
    net.conv(max(1280, _round(1280 * width)), 1, 1)
    net.reduce()
    net.dense(1000)
    return net.graph()


def _round(value: float) -> int:
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


class _Net:
    """Builds a sequential graph with residual blocks; strided windows pad as TensorFlow's SAME."""

    def __init__(self, size: int, channels: int = 3) -> None:
        self.last = RowTensor("image", size, size, channels)
        self.tensors = {"image": self.last}
        self.ops: list[RowOp] = []

    def _add(self, op: str, height: int, width: int, channels: int, **fields: Any) -> None:
        name = f"t{len(self.ops)}"
        inputs = fields.pop("inputs", (self.last.name,))
        self.last = self.tensors[name] = RowTensor(name, height, width, channels)
        self.ops.append(RowOp(f"{len(self.ops)} {op}", fields.pop("kind", "window"), inputs, name, **fields))

    def conv(self, channels: int, kernel: int, stride: int, depthwise: bool = False) -> None:
        data = self.last
        axes = [_axis(n, -(-n // stride), kernel, stride, 1, (0, 0)) for n in (data.height, data.width)]
        height, width = -(-data.height // stride), -(-data.width // stride)
        macs = height * width * channels * kernel * kernel * (1 if depthwise else data.channels)
        pointwise = kernel == stride == 1
        fields = {"rows": axes[0], "columns": axes[1], "macs": macs, "in_place": (0,) if depthwise else (), "pointwise": pointwise}
        self._add("DEPTHWISE" if depthwise else "CONV", height, width, channels, **fields)

    def block(self, expansion: int, channels: int, stride: int) -> None:
        source = self.last
        if expansion > 1:
            self.conv(source.channels * expansion, 1, 1)
        self.conv(self.last.channels, 3, stride, depthwise=True)
        self.conv(channels, 1, 1)
        if stride == 1 and source.channels == channels:
            shape = (self.last.height, self.last.width, channels)
            self._add("ADD", *shape, kind="rows", inputs=(self.last.name, source.name), in_place=(0, 1), pointwise=True)

    def reduce(self) -> None:
        self._add("MEAN", 1, 1, self.last.channels, kind="reduce", pointwise=True)

    def dense(self, channels: int) -> None:
        self._add("DENSE", 1, 1, channels, kind="whole", macs=channels * self.last.channels)

    def graph(self) -> RowGraph:
        return RowGraph(self.tensors, tuple(self.ops), ("image",), (self.last.name,))
