# SPDX-License-Identifier: Apache-2.0
"""Operators that only move elements do it as the reference interpreter does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import oracle
from tests.support.op_cases import int8s, seeds
from tests.support.tflite_builder import single_op
from tvm_tiny import ops

SPEC: dict[str, Any] = {"scale": 0.1, "zero_point": -5}


def reference(
    code: str, inputs: list[np.ndarray], y: np.ndarray, constants: Any = (), options: str | None = None, **fields: Any
) -> np.ndarray:
    """The reference's output for inputs of one quantisation; `y` has the output's shape."""
    ins = [{"shape": x.shape, **SPEC} for x in inputs]
    return oracle.run(single_op(code, ins, {"shape": y.shape, **SPEC}, constants, options, **fields), inputs)


def int32s(*values: Any) -> tuple[np.ndarray, dict[str, Any]]:
    return np.array(values, np.int32), {}


@settings(max_examples=150)
@given(
    hw=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    mode=st.sampled_from([(False, False), (True, False), (False, True)]),
    seed=seeds,
)
def test_resize_nearest(hw: tuple[int, int], size: tuple[int, int], mode: tuple[bool, bool], seed: int) -> None:
    x = int8s(np.random.default_rng(seed), (1, *hw, 2))
    got = ops.get("resize_nearest").numpy(x, size=list(size), align_corners=mode[0], half_pixel=mode[1])
    fields = {"align_corners": mode[0], "half_pixel_centers": mode[1]}
    want = reference("RESIZE_NEAREST_NEIGHBOR", [x], got, [int32s(*size)], "ResizeNearestNeighborOptions", **fields)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("out", range(1, 65))
@pytest.mark.parametrize("mode", [(False, False), (True, False), (False, True), (True, True)])
def test_resize_map_in_integers_is_the_float_map(out: int, mode: tuple[bool, bool]) -> None:
    """The integer formula of the TIR gives the same source rows, for every input size up to 64."""
    import tvm
    from tvm import tirx

    from tvm_tiny.ops.resize_nearest import _row_tir, source_rows

    analyzer = tvm.sym.Analyzer()
    for size in (1, 2, 3, 5, 7, 8, 16, 17, 31, 48, 64):
        rows = source_rows(size, out, *mode)
        for i in sorted({0, 1, out // 3, out // 2, out - 2, out - 1} & set(range(out))):
            assert int(analyzer.simplify(_row_tir(rows, size, tirx.const(i, "int32")))) == rows[i]


@pytest.mark.parametrize("pads", [[(0, 0), (1, 2), (0, 3), (0, 0)], [(0, 0), (0, 0), (0, 0), (2, 1)]])
def test_pad(pads: list[tuple[int, int]], rng: np.random.Generator) -> None:
    x = int8s(rng, (1, 4, 3, 5))
    before, after = [p[0] for p in pads], [p[1] for p in pads]
    got = ops.get("pad").numpy(x, before=before, after=after, value=SPEC["zero_point"])
    np.testing.assert_array_equal(got, reference("PAD", [x], got, [int32s(*pads)], "PadOptions"))
    got = ops.get("pad").numpy(x, before=before, after=after, value=42)
    np.testing.assert_array_equal(got, reference("PADV2", [x], got, [int32s(*pads), (np.array([42], np.int8), SPEC)], "PadV2Options"))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_concat(axis: int, rng: np.random.Generator) -> None:
    shapes = [[1, 4, 3, 5] for _ in range(3)]
    for shape, extent in zip(shapes, (1, 4, 2), strict=True):
        shape[axis] = extent
    arrays = [int8s(rng, tuple(s)) for s in shapes]
    got = ops.get("concat").numpy(*arrays, axis=axis)
    np.testing.assert_array_equal(got, reference("CONCATENATION", arrays, got, (), "ConcatenationOptions", axis=axis))


def test_concat_of_other_scales_is_refused_by_the_reference(rng: np.random.Generator) -> None:
    """Why `tiny.concat` does not rescale: the reference does not either."""
    inputs = [{"shape": (1, 4), **SPEC}, {"shape": (1, 4), "scale": 0.2, "zero_point": -5}]
    model = single_op("CONCATENATION", inputs, {"shape": (1, 8), **SPEC}, (), "ConcatenationOptions", axis=1)
    with pytest.raises(RuntimeError):
        oracle.run(model, [int8s(rng, (1, 4)), int8s(rng, (1, 4))])


def test_transpose_and_reshape(rng: np.random.Generator) -> None:
    x = int8s(rng, (2, 4, 3, 5))
    got = ops.get("transpose").numpy(x, axes=[0, 3, 1, 2])
    np.testing.assert_array_equal(got, reference("TRANSPOSE", [x], got, [int32s(0, 3, 1, 2)], "TransposeOptions"))
    got = ops.get("reshape").numpy(x, shape=[4, 30])
    np.testing.assert_array_equal(got, reference("RESHAPE", [x], got, [int32s(4, 30)], "ReshapeOptions"))


@pytest.mark.parametrize(
    ("begin", "end", "strides"),
    [([0, 1, 0], [2, 5, 3], [1, 2, 1]), ([1, -1, 0], [2, -6, 2], [1, -2, 1]), ([0, 0, 2], [2, 6, 3], [1, 5, 1])],
)
def test_strided_slice(begin: list[int], end: list[int], strides: list[int], rng: np.random.Generator) -> None:
    x = int8s(rng, (2, 6, 3))
    ranges = [range(d)[b:e:s] for d, b, e, s in zip(x.shape, begin, end, strides, strict=True)]
    attrs = {"begin": [r.start for r in ranges], "strides": [r.step for r in ranges], "size": [len(r) for r in ranges]}
    got = ops.get("strided_slice").numpy(x, **attrs)
    constants = [int32s(*begin), int32s(*end), int32s(*strides)]
    fields = dict.fromkeys(("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"), 0)
    np.testing.assert_array_equal(got, reference("STRIDED_SLICE", [x], got, constants, "StridedSliceOptions", **fields))


@settings(max_examples=60)
@given(
    hw=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    mode=st.sampled_from([(False, False), (True, False), (False, True)]),
    seed=seeds,
)
def test_resize_bilinear(hw: tuple[int, int], size: tuple[int, int], mode: tuple[bool, bool], seed: int) -> None:
    x = int8s(np.random.default_rng(seed), (1, *hw, 2))
    got = ops.get("resize_bilinear").numpy(x, size=list(size), align_corners=mode[0], half_pixel=mode[1])
    fields = {"align_corners": mode[0], "half_pixel_centers": mode[1]}
    want = reference("RESIZE_BILINEAR", [x], got, [int32s(*size)], "ResizeBilinearOptions", **fields)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("shapes", [((1, 3, 4, 5), (1, 3, 4, 5)), ((2, 3), (3,)), ((3, 1), (2, 1, 4))])
@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_extremes(name: str, shapes: tuple[tuple[int, ...], ...], rng: np.random.Generator) -> None:
    arrays = [int8s(rng, shape) for shape in shapes]
    got = ops.get(name).numpy(*arrays)
    np.testing.assert_array_equal(got, reference(name.upper(), arrays, got, options="MaximumMinimumOptions"))
