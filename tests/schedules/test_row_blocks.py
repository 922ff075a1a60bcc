# SPDX-License-Identifier: Apache-2.0
"""How rows are cut into blocks: every pixel once, and the kernels exact where channels go in runs or weights are copied."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvm_tiny
from tests.schedules.test_stream import run_guarded
from tests.support.host import HostModel
from tests.support.tiny_builder import TinyBuilder, evaluate
from tvm_tiny.passes.stream_rows import StreamRows
from tvm_tiny.schedules.band_costs import MOST_SCRATCH, band_of
from tvm_tiny.schedules.microkernels import Conv2DShape
from tvm_tiny.schedules.microkernels.bands import Band
from tvm_tiny.schedules.row_blocks import ROW_COLUMNS, row_block, strip_block

DISABLED = ["remove-constant-channels"]


@given(st.integers(1, 100), st.integers(1, 1200), st.integers(1, 130), st.booleans(), st.booleans(), st.sampled_from([3, 4]))
def test_every_pixel_is_computed_once(width: int, k: int, outputs: int, by_words: bool, dual: bool, most: int) -> None:
    cut = row_block(width, k, outputs, by_words=by_words, dual_issue=dual, most=most)
    assert 1 <= cut.group <= cut.pixels <= most
    assert (width - cut.tail) % cut.pixels == 0
    assert cut.tail % cut.group == 0
    assert cut.tail < width
    assert cut.scratch(k, outputs, by_words=by_words) <= ROW_COLUMNS or cut.pixels == 1
    assert outputs // 2 % cut.runs == 0


def test_narrow_rows_leave_no_pixel_alone() -> None:
    cut = row_block(5, 64, 64, by_words=True, dual_issue=True)
    assert (cut.pixels, cut.tail, cut.group) == (3, 2, 2)


def test_weights_that_exceed_the_cache_are_read_in_runs() -> None:
    assert row_block(8, 576, 64, by_words=True, dual_issue=True).runs == 4
    assert row_block(2, 576, 64, by_words=True, dual_issue=True).runs == 1, "one group of pixels reads them once anyway"
    assert row_block(8, 144, 16, by_words=True, dual_issue=True).runs == 1


@given(st.integers(3, 40), st.integers(1, 32), st.integers(1, 40), st.integers(2, 5), st.integers(1, 2), st.booleans())
def test_bands_keep_to_their_bytes(width: int, fours: int, outputs: int, kernel: int, stride: int, dual: bool) -> None:
    shape = Conv2DShape(5, width + kernel, 4 * fours, outputs, (3, kernel), (1, stride))
    band = band_of(shape, dual)
    if kernel == stride or band is None:
        assert kernel == stride or min(Band(1, 1).scratch(shape), Band(1, shape.out_width).scratch(shape)) > MOST_SCRATCH[dual]
        return
    assert band.scratch(shape) <= MOST_SCRATCH[dual]
    assert band.width % band.pixels == 0 or band.width == shape.out_width
    assert band.width <= shape.out_width


def test_bands_read_long_weights_in_runs_or_block_by_block() -> None:
    long = band_of(Conv2DShape(8, 8, 64, 64, (3, 3), (1, 1), (1, 1, 1, 1)), True)
    assert long is not None
    assert long.runs == 4
    short = band_of(Conv2DShape(32, 32, 16, 16, (3, 3), (1, 1), (1, 1, 1, 1)), False)
    assert short is not None
    assert short.width > short.pixels
    assert short.copied


def test_what_a_strip_leaves_over_goes_in_pairs() -> None:
    shape = Conv2DShape(4, 5, 64, 64)
    assert strip_block(shape, 4, dual_issue=True).pairs
    assert not strip_block(shape, 3, dual_issue=True).pairs
    assert not strip_block(shape, 5, dual_issue=True).pairs, "one pixel"


@pytest.mark.host_cc
@pytest.mark.qemu
@pytest.mark.parametrize("zero_point", [-128, 127])
@pytest.mark.parametrize("board", ["mps2_an500", "mps2_an386"])
def test_runs_and_copies_are_exact(board: str, zero_point: int, rng: np.random.Generator) -> None:
    """3x3 convolutions with more weights than the M7's cache, and with several groups of pixels a row; stride 2, asymmetric padding."""
    b = TinyBuilder((1, 6, 7, 64), seed=3)
    x = b.conv(b.x, 64, 3, y_zp=zero_point)
    x = b.conv(x, 20, 1, x_zp=zero_point, y_zp=zero_point)
    mod = b.finish(b.conv(x, 6, 3, x_zp=zero_point, strides=[2, 2], padding=[0, 1, 1, 0]))
    streamed = StreamRows(segments=[(0, 3)])(mod)
    image = rng.integers(-128, 128, (1, 6, 7, 64)).astype(np.int8)
    wanted = evaluate(mod, image)[0]
    host = tvm_tiny.build(streamed, "c", optimize="speed", disable=DISABLED)
    np.testing.assert_array_equal(run_guarded(host, HostModel(host), image, 0x5A), wanted)
    model = tvm_tiny.build(streamed, board=board, optimize="speed", disable=DISABLED)
    (found,) = model.run([{model.inputs[0].name: image}])
    np.testing.assert_array_equal(found[model.outputs[0].name], wanted)
