# SPDX-License-Identifier: Apache-2.0
"""Row maps and overlap distances, checked against loops over single taps and single bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.random_rows import axes
from tvm_tiny.memory.rows import Axis, RowGraph, RowOp, RowTensor, backward_distance, forward_distance, layer_rights


@given(st.data(), st.integers(1, 20))
def test_window_reads_exactly_its_taps(data: st.DataObject, size: int) -> None:
    axis = data.draw(axes(size))
    for low in range(axis.output_size(size)):
        for high in range(low, axis.output_size(size) + 1):
            taps = {i * axis.stride - axis.before + k * axis.dilation for i in range(low, high) for k in range(axis.kernel)}
            inside = {t for t in taps if 0 <= t < size}
            a, b = axis.reads(low, high, size)
            assert inside <= set(range(a, b))
            if inside and axis.dilation == 1:
                assert (a, b) == (min(inside), max(inside) + 1)
            before, after = axis.padding(low, max(high, low + 1), size)
            if high > low:
                assert (before, after) == (max(0, -min(taps)), max(0, max(taps) - size + 1))


def safe(graph: RowGraph, op: RowOp, distance: int, descending: bool) -> bool:
    """Byte by byte: with the output `distance` bytes ahead of the input no stored byte is read in this firing or later."""
    out, inp = graph.tensors[op.output], graph.tensors[op.inputs[0]]
    rows = list(range(graph.firings(op)))
    rows = rows[::-1] if descending else rows
    base = distance if not descending else out.nbytes - distance - inp.nbytes  # address of the input; the output starts at 0
    for position, r in enumerate(rows):
        stored = set(range(r * out.row_bytes, (r + 1) * out.row_bytes))
        for later in rows[position:]:
            a, b = graph.needs(op, later, 0)
            if stored & set(range(base + a * inp.row_bytes, base + b * inp.row_bytes)):
                return False
    return True


@given(st.data(), st.integers(2, 9), st.integers(1, 3), st.integers(1, 3))
def test_distances_are_safe(data: st.DataObject, size: int, in_bytes: int, out_bytes: int) -> None:
    axis = data.draw(axes(size))
    tensors = {"x": RowTensor("x", size, 1, in_bytes), "y": RowTensor("y", axis.output_size(size), 1, out_bytes)}
    op = RowOp("op", "window", ("x",), "y", axis)
    graph = RowGraph(tensors, (op,), ("x",), ("y",))
    for descending, distance in ((False, forward_distance(graph, op)), (True, backward_distance(graph, op))):
        for slack in range(3):
            assert safe(graph, op, distance + slack, descending)


def test_distances_are_tight_for_usual_kernels() -> None:
    for kernel, stride, before in ((1, 1, 0), (3, 1, 1), (3, 2, 0), (3, 2, 1), (5, 1, 2), (7, 2, 3)):
        axis = Axis(kernel, stride, before, kernel)
        tensors = {"x": RowTensor("x", 12, 1, 2), "y": RowTensor("y", axis.output_size(12), 1, 2)}
        op = RowOp("op", "window", ("x",), "y", axis)
        graph = RowGraph(tensors, (op,), ("x",), ("y",))
        assert not safe(graph, op, forward_distance(graph, op) - 1, False), (kernel, stride)


def test_formula_of_the_row_contract() -> None:
    """d = max over r of (r+1)*Wout*Cout - max(0, r*s - pad)*Win*Cin, on vww_96's first layer: one output row."""
    axis = Axis(3, 2, 0, 1)
    tensors = {"x": RowTensor("x", 96, 96, 3), "y": RowTensor("y", 48, 48, 8)}
    op = RowOp("conv", "window", ("x",), "y", axis)
    assert forward_distance(RowGraph(tensors, (op,), ("x",), ("y",)), op) == 384


def test_rights_follow_the_kind_of_operator() -> None:
    tensors = {"x": RowTensor("x", 4, 4, 2), "s": RowTensor("s", 1, 1, 2), "y": RowTensor("y", 4, 4, 2), "m": RowTensor("m", 1, 1, 2)}
    mul = RowOp("mul", "rows", ("x", "s"), "y", in_place=(0,))
    mean = RowOp("mean", "reduce", ("y",), "m")
    graph = RowGraph(tensors, (mul, mean), ("x", "s"), ("m",))
    assert {(r.input, r.order, r.distance) for r in layer_rights(graph, mul)} == {
        ("x", "in-place", 0),
        ("x", "ascending", 8),
        ("x", "descending", 8),
    }
    assert layer_rights(graph, mean) == ()
    assert layer_rights(graph, mul, ("ascending",))[0].order == "ascending"
