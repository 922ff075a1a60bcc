# SPDX-License-Identifier: Apache-2.0
"""select-layout: planes where the kernels save cycles by them, NHWC elsewhere, both figures told; the same bits either way."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

import tvm_tiny
from benchmarks import layouts
from tests.support.guarded import GuardedModel
from tests.support.tiny_builder import TinyBuilder, evaluate, op_names
from tvm_tiny.explain import Decision, collecting
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.select_layout import SelectLayout

TO_PLANES, FROM_PLANES = [0, 3, 1, 2], [0, 2, 3, 1]
M7 = "c -mcpu=cortex-m7"


def chain(channels: int, size: int = 12, layout: str = "NHWC", outputs: int = 16) -> tvm.IRModule:
    """pointwise → depthwise → pointwise; the tensor behind the first in `layout`."""
    b = TinyBuilder((1, size, size, 8))
    y = b.conv(b.x, channels, x_zp=-3, y_layout=layout)
    scaling = b._scaling(channels, 9, None)
    weight = b.rng.integers(-127, 128, (3, 3, channels)).astype(np.int8)
    z = b.call("depthwise_conv2d", y, weight, *scaling, **b._common({"x_zp": 5, "x_layout": layout}, padding=1))
    return b.finish(b.conv(z, outputs, x_zp=5))


def layouts_of(mod: tvm.IRModule) -> list[tuple[str, str, str]]:
    nodes = [n for n in TinyGraph(mod["main"]).nodes if "x_layout" in n.attrs]
    return [(n.op, n.attrs["x_layout"], n.attrs["y_layout"]) for n in nodes]


def told_of(mod: tvm.IRModule, goal: str = "speed") -> tuple[tvm.IRModule, list[Decision]]:
    with collecting() as told:
        return SelectLayout(M7, goal)(mod), list(told)


@pytest.mark.parametrize("channels", [2, 3])
def test_before_and_expected(channels: int) -> None:
    """Two or three channels: from NHWC they are gathered byte by byte."""
    tvm.ir.assert_structural_equal(SelectLayout(M7, "speed")(chain(channels)), chain(channels, layout="NCHW"))


@pytest.mark.parametrize("channels", [4, 8, 30])
def test_many_channels_stay_nhwc_and_both_figures_are_told(channels: int) -> None:
    mod = chain(channels)
    out, told = told_of(mod)
    tvm.ir.assert_structural_equal(out, mod)
    (decision,) = told
    assert not decision.accepted
    assert "estimated cycles in NHWC" in decision.reason
    assert "in NCHW" in decision.reason
    assert decision.cycles is not None
    assert decision.cycles >= 0


def test_memory_may_forbid_planes() -> None:
    """Where everything overlaps, two tensors side by side are more than any other layer needs."""
    out, told = told_of(chain(3, size=40, outputs=4), "balanced")
    assert {x for _, x, _ in layouts_of(out)} == {"NHWC"}
    assert any("nothing may overlap" in d.reason for d in told)


@pytest.mark.parametrize("other", ["lookup", "conv2d", "result"])
def test_another_reader_keeps_nhwc(other: str) -> None:
    b = TinyBuilder((1, 12, 12, 8))
    y = b.conv(b.x, 3)
    z = b.depthwise(y, x_zp=5)
    second = {
        "lookup": lambda: b.call("lookup", y, np.arange(-128, 128).astype(np.int8)),
        "conv2d": lambda: b.conv(y, 4),
        "result": lambda: y,
    }
    out, told = told_of(b.finish(z, second[other]()))
    assert {x for _, x, _ in layouts_of(out)} == {"NHWC"}
    assert any(("result" if other == "result" else "no form that reads planes") in d.reason for d in told)


def turned_input(b: TinyBuilder) -> relax.Var:
    """A network of NCHW images."""
    return b.depthwise(b.call("transpose", b.x, axes=FROM_PLANES))


def turned_result(b: TinyBuilder) -> relax.Var:
    """A network whose result is wanted in NCHW."""
    return b.call("transpose", b.conv(b.x, 7, 3), axes=TO_PLANES)


def turned_between(b: TinyBuilder) -> relax.Var:
    """Planes in front of an operator that does not look at layouts."""
    y = b.call("transpose", b.conv(b.x, 6), axes=TO_PLANES)
    return b.call("lookup", y, np.arange(-128, 128).astype(np.int8)[::-1].copy())


TURNED = {turned_input: (1, 5, 9, 11), turned_result: (1, 9, 11, 4), turned_between: (1, 6, 5, 8)}


@pytest.mark.parametrize("make", TURNED, ids=lambda f: f.__name__)
def test_transposes_vanish(make: object) -> None:
    b = TinyBuilder(TURNED[make])
    out, told = told_of(b.finish(make(b)))
    assert "transpose" not in op_names(out)
    assert any(d.accepted and d.candidate == "no transpose" for d in told)


def test_a_transpose_that_stays_is_listed() -> None:
    b = TinyBuilder((1, 6, 5, 8))
    out, told = told_of(b.finish(b.call("transpose", b.call("avg_pool2d", b.x, kernel=[2, 2]), axes=TO_PLANES)))
    assert "transpose" in op_names(out)
    assert any(not d.accepted and d.candidate == "no transpose" for d in told)


@pytest.mark.host_cc
@pytest.mark.parametrize(
    "make", [*TURNED, *(lambda b, c=c: b.conv(b.depthwise(b.conv(b.x, c), x_zp=5), 4, x_zp=5) for c in (1, 2, 3))], ids=str
)
@pytest.mark.parametrize("disable", [(), ("select-layout",)], ids=["on", "off"])
def test_the_result_is_exact(make: object, disable: tuple[str, ...], rng: np.random.Generator) -> None:
    shape = TURNED.get(make, (1, 7, 9, 8))
    b = TinyBuilder(shape)
    mod = b.finish(make(b))
    library = GuardedModel(tvm_tiny.build(mod, "c", name="net", optimize="speed", disable=disable))
    for x in (rng.integers(-128, 128, shape), np.full(shape, -128), np.full(shape, 127)):
        np.testing.assert_array_equal(library(x.astype(np.int8))[0], evaluate(mod, x.astype(np.int8))[0])
        assert not library.faults


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an500", "mps2_an386"])
@pytest.mark.parametrize("channels", [3, 30])
def test_the_layout_chosen_is_the_faster_one(board: str, channels: int) -> None:
    """Measured on the emulated core: planes save cycles for three channels and cost some for thirty, as the costs say."""
    nhwc, nchw = (layouts.measured(board, 12, 12, channels, layout) for layout in ("NHWC", "NCHW"))
    assert (nchw < nhwc) == (channels == 3)
    assert (layouts.expected(board, 12, 12, channels) < 0) == (channels == 3)


@pytest.mark.qemu
def test_planes_on_the_emulated_m7_are_exact(rng: np.random.Generator) -> None:
    mod = chain(3)
    model = tvm_tiny.build(mod, board="mps2_an500", name="net", optimize="speed")
    assert [r.kernel["rule"] for r in model.report.layers[:2]] == ["planar", "planar"]
    x = rng.integers(-128, 128, (1, 12, 12, 8)).astype(np.int8)
    np.testing.assert_array_equal(next(iter(model.run(x).values())), evaluate(mod, x)[0])


def test_it_is_a_stock_pass_that_keeps_module_attributes() -> None:
    out = tvm.ir.transform.Sequential([SelectLayout(M7, "speed")])(chain(3).with_attr("tiny.model", "{}"))
    assert str(out.attrs["tiny.model"]) == "{}"
    assert SelectLayout().info.name == "select-layout"
