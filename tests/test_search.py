# SPDX-License-Identifier: Apache-2.0
"""Designs of networks whose peak is decided by what streams do not touch: scratch of single layers, inputs of another type."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.memory.design import Design
from tvm_tiny.memory.design_points import Point, least_point, with_less_room
from tvm_tiny.memory.stream_choice import StreamOptions

CORES = ["c -mcpu=cortex-m7", "c -mcpu=cortex-m4"]
WHOLE = ("patch-inference", "stream-rows", "recompute")


def long_sums(kernel: tuple[int, int] = (10, 4), channels: int = 28, outputs: int = 30, size: tuple[int, int] = (25, 7)) -> tvm.IRModule:
    """A small first layer, then one whose columns take more bytes than its tensors leave free."""
    b = TinyBuilder((1, *size, 1))
    x = b.conv(b.x, channels, 3)
    weight = b.rng.integers(-127, 128, (outputs, *kernel, channels)).astype(np.int8)
    return b.finish(b.conv(x, outputs, weight=weight, padding=[0, 0, 0, 0], strides=[2, 1]))


def check(mod: tvm.IRModule, model: tvm_tiny.CompiledModel, rng: np.random.Generator, low: int = -128) -> None:
    """The C gives the bits of the numpy semantics and touches nothing else."""
    library = GuardedModel(model)
    shape, dtype = model.inputs[0].shape, model.inputs[0].dtype
    for x in (rng.integers(low, low + 256, shape), np.full(shape, low), np.full(shape, low + 255)):
        np.testing.assert_array_equal(library(x.astype(dtype))[0].reshape(-1), evaluate(mod, x.astype(dtype))[0].reshape(-1))
        assert not library.faults


@pytest.mark.host_cc
@pytest.mark.parametrize("target", CORES)
def test_layers_whose_columns_decide_the_peak_compute_fewer_pixels_together(target: str, rng: np.random.Generator) -> None:
    mod = long_sums()
    roomy, tight = (tvm_tiny.build(mod, target, name="net", disable=WHOLE, optimize=goal) for goal in ("speed", "sram"))
    columns = 8 * 10 * 4 * 28 // 4
    assert [layer.scratch for layer in (roomy.report.layers[1], tight.report.layers[1])] == [3 * columns, columns]
    assert tight.workspace_size <= roomy.workspace_size - 2 * columns + 64
    check(mod, tight, rng)


@pytest.mark.host_cc
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 4)), st.sampled_from([3, 7, 28]), st.sampled_from([1, 5, 16]), st.integers(0, 2000),
    st.none() | st.integers(0, 2000), st.sampled_from(CORES),
)  # fmt: skip
def test_any_bound_of_the_arena_is_exact(
    kernel: tuple[int, int], channels: int, outputs: int, bound: int, room: int | None, target: str
) -> None:
    """Layer by layer within bounds that kernels can and can't meet."""
    mod = long_sums(kernel, channels, outputs, (11, 5))
    design = {"copies": [], "patches": None, "segments": [], "pairs": False, "strips": "none", "planar": True}
    design |= {"bound": bound, "room": room}
    check(mod, tvm_tiny.build(mod, target, name="net", design=design), np.random.default_rng(0))


@pytest.mark.host_cc
@pytest.mark.parametrize("target", CORES)
def test_an_image_in_uint8_lies_in_memory_once_and_is_streamed(target: str, rng: np.random.Generator) -> None:
    """Its sign bits are turned over in place, and the search knows."""
    b = TinyBuilder((1, 48, 48, 3), dtype="uint8")
    x = b.conv(b.call("flip_sign", b.x), 16, 3, strides=[2, 2], padding=[0, 0, 1, 1])
    x = b.conv(b.depthwise(x), 32)
    mod = b.finish(b.conv(b.depthwise(x, strides=[2, 2]), 8))
    model = tvm_tiny.build(mod, target, name="net", optimize="sram", max_overhead=1.0)
    assert model.workspace_size < 1.5 * 48 * 48 * 3
    assert any(layer.op == "stage" for layer in model.report.layers)
    check(mod, model, rng, low=0)


