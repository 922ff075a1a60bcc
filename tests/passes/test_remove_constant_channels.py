# SPDX-License-Identifier: Apache-2.0
"""remove-constant-channels: bit-exact, and as thorough as the analysis allows."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.support.host import HostModel
from tests.support.random_networks import networks
from tests.support.shared import SHARED, needs_shared
from tests.support.tiny_builder import TinyBuilder, assert_same_meaning, evaluate
from tvm_tiny.device import measure_objects
from tvm_tiny.explain import collecting
from tvm_tiny.frontend import load
from tvm_tiny.ops import add as add_op
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes._channel_ranges import channel_ranges
from tvm_tiny.passes.fuse_ops import FuseOps
from tvm_tiny.passes.quantize_to_integer import QuantizeToInteger
from tvm_tiny.passes.remove_constant_channels import RemoveConstantChannels

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


@pytest.mark.parametrize("padding", [0, 1])
def test_dead_channels_of_a_sum_in_a_convolution_vanish(padding: int, rng: np.random.Generator) -> None:
    """As where the addition is an operator of its own: both operands and their readers lose the same channels, those no one reads too."""
    b = TinyBuilder((1, 6, 6, 3))
    bias = with_dead(b, 8, [1, 4, 6])
    x = b.conv(b.x, 8, 3, bias=bias, y_zp=-128)
    hidden = b.conv(x, 5, 1, x_zp=-128)
    y = b.conv(hidden, 8, 3, bias=bias, x_zp=5, y_zp=-128)
    total = b.call("add", x, y, a_zp=-128, b_zp=-128, y_zp=-128, **add_op.quantize_params(0.1, 0.04, 0.09))
    weight = b.rng.integers(-127, 128, (4, 3, 3, 8)).astype(np.int8)
    weight[..., 2] = 0
    mod = b.finish(b.conv(total, 4, weight=weight, x_zp=-128, padding=[padding] * 4))
    fused = FuseOps()(mod)
    assert len(channels(fused, "conv2d")) == 4
    plain, out = RemoveConstantChannels()(mod), RemoveConstantChannels()(fused)
    assert channels(out, "conv2d") == channels(plain, "conv2d")
    assert min(channels(out, "conv2d")) < 8
    assert_same_meaning(mod, out, rng)
    ours, theirs = (list(channel_ranges(TinyGraph(m["main"])).values())[-1] for m in (fused, mod))
    np.testing.assert_array_equal(ours.low, theirs.low)
    np.testing.assert_array_equal(ours.high, theirs.high)


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


@pytest.mark.parametrize(("scale", "left"), [(-16, 3), (-5, 4)])
def test_a_constant_behind_padding_goes_where_no_border_shows_it(scale: int, left: int, rng: np.random.Generator) -> None:
    """Channel 2 is -100 everywhere; padding reads 0 instead. Rescaled coarsely every border class gives one value, finely several."""
    b = TinyBuilder((1, 6, 7, 3))
    a = b.conv(b.x, 4, bias=with_dead(b, 4, [2]), y_zp=0, clamp_min=-100)
    weight = b.rng.integers(-127, 128, (3, 3, 4)).astype(np.int8)
    weight[..., 2] = 1
    bias, multiplier, shift = b._scaling(4, 9, None)
    bias[2], shift[2] = -10, scale
    attrs = {"strides": [1, 2], "padding": [1, 0, 1, 2], "x_zp": 0, "y_zp": 5}
    mod = b.finish(b.conv(b.call("depthwise_conv2d", a, weight, bias, multiplier, shift, **attrs), 5, x_zp=-3))
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [left, 5]
    assert channels(out, "depthwise_conv2d") == [left]
    assert_same_meaning(mod, out, rng)


@pytest.mark.parametrize(("corner", "left"), [(0, 3), (9, 4)])
def test_a_constant_is_folded_where_padding_meets_no_weight(corner: int, left: int, rng: np.random.Generator) -> None:
    """The kernel reads padding above and at the left only, where this channel's weights are zero, or not."""
    b = TinyBuilder((1, 6, 6, 3))
    a = b.conv(b.x, 4, bias=with_dead(b, 4, [2]), y_zp=0, clamp_min=-100)
    weight = b.rng.integers(-127, 128, (5, 3, 3, 4)).astype(np.int8)
    weight[:, 0, :, 2], weight[:, :, 0, 2] = 0, 0
    weight[3, 0, 0, 2] = corner
    mod = b.finish(b.conv(a, 5, weight=weight, x_zp=0, padding=[1, 1, 0, 0]))
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [left, 5]
    assert_same_meaning(mod, out, rng)


