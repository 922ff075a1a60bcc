# SPDX-License-Identifier: Apache-2.0
"""TFLite models that are sound but unsupported, or that contradict themselves: what is said, where, why, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.support.tflite_graphs import GraphBuilder, write_graph
from tvm_tiny.errors import ModelFormatError, UnsupportedModelError
from tvm_tiny.frontend import load
from tvm_tiny.frontend.check import check

SHAPE = (1, 4, 4, 2)


def sound() -> GraphBuilder:
    """RELU, then CONV_2D 1x1 into three channels; tensors x, r, w, y."""
    b = GraphBuilder()
    r = b.op("RELU", [b.input(SHAPE, name="x")], b.tensor(SHAPE, 0.05, 3, name="r"))
    w = b.tensor((3, 1, 1, 2), [0.01, 0.02, 0.03], data=np.arange(6), name="w")
    return b.output(b.op("CONV_2D", [r, w], b.tensor((1, 4, 4, 3), 0.1, name="y"), stride_h=1, stride_w=1))


def refused(b: GraphBuilder) -> str:
    """The text of the refusal; every problem has a remedy, and `check` finds the same."""
    data = b.bytes()
    with pytest.raises(UnsupportedModelError) as caught:
        load(data)
    assert tuple(caught.value.problems) == check(data).problems
    assert all(p.remedy and p.reason for p in caught.value.problems)
    return str(caught.value)


def changed(b: GraphBuilder, name: str, **changes: object) -> GraphBuilder:
    """The builder with one tensor changed."""
    b.tensors = [replace(t, **changes) if t.name == name else t for t in b.tensors]
    return b


def with_options(b: GraphBuilder, index: int, **options: object) -> GraphBuilder:
    """The builder with one operator's options changed."""
    op = b.operators[index]
    b.operators[index] = replace(op, options={**op.options, **options})
    return b


def test_the_sound_model_is_sound() -> None:
    load(sound().bytes())
    assert [(use.name, use.count, use.supported) for use in check(sound().bytes()).operators] == [("CONV_2D", 1, True), ("RELU", 1, True)]


def test_unsupported_and_custom_operators_at_once() -> None:
    b = GraphBuilder()
    x = b.op("SVDF", [b.input(SHAPE)], b.tensor(SHAPE, 0.05, 3, name="a"))
    b.output(b.op("CUSTOM 'mine'", [x], b.tensor(SHAPE, 0.05, 3, name="b")))
    assert refused(b) == (
        "the model can't be compiled: 2 problems\n"
        "  1. operator 0 SVDF (a): the operator is not supported; it keeps state between runs: use convolutions over a window of time "
        "instead\n"
        "  2. operator 1 CUSTOM 'mine' (b): custom operators are not supported; `tvm-tiny check` lists the supported operators"
    )


def test_what_to_do_instead_is_said() -> None:
    b = GraphBuilder()
    b.output(b.op("LOG_SOFTMAX", [b.input(SHAPE)], b.tensor(SHAPE, 16 / 256, 127, name="a")))
    assert "operator 0 LOG_SOFTMAX (a): the operator is not supported; end the model with SOFTMAX, or before it" in refused(b)


def test_float_model() -> None:
    b = GraphBuilder()
    b.output(b.op("RELU", [b.input(SHAPE, None, dtype="float32")], b.tensor(SHAPE, dtype="float32")))
    text = refused(b)
    assert "1 problem\n" in text
    assert "model: no tensor is quantised: this is a float model; quantise the model to int8 first" in text


def test_dynamic_range_model() -> None:
    b = GraphBuilder()
    w = b.tensor((5, 2), 0.01, data=np.zeros((5, 2)), name="w")
    x = b.input((1, 2), None, dtype="float32")
    b.output(b.op("FULLY_CONNECTED", [x, w], b.tensor((1, 5), dtype="float32")))
    text = refused(b)
    assert "1 problem\n" in text
    assert "operator 0 FULLY_CONNECTED (w): dynamic-range quantisation (float activations, int8 weights) is not supported" in text


