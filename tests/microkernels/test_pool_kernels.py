# SPDX-License-Identifier: Apache-2.0
"""Pooling layers equal the operators' meaning, on the host and on emulated cores; padding, odd sizes, long windows, over their input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import s_tir, tirx

from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.random_layers import random_input
from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.codegen.primfunc_to_c import to_c
from tvm_tiny.ops import registry
from tvm_tiny.ops.mean import quantize_params
from tvm_tiny.schedules.microkernels import CFunction, Core, MeanLayer, MicroKernel, PoolShape, average_pool, max_pool, mean_pool
from tvm_tiny.schedules.microkernels.pool import average_problem, find_sum_form
from tvm_tiny.schedules.nests.pool import pool_nest
from tvm_tiny.schedules.pool import distance
from tvm_tiny.schedules.requantize_forms import Form


def random_shape(rng: np.random.Generator) -> PoolShape:
    """Draw windows; some of whole rows, some cut short by padding."""
    kernel = (int(rng.integers(1, 5)), int(rng.integers(1, 5)))
    padding = tuple(int(rng.integers(0, kernel[i % 2])) if rng.random() < 0.5 else 0 for i in range(4))
    height, width = int(rng.integers(4, 10)), int(rng.integers(4, 10))
    channels = int(rng.choice([4, 5, 7, 12, 16, 19, 32, 41]))
    if rng.random() < 0.4:  # the whole image, or rows of it
        return PoolShape(height, width, channels, (height if rng.random() < 0.5 else 1, width), (1, width))
    return PoolShape(height, width, channels, kernel, (int(rng.integers(1, 4)), int(rng.integers(1, 4))), padding)


def whole_layer(name: str, shape: PoolShape, kernel: MicroKernel) -> MicroKernel:
    """The layer's nest as a C function, run with its output as far over its input as the layer allows."""
    nest = pool_nest(f"{PREFIX}{name}", shape, kernel, [(1, *kernel.input_shape), (1, *kernel.output_shape)])
    root = s_tir.SBlock([], [], [], "root", nest.body)
    func = tirx.PrimFunc(list(nest.buffers), s_tir.SBlockRealize([], True, root)).with_attr({"s_tir": True, "tiny.outputs": ["y"]})
    loops = to_c(func, f"{name}_loops", tvm.target.Target({"kind": "c"}))
    signature, apart = f"void {name}(const int8_t *in, int8_t *out, const void *packed, void *scratch)", distance(shape)
    inputs, outputs = (int(np.prod(s)) for s in (kernel.input_shape, kernel.output_shape))
    body = f"  static int8_t both[{max(apart + inputs, outputs)}];\n  (void)scratch;\n  memcpy(both + {apart}, in, {inputs});\n"
    body += f"  {name}_loops(both + {apart}, packed, both);\n  memcpy(out, both, {outputs});\n"
    text = f"static {loops.definition}\n{signature};\n{signature} {{\n{body}}}\n"
    return replace(kernel, name=name, functions=(*nest.functions, CFunction(name, text)))


def random_pool(name: str, rng: np.random.Generator, core: Core) -> tuple[MicroKernel, str, dict[str, object]]:
    """Draw a layer, and the operator and attributes it stands for."""
    shape, kind = random_shape(rng), ("avg_pool2d", "max_pool2d", "mean")[int(rng.integers(3))]
    low, high = [(-128, 127), (-128, 127), (-100, 90), (-128, 5)][int(rng.integers(4))]
    if kind == "mean":
        axes = [[1, 2], [2], [1]][int(rng.integers(3))]
        sides = (shape.height if 1 in axes else 1, shape.width if 2 in axes else 1)
        shape = PoolShape(shape.height, shape.width, shape.channels, sides, sides)
        scaled = quantize_params(0.02, float(rng.uniform(0.005, 0.04)), sides[0] * sides[1])
        zeros = (int(rng.choice([-128, 127, 0, 31])), int(rng.choice([-128, 127, 0, 5])))
        rounding = str(rng.choice(["gemmlowp", "single"]))
        kernel = mean_pool(f"{PREFIX}{name}", shape, core, MeanLayer(scaled["multiplier"], scaled["shift"], zeros, rounding))
        attrs: dict[str, object] = {"axes": axes, "keepdims": True, "x_zp": zeros[0], "y_zp": zeros[1], "rounding": rounding, **scaled}
    else:
        kernel = (average_pool if kind == "avg_pool2d" else max_pool)(f"{PREFIX}{name}", shape, core, (low, high))
        attrs = {"kernel": list(shape.kernel), "strides": list(shape.stride), "padding": list(shape.padding)}
        attrs |= {"clamp_min": low, "clamp_max": high}
    if kernel is None:  # windows cut short by padding; a mean scaled up, both signs
        return random_pool(name, rng, core)
    return whole_layer(name, shape, kernel), kind, attrs


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_reference_is_the_operators_meaning(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kernel, kind, attrs = random_pool("pool", rng, Core())
    x = random_input(kernel.input_shape, rng)
    np.testing.assert_array_equal(kernel.reference(x)[None], registry.get(kind).numpy(x[None], **attrs))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 125, 256])
def test_every_average_is_one_multiplication(count: int) -> None:
    for clamp in ((-128, 127), (-128, 0)):
        found = find_sum_form(average_problem(count, clamp))
        assert found is not None
        assert found.form is Form.SINGLE
        every = np.arange(-128 * count, 127 * count + 1)
        exact = np.clip(np.trunc((every + np.sign(every) * (count // 2)) / count), *clamp)
        np.testing.assert_array_equal(found(every[None])[0], exact)


@pytest.mark.host_cc
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_portable_pools_are_exact(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    kernel, _, _ = random_pool("pool", rng, Core())
    x = random_input(kernel.input_shape, rng)
    np.testing.assert_array_equal(run_host(kernel, x, tmp_path_factory.mktemp("pool")), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4", "cortex-m33"])
def test_pools_on_emulated_cores_are_exact(mcpu: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    core = Core.of(mcpu)
    kernels = [random_pool(f"pool{i}", rng, core)[0] for i in range(40)]
    for i, made in enumerate((average_pool, max_pool)):
        for j, (channels, side) in enumerate([(64, 16), (4500, 2)]):
            shape = PoolShape(side, side, channels, (side, side), (side, side))
            kernel = made(f"{PREFIX}big", shape, core)
            assert kernel is not None
            kernels.append(whole_layer(f"big{i}{j}", shape, kernel))
    inputs = [random_input(k.input_shape, rng) for k in kernels]
    assert mismatches_on_device(kernels, inputs, mcpu, tmp_path) == [0] * len(kernels)


def test_long_sums_windows_of_several_sizes_and_few_channels_have_no_kernel() -> None:
    assert average_pool("pool", PoolShape(17, 17, 8, (17, 17), (1, 1)), Core()) is None
    assert average_pool("pool", PoolShape(8, 8, 8, (3, 3), (1, 1), (1, 1, 1, 1)), Core()) is None
    assert max_pool("pool", PoolShape(4, 4, 3, (2, 2), (2, 2)), Core()) is None
