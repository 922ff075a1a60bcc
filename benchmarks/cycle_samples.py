# SPDX-License-Identifier: Apache-2.0
"""Random layers and short networks with what their kernels do, in terms, and the cycles they were profiled to take.

Estimates are fitted to them (`benchmarks.cycle_fit`), so that no network anybody wants to compile is among what was fitted. Odd sizes,
widths of 3 to 96, channels of 1 to 256, strides, kernels of 1 to 7; in code of their own and in shared code; alone, streamed by rows and in
patches.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.boards import Board, find_board
from tvm_tiny.cli.inputs import make_samples
from tvm_tiny.compiled import CompiledModel
from tvm_tiny.errors import OptionError
from tvm_tiny.memory.design import Design
from tvm_tiny.memory.program import extract
from tvm_tiny.memory.stream_strips import STRIPS
from tvm_tiny.memory.tiny_rows import tiny_rows
from tvm_tiny.ops.add import quantize_params
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.ops.mul import quantize_params as product_params
from tvm_tiny.ops.prelu import quantize_params as prelu_params
from tvm_tiny.passes.plan_memory import plan_of
from tvm_tiny.pipeline import PIPELINE, Options, run_pipeline
from tvm_tiny.profiler import profile_model
from tvm_tiny.schedules.cycles import BOARD_TERMS, counting
from tvm_tiny.tuning.records import Records

FOURS = (4, 8, 12, 16, 24, 32, 48, 64)
CHANNELS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 32, 40, 48, 64, 96, 128, 160, 192, 256)
MACS = 400_000  # of a layer, at most
RELU = {"y_zp": -128}  # the least byte is zero: rounding of negative sums plays no part, so their requantisation is cheaper
LAYERS = 10  # of a network of layers side by side
_LEAST = 2  # operators of a stage
_KINDS = {
    "pointwise": 0.16,
    "conv": 0.1,
    "winograd": 0.14,
    "first": 0.1,
    "depthwise": 0.18,
    "dense": 0.1,
    "add": 0.05,
    "pool": 0.06,
    "lookup": 0.03,
    "elements": 0.08,
}
_ELEMENTS = ("prelu", "mul", "maximum", "minimum", "pad", "requantize", "gate", "max_pool2d", "avg_pool2d", "lookup")


@dataclass(frozen=True)
class Sample:
    """One layer: the network and its kind, the terms of its kernel, profiled cycles."""

    network: str
    kind: str
    terms: dict[str, float]
    cycles: float


class SmallCode(Options):
    """Every layer in the form that shares its code."""

    @property
    def code_budget(self) -> int | None:
        """None fits."""
        return 0


def samples(board: str, seeds: Sequence[int]) -> Iterator[list[Sample]]:
    """Samples of random networks, network by network."""
    emulated = find_board(board)
    for seed in seeds:
        mod = side_by_side(seed)
        for small in (False, True):
            yield measure(f"layers {seed}", mod, emulated, small=small)
        chained = chain(seed)
        for design, small in designs(chained, seed, Options(emulated.target)):
            with contextlib.suppress(OptionError):  # not every range of operators can be grouped
                yield measure(f"chain {seed}", chained, emulated, small=small, design=design)


def measure(name: str, mod: tvm.IRModule, board: Board, *, small: bool = False, design: Design | None = None) -> list[Sample]:
    """Build a network without records and profile it, layer by layer."""
    options = (SmallCode if small else Options)(
        board.target, optimize="speed" if design is None else "balanced", records=Records(), design=design
    )
    with counting() as counted:
        lowered = run_pipeline(mod, options)
    model = CompiledModel(extract(lowered, "net"), plan_of(lowered), board.target, board, {})
    (inputs,) = make_samples(None, model.inputs, 1, 0)
    layers = profile_model(model, board.name, inputs, board_term=BOARD_TERMS[board.mcpu]).layers
    found = zip(counted.values(), layers, strict=True)
    return [Sample(name, _kind(layer.op, terms), dict(terms), layer.cycles[board.mcpu]) for terms, layer in found]


def _kind(op: str, terms: dict[str, float]) -> str:
    """The operator and whose code it is: of a stage, whether it is streamed or in patches."""
    if op == "stage":
        return "patches" if "patches" in terms else "stream"
    names = " ".join(terms)
    return f"{op}{' winograd' if 'winograd' in names else ''}{' shared' if ' shared ' in names else ''}"


# -- networks


def side_by_side(seed: int, count: int = LAYERS) -> tvm.IRModule:
    """Layers that have nothing to do with each other, each with an input and an output."""
    rng = np.random.default_rng(seed)
    plans = [_plan(rng, str(kind)) for kind in rng.choice(list(_KINDS), count, p=list(_KINDS.values()))]
    b = TinyBuilder(*(shape for _, shape, _ in plans), seed=seed)
    return b.finish(*(_layer(b, x, kind, how) for x, (kind, _, how) in zip(b.params, plans, strict=True)))


def chain(seed: int) -> tvm.IRModule:
    """Three to six convolutions, depthwise layers and inverted bottlenecks, one after the other."""
    rng = np.random.default_rng(seed)
    height, width = ((_size(rng, 32) + 4) // 2 * 2 + int(rng.random() < 0.4) for _ in range(2))
    b = TinyBuilder((1, height, height if rng.random() < 0.6 else width, int(rng.choice([3, 4, 8, 16, 24]))), seed=seed)
    x: relax.Expr = b.x
    for _ in range(int(rng.integers(3, 7))):
        x = _step(b, x, rng)
    return b.finish(x)


def designs(mod: tvm.IRModule, seed: int, options: Options) -> list[tuple[Design, bool]]:
    """Random streams and patches of a network, some in shared code."""
    rng, rows = np.random.default_rng(seed), tiny_rows(TinyGraph(_fused(mod, options)["main"]))
    count = 0 if rows is None else len(rows.graph.ops)
    if count < _LEAST:
        return []
    found = []
    for strips, small in zip(rng.permutation(STRIPS), (False, True, False, True), strict=True):
        first = int(rng.integers(0, count - _LEAST + 1))
        cut = int(rng.integers(first + _LEAST, count + 1))
        segments = ((first, cut), (cut, count)) if count - cut >= _LEAST else ((first, cut),)
        found.append((Design(segments=segments, pairs=bool(rng.random() < 0.5), strips=str(strips)), small))
    grid = int(rng.integers(1, 5)), int(rng.integers(2, 4))
    return [*found, (Design(patches=(0, int(rng.integers(_LEAST, min(count, 5) + 1)), grid)), bool(rng.random() < 0.4))]


def _fused(mod: tvm.IRModule, options: Options) -> tvm.IRModule:
    """The network as the passes that group operators find it."""
    for phase in PIPELINE[: [phase.name for phase in PIPELINE].index("recompute")]:
        mod = phase.make(options)(mod)
    return mod


def _size(rng: np.random.Generator, most: int = 96) -> int:
    return int(np.exp(rng.uniform(np.log(3), np.log(most))))


def _plan(rng: np.random.Generator, kind: str) -> tuple[str, tuple[int, ...], dict[str, Any]]:
    """A layer's kind, its input's shape, and the rest."""
    if kind == "dense":
        return (
            kind,
            (1, int(np.exp(rng.uniform(np.log(8), np.log(1024))))),
            {"channels": int(rng.choice([1, 2, 3, 5, 8, 10, 12, 32, 64, 128]))},
        )
    kernel = {"pointwise": (1,), "winograd": (3,), "conv": (3, 3, 5), "first": (3, 5, 7), "depthwise": (3, 3, 5, 7), "pool": (2, 3)}.get(
        kind, (1,)
    )
    size = int(rng.choice(kernel))
    stride = 1 if kind in ("pointwise", "winograd", "add", "lookup", "elements") else int(rng.choice([1, 1, 2]))
    while True:
        even = 2 if kind == "winograd" else 1
        shape = (
            1,
            even * _size(rng, 96 // even),
            even * _size(rng, 96 // even),
            int(rng.choice({"first": [1, 3, 3, 4], "winograd": FOURS}.get(kind, CHANNELS))),
        )
        channels = int(rng.choice(FOURS if kind == "winograd" else CHANNELS))
        each = size * size * (channels if kind in ("pointwise", "conv", "winograd", "first") else 4)
        most = 2 * MACS if kind == "winograd" else MACS
        if MACS / 20 < shape[1] * shape[2] * shape[3] * each / stride**2 < most and min(shape[1:3]) >= size:
            return (
                kind,
                shape,
                {
                    "channels": channels,
                    "attrs": _ends(rng),
                    "kernel": size,
                    "strides": [stride, stride],
                    "largest": bool(rng.random() < 0.5),
                },
            )


def _ends(rng: np.random.Generator) -> dict[str, int]:
    """Attributes of a layer that mostly ends in a ReLU."""
    return RELU if rng.random() < 0.7 else {}


def _layer(b: TinyBuilder, x: relax.Expr, kind: str, how: dict[str, Any]) -> relax.Expr:
    if kind == "dense":
        return b.dense(x, how["channels"])
    if kind in ("pointwise", "conv", "winograd", "first"):
        return b.conv(x, how["channels"], how["kernel"], strides=how["strides"], **how["attrs"])
    if kind == "depthwise":
        return b.depthwise(x, how["kernel"], strides=how["strides"], **how["attrs"])
    if kind == "pool":
        op = "max_pool2d" if how["largest"] else "avg_pool2d"
        return b.call(op, x, kernel=[how["kernel"]] * 2, strides=how["strides"], padding=[0] * 4)
    if kind == "elements":
        return _elements(b, x, b.rng)
    table = b.call("lookup", x, b.rng.integers(-128, 128, 256).astype(np.int8))
    return _sum(b, table, x) if kind == "add" else table


def _sum(b: TinyBuilder, x: relax.Expr, y: relax.Expr) -> relax.Expr:
    """Of random scales, as training finds them: those of equal ones have a kernel in plain C."""
    first, second, more = b.rng.uniform(0.02, 0.3), b.rng.uniform(0.02, 0.3), b.rng.uniform(1.0, 1.5)
    return b.call("add", x, y, a_zp=3, b_zp=-7, y_zp=1, **quantize_params(first, second, more * max(first, second)))


def _elements(b: TinyBuilder, x: relax.Expr, rng: np.random.Generator) -> relax.Expr:
    """A function of single elements, with constants or with a value a channel, or a small pooling."""
    _, height, width, depth = (int(d) for d in x.ty.shape.values)
    kind = str(rng.choice(_ELEMENTS))
    numbers, product = rng.integers(-128, 128, depth).astype(np.int8), {"a_zp": 3, "b_zp": -7, "y_zp": 1, **product_params(0.1, 0.1, 0.9)}
    if kind in ("max_pool2d", "avg_pool2d"):
        kernel = 2 if min(height, width) > 2 else 1
        return b.call(kind, x, kernel=[kernel] * 2, strides=[1, 1], padding=[0] * 4)
    if kind == "lookup":
        return b.call("lookup", x, rng.integers(-128, 128, 256).astype(np.int8))
    if kind == "pad":
        return b.call("pad", x, before=[0] * 4, after=[0, 0, 0, int(rng.integers(1, 5))], value=-5)
    if kind == "requantize":
        return b.call("requantize", x, x_zp=-3, y_zp=9, multiplier=1518500250, shift=int(rng.integers(-2, 2)))
    if kind == "prelu":
        return b.call("prelu", x, numbers, x_zp=-3, slope_zp=9, y_zp=4, **prelu_params(0.1, 0.01, 0.2))
    if kind == "gate":
        mean = b.call("mean", x, axes=[1, 2], keepdims=True, x_zp=-3, y_zp=4, multiplier=1400000000 // (height * width), shift=0)
        return b.call("mul", x, b.conv(mean, depth), **product)
    return b.call(kind, x, numbers, **(product if kind == "mul" else {}))


def _step(b: TinyBuilder, x: relax.Expr, rng: np.random.Generator) -> relax.Expr:
    _, height, width, depth = (int(d) for d in x.ty.shape.values)
    kind = rng.choice(["pointwise", "depthwise", "conv", "bottleneck", "elements"], p=[0.2, 0.2, 0.25, 0.25, 0.1])
    if kind == "elements":
        return _elements(b, x, rng)
    stride = int(rng.choice([1, 1, 1, 2])) if min(height, width) > 4 else 1
    kernel = int(rng.choice([3, 3, 5, 7]))
    if kind == "depthwise":
        return b.depthwise(x, kernel, strides=[stride, stride], **_ends(rng))
    if kind != "bottleneck":
        size, stride = (1, 1) if kind == "pointwise" else (3, stride)
        offered = FOURS if size > 1 and rng.random() < 0.7 else CHANNELS
        fitting = [c for c in offered if c <= 192 and height * width * depth * c * size * size / stride**2 < MACS / 2]
        return b.conv(x, int(rng.choice(fitting or [1])), size, strides=[stride, stride], **_ends(rng))
    wide = depth * max(1, min(int(rng.choice([2, 3, 4, 6])), 256 // depth, MACS // (2 * height * width * depth * depth)))
    y = b.conv(b.depthwise(b.conv(x, wide, **RELU), kernel, strides=[stride, stride], **RELU), depth if stride == 1 else min(2 * depth, 96))
    return _sum(b, y, x) if stride == 1 and rng.random() < 0.6 else y


# -- files


def write(path: Path, found: Sequence[Sample]) -> None:
    """Append samples, a JSON line each."""
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(asdict(s)) + "\n" for s in found)


def read(path: Path) -> list[Sample]:
    """Samples of a file that `write` wrote."""
    return [Sample(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
