# SPDX-License-Identifier: Apache-2.0
"""The rule of softmax: its kernel gives the bits of the operator's meaning, for every depth and scale, in place too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tvm_tiny
from tests.support.host import HostModel
from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.ops import registry
from tvm_tiny.ops.softmax import MAX_DEPTH, quantize_params
from tvm_tiny.schedules.microkernels import MicroKernel, softmax

SCALES = (0.001, 0.02, 0.1, 0.7, 3.0)


def random_softmax(name: str, rng: np.random.Generator) -> tuple[MicroKernel, np.ndarray]:
    """Rows of many values, of few, of one; where all are equal, the sum is the largest or the reciprocal one."""
    shape = (int(rng.integers(1, 4)), int(rng.choice([1, 2, 3, 10, 12, 256, 1000, 2048, MAX_DEPTH])))
    table = quantize_params(float(rng.choice(SCALES)), float(rng.choice([0.5, 1.0])))["table"]
    spread = int(rng.choice([1, 3, 20, 256]))
    x = rng.integers(0, spread, shape) + rng.integers(-128, 129 - spread)
    return softmax(name, shape, table, lambda a: registry.get("tiny.softmax").numpy(a, table)), x.astype(np.int8)


@pytest.mark.host_cc
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), compiler=st.sampled_from(["gcc", "clang"]))
def test_portable_form_is_exact(seed: int, compiler: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    kernel, x = random_softmax("softmax", np.random.default_rng(seed))
    np.testing.assert_array_equal(run_host(kernel, x, tmp_path_factory.mktemp("softmax"), compiler), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_on_the_core(mcpu: str, rng: np.random.Generator, tmp_path: Path) -> None:
    cases = [random_softmax(f"softmax{i}", rng) for i in range(12)]
    assert mismatches_on_device([k for k, _ in cases], [x for _, x in cases], mcpu, tmp_path) == [0] * len(cases)


@pytest.mark.host_cc
def test_a_network_that_ends_in_softmax(rng: np.random.Generator) -> None:
    b = TinyBuilder((2, 6))
    mod = b.finish(b.call("softmax", b.dense(b.x, 5), quantize_params(0.1)["table"]))
    model = tvm_tiny.build(mod, "c", name="net")
    assert [row.kernel["rule"] for row in model.report.layers][-1] == "softmax"
    x = rng.integers(-128, 128, (2, 6)).astype(np.int8)
    np.testing.assert_array_equal(HostModel(model)(x)[0], evaluate(mod, x)[0])
