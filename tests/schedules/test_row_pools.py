# SPDX-License-Identifier: Apache-2.0
"""Pools that are streamed: maxima of four channels at once, rows anywhere; exact, and about as fast as the whole layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.support.guarded import GuardedModel
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.profiler import profile_model

WHOLE: dict[str, Any] = {
    "copies": [], "patches": None, "segments": [], "pairs": False, "strips": "none", "planar": True, "bound": None,
}  # fmt: skip
STREAMED = {**WHOLE, "segments": [[0, 2]]}


def pooled(
    channels: int, kernel: tuple[int, int], stride: tuple[int, int], padding: list[int], size: tuple[int, int], **clamp: int
) -> tvm.IRModule:
    b = TinyBuilder((1, *size, 3))
    return b.finish(b.call("max_pool2d", b.conv(b.x, channels, 3), kernel=list(kernel), strides=list(stride), padding=padding, **clamp))


@pytest.mark.host_cc
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([3, 4, 5, 7, 16, 18]),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 2), st.integers(1, 3)),
    st.sampled_from([(-128, 127), (-90, 60)]),
    st.booleans(),
)
def test_windows_at_every_border(
    channels: int, kernel: tuple[int, int], stride: tuple[int, int], clamp: tuple[int, int], padded: bool
) -> None:
    padding = [(k - 1) // 2 if padded else 0 for k in kernel] + [k // 2 if padded else 0 for k in kernel]
    mod = pooled(channels, kernel, stride, padding, (9, 7), clamp_min=clamp[0], clamp_max=clamp[1])
    library = GuardedModel(tvm_tiny.build(mod, "c -mcpu=cortex-m7", name="net", design=STREAMED))
    for x in (np.random.default_rng(channels).integers(-128, 128, (1, 9, 7, 3)), np.full((1, 9, 7, 3), -128)):
        np.testing.assert_array_equal(library(x.astype(np.int8))[0].reshape(-1), evaluate(mod, x.astype(np.int8))[0].reshape(-1))
        assert not library.faults


@pytest.mark.qemu
def test_streamed_maxima_cost_little_more_than_the_whole_layer_and_are_estimated(rng: np.random.Generator) -> None:
    mod, x = pooled(18, (3, 3), (1, 1), [1, 1, 1, 1], (16, 16)), rng.integers(-128, 128, (1, 16, 16, 3)).astype(np.int8)
    cycles = []
    for design in (WHOLE, STREAMED):
        model = tvm_tiny.build(mod, board="mps2_an500", name="net", design=design)
        np.testing.assert_array_equal(model.run(x)[model.outputs[0].name].reshape(-1), evaluate(mod, x)[0].reshape(-1))
        found = profile_model(model, "mps2_an500", {model.inputs[0].name: x}, board_term="stm32h7a3@280").total.cycles["cortex-m7"]
        cycles.append(found)
        estimated = model.report.decisions["cycles"]["total"]
        assert abs(estimated / found - 1) < 0.3
    assert cycles[1] < 1.6 * cycles[0]