def test_a_layer_nobody_reads_does_not_matter(rng: np.random.Generator) -> None:
    """Nothing of it is wanted, and it reads a constant that is not the zero point."""
    b = TinyBuilder((1, 5, 5, 3))
    a = b.conv(b.x, 4, bias=with_dead(b, 4, [2]), y_zp=0, clamp_min=-100)
    b.conv(a, 5, 3, x_zp=0)
    mod = b.finish(b.conv(a, 6, x_zp=0))
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [3, 1, 6]
    assert_same_meaning(mod, out, rng)


def test_a_layer_of_nothing_but_constants_is_not_read(rng: np.random.Generator) -> None:
    """It keeps one channel, which need not have its constant any more: three of the four it read are gone."""
    b = TinyBuilder((1, 5, 5, 3))
    x = b.conv(b.x, 4, y_zp=-128, clamp_max=-60)
    weight = np.full((6, 1, 1, 4), 100, np.int8)
    weight[..., 0] = 1
    constant = b.conv(x, 6, weight=weight, x_zp=127, clamp_min=-100, bias=np.full(6, 20000, np.int32))
    mod = b.finish(b.conv(constant, 5, x_zp=5))
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [1, 1, 5]
    assert_same_meaning(mod, out, rng)


def test_dead_channels_vanish_through_what_moves_channels(rng: np.random.Generator) -> None:
    """Two of five and one of four, side by side, padded, resized, cut and flattened; the first channels are cut off."""
    b = TinyBuilder((1, 4, 4, 3))
    first = b.conv(b.x, 5, bias=with_dead(b, 5, [0, 3]), y_zp=-128)
    second = b.conv(b.x, 4, bias=with_dead(b, 4, [2]), y_zp=-128)
    both = b.call("concat", first, second, axis=3)
    wide = b.call("resize_bilinear", both, size=[5, 6])
    wide = b.call("pad", wide, before=[0, 1, 0, 0], after=[0, 0, 1, 0], value=-128)
    cut = b.call("strided_slice", wide, begin=[0, 1, 0, 1], strides=[1, 2, 1, 1], size=[1, 2, 6, 8])
    flat = b.call("reshape", cut, shape=[1, 2 * 6 * 8])
    mod = b.finish(b.dense(flat, 5, x_zp=-128), b.conv(both, 3, 3, x_zp=-128))
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [3, 3, 3]
    assert channels(out, "strided_slice") == [6]
    assert channels(out, "reshape") == [2 * 6 * 6]
    assert_same_meaning(mod, out, rng)


def test_constants_of_a_channel_each_go_with_it(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 4, 4, 3))
    x = b.conv(b.x, 5, bias=with_dead(b, 5, [1, 3]), y_zp=-128)
    offsets = np.array([3, 5, -7, 100, 0], np.int8).reshape(1, 1, 1, 5)
    total = b.call("add", x, offsets, a_zp=-128, b_zp=0, y_zp=-128, **add_op.quantize_params(0.1, 0.04, 0.09))
    mod = b.finish(b.conv(total, 3, x_zp=4))
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [3, 3]
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


def twins(b: TinyBuilder, weight: np.ndarray, copies: dict[int, int]) -> tvm.IRModule:
    """conv → depthwise → conv, where channel k of the first two is a copy of channel `copies[k]`."""
    first = b.rng.integers(-127, 128, (6, 1, 1, 3)).astype(np.int8)
    second = b.rng.integers(-127, 128, (3, 3, 6)).astype(np.int8)
    scaling = [b._scaling(6, terms, None) for terms in (3, 9)]
    for copy, source in copies.items():
        for array in (first, *scaling[0], *scaling[1]):
            array[copy] = array[source]
        second[..., copy] = second[..., source]
    x = b.call("conv2d", b.x, first, *scaling[0], x_zp=-3, y_zp=5)
    x = b.call("depthwise_conv2d", x, second, *scaling[1], x_zp=5, y_zp=5, padding=[1, 1, 1, 1])
    return b.finish(b.conv(x, 4, 3, weight=weight, x_zp=5))


