# SPDX-License-Identifier: Apache-2.0
"""What tuning traces schedule: columns and products, or planes, right with every decision on every shape, replayed as they were."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.s_tir import Schedule

from tests.schedules.test_intrinsics import linear
from tests.support.op_cases import int8s
from tests.support.scheduled import layers_of
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.errors import OptionError
from tvm_tiny.ops import registry
from tvm_tiny.schedules import rules
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.space import Space
from tvm_tiny.target import parse_target

M7 = parse_target("c -mcpu=cortex-m7")


def tiled_spaces(func: tirx.PrimFunc) -> list[Space]:
    """The spaces whose decisions are about loops."""
    spaces = [*rules.spaces(func, M7).values(), *rules.spaces(func.with_attr("tiny.by_rows", True), M7).values()]
    return [s for s in spaces if "Split" in kinds(s.sample(func))]


def kinds(sch: Schedule) -> set[str]:
    """Names of the instructions of a trace."""
    return {str(instruction.kind.name) for instruction in sch.trace.insts}


def drawn(space: Space, rng: np.random.Generator) -> dict[str, int | str]:
    """Any decisions, legal or not: a trace has to bear them all."""
    return {"rule": space.rule, **{name: values[int(rng.integers(len(values)))] for name, values in space.decisions.items()}}


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_layer_with_any_decisions(seed: int) -> None:
    """Compiled by TVM, what is scheduled gives the bytes the operator means."""
    rng = np.random.default_rng(seed)
    b, y = linear(str(rng.choice(["conv2d", "pointwise", "dense", "depthwise"])), rng)
    (func,) = layers_of(b, y)
    layer = Layer.of(func)
    for space in tiled_spaces(func):
        scheduled = space.schedule(func, drawn(space, rng))
        again = Schedule(tvm.IRModule({"main": space.form(func)}))
        scheduled.trace.apply_to_schedule(again, remove_postproc=False)
        tvm.ir.assert_structural_equal(again.mod, scheduled.mod)
        x, constants = int8s(rng, layer.shapes[0]), [layer.constants[i] for i in range(1, 5)]
        want = registry.get(layer.op).numpy(x, *constants, **layer.attrs)
        np.testing.assert_array_equal(_run(scheduled, [x, *constants], want.size).reshape(want.shape), want)


def _run(sch: Schedule, arrays: list[np.ndarray], size: int) -> np.ndarray:
    main = sch.mod["main"].with_attr("global_symbol", "kernel")
    library = tvm.compile(tvm.IRModule({"kernel": main}), target="llvm")
    shapes = [tuple(int(d) for d in p.ty.shape) for p in main.params]
    out = tvm.runtime.tensor(np.zeros(shapes[-1], np.int8))
    assert np.prod(shapes[-1]) == size
    given_arrays = [np.ascontiguousarray(a).reshape(s) for a, s in zip(arrays, shapes, strict=False)]
    library["kernel"](*map(tvm.runtime.tensor, given_arrays), out)
    return out.numpy()


@pytest.mark.parametrize("shape", [(1, 12, 12, 8), (1, 7, 5, 3), (1, 1, 9, 4), (1, 1, 1, 13)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_corners_of_every_space_replay(shape: tuple[int, ...], kernel: int) -> None:
    """Samples feed splits, orders and unrolling; with each decision moved to either end a trace stays legal and says the same."""
    b = TinyBuilder(shape)
    funcs = layers_of(b, b.depthwise(b.conv(b.x, 5, kernel)))
    found = [(func, space) for func in funcs for space in tiled_spaces(func)]
    assert {space.rule for _func, space in found} >= {"depthwise", "rows"}
    for func, space in found:
        assert {"SampleCategorical", "Split", "Reorder", "ComputeAt", "ReverseComputeAt", "Unroll"} <= kinds(space.sample(func))
        for corner in (0, -1):
            trace = space.sample(func).trace
            for instruction in trace.insts:
                if instruction.kind.name == "SampleCategorical":
                    trace = trace.with_decision(instruction, corner % len(instruction.attrs[0]), remove_postproc=False)
            again = Schedule(tvm.IRModule({"main": space.form(func)}))
            trace.apply_to_schedule(again, remove_postproc=False)
            decided = {name: values[corner] for name, values in space.decisions.items()}
            assert space.read(again.mod["main"]) == {"rule": space.rule, **decided}


def test_scheduling_one_candidate_leaves_the_others_alone() -> None:
    """Schedules share what they have in common; TVM would change it in place after a root block was annotated."""
    b = TinyBuilder((1, 6, 6, 8))
    (func,) = layers_of(b, b.conv(b.x, 4, 3))
    (space,) = (s for s in rules.spaces(func, M7).values() if s.rule == "conv2d")
    form = space.form(func)
    before, mod = form.script(), tvm.IRModule({"main": form})
    del form
    for corner in (0, -1):
        sch = Schedule(mod)
        space.apply(sch, {"rule": space.rule, **{name: values[corner] for name, values in space.decisions.items()}})
        assert mod["main"].script() == before


def _tile_by_hand(func: tirx.PrimFunc, *, order: tuple[str, ...], channels: int = 2, unrolled: bool = True) -> tirx.PrimFunc:
    """Columns and products tiled with TVM's primitives alone, the operand form said at the root."""
    sch = Schedule(tvm.IRModule({"main": func}))
    pixel, channel, k = sch.get_loops(sch.get_sblock("acc"))
    loops = dict(zip(("groups", "pixels"), sch.split(pixel, [None, 3]), strict=True))
    loops |= dict(zip(("tiles", "groups"), sch.split(loops["groups"], [None, 4]), strict=True))
    loops |= dict(zip(("blocks", "channels"), sch.split(channel, [None, channels]), strict=True))
    words, loops["word"] = sch.split(k, [None, 4])
    loops |= dict(zip(("steps", "unroll"), sch.split(words, [None, 8]), strict=True))
    sch.reorder(*(loops[name] for name in order))
    if unrolled:
        sch.unroll(loops["unroll"])
    sch.annotate(sch.get_sblock("root"), "tiny.choice_rule", "conv2d")
    sch.annotate(sch.get_sblock("root"), "tiny.choice.operand", 0)
    return sch.mod["main"]


