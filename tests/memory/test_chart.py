# SPDX-License-Identifier: Apache-2.0
"""The memory map shows every buffer where and when it lies, and marks the step that decides."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

from tvm_tiny.memory.chart import memory_map, memory_svg
from tvm_tiny.memory.plan import Buffer, MemoryPlan, Step
from tvm_tiny.memory.planner import plan_memory

SVG = "{http://www.w3.org/2000/svg}"


def small_plan() -> MemoryPlan:
    buffers = [Buffer("x<in>", 10, "input"), Buffer("t", 30), Buffer("y", 5, "output"), Buffer("col", 8, "scratch")]
    return plan_memory(buffers, [Step("grow", ("x<in>",), ("t",)), Step("shrink", ("t",), ("y",), ("col",))])


def test_map_is_json_with_every_block_and_the_peak() -> None:
    data = json.loads(json.dumps(memory_map(small_plan())))
    assert {b["buffer"] for b in data["blocks"]} == {"x<in>", "t", "y", "col"}
    assert [s["occupied"] for s in data["steps"]] == [40, 43]
    assert data["peak_step"] == 1
    assert data["regions"] == [{"name": "arena", "nbytes": None, "used": 43}]


def test_svg_is_well_formed_and_marks_the_peak_column() -> None:
    root = ET.fromstring(memory_svg(small_plan()))
    peaks = [r for r in root.iter(f"{SVG}rect") if r.get("class") == "peak"]
    assert len(peaks) == 1
    assert float(peaks[0].get("x", 0)) == 64 + 450
    titles = [t.text or "" for t in root.iter(f"{SVG}title")]
    assert len(titles) == 4
    assert any(t.startswith("x<in> (input): 10 bytes") for t in titles)
