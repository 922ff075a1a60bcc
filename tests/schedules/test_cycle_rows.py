# SPDX-License-Identifier: Apache-2.0
"""How row kernels are cut, counted: groups and walks of blocks, code of their own and shared, and what an operator in a stream takes."""

from __future__ import annotations

import math

import pytest

from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.memory.stream_choice import in_pairs
from tvm_tiny.memory.tiny_rows import TinyRows, tiny_rows
from tvm_tiny.ops.graph import TinyGraph
from tvm_tiny.passes.fetch_rows import FetchRows
from tvm_tiny.schedules.cycle_columns import Blocks
from tvm_tiny.schedules.cycles import cycle_costs, layer_work, layers_work, lines_again, ring_work

CORES = ("cortex-m7", "cortex-m4")


CUTS = (
    Blocks(),
    Blocks(pixels=4, tile=3),
    Blocks(driven=True, tile=2),
    Blocks(pixels=4, pairs=True),
    Blocks(pixels=4, ends=(3, 3), rows=True),
)


@pytest.mark.parametrize("blocks", CUTS)
@pytest.mark.parametrize("pixels", [4, 7, 11, 15])
def test_groups_hold_every_pixel_of_a_call(blocks: Blocks, pixels: int) -> None:
    if blocks.ends[0]:
        pixels = pixels // blocks.pixels * blocks.pixels + blocks.ends[0]
    computed = sum(count * width for count, width in blocks.cut(pixels))
    assert pixels <= computed < pixels + (blocks.pixels if blocks.driven else 1)


def test_weights_are_walked_over_once_a_tile() -> None:
    assert Blocks(pixels=3).walks(11) == 3 + 2
    assert Blocks(pixels=3, tile=2).walks(11) == 2 + 2
    assert Blocks(pixels=3, tile=2, rows=True).walks(11) == 2  # pixels left over go with the last tile
    assert Blocks(pixels=3, tile=2, driven=True).walks(11) == 2 + 1  # the last three, some again, are a tile
    assert Blocks(pixels=3, runs=2, rows=True).walks(11) == 1


def _tall() -> TinyRows:
    """A convolution that makes two rows at once, of next to no work a row."""
    b = TinyBuilder((1, 64, 2, 4))
    rows = tiny_rows(TinyGraph(b.finish(b.conv(b.x, 4, 3, y_zp=-128))["main"]))
    assert rows is not None
    return rows


@pytest.mark.parametrize("core", CORES)
def test_an_operator_fires_once_for_the_rows_it_makes(core: str) -> None:
    rows = _tall()
    paired = in_pairs(rows, cycle_costs(dual_issue=core == "cortex-m7"))
    assert [op.group for op in paired.graph.ops] == [2]
    for found in (rows, paired):
        (op,), (node,) = found.graph.ops, found.nodes
        whole, streamed = layer_work(found.graph, op, node, core)
        assert streamed == pytest.approx(ring_work(found.graph, [op], [node], core), rel=0.05)
        assert 0 < whole < streamed


@pytest.mark.parametrize("core", CORES)
def test_constants_that_fit_the_cache_are_read_once(core: str) -> None:
    assert lines_again([(10, 200), (10, 200)], core) == 0
    assert lines_again([(10, 400), (10, 16_200)], core) > 0
    assert math.isfinite(lines_again([], core))


@pytest.mark.parametrize("core", CORES)
def test_weights_are_copied_where_larger_tensors_leave_room(core: str) -> None:
    """Beside a Cortex-M4: the last layer behind larger ones, and alone."""

    def last(first: int) -> float:
        b = TinyBuilder((1, 12, 12, 32))
        x = b.conv(b.conv(b.x, first), 32)
        rows = tiny_rows(TinyGraph(b.finish(b.conv(x, 32))["main"]))
        assert rows is not None
        return layers_work(rows.graph, rows.graph.ops[-1:], rows.nodes[-1:], core)

    assert (last(128) < last(32)) == (core == "cortex-m4")


def _fetched(width: int, made_by: str) -> TinyRows:
    """An image that the application hands over, made int8 by an operator or int8 already, and a pooling that reads it."""
    b = TinyBuilder((1, 16, width, 8), dtype={"quantize": "float32"}.get(made_by, "int8"))
    x = b.call(made_by, b.x, scale=0.5, zp=3) if made_by else b.x
    rows = tiny_rows(TinyGraph(FetchRows(True)(b.finish(b.call("max_pool2d", x, kernel=[2, 2])))["main"]))
    assert rows is not None
    assert rows.nodes[0].op == "fetch"
    return rows


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("made_by", ["", "quantize"])
def test_a_stream_pays_for_fetched_bytes_what_a_layer_pays(made_by: str, core: str) -> None:
    """The application writes int8 itself: calls alone cost; what is quantised row by row costs the same an element as at once."""

    def work(width: int) -> tuple[float, float]:
        rows = _fetched(width, made_by)
        ops, nodes = rows.graph.ops[:1], rows.nodes[:1]
        return layers_work(rows.graph, ops, nodes, core), ring_work(rows.graph, ops, nodes, core)

    (whole, streamed), (wider, streamed_wider) = work(16), work(48)
    assert streamed > whole  # sixteen calls for one
    assert streamed_wider - streamed == pytest.approx(wider - whole)
    assert (wider > whole) == bool(made_by)
