# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny report`: the picture and the page say what the report says."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

from tests.support.cli import invoke, invoke_json
from tests.support.demo import MODEL


class Cells(HTMLParser):
    """The text of every table cell, in order, and the tags that were never closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.cells[-1] += data


def test_page_and_picture(tmp_path: Path) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "map.svg"
    document = invoke_json("report", str(MODEL), "--html", str(page), "--memory-map", str(picture))
    parsed = Cells(page.read_text(encoding="utf-8"))
    assert parsed.open == []
    for row in document["layers"]:
        start = parsed.cells.index(row["source"][0])
        assert parsed.cells[start + 3 : start + 7] == [f"{row[k]:,}" for k in ("macs", "sram", "scratch", "flash")]
    for decision in document["explain"]:
        assert decision["reason"] in parsed.cells
    assert f"{document['arena_bytes']:,} bytes" in page.read_text(encoding="utf-8")
    assert ET.parse(picture).getroot().tag.endswith("svg")


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    result = invoke("report", str(MODEL), "--html", str(tmp_path / "none" / "report.html"))
    assert result.exit_code == 2
    assert "choose another file with --html" in result.output + str(result.stderr)
