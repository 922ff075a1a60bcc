# SPDX-License-Identifier: Apache-2.0
"""Code under a budget: estimates near the compiler's sizes, and what layers lose by sharing."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tvm_tiny
from tests.support.shared import ROOT
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.errors import DoesNotFitError
from tvm_tiny.passes.apply_schedules import ApplySchedules
from tvm_tiny.passes.lower_ops import LowerOps
from tvm_tiny.report.terminal import summary
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.code_size import function_bytes, lost_cycles, text_bytes
from tvm_tiny.schedules.microkernels import Conv2DShape, Core, DepthwiseChoice, DepthwiseShape, LayerParameters, conv2d, depthwise, merge

OWN = ROOT / "examples/fashion_mnist/fashion_mnist_int8.tflite"


def plain(outputs: int, weights: np.ndarray) -> LayerParameters:
    zeros = np.zeros(outputs, np.int64)
    return LayerParameters(weights, zeros, zeros + 2**30, zeros - 9, -128, -128)


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_the_estimate_is_near_the_compilers_size(mcpu: str, tmp_path: Path) -> None:
    core = Core.of(mcpu)
    kernels = [
        conv2d("a", Conv2DShape(12, 12, 32, 32), plain(32, np.ones((32, 1, 1, 32), np.int8)), core),
        conv2d("b", Conv2DShape(12, 12, 8, 16, (3, 3), (1, 1), (1, 1, 1, 1)), plain(16, np.ones((16, 3, 3, 8), np.int8)), core),
        depthwise("c", DepthwiseShape(12, 12, 32, 32), plain(32, np.ones((3, 3, 32), np.int8)), core),
        depthwise("d", DepthwiseShape(12, 12, 32, 32), plain(32, np.ones((3, 3, 32), np.int8)), core, choice=DepthwiseChoice(shared=True)),
    ]
    source = tmp_path / "k.c"
    source.write_text(merge([k.functions for k in kernels]))
    subprocess.run(["arm-none-eabi-gcc", f"-mcpu={mcpu}", "-mthumb", "-O2", "-c", str(source), "-o", str(tmp_path / "k.o")], check=True)
    sizes = subprocess.run(["arm-none-eabi-size", str(tmp_path / "k.o")], capture_output=True, text=True, check=True).stdout
    found = int(sizes.splitlines()[1].split()[0])
    estimated = sum(text_bytes(f.source) for k in kernels for f in k.functions)
    assert 0.95 * found < estimated < 1.25 * found


def layers(budget: int | None) -> tuple[list[str], int]:
    """Kernels of a small network under a budget, and their estimated bytes."""
    b = TinyBuilder((1, 12, 12, 8))
    y = b.conv(b.depthwise(b.conv(b.x, 16, 1), x_zp=5), 24, 1, x_zp=5)
    mod = LowerOps()(b.finish(b.depthwise(b.conv(y, 40, 1, x_zp=5), x_zp=5)))
    out = ApplySchedules("c -mcpu=cortex-m7", budget)(mod)
    sizes: dict[str, int] = {}
    for _, func in out.functions_items():
        if func.attrs is not None and "tiny.c_sources" in func.attrs:
            sizes |= function_bytes(func)
    return sorted(name for name in sizes if name), sum(sizes.values())


def test_less_code_under_a_budget() -> None:
    roomy, whole = layers(None)
    tight, least = layers(1)
    assert least < 0.7 * whole
    assert not [name for name in roomy if "_strips_" in name]
    assert [name for name in tight if "_strips_" in name]
    middle = layers((whole + least) // 2)[1]
    assert least < middle <= (whole + least) // 2 + 200


@pytest.mark.parametrize("core", [Core(dual_issue=True), Core(dual_issue=False)])
def test_what_layers_lose(core: Core) -> None:
    def layer(op: str, *shapes: tuple[int, ...], short: bool = False) -> Layer:
        small = frozenset({0})
        dtypes = ("int8",) * len(shapes)
        return Layer(op, {"strides": [1, 1]}, {}, shapes, dtypes, small_code=small, short_code=small if short else frozenset())

    short, long, odd = (((1, 8, 8, k), (16, 1, 1, k), (1, 8, 8, 16)) for k in (8, 64, 57))
    each = [layer("tiny.conv2d", *short), layer("tiny.conv2d", *long), layer("tiny.conv2d", *short, short=True)]
    per_mac = [lost_cycles(one, "conv2d", core) / one.macs for one in each]
    assert [one.macs for one in each[:2]] == [8 * 16 * 64, 64 * 16 * 64]
    most = 0.2 if core.dual_issue else 0.25  # on a Cortex-M4 sums of up to 64 have blocks of more pixels in code of their own
    assert per_mac[1] < most < per_mac[2] < per_mac[0]
    assert lost_cycles(layer("tiny.conv2d", *odd), "conv2d", core) > lost_cycles(each[1], "conv2d", core)
    assert lost_cycles(replace(each[0], small_code=frozenset()), "conv2d", core) == 0
    assert lost_cycles(layer("tiny.depthwise_conv2d", (1, 8, 8, 64), (3, 3, 64), (1, 8, 8, 64)), "depthwise", core) > 0


@pytest.mark.host_cc
def test_flash_bounds_code_and_constants_and_keeps_every_bit(rng: np.random.Generator) -> None:
    """The demo network: roomy, bounded, and where nothing is small enough any more."""
    roomy = tvm_tiny.build(OWN, "c", name="roomy", optimize="speed")
    code, constants = (roomy.report.decisions["code"][key] for key in ("code_bytes", "constants_bytes"))
    assert constants == roomy.report.constants_bytes
    assert roomy.report.decisions["code"]["sharing"] == 0
    bounded = tvm_tiny.build(OWN, "c", name="bounded", optimize="speed", flash=int(0.9 * (code + constants)))
    decision = bounded.report.decisions["code"]
    assert decision["sharing"] > 0
    assert decision["code_bytes"] + decision["constants_bytes"] <= 0.9 * (code + constants)
    x = rng.integers(-128, 128, roomy.inputs[0].shape).astype(np.int8)
    for name, y in roomy.run(x).items():
        np.testing.assert_array_equal(bounded.run(x)[name], y)
    assert "speed costs" in summary(bounded.report)


def test_too_little_flash_says_by_how_much_and_what_would_fit() -> None:
    with pytest.raises(
        DoesNotFitError, match=r"flash=20,480: code \([\d,]+ bytes, estimated\) and constants \([\d,]+\) need [\d,]+ more; layer"
    ) as error:
        tvm_tiny.build(OWN, "c -mcpu=cortex-m7", flash="20KB")
    fits = int(re.search(r"allow ([\d,]+) bytes", error.value.remedy).group(1).replace(",", ""))  # type: ignore[union-attr]
    assert tvm_tiny.build(OWN, "c -mcpu=cortex-m7", flash=fits).report.decisions["code"]["flash"] == fits
