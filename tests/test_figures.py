# SPDX-License-Identifier: Apache-2.0
"""The tables of README.md and docs/ are the kept figures, and the kept figures are what is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import figures, memory, speed, streaming
from benchmarks.speed import BOARD_TERMS
from tests.support.shared import SHARED, needs_shared

MODELS = SHARED / "models/tflite"
TOLERANCE = 0.01  # another release of the compiler schedules the same C a little differently


@pytest.mark.parametrize("page", figures.pages(), ids=lambda page: page.name)
def test_a_page_holds_the_kept_figures(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert figures.render(text, figures.tables()) == text, "python -m benchmarks.figures writes the pages"


def test_every_table_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in figures.pages())
    assert [name for name in figures.tables() if f"<!-- figures: {name} -->" not in text] == []


def test_render_replaces_what_is_marked_and_nothing_else() -> None:
    page = "before\n<!-- figures: a -->\nold\n<!-- end of figures -->\nafter\n"
    assert figures.render(page, {"a": lambda: "| new |\n"}) == "before\n<!-- figures: a -->\n\n| new |\n\n<!-- end of figures -->\nafter\n"
    with pytest.raises(KeyError):
        figures.render(page, {})


def test_the_pictures_are_those_of_the_kept_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figures.draw(tmp_path)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert sorted(drawn) == ["memory.svg", "speed.svg"]
    assert all("<svg" in text for text in drawn.values())


def test_goals_take_no_more_memory_than_those_that_want_less() -> None:
    for row in figures.read()[1]:
        assert row.arena["sram"] <= row.arena["balanced"] <= row.arena["speed"], row.model


def test_arenas_keep_to_their_limits() -> None:
    for row in figures.read()[1]:
        limit = memory.LIMITS[row.model]
        for kind, most in (("speed", limit.speed), ("patches", limit.patches), ("sram", limit.sram), ("camera", limit.camera)):
            assert not most or row.arena[kind] <= most, (row.model, kind)


def test_streams_take_at_most_a_tenth_longer_than_their_kernels_layer_by_layer() -> None:
    rows = figures.read()[2]
    networks = [*((m, False) for m in figures.STREAMED), *((m, True) for m in streaming.FETCHED)]
    assert {(row.model, row.camera, row.board) for row in rows} == {(m, camera, b) for m, camera in networks for b in BOARD_TERMS}
    for row in rows:
        assert row.streamed <= 1.1 * row.layers, row


@needs_shared
@pytest.mark.qemu
def test_the_kept_figures_are_what_is_measured() -> None:
    speeds, memories, _ = figures.read()
    (kept,) = [r for r in speeds if (r.model, r.board, r.goal) == ("ad01_int8", "mps2_an500", "balanced")]
    found = speed.measure(MODELS / "ad01_int8.tflite", "ad01_int8", kept.board, kept.goal)
    assert found.exact
    assert (found.arena, found.constants) == (kept.arena, kept.constants)
    assert found.cycles == pytest.approx(kept.cycles, rel=TOLERANCE)
    (small,) = [r for r in memories if r.model == "kws_ref_model"]
    assert memory.measure(MODELS / "kws_ref_model.tflite").arena == small.arena


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("kept", figures.read()[1], ids=lambda row: row.model)
def test_every_kept_arena_is_what_is_built(kept: memory.Row) -> None:
    assert memory.measure(MODELS / f"{kept.model}.tflite").arena == kept.arena