ORDER = ("tiles", "blocks", "groups", "steps", "unroll", "channels", "pixels", "word")


def test_the_loops_of_a_schedule_decide_the_kernel() -> None:
    """Tiles are read off the loops, whoever made them; loops that no kernel has are refused by name."""
    b = TinyBuilder((1, 12, 12, 16))
    (func,) = layers_of(b, b.conv(b.x, 8, 3, padding=[0] * 4))
    space = rules.spaces(func, M7)["conv2d"]
    choice = space.read(_tile_by_hand(space.form(func), order=ORDER))
    assert choice == {"rule": "conv2d", "channels": 2, "pixels": 3, "operand": "r8", "unroll": 8, "tile": 4}
    kernel = json.loads(str(rules.realise(func, M7, choice).mod["main"].attrs["tiny.kernel"]))
    assert (kernel["block"], kernel["unroll"], kernel["tile"]) == ("2x3", "8", "4")
    with pytest.raises(OptionError, match="an axis of the block is"):
        space.read(_tile_by_hand(space.form(func), order=("blocks", "tiles", *ORDER[2:])))
    with pytest.raises(OptionError, match="but unroll is not unrolled"):
        space.read(_tile_by_hand(space.form(func), order=ORDER, unrolled=False))
    with pytest.raises(OptionError, match="rule conv2d has no kernel for channels 5 in this layer"):
        space.read(_tile_by_hand(space.form(func), order=ORDER, channels=5))
    with pytest.raises(OptionError, match="has no block 'acc'"):
        space.loops.read(func.with_body(tirx.Evaluate(0)))
    with pytest.raises(OptionError, match="but there are 3"):
        space.loops.read(space.form(func))
