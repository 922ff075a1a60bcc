# SPDX-License-Identifier: Apache-2.0
"""Functions of one and two inputs beyond the commonest are bit-identical to the reference interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.test_elementwise import EVERY_INPUT, SHAPES, check_table, reference_table
from tests.support import oracle
from tests.support.op_cases import int8s, scales, seeds, zero_points
from tests.support.tflite_builder import single_op
from tvm_tiny import ops
from tvm_tiny.ops import tables

quantisations = st.tuples(scales(), zero_points)


@settings(max_examples=60)
@given(code=st.sampled_from(["ABS", "ELU"]), x=quantisations, y=st.one_of(st.none(), quantisations))
def test_tables(code: str, x: tuple[float, int], y: tuple[float, int] | None) -> None:
    """Also without a change of scale, where ABS leaves out its rescaling."""
    y = y or (x[0], -x[1] // 2)
    table = {"ABS": tables.absolute, "ELU": tables.elu}[code]
    check_table(table(*x, *y), reference_table(code, x, y))


@settings(max_examples=60)
@given(x=quantisations, y=quantisations)
def test_rsqrt_table(x: tuple[float, int], y: tuple[float, int]) -> None:
    """Of inputs not below zero: the reference fails on others, for which the table holds what it holds for zero."""
    inputs = np.arange(x[1], 128).astype(np.int8)
    spec = [{"shape": inputs.shape, "scale": s, "zero_point": z} for s, z in (x, y)]
    want = oracle.run(single_op("RSQRT", spec[:1], spec[1]), [inputs])
    table = tables.rsqrt(*x, *y)
    np.testing.assert_array_equal(table[inputs.astype(int) + 128], want)
    assert set(table[: x[1] + 128]) <= {want[0]}


@pytest.mark.parametrize(("name", "function"), [("exp", np.exp), ("log", np.log)])
@settings(max_examples=40)
@given(x=quantisations, y=quantisations)
def test_tables_of_tensorflow_lite(name: str, function: Callable[..., np.ndarray], x: tuple[float, int], y: tuple[float, int]) -> None:
    """The nearest integer but for float32 near a half; the reference interpreter has these functions in float only."""
    real = (EVERY_INPUT.astype(np.float64) - x[1]) * float(np.float32(x[0]))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scaled = np.nan_to_num(function(real), nan=-np.inf, posinf=1e30, neginf=-1e30) / float(np.float32(y[0]))
    exact = np.clip(scaled + y[1], -128, 127)
    assert np.abs(getattr(tables, name)(*x, *y) - exact).max() <= 0.5 + 1e-4


@settings(max_examples=80)
@given(
    shapes=st.sampled_from([((1, 3, 5, 7), (7,)), ((1, 3, 5, 7), (1, 1, 7)), ((2, 3), (2, 1)), ((1, 3, 5, 7), (3, 5, 7)), ((4,), (1,))]),
    x=quantisations,
    slope=quantisations,
    y=quantisations,
    seed=seeds,
)
def test_prelu(shapes: Any, x: tuple[float, int], slope: tuple[float, int], y: tuple[float, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    data, slopes = (int8s(rng, shape) for shape in shapes)
    constants = [(slopes, {"scale": slope[0], "zero_point": slope[1]})]
    specs = [{"shape": shapes[0], "scale": s, "zero_point": z} for s, z in (x, y)]
    want = oracle.run(single_op("PRELU", specs[:1], specs[1], constants), [data])
    params = ops.prelu.quantize_params(x[0], slope[0], y[0])
    np.testing.assert_array_equal(ops.get("prelu").numpy(data, slopes, x_zp=x[1], slope_zp=slope[1], y_zp=y[1], **params), want)


@settings(max_examples=80)
@given(shapes=st.sampled_from(SHAPES), a=quantisations, b=quantisations, y=quantisations, seed=seeds)
def test_squared_difference(shapes: Any, a: tuple[float, int], b: tuple[float, int], y: tuple[float, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = [int8s(rng, shape) for shape in shapes]
    inputs = [{"shape": v.shape, "scale": s, "zero_point": z} for v, (s, z) in zip(arrays, (a, b), strict=True)]
    output = {"shape": np.broadcast_shapes(*shapes), "scale": y[0], "zero_point": y[1]}
    want = oracle.run(single_op("SQUARED_DIFFERENCE", inputs, output), arrays)
    params = ops.squared_difference.quantize_params(a[0], b[0], y[0])
    np.testing.assert_array_equal(ops.get("squared_difference").numpy(*arrays, a_zp=a[1], b_zp=b[1], y_zp=y[1], **params), want)


@settings(max_examples=60)
@given(
    shapes=st.sampled_from([((3, 5), (5, 2)), ((2, 3, 1), (1, 1, 7)), ((1, 4, 3), (2, 3, 6)), ((2, 1, 3, 17), (5, 17, 4))]),
    adjoint=st.tuples(st.booleans(), st.booleans()),
    a=quantisations,
    b=quantisations,
    y=quantisations,
    seed=seeds,
)
def test_batch_matmul(
    shapes: Any, adjoint: tuple[bool, bool], a: tuple[float, int], b: tuple[float, int], y: tuple[float, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    arrays = [int8s(rng, shape) for shape in shapes]
    given_ = [v.swapaxes(-1, -2) if turned else v for v, turned in zip(arrays, adjoint, strict=True)]
    params = ops.batch_matmul.quantize_params(a[0], b[0], y[0])
    zero_points_ = {"a_zp": a[1], "b_zp": b[1], "y_zp": y[1]}
    got = ops.get("batch_matmul").numpy(arrays[0], given_[1], transpose_b=adjoint[1], **zero_points_, **params)
    inputs = [{"shape": v.shape, "scale": s, "zero_point": z} for v, (s, z) in zip(given_, (a, b), strict=True)]
    output = {"shape": got.shape, "scale": y[0], "zero_point": y[1]}
    model = single_op("BATCH_MATMUL", inputs, output, (), "BatchMatMulOptions", adj_x=adjoint[0], adj_y=adjoint[1])
    np.testing.assert_array_equal(got, oracle.run(model, given_))


@settings(max_examples=40)
@given(
    shape_axes=st.sampled_from([((1, 7, 7, 5), (1, 2)), ((3, 4), (1,)), ((2, 3, 4), (0, 2)), ((1, 5, 3, 4), (3,))]),
    x=quantisations,
    y=quantisations,
    seed=seeds,
)
def test_sum(shape_axes: Any, x: tuple[float, int], y: tuple[float, int], seed: int) -> None:
    """A mean of which the count is left out."""
    shape, axes = shape_axes
    data = int8s(np.random.default_rng(seed), shape)
    got = ops.get("mean").numpy(data, axes=list(axes), x_zp=x[1], y_zp=y[1], **ops.mean.quantize_params(x[0], y[0], 1))
    specs = [{"shape": s, "scale": q[0], "zero_point": q[1]} for s, q in ((shape, x), (got.shape, y))]
    model = single_op("SUM", specs[:1], specs[1], [(np.array(axes, np.int32), {})], "ReducerOptions", keep_dims=False)
    np.testing.assert_array_equal(got, oracle.run(model, [data]))
