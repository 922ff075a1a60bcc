# SPDX-License-Identifier: Apache-2.0
"""Random building blocks with operands as layers give them, and what runs a block: its description by TVM, its call as a kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import tvm
from tvm import s_tir, tirx
from tvm.s_tir import Schedule

from tests.support.random_layers import random_input, random_parameters, random_weights
from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.codegen.primfunc_to_c import to_c
from tvm_tiny.schedules.blocks import columns, copy, dense, depthwise, gemm, planes, pool, winograd
from tvm_tiny.schedules.blocks.base import Block
from tvm_tiny.schedules.layer_form import BLOCK, without
from tvm_tiny.schedules.microkernels import BlockChoice, CFunction, Conv2DShape, MicroKernel, RegisterPressureError
from tvm_tiny.schedules.microkernels.dense_block import DenseBlock
from tvm_tiny.schedules.microkernels.depthwise_block import DepthwiseBlock, default_pixels, fits
from tvm_tiny.schedules.microkernels.expand import Expand
from tvm_tiny.schedules.microkernels.gather import Gather
from tvm_tiny.schedules.microkernels.gemm_block import GemmBlock
from tvm_tiny.schedules.microkernels.gemm_layer import pack_matrix, recode_pairs
from tvm_tiny.schedules.microkernels.gemm_shared import shareable
from tvm_tiny.schedules.microkernels.layer import words
from tvm_tiny.schedules.microkernels.plane_lines import PlaneLines
from tvm_tiny.schedules.microkernels.planes import PlaneRow
from tvm_tiny.schedules.microkernels.pool import average_problem, find_sum_form
from tvm_tiny.schedules.microkernels.pool_block import PoolBlock, channel_blocks, most_words
from tvm_tiny.schedules.microkernels.requantize import RequantShape, constant_words
from tvm_tiny.schedules.microkernels.winograd import pack
from tvm_tiny.schedules.microkernels.winograd_block import ProductBlock, TileGroup
from tvm_tiny.schedules.requantize_forms import Form, find_form

ZERO_POINTS = (-128, 127, 0, -5)


@dataclass(frozen=True)
class BlockCase:
    """A block, and the arrays of the operands it reads by name; an array covers the operand and what lies between its parts."""

    block: Block
    arrays: dict[str, np.ndarray]

    def whole(self) -> tirx.PrimFunc:
        """The block's meaning inside a function of whole buffers, as one block that can be tensorized."""
        operands = self.block.meaning.operands
        around = [tirx.decl_buffer(_around(b), str(b.ty.dtype), str(b.name)) for b in operands]
        inner = self.block.meaning.prim_func(on=around).body.block
        layer = s_tir.SBlock([], inner.reads, inner.writes, BLOCK, inner.body)
        root = s_tir.SBlock([], [], [], "root", s_tir.SBlockRealize([], True, layer))
        return tirx.PrimFunc(around, s_tir.SBlockRealize([], True, root)).with_attr({"s_tir": True, "tirx.noalias": True})

    def written(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shapes and types of what the block makes, by name."""
        return {
            str(b.name): (_around(b), str(b.ty.dtype)) for b in self.block.meaning.operands if str(b.name) not in {*self.arrays, "sums"}
        }

    def expected(self) -> dict[str, np.ndarray]:
        """What the description makes of the arrays; bytes it does not write are 0x11."""
        library = tvm.compile(tvm.IRModule({"kernel": self.whole().with_attr("global_symbol", "kernel")}), target="llvm")
        made = {name: np.full(int(np.prod(shape)) * np.dtype(t).itemsize, 0x11, np.uint8) for name, (shape, t) in self.written().items()}
        made = {name: bytes_.view(self.written()[name][1]).reshape(self.written()[name][0]) for name, bytes_ in made.items()}
        given = {**self.arrays, **made}
        tensors = {}
        for b in self.block.meaning.operands:
            array = given.get(str(b.name), np.zeros(_around(b), str(b.ty.dtype)))
            tensors[str(b.name)] = tvm.runtime.tensor(np.ascontiguousarray(array.reshape(_around(b))))
        library["kernel"](*tensors.values())
        return {name: tensors[name].numpy() for name in made}

    def call(self, name: str) -> tuple[str, list[str]]:
        """C of the call that TVM puts in the place of the meaning, and the names of its parameters."""
        sch = Schedule(tvm.IRModule({"main": self.whole()}))
        sch.tensorize(sch.get_sblock(BLOCK), self.block.intrinsic)
        func = sch.mod["main"]
        func = without(func, [p for p in func.params if str(p.name) == "sums"])
        names = [str(p.name) for p in func.params]
        text = to_c(func.with_attr("tiny.outputs", names), name, tvm.target.Target({"kind": "c"})).definition
        assert self.block.function.name in text
        return f"static {text}\n", names

    def kernel(self, name: str) -> tuple[MicroKernel, np.ndarray]:
        """The call as a kernel whose input is all arrays that are read, one behind the other, and whose output all that are made."""
        expected = self.expected()
        call, names = self.call(f"{name}_call")
        source, result, passed = b"", b"", []
        for parameter in names:
            read = parameter in self.arrays
            array = self.arrays[parameter] if read else expected[parameter]
            passed.append(f"(void *)({'in' if read else 'out'} + {len(source if read else result)})")
            data = array.tobytes() + b"\0" * (-array.nbytes % 8 if read else 0)
            source, result = (source + data, result) if read else (source, result + data)
        signature = f"void {name}(const int8_t *in, int8_t *out, const void *packed, void *scratch)"
        body = f"{signature};\n{signature} {{\n  (void)in;\n  (void)packed;\n  (void)scratch;\n  {name}_call({', '.join(passed)});\n}}\n"
        want = np.frombuffer(result, np.int8)
        x = np.frombuffer(source, np.int8)
        functions = (*self.block.before, self.block.function, CFunction(name, call + body))
        return MicroKernel(name, functions, b"", 0, x.shape, want.shape, 0, lambda _x: want), x


def _around(buffer: tirx.Var) -> tuple[int, ...]:
    """The shape of a compact buffer that an operand with strides is a part of."""
    shape, strides = ([int(v) for v in values] for values in (buffer.ty.shape, buffer.ty.strides))
    if not strides:
        return tuple(shape)
    assert strides[-1] == 1, buffer
    assert all(a % b == 0 for a, b in pairwise(strides)), buffer
    return (shape[0], *(a // b for a, b in pairwise(strides)))


def _array(case_block: Block, name: str, make: Callable[[tuple[int, ...]], np.ndarray]) -> np.ndarray:
    operand = next(b for b in case_block.meaning.operands if str(b.name) == name)
    return make(_around(operand)).astype(str(operand.ty.dtype))


def _widened(x: np.ndarray, operand: str) -> np.ndarray:
    """Activations (..., 4 k) as columns (..., k, word, half)."""
    b = x.astype(np.int64).reshape(*x.shape[:-1], -1, 4)
    even, odd = b[..., 0::2], b[..., 1::2]
    return np.stack([even - 127, 256 * odd + 127 - even] if operand == "r8" else [even, odd], axis=-2)


def gemm_case(rng: np.random.Generator, *, dual_issue: bool) -> BlockCase:
    """Products: any operand form, order, layout of the output, requantisation; or the shared function."""
    while True:
        c, p, times = int(rng.choice([1, 2, 2, 3])), int(rng.integers(1, 5)), int(rng.integers(1, 4))
        order, k = str(rng.choice(["channels", "pixels"])), int(rng.choice([1, 3, 8, 20, 37, 72]))
        outputs = c * (times if order == "channels" else 1)
        layer = random_parameters(random_weights((outputs, k), rng), False, rng)
        shared = str(rng.choice(["", "", "any", "length"]))
        choice = BlockChoice(c, p, [None, None, "w8", "w16"][int(rng.integers(4))], int(rng.choice([2, 16])), shared=bool(shared))
        matrix = pack_matrix(layer.weights, layer, choice)
        if matrix.requant.form is Form.ACCUMULATOR and order == "pixels":
            continue
        plane = p * (times if order == "pixels" else 1) + int(rng.integers(3)) if rng.random() < 0.2 else 1
        planar = plane > 1 and matrix.requant.form is not Form.ACCUMULATOR and not shared
        shape = GemmBlock(
            c, p, matrix.groups, matrix.operand, matrix.requant, 1 if planar else None, choice.unroll, dual_issue, order,
            channel_stride=plane if planar else 1,
        )  # fmt: skip
        shared = shared if shareable(shape) else ""
        try:
            made = gemm.gemm(f"{PREFIX}gemm", shape, times, stride=1 if planar else outputs + int(rng.integers(3)), shared=shared)
        except RegisterPressureError:
            continue
        groups = times if order == "pixels" else 1
        x = np.zeros((groups, p, 4 * matrix.groups), np.int8)
        x[..., :k] = random_input((groups, p, k), rng)
        expanded = _widened(x, matrix.operand).transpose(0, 2, 1, 3, 4)  # group, k, pixel, word, half
        stream = np.frombuffer(matrix.stream, np.int32)
        return BlockCase(made, {"columns": expanded.astype(np.int16), "stream": stream})


def expand_case(rng: np.random.Generator, *, dual_issue: bool) -> BlockCase:
    """Widened activations of a few pixels."""
    count, pixels, form = int(rng.integers(1, 40)), int(rng.integers(1, 5)), str(rng.choice(["r8", "w8"]))
    stride = 4 * count + int(rng.integers(9)) if pixels > 1 else 4 * count
    shared = str(rng.choice(["", "any", "pixels"] if pixels < 4 else ["", "any"]))
    shape = Expand(count, pixels, stride, 8 * (pixels + int(shared != "pixels" and rng.integers(2))), form, dual_issue)
    made = columns.expand(f"{PREFIX}gemm", shape, shared=shared)
    return BlockCase(made, {"x": _array(made, "x", lambda s: random_input(s, rng))})


def fill_case(rng: np.random.Generator, *, dual_issue: bool) -> BlockCase:
    """Padding of a column."""
    del dual_issue
    zero = int(rng.choice(ZERO_POINTS))
    made = columns.fill(f"{PREFIX}gemm", int(rng.integers(1, 9)), int(rng.integers(1, 4)), zero, str(rng.choice(["r8", "w8"])))
    return BlockCase(made, {})


def gather_case(rng: np.random.Generator, *, dual_issue: bool) -> BlockCase:
    """Columns of windows over few channels."""
    rows, segment, step = int(rng.integers(1, 4)), int(rng.integers(1, 13)), int(rng.integers(1, 9))
    pixels = int(rng.integers(1, 4))
    row_bytes = (pixels - 1) * step + segment + int(rng.integers(7))
    shape = Gather(rows, segment, row_bytes, pixels, step, str(rng.choice(["r8", "w8"])), dual_issue)
    made = columns.gather(f"{PREFIX}gemm", shape)
    return BlockCase(made, {"x": _array(made, "x", lambda s: random_input(s, rng))})


def copy_case(rng: np.random.Generator, *, dual_issue: bool) -> BlockCase:
    """Some words, a multiple of eight or not."""
    del dual_issue
    made = copy.copy(f"{PREFIX}gemm", int(rng.integers(1, 4)), int(rng.integers(1, 20)))
    return BlockCase(made, {"source": _array(made, "source", lambda s: rng.integers(-(2**31), 2**31, s))})


def plane_rows_case(rng: np.random.Generator, *, dual_issue: bool) -> BlockCase:
    """Four channels of some rows, and rows outside the image."""
    width, left, right = (int(rng.integers(low, high)) for low, high in ((1, 20), (0, 3), (0, 3)))
    count, rows, channels = (left + width + right + 1) // 2, int(rng.integers(1, 4)), int(rng.choice([4, 5, 8, 13]))
    top, bottom = (int(rng.choice([0, 0, 1, 2])) for _ in range(2))
    height = top + rows + bottom
    shape = PlaneRow(width, left, count, channels, 4 * count * (height + int(rng.integers(2))), width * channels, dual_issue)
    made = planes.plane_rows(f"{PREFIX}depthwise", shape, planes.Rows(height, top, top + rows), int(rng.choice(ZERO_POINTS)))
    return BlockCase(made, {"x": _array(made, "x", lambda s: random_input(s, rng))})


def plane_lines_case(rng: np.random.Generator, *, dual_issue: bool) -> BlockCase:
    """One plane."""
    width, left, right, rows = (int(rng.integers(low, high)) for low, high in ((1, 40), (0, 3), (0, 3), (1, 4)))
    shape = PlaneLines(width, left, (left + width + right + 1) // 2, dual_issue)
    made = planes.plane_lines(f"{PREFIX}depthwise", shape, rows, int(rng.choice(ZERO_POINTS)))
    return BlockCase(made, {"x": _array(made, "x", lambda s: random_input(s, rng))})


def depthwise_case(rng: np.random.Generator, *, dual_issue: bool) -> BlockCase:
    """Rows of one to four channels of any window."""
    while True:
        kernel, stride, dilation = (tuple(int(v) for v in rng.choice(values, 2)) for values in ([1, 2, 3, 5], [1, 1, 2], [1, 1, 2]))
        width, rows, count = int(rng.integers(1, 14)), int(rng.integers(1, 4)), int(rng.integers(1, 5))
        layer = random_parameters(random_weights((*kernel, count), rng), True, rng)
        taps = layer.weights.reshape(-1, count).T
        found = find_form(layer.requantization(taps), 0)
        requant = RequantShape.of(found)
        span = ((width - 1) * stride[1] + (kernel[1] - 1) * dilation[1] + 2) // 2 * 4
        height = (rows - 1) * stride[0] + (kernel[0] - 1) * dilation[0] + 1
        pixels = min(default_pixels(kernel, stride, dilation, dual_issue=dual_issue), width)
        shape = DepthwiseBlock(
            width, kernel, stride, dilation, span, count + int(rng.integers(3)), requant, pixels, dual_issue, count, height * span,
            copied=bool(rng.random() < 0.3),
        )  # fmt: skip
        if requant.form is Form.ACCUMULATOR or not fits(shape):
            continue
        made = depthwise.depthwise(f"{PREFIX}depthwise", shape, rows)
        bias = layer.bias.astype(np.int64) - layer.x_zero_point * taps.astype(np.int64).sum(axis=1) + found.offset
        padded = np.concatenate([taps.reshape(count, *kernel), np.zeros((count, kernel[0], 1))], axis=2).astype(np.int64)  # tap -1 is 0
        pairs = np.array(shape.pairs)
        packed = recode_pairs(padded[:, :, pairs[:, 0]], padded[:, :, pairs[:, 1]]).reshape(count, -1)
        stream = np.concatenate([bias[:, None], packed, constant_words(found, requant).T], axis=1)
        values = _array(made, "planes", lambda s: random_input(s, rng))
        return BlockCase(made, {"planes": values, "stream": np.frombuffer(words(stream), np.int32)})


def dense_case(rng: np.random.Generator, *, dual_issue: bool) -> BlockCase:
    """Blocks of channels in pairs."""
    while True:
        channels, times, inputs = int(rng.integers(1, 7)), int(rng.integers(1, 3)), 4 * int(rng.integers(1, 18))
        weights = np.maximum(random_weights((channels * times, inputs), rng), -127)
        layer = random_parameters(weights, False, rng)
        problem = layer.requantization(weights)
        found = find_form(problem, 0)
        bound = max(np.abs(limit + found.offset).max() for limit in (problem.acc_min, problem.acc_max))
        if found.form is Form.ACCUMULATOR or bound >= 2**23:
            continue
        unroll, expanded = min(int(rng.integers(1, 9)), inputs // 4), bool(rng.random() < 0.5)
        shape = DenseBlock(channels, unroll, inputs // 4 % unroll, RequantShape.of(found), False, expanded, dual_issue)
        try:
            made = dense.dense(f"{PREFIX}dense", shape, inputs // 4, times)
        except RegisterPressureError:
            continue
        constants = constant_words(found, shape.requant)
        bias = layer.bias - layer.x_zero_point * weights.astype(np.int64).sum(axis=1) + found.offset
        blocks = [slice(i, i + channels) for i in range(0, channels * times, channels)]
        stream = b"".join(_pair_stream(weights[rows], bias[rows]) + words(constants[:, rows]) for rows in blocks)
        x = random_input((inputs,), rng)
        four = x.astype(np.int64).reshape(-1, 4)
        share = (four[:, 0] * four[:, 1] + four[:, 2] * four[:, 3]).sum()
        arrays = {"x": _widened(x, "w8").astype(np.int16) if expanded else x, "stream": np.frombuffer(stream, np.int32)}
        return BlockCase(made, {**arrays, "common": np.array([share], np.int32)})


def _pair_stream(weights: np.ndarray, bias: np.ndarray) -> bytes:
    """Starts and words of a block of channels, as `dense_block` says."""
    w = weights.astype(np.int64)
    if len(w) % 2:
        w, bias = np.vstack([w, np.zeros_like(w[:1])]), np.append(bias, 0)
    high, low = (w[n::2].reshape(len(w) // 2, -1, 4) for n in (0, 1))
    products = (low[..., 0] * low[..., 1] + low[..., 2] * low[..., 3]).sum(axis=1)
    halves = 256 * high + low
    packed = np.stack([recode_pairs(halves[..., n], halves[..., n + 2]) for n in (0, 1)], axis=-1)
    return words(np.stack([256 * bias[0::2] + bias[1::2], bias[1::2] - products], axis=1)) + words(packed.transpose(1, 0, 2))


def common_case(rng: np.random.Generator, *, dual_issue: bool) -> BlockCase:
    """The inputs' share."""
    unroll, times = int(rng.integers(1, 9)), int(rng.integers(1, 5))
    made = dense.common(f"{PREFIX}dense", unroll * times, unroll, dual_issue=dual_issue)
    return BlockCase(made, {"x": random_input((4 * unroll * times,), rng)})


def _tile_group(rng: np.random.Generator, dual_issue: bool) -> TileGroup:
    channels, tiles = int(rng.choice([4, 8, 12, 20])), int(rng.integers(1, 5))
    return TileGroup(channels, 2, tiles, (2 * tiles + 2 + int(rng.integers(3))) * channels, dual_issue)


def transform_case(rng: np.random.Generator, *, dual_issue: bool) -> BlockCase:
    """Winograd's input transform."""
    made = winograd.transform(f"{PREFIX}winograd", _tile_group(rng, dual_issue))
    return BlockCase(made, {"x": _array(made, "x", lambda s: random_input(s, rng))})


def products_case(rng: np.random.Generator, *, dual_issue: bool) -> BlockCase:
    """Winograd's products and output transform, of the first block of a layer's channels."""
    while True:
        group, outputs = _tile_group(rng, dual_issue), int(rng.choice([2, 4, 6]))
        shape = Conv2DShape(2, 2 * group.tiles, group.channels, outputs, (3, 3), padding=(1, 1, 1, 1))
        layer = random_parameters(random_weights((outputs, 3, 3, group.channels), rng), False, rng)
        found = find_form(layer.requantization(layer.weights.reshape(outputs, -1)), 2)
        block = ProductBlock(group, RequantShape.of(found), outputs, 2 * group.tiles * outputs)
        if found.form is Form.ACCUMULATOR or not block.fits:
            continue
        made = winograd.products(f"{PREFIX}winograd", block)
        rows = _array(made, "group", lambda s: np.zeros(s))
        x = random_input((4, 2 * group.tiles + 2, group.channels), rng).astype(np.int64)
        matrix = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
        for tile in range(group.tiles):
            moved = np.einsum("ir,rsc,js->ijc", matrix, x[:, 2 * tile : 2 * tile + 4], matrix).reshape(16, -1, 2, 2)  # quad, half, odd
            rows[:, : group.channels // 2, tile] = moved.transpose(0, 1, 3, 2).reshape(16, -1, 2)
        stream = np.frombuffer(pack(shape, layer, found, block.requant)[: block.stream_bytes], np.int32)
        return BlockCase(made, {"group": rows, "stream": stream})


def pool_case(rng: np.random.Generator, *, dual_issue: bool) -> BlockCase:
    """Maxima, or rounded averages."""
    rows, columns, chunks = (int(rng.integers(1, 5)) for _ in range(3))
    clamp = (int(rng.choice([-128, -128, -5])), int(rng.choice([127, 127, 90])))
    requant, constants = None, np.zeros(3, np.int64)
    if rng.random() < 0.6:
        found = find_sum_form(average_problem(rows * columns, clamp))
        assert found is not None
        requant = RequantShape.of(found)
        constants = np.concatenate([found.multiplier, found.constant, found.offset])
    unroll = int(rng.choice([n for n in (1, 2, 3, 4) if columns % n == 0]))
    clamp = clamp if requant is None else (-128, 127)
    block = PoolBlock(int(rng.integers(1, most_words(requant) + 1)), requant, clamp, dual_issue, unroll=unroll)
    channels = max(4, 4 * block.words * chunks + int(rng.integers(-3, 12)))
    width = columns + int(rng.integers(3))
    blocks = channel_blocks(block, channels)
    made = pool.pool(f"{PREFIX}pool", blocks, (rows, columns), width * channels, channels, channels)
    window = np.concatenate([[rows, columns, (width - columns) * channels, channels], constants])[: block.window_words]
    return BlockCase(made, {"x": _array(made, "x", lambda s: random_input(s, rng)), "window": np.frombuffer(words(window), np.uint32)})


CASES: dict[str, Callable[..., BlockCase]] = {
    "gemm": gemm_case,
    "expand": expand_case,
    "fill": fill_case,
    "gather": gather_case,
    "copy": copy_case,
    "plane_rows": plane_rows_case,
    "plane_lines": plane_lines_case,
    "depthwise": depthwise_case,
    "dense": dense_case,
    "common": common_case,
    "transform": transform_case,
    "products": products_case,
    "pool": pool_case,
}