PROBLEMS: dict[str, tuple[Callable[[], GraphBuilder], str]] = {
    "dynamic shape": (
        lambda: changed(sound(), "x", signature=(1, -1, 4, 2)),
        "input (x): dynamic shape [1, -1, 4, 2]; convert",
    ),
    "unknown extent": (lambda: changed(sound(), "r", shape=(1, -1, 4, 2)), "operator 0 RELU (r): dynamic shape [1, -1, 4, 2]"),
    "uint8": (lambda: changed(sound(), "x", dtype="uint8"), "operator 0 RELU (x): dtype uint8 is not supported here (int8 or float32)"),
    "int16": (lambda: changed(sound(), "y", dtype="int16"), "operator 1 CONV_2D (y): dtype int16 is not supported"),
    "no scale": (lambda: changed(sound(), "r", quant=None), "operator 0 RELU (r): an int8 tensor without scale and zero point"),
    "variable": (lambda: changed(sound(), "r", variable=True), "(r): variable tensors (state between runs) are not supported"),
    "sparse": (lambda: changed(sound(), "w", sparse=True), "operator 1 CONV_2D (w): sparse tensors are not supported"),
    "computed weights": (lambda: _conv_of_two_inputs(), "(w): weights must be constant, but are computed at run time"),
    "tanh fused": (lambda: with_options(sound(), 1, activation=4), "fused activation TANH is not supported here"),
    "groups": (lambda: _grouped(), "65 groups are not supported (at most 64)"),
    "softmax scale": (lambda: _unary("SOFTMAX", 0.1, beta=1.0), "the output must have scale 1/256 and zero point -128, but has 0.1"),
    "pool scale": (lambda: _pool(), "operands must share scale and zero point, but have (0.05"),
    "new axis": (lambda: _slice(1, new_axis_mask=1), "ellipsis, new axis and offset are not supported"),
}


def _conv_of_two_inputs() -> GraphBuilder:
    b = GraphBuilder()
    x, w = b.input(SHAPE), b.input((3, 1, 1, 2), name="w")
    return b.output(b.op("CONV_2D", [x, w], b.tensor((1, 4, 4, 3), 0.1), stride_h=1, stride_w=1))


def _grouped() -> GraphBuilder:
    b = GraphBuilder()
    w = b.tensor((65, 1, 1, 1), 0.1, data=np.ones(65))
    return b.output(b.op("CONV_2D", [b.input((1, 4, 4, 65)), w], b.tensor((1, 4, 4, 65), 0.1), stride_h=1, stride_w=1))


def _unary(kind: str, scale: float, **options: object) -> GraphBuilder:
    b = GraphBuilder()
    return b.output(b.op(kind, [b.input(SHAPE)], b.tensor(SHAPE, scale), **options))


def _pool(**options: object) -> GraphBuilder:
    b = GraphBuilder()
    window = {"stride_h": 2, "stride_w": 2, "filter_h": 2, "filter_w": 2, **options}
    return b.output(b.op("MAX_POOL_2D", [b.input(SHAPE)], b.tensor((1, 2, 2, 2), 0.05 if options else 0.1, 3), **window))


def _slice(stride: int, **masks: int) -> GraphBuilder:
    b = GraphBuilder()
    x = b.input(SHAPE)
    bounds = [b.ints(0, 0, 0, 0), b.ints(*SHAPE), b.ints(1, stride, 1, 1)]
    return b.output(b.op("STRIDED_SLICE", [x, *bounds], b.tensor(SHAPE, 0.05, 3), **masks))


@pytest.mark.parametrize("case", PROBLEMS)
def test_unsupported(case: str) -> None:
    build, text = PROBLEMS[case]
    assert text in refused(build())


CONTRADICTIONS: dict[str, tuple[Callable[[], GraphBuilder], str]] = {
    "shape": (lambda: changed(sound(), "y", shape=(1, 4, 5, 3)), "'y' has shape [1, 4, 5, 3], but [1, 4, 4, 3] follows from the operator"),
    "stride": (lambda: with_options(sound(), 1, stride_h=0), "stride (0, 1), window (1, 1) or dilation is not positive"),
    "window": (lambda: _pool(filter_h=9, padding=1), "a window of (9, 2) does not fit into [4, 4]"),
    "activation": (lambda: with_options(sound(), 1, activation=77), "fused activation code 77"),
    "order": (lambda: _swapped(), "input 'r' is used before it is computed"),
    "padding code": (lambda: with_options(sound(), 1, padding=5), "padding code 5"),
}


def _swapped() -> GraphBuilder:
    b = sound()
    b.operators = [replace(op, index=i) for i, op in enumerate(reversed(b.operators))]
    return b


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_damage(case: str) -> None:
    build, text = CONTRADICTIONS[case]
    with pytest.raises(ModelFormatError, match="damaged model file: it contradicts itself") as caught:
        load(build().bytes())
    assert text in str(caught.value)
    assert caught.value.remedy


def test_several_subgraphs() -> None:
    with pytest.raises(UnsupportedModelError, match=r"model: 2 subgraphs \(control flow or several signatures\)"):
        load(write_graph(replace(sound().graph(), subgraphs=2)))


def test_inputs_of_one_name() -> None:
    b = GraphBuilder()
    x, y = b.input(SHAPE, name="same"), b.input(SHAPE, name="same")
    assert "model (same): several inputs have this name; give every input its own name" in refused(
        b.output(b.op("ADD", [x, y], b.tensor(SHAPE, 0.1)))
    )


def test_output_nobody_computes() -> None:
    b = sound()
    assert "output (x): no operator computes it (an input or a constant); remove this output" in refused(b.output(b.inputs[0]))