def test_duplicates_become_one_channel(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 5, 6, 3))
    weight = b.rng.integers(-40, 41, (4, 3, 3, 6)).astype(np.int8)
    mod = twins(b, weight, {2: 0, 5: 0, 4: 1})
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [3, 4]
    assert channels(out, "depthwise_conv2d") == [3]
    assert_same_meaning(mod, out, rng)


def test_duplicates_stay_where_their_weights_have_no_sum(rng: np.random.Generator) -> None:
    b = TinyBuilder((1, 5, 6, 3))
    weight = b.rng.integers(-40, 41, (4, 3, 3, 6)).astype(np.int8)
    weight[1, 0, 0, [0, 2]] = -64  # -128 is no weight that every kernel can encode
    mod = twins(b, weight, {2: 0, 5: 3})
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [5, 4]
    assert_same_meaning(mod, out, rng)


def test_duplicates_of_a_residual_stay_exact(rng: np.random.Generator) -> None:
    """The sum is read by a convolution whose result is added to it: one group of channels, read from inside."""
    b = TinyBuilder((1, 4, 4, 3))
    params = [np.repeat(a[:1], 4) for a in b._scaling(4, 4, None)]
    first = np.repeat(b.rng.integers(-127, 128, (1, 1, 1, 3)).astype(np.int8), 4, axis=0)
    inner = np.repeat(b.rng.integers(-30, 31, (1, 1, 1, 4)).astype(np.int8), 4, axis=0)
    x = b.call("conv2d", b.x, first, *params, x_zp=-3, y_zp=5)
    y = b.call("conv2d", x, inner, *params, x_zp=5, y_zp=5)
    rescale = {k: 1 << 30 for k in ("a_multiplier", "b_multiplier", "y_multiplier")}
    total = b.call("add", x, y, a_zp=5, b_zp=5, y_zp=0, a_shift=0, b_shift=0, y_shift=-18, **rescale)
    mod = b.finish(b.conv(total, 2, weight=b.rng.integers(-30, 31, (2, 1, 1, 4)).astype(np.int8), x_zp=0))
    out = RemoveConstantChannels()(mod)
    assert channels(out, "conv2d") == [1, 1, 2]
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


@settings(max_examples=12)
@given(
    st.integers(0, 10_000),
    st.booleans(),
    st.integers(1, 3),
    st.lists(st.integers(1, 2), min_size=4, max_size=4),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
    st.sampled_from([-128, 0, 127]),
)
def test_bounds_of_one_layer_are_reached(seed: int, wide: bool, kernel: int, steps: list[int], sides: list[int], zero_point: int) -> None:
    """No tighter ones exist: some input gives each, at the border or inside."""
    b = TinyBuilder((1, 5, 6, 2), seed=seed)
    attrs = {"strides": steps[:2], "dilation": steps[2:], "padding": [min(s, kernel - 1) for s in sides], "x_zp": zero_point}
    mod = b.finish(b.conv(b.x, 3, kernel, **attrs) if wide else b.depthwise(b.x, kernel, **attrs))
    graph = TinyGraph(mod["main"])
    (node,) = graph.nodes[:1]
    found, (_, height, width, depth) = channel_ranges(graph)[node.var], graph.shape(node.var)
    weight = node.constant(1) if wide else np.eye(2, dtype=np.int8)[:, None, None, :] * node.constant(1).transpose(2, 0, 1)[..., None]
    low, high = np.full(depth, 127), np.full(depth, -128)
    for channel, row, column, sign in itertools.product(range(depth), range(height), range(width), (-1, 1)):
        x = np.full((1, 5, 6, 2), zero_point, np.int8)
        for i, j in itertools.product(range(kernel), repeat=2):
            at = [p * s + t * d - side for p, s, t, d, side in zip((row, column), steps, (i, j), steps[2:], attrs["padding"], strict=False)]
            if 0 <= at[0] < 5 and 0 <= at[1] < 6:
                x[0, at[0], at[1]] = np.where(sign * weight[channel, i, j] > 0, 127, -128)
        y = evaluate(mod, x)[0][0, row, column, channel]
        low[channel], high[channel] = min(low[channel], y), max(high[channel], y)
    np.testing.assert_array_equal(found.low, low)
    np.testing.assert_array_equal(found.high, high)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(networks())