@pytest.mark.parametrize("target", CORES)
def test_scratch_spends_nothing_that_sharing_saves(target: str) -> None:
    """The largest tensors lie over each other, so that the peak is lower than their sum; weights kept over many pixels must not fill it."""
    b, halved = TinyBuilder((1, 32, 32, 16)), {"strides": [2, 2], "padding": [0, 0, 1, 1]}
    mod = b.finish(b.conv(b.conv(b.x, 32, 3, **halved), 64, 3, **halved))
    speed, sram = (tvm_tiny.build(mod, target, name="net", disable=WHOLE, optimize=goal) for goal in ("speed", "sram"))
    assert sram.workspace_size < speed.workspace_size


@pytest.mark.parametrize("target", CORES)
def test_the_least_arena_is_no_point_that_another_beats(target: str) -> None:
    """Streams of sums this long wait for weights at every row: patches may be near in bytes and far in cycles, or beaten in both."""
    decision = tvm_tiny.build(long_sums(size=(49, 10)), target, name="net", optimize="sram").report.decisions["curve"]
    chosen = decision["chosen"]
    beaten = [p for p in decision["curve"] if p["arena_bytes"] <= chosen["arena_bytes"] and p["cycles"] <= chosen["cycles"]]
    assert beaten == [chosen]


def streamed(arena_bytes: int, overhead: float, streaming: float) -> Point:
    return Point(Design(segments=((0, 2),)), arena_bytes, 100.0 * (1 + overhead), overhead, 0.0, 0, streaming)


@pytest.mark.parametrize(
    ("overhead", "streaming", "taken"),
    [
        (0.30, 0.09, True),  # clearly within what streams may add
        (0.30, 0.095, False),  # the estimates differ: what they are off may be more than is left
        (0.104, 0.098, True),  # they say the same
        (0.104, 0.102, False),
        (0.09, 0.12, True),  # the network takes no longer than it may
    ],
)
def test_the_least_arena_is_one_whose_streams_take_no_longer_than_they_may(overhead: float, streaming: float, taken: bool) -> None:
    options = StreamOptions("sram", max_overhead=0.1)
    small, roomy = streamed(1000, overhead, streaming), Point(Design(), 1500, 100.0, 0.0, 0.0, 0)
    assert least_point([small, roomy], options)[0] is (small if taken else roomy)


def test_where_all_streams_take_too_long_some_memory_halves_the_excess() -> None:
    options = StreamOptions("sram", max_overhead=0.1)
    slow, faster, hardly = streamed(1000, 0.2, 0.2), streamed(1500, 0.14, 0.14), streamed(1200, 0.18, 0.18)
    assert least_point([slow, hardly, faster], options)[0] is faster
    assert least_point([slow, hardly], options)[0] is slow


def test_streams_that_take_longer_are_better_than_much_more_memory() -> None:
    options = StreamOptions("sram", max_overhead=0.1)
    small, roomy = streamed(1000, 0.4, 0.4), Point(Design(), 1601, 100.0, 0.0, 0.0, 0)
    assert least_point([small, roomy], options)[0] is small


def test_patches_may_take_as_long_as_streams_where_those_do_instead() -> None:
    """Alone they are limited by what they compute again."""
    options = StreamOptions("sram", max_overhead=0.1)
    patched = Point(Design(patches=(0, 2, (2, 2))), 1000, 130.0, 0.3, 0.0, 0)
    layers, streams = Point(Design(), 1500, 100.0, 0.0, 0.0, 0), streamed(1400, 0.09, 0.09)
    assert least_point([patched, streams, layers], options)[0] is streams
    assert least_point([patched, layers], options)[0] is patched


def test_an_arena_larger_than_planned_is_tried_with_as_much_less_room() -> None:
    """Only where memory is short, and not where the streams themselves were cut for more than was estimated."""
    design = Design(segments=((0, 2),), arena_bytes=1000)
    sram = StreamOptions("sram")

    def again(arena: int, planned: int | None, options: StreamOptions = sram) -> Design | None:
        return with_less_room(Point(design, arena, 100.0, 0.0, 0.0, 0, planned=planned), options)

    smaller = again(1030, 1000)
    assert smaller is not None
    assert (smaller.arena_bytes, smaller.scratch_arena) == (1000, 970)
    assert again(1030, None) == smaller
    assert again(1000, 1000) is again(1030, 1040) is again(1030, 1000, StreamOptions("balanced")) is None
    assert again(1030, 1000, StreamOptions("balanced", 1030)) is None
    assert again(1030, 1000, StreamOptions("balanced", 1029)) == smaller
