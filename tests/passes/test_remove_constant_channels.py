# SPDX-License-Identifier: Apache-2.0
"""remove-constant-channels: bit-exact, and as thorough as the analysis allows."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st

from tests.support.shared import SHARED, needs_shared
from tests.support.tiny_builder import TinyBuilder, assert_same_meaning, evaluate
from tvm_tiny.frontend import load
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.quantize_to_integer import QuantizeToInteger
from tvm_tiny.passes.remove_constant_channels import RemoveConstantChannels, channel_ranges

DEAD = np.int32(-(2**24))  # a bias no input can outweigh: the channel sits at its lower clamp


def channels(mod: tvm.IRModule, op: str) -> list[int]:
    """Output channels of every operator called `op`."""
    graph = TinyGraph(mod["main"])
    return [graph.shape(n.var)[-1] for n in graph.nodes if n.op == op]


def with_dead(builder: TinyBuilder, total: int, dead: list[int]) -> np.ndarray:
    bias = builder.rng.integers(-2000, 2000, total).astype(np.int32)
    bias[dead] = DEAD
    return bias


def test_dead_channels_vanish_through_depthwise_and_pointwise(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 6, 6, 3))
    a = b.conv(b.x, 8, 3, bias=with_dead(b, 8, [1, 4, 6]), y_zp=-128, clamp_min=-128)
    d = b.depthwise(a, x_zp=-128)
    mod = b.finish(b.conv(d, 5, x_zp=5))
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [5, 5]
    assert channels(out, "depthwise_conv2d") == [5]
    assert_same_meaning(mod, out, rng)


def test_a_constant_that_padding_would_change_is_kept(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 6, 6, 3))
    a = b.conv(b.x, 4, bias=with_dead(b, 4, [2]), y_zp=0, clamp_min=-100)  # constant -100, which is not the zero point 0 of the next
    mod = b.finish(b.conv(a, 5, 3, x_zp=0))
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [4, 5]
    assert_same_meaning(mod, out, rng)


def test_the_same_constant_is_folded_where_nothing_is_padded(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 6, 6, 3))
    a = b.conv(b.x, 4, bias=with_dead(b, 4, [2]), y_zp=0, clamp_min=-100)
    mod = b.finish(b.conv(a, 5, 3, x_zp=0, padding=[0, 0, 0, 0]))
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [3, 5]
    assert_same_meaning(mod, out, rng)


def test_channels_nobody_reads_vanish(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 5, 5, 3))
    a = b.conv(b.x, 6)
    weight = b.rng.integers(-127, 128, (4, 1, 1, 6)).astype(np.int8)
    weight[..., [0, 5]] = 0
    mod = b.finish(b.conv(a, 4, weight=weight))
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [4, 4]
    assert_same_meaning(mod, out, rng)


def test_nothing_to_remove_leaves_the_module_alone() -> None:
    b = TinyBuilder((1, 5, 5, 3))
    mod = b.finish(b.conv(b.x, 6))
    assert RemoveConstantChannels()(mod).same_as(mod)


def test_outputs_keep_their_shape_even_when_constant(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 4, 4, 3))
    mod = b.finish(b.conv(b.x, 4, bias=np.full(4, DEAD)))
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [4]
    assert_same_meaning(mod, out, rng)


@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([1, 3]), st.sampled_from([1, 2]), st.integers(-128, 127))
def test_intervals_contain_every_value(seed: int, depth: int, kernel: int, stride: int, zero_point: int) -> None:
    b = TinyBuilder((1, 5, 4, depth), seed=seed)
    a = b.conv(b.x, 5, kernel, strides=[stride, stride], x_zp=zero_point)
    mod = b.finish(b.depthwise(a, x_zp=5))
    graph = TinyGraph(mod["main"])
    found = channel_ranges(graph)[graph.outputs[0]]
    rng = np.random.default_rng(seed)
    for _ in range(4):
        y = evaluate(mod, rng.choice(np.array([-128, 127], np.int8), (1, 5, 4, depth)))[0].reshape(-1, 5)
        assert np.all(y.min(axis=0) >= found.low)
        assert np.all(y.max(axis=0) <= found.high)


@needs_shared
@pytest.mark.slow
def test_visual_wake_words_keeps_every_bit(rng: np.random.Generator) -> None:
    mod = QuantizeToInteger()(load(SHARED / "models/tflite/vww_96_int8.tflite"))
    assert_same_meaning(mod, RemoveConstantChannels()(mod), rng, count=3)