def test_random_networks_keep_their_meaning(mod: tvm.IRModule) -> None:
    """Some of them with channels that are constant, of zero points and others, at either end."""
    fused = FuseOps()(mod)
    assert_same_meaning(mod, RemoveConstantChannels()(fused), np.random.default_rng(0), count=2)
    assert_same_meaning(mod, RemoveConstantChannels()(mod), np.random.default_rng(0), count=2)


def natural(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """An image whose spectrum falls as photographs' do, channels much alike, over the whole range of int8."""
    _, height, width, depth = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    frequency[0, 0] = 1 / max(height, width)

    def plane() -> np.ndarray:
        return np.fft.ifft2(np.fft.fft2(rng.standard_normal((height, width))) / frequency).real

    shared = plane()
    image = np.stack([shared + 0.3 * plane() for _ in range(depth)], axis=-1)
    low, high = np.percentile(image, [1, 99])
    return np.clip((image - low) / (high - low) * 255 - 128, -128, 127).astype(np.int8)[None]


@needs_shared
@pytest.mark.slow
@pytest.mark.host_cc
def test_visual_wake_words_keeps_every_bit(rng: np.random.Generator) -> None:
    """At least 1,600 channels go, and 1,000 random and 100 natural-looking images give the same bits, compiled."""
    path = SHARED / "models/tflite/vww_96_int8.tflite"
    mod = FuseOps()(QuantizeToInteger()(load(path)))
    before, after = (sum(channels(m, "conv2d") + channels(m, "depthwise_conv2d")) for m in (mod, RemoveConstantChannels()(mod)))
    assert before == 2736
    assert before - after >= 1600
    whole, without = (HostModel(tvm_tiny.build(path, "c", optimize="speed", disable=off)) for off in (["remove-constant-channels"], ()))
    shape = without.model.inputs[0].shape
    images = [rng.integers(-128, 128, shape).astype(np.int8) for _ in range(1000)] + [natural(rng, shape) for _ in range(100)]
    for image in images:
        np.testing.assert_array_equal(whole(image)[0], without(image)[0])


@needs_shared
@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
def test_visual_wake_words_takes_less_than_100_kb_of_flash(core: str, tmp_path: Path) -> None:
    """Code and constants of the library, as the linker would take them."""
    model = tvm_tiny.build(SHARED / "models/tflite/vww_96_int8.tflite", f"c -mcpu={core}", name="net")
    artifact = model.save(tmp_path / "model")
    made = []
    for source in model.metadata()["sources"]:
        made.append(tmp_path / f"{Path(source).stem}.o")
        include = artifact / "codegen/host/include"
        subprocess.run(
            ["arm-none-eabi-gcc", *model.compile_flags, "-I", str(include), "-c", str(artifact / source), "-o", str(made[-1])], check=True
        )
    assert measure_objects(made).flash < 100_000


def test_planes_are_left_alone_and_said_so() -> None:
    """As wide as it has channels: taking columns for channels would go unnoticed but for the outputs."""
    b = TinyBuilder((1, 6, 6, 4))
    y = b.conv(b.x, 6, bias=with_dead(b, 6, [1, 4]), x_zp=-3, y_layout="NCHW")
    mod = b.finish(b.conv(y, 5, x_zp=5, x_layout="NCHW"))
    with collecting() as told:
        out = RemoveConstantChannels()(mod)
    tvm.ir.assert_structural_equal(out, mod)
    (decision,) = told
    assert not decision.accepted
    assert "stands before layouts are chosen" in decision.reason
