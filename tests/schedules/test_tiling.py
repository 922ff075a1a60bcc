# SPDX-License-Identifier: Apache-2.0
"""A tuning trace holds splits, orders and unrolling of the layer's own loops, and can be replayed with any decision on any shape."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tests.support.scheduled import layers_of
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.ops import registry
from tvm_tiny.schedules import rules
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.space import annotated_rule
from tvm_tiny.target import parse_target

M7 = parse_target("c -mcpu=cortex-m7")


def layers(shape: tuple[int, ...], outputs: int) -> list[tirx.PrimFunc]:
    """A 3×3 convolution, a depthwise and a pointwise layer, and a fully connected one."""
    b = TinyBuilder(shape)
    y: relax.Expr = b.conv(b.depthwise(b.conv(b.x, outputs, 3)), 6, 1)
    return layers_of(b, b.dense(b.call("reshape", y, shape=[1, shape[1] * shape[2] * 6]), 10))


@pytest.mark.parametrize(("shape", "outputs"), [((1, 12, 12, 8), 8), ((1, 7, 5, 3), 5), ((1, 1, 9, 4), 3), ((1, 2, 2, 5), 1)])
def test_every_space_replays_its_corners(shape: tuple[int, ...], outputs: int) -> None:
    for func in layers(shape, outputs):
        for space in rules.spaces(func, M7).values():
            trace = space.sample(func).trace
            kinds = [instruction.kind.name for instruction in trace.insts]
            assert {"SampleCategorical", "Split", "Reorder"} <= set(kinds)
            assert "Unroll" in kinds or space.rule == "winograd"
            for corner in (0, -1):
                for instruction in trace.insts:
                    if instruction.kind.name == "SampleCategorical":
                        trace = trace.with_decision(instruction, corner % len(instruction.attrs[0]), remove_postproc=False)
                again = tvm.s_tir.Schedule(tvm.IRModule({"main": func}))
                trace.apply_to_schedule(again, remove_postproc=False)
                assert space.read(annotated_rule(again.mod)[1]) == {
                    "rule": space.rule,
                    **{name: alternatives[corner] for name, alternatives in space.decisions.items()},
                }


def test_tiled_loops_still_compute_the_layer(rng: np.random.Generator) -> None:
    func = layers((1, 7, 5, 3), 5)[0]
    layer = Layer.of(func)
    (space,) = rules.spaces(func, M7).values()
    x = rng.integers(-128, 128, layer.shapes[0]).astype(np.int8)
    constants = [layer.constants[i] for i in range(1, 5)]
    want = registry.get(layer.op).numpy(x, *constants, **layer.attrs)
    tiled = space.sample(func).mod["main"]
    for key in list(tiled.attrs.keys()):
        tiled = tiled.without_attr(key) if str(key).startswith("tiny.") else tiled
    library = tvm.compile(tvm.IRModule({"kernel": tiled.with_attr("global_symbol", "kernel")}), target="llvm")
    out = tvm.runtime.tensor(np.zeros_like(want))
    library["kernel"](*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in (x, *constants)), out)
    np.testing.assert_array_equal(out.numpy(), want)
