# SPDX-License-Identifier: Apache-2.0
"""The TIR of every operator, compiled, gives what numpy gives; and TVM's C codegen prints it as clean C99."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.op_cases import int8s
from tests.support.primfuncs import c_kernel, check_compiled, primfunc_of, simply_scheduled
from tvm_tiny import ops
from tvm_tiny.ops import tables

Case = tuple[str, list[np.ndarray], dict[str, Any]]
LAYOUTS = [(x, y) for x in ("NHWC", "NCHW") for y in ("NHWC", "NCHW")]
NCHW = {"x_layout": "NCHW", "y_layout": "NCHW"}


def channel_params(rng: np.random.Generator, channels: int) -> list[np.ndarray]:
    """Bias, multiplier and shift; shifts of both signs."""
    bias = rng.integers(-2000, 2000, channels)
    return [v.astype(np.int32) for v in (bias, rng.integers(2**30, 2**31, channels), rng.integers(-12, 2, channels))]


def convolution(rng: np.random.Generator, depthwise: bool, layout: dict[str, str], hw: tuple[int, int] = (7, 5), **attrs: Any) -> Case:
    x = int8s(rng, (1, *hw, 6))
    x = x.transpose(0, 3, 1, 2) if layout.get("x_layout") == "NCHW" else x
    weight = int8s(rng, (3, 2, 12) if depthwise else (4, 3, 2, 6 // attrs.get("groups", 1)))
    name = "depthwise_conv2d" if depthwise else "conv2d"
    channels = weight.shape[-1] if depthwise else weight.shape[0]
    return name, [x, weight, *channel_params(rng, channels)], {"x_zp": -3, "y_zp": 5, **layout, **attrs}


def window_cases(rng: np.random.Generator) -> list[Case]:
    cases: list[Case] = []
    for x_layout, y_layout in LAYOUTS:
        layout = {"x_layout": x_layout, "y_layout": y_layout}
        cases.append(convolution(rng, False, layout, strides=[2, 1], padding=[0, 1, 1, 2], dilation=[1, 2], groups=2))
        cases.append(convolution(rng, True, layout, hw=(5, 5), strides=[1, 2], padding=[1, 0, 2, 1]))
        for name in ("avg_pool2d", "max_pool2d"):
            attrs = {"kernel": [2, 3], "strides": [2, 1], "padding": [1, 0, 1, 2], "clamp_min": -100, **layout}
            cases.append((name, [int8s(rng, (1, 7, 6, 5))], attrs))
    cases.append(convolution(rng, False, {}, clamp_min=-10, clamp_max=90, rounding="single", padding=[2, 0, 0, 0]))
    cases.append(convolution(rng, True, {}, hw=(3, 2), rounding="single"))
    cases += [(name, [int8s(rng, (1, 6, 6, 4))], {"kernel": [3, 3], "strides": [3, 3]}) for name in ("avg_pool2d", "max_pool2d")]
    return cases


def elementwise_cases(rng: np.random.Generator) -> list[Case]:
    zps = {"a_zp": -128, "b_zp": 127, "y_zp": -3}
    cases: list[Case] = []
    for name in ("add", "sub", "mul"):
        params = getattr(ops, name).quantize_params(0.1, 0.037, 0.06)
        cases.append((name, [int8s(rng, (1, 3, 4, 5)), int8s(rng, (1, 3, 4, 5))], {**zps, **params, "x_layout": "NCHW"}))
        cases.append((name, [int8s(rng, (3, 1)), int8s(rng, (2, 3, 4))], {**zps, **params, "clamp_max": 40}))
        cases.append((name, [int8s(rng, (16,)), int8s(rng, (16,))], {**zps, **params, "rounding": "single"}))
    every = np.arange(-128, 128, dtype=np.int8).reshape(1, 4, 8, 8)
    cases.append(("lookup", [every, tables.tanh(0.05, 3)], {"y_layout": "NCHW"}))
    cases += [("flip_sign", [every], {}), ("flip_sign", [every.view(np.uint8)], {})]
    prelu = {"x_zp": -5, "slope_zp": 9, "y_zp": 4, **ops.prelu.quantize_params(0.05, 0.01, 0.04)}
    cases.append(("prelu", [every.reshape(1, 8, 8, 4), int8s(rng, (1, 1, 4))], prelu))
    cases.append(("prelu", [every.reshape(8, 32), rng.integers(-32767, 32768, 32).astype(np.int16)], {**prelu, "slope_zp": 0}))
    squares = {**zps, **ops.squared_difference.quantize_params(0.1, 0.037, 0.3)}
    cases.append(("squared_difference", [int8s(rng, (2, 3, 4)), int8s(rng, (3, 1))], squares))
    for name in ("maximum", "minimum"):
        cases.append((name, [int8s(rng, (1, 3, 4, 5)), int8s(rng, (4, 1))], NCHW))
    for mode in ({"align_corners": True}, {"half_pixel": True}, {}):
        cases += [("resize_bilinear", [int8s(rng, (1, 3, 4, 5))], {"size": size, **mode}) for size in ([7, 2], [1, 9])]
    for y_scale in (0.5, 0.01):
        cases.append(("requantize", [every], {"x_zp": 3, "y_zp": 4, **ops.requantize.quantize_params(0.05, y_scale)}))
    cases.append(
        ("requantize", [rng.integers(-(2**20), 2**20, 64).astype(np.int32)], {"x_zp": 0, "y_zp": 4, "multiplier": 2**30, "shift": -12})
    )
    real = np.concatenate([np.arange(-300, 300) * 0.25, [np.nan, np.inf, -np.inf, 1e30, 0.49999997, -0.49999997]]).astype(np.float32)
    cases += [("quantize", [real], {"scale": 0.5, "zp": 3, "rounding": r}) for r in ("half_away", "half_even")]
    cases += [("fetch", [x], {}) for x in (int8s(rng, (1, 3, 4, 5)), every.view(np.uint8))]
    cases += [("fetch", [real[:600].reshape(1, 20, 10, 3)], {"scale": 0.5, "zp": 3})]
    cases.append(("dequantize", [every], {"scale": 0.1, "zp": 3, **NCHW}))
    return cases


def reduction_cases(rng: np.random.Generator) -> list[Case]:
    mean = {"x_zp": 3, "y_zp": 4, **ops.mean.quantize_params(0.1, 0.04, 42)}
    cases: list[Case] = [
        ("dense", [int8s(rng, (2, 3, 10)), int8s(rng, (7, 10)), *channel_params(rng, 7)], {"x_zp": 127, "y_zp": -128}),
        ("mean", [int8s(rng, (1, 7, 6, 5))], {"axes": [1, 2], **mean}),
        ("mean", [int8s(rng, (1, 5, 7, 6))], {"axes": [1, 2], "keepdims": True, **NCHW, **mean}),
        ("mean", [int8s(rng, (7, 3, 6))], {"axes": [0, 2], **mean}),
    ]
    products = {"a_zp": 127, "b_zp": -128, "y_zp": 7, **ops.batch_matmul.quantize_params(0.1, 0.02, 0.3)}
    cases.append(("batch_matmul", [int8s(rng, (2, 1, 5, 7)), int8s(rng, (3, 7, 4))], products))
    cases.append(("batch_matmul", [int8s(rng, (3, 7)), int8s(rng, (2, 5, 7))], {**products, "transpose_b": True}))
    for axis in (0, 2):
        cases += [("arg_extreme", [int8s(rng, (4, 3, 9)) // 32], {"axis": axis, "least": least}) for least in (False, True)]
    for scale in (0.001, 0.1, 3.0):
        cases.append(("softmax", [int8s(rng, (3, 10)), ops.softmax.quantize_params(scale)["table"]], {}))
    cases.append(("softmax", [np.full((1, 700), 3, np.int8), ops.softmax.quantize_params(0.1)["table"]], {}))
    cases.append(("softmax", [int8s(rng, (9,)), ops.softmax.quantize_params(0.05)["table"]], {}))
    return cases


def movement_cases(rng: np.random.Generator) -> list[Case]:
    x = int8s(rng, (1, 4, 5, 3))
    cases: list[Case] = [
        ("pad", [x], {"before": [0, 1, 0, 0], "after": [0, 2, 1, 0], "value": -3}),
        ("gather", [x, np.array([4, 0, 0, 3], np.int32)], {"axis": 2}),
        ("gather", [x.astype(np.float32), np.array([0], np.int32)], {"axis": 3}),
        ("pad", [x], {"before": [0] * 4, "after": [0] * 4, "value": 0}),
        ("concat", [x, int8s(rng, (1, 4, 5, 1)), int8s(rng, (1, 4, 5, 2))], {"axis": 3}),
        ("concat", [x], {"axis": 0}),
        ("transpose", [x], {"axes": [0, 3, 1, 2]}),
        ("reshape", [x], {"shape": [12, 5]}),
        ("reshape", [x.astype(np.float32)], {"shape": [60]}),
        ("strided_slice", [x], {"begin": [0, 3, 1, 0], "strides": [1, -2, 3, 1], "size": [1, 2, 2, 3]}),
    ]
    for size in ([8, 10], [7, 3], [1, 1], [11, 13]):
        for corners, half in ((False, False), (True, False), (False, True)):
            cases.append(("resize_nearest", [x], {"size": size, "align_corners": corners, "half_pixel": half}))
    cases.append(("resize_nearest", [x], {"size": [8, 6], **NCHW}))
    return cases


MAKERS: list[Callable[[np.random.Generator], list[Case]]] = [window_cases, elementwise_cases, reduction_cases, movement_cases]


def all_cases() -> list[Any]:
    """Every case under a name; the data are the same in every run."""
    rng = np.random.default_rng(7)
    cases = [case for make in MAKERS for case in make(rng)]
    return [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(cases)]


def test_every_operator_has_a_case() -> None:
    """A stage is a row of other operators; tests/schedules/test_stream.py runs its C."""
    assert {p.values[0] for p in all_cases()} | {"stage"} == {op.name.removeprefix("tiny.") for op in ops.all_ops()}


@pytest.mark.parametrize(("name", "arrays", "attrs"), all_cases())
def test_compiled_tir_equals_numpy(name: str, arrays: list[np.ndarray], attrs: dict[str, Any]) -> None:
    check_compiled(name, arrays, **attrs)


@pytest.mark.host_cc
@pytest.mark.parametrize(("name", "arrays", "attrs"), all_cases())
def test_c_is_clean(name: str, arrays: list[np.ndarray], attrs: dict[str, Any], tmp_path: Path) -> None:
    """No warning from gcc and clang, nothing but the standard's integer types needed."""
    body = c_kernel(simply_scheduled(primfunc_of(name, arrays, attrs)))
    source = tmp_path / "kernel.c"
    prototype = body.split(" {", 1)[0] + ";"
    source.write_text(f"#include <stdbool.h>\n#include <stdint.h>\n{prototype}\n{body}")
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror", "-c", str(source), "-o", str(tmp_path / "o")]
    for compiler in filter(None, map(shutil.which, ("gcc", "clang"))):
        done = subprocess.run([compiler, *flags], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{body}"
