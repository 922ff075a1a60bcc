# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page that needs nothing else: totals, the arena over time, the layers with bars, every decision and its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from tvm_tiny.memory.chart import memory_svg
from tvm_tiny.memory.plan import MemoryPlan
from tvm_tiny.report.report import LayerRow, Report
from tvm_tiny.report.terminal import kernel_text, summary

STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .2rem .5rem; text-align: left; border-bottom: 1px solid #ddd; }
td.number { text-align: right; font-variant-numeric: tabular-nums; background-repeat: no-repeat; }
td:first-child { white-space: nowrap; } tr.rejected { color: #777; } pre { background: #f6f6f6; padding: .7rem; overflow-x: auto; }
svg { width: 100%; height: auto; }
"""


def render_html(report: Report, plan: MemoryPlan) -> str:
    """Return the whole page; bars show a layer's share of the largest in its column."""
    title = escape(f"{report.name} for {report.target}")
    sections = [
        f"<h1>{title}</h1><pre>{escape(summary(report))}</pre>",
        f"<h2>Memory over time</h2>{memory_svg(plan)}",
        f"<h2>Layers</h2>{_layers(report.layers)}",
    ]
    if report.explain:
        sections.append(f"<h2>Decisions</h2>{_decisions(report.explain)}")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(sections) + "\n</body></html>\n"


_NUMBERS: tuple[tuple[str, Callable[[LayerRow], int]], ...] = (
    ("MAC", lambda row: row.macs),
    ("SRAM live", lambda row: row.sram),
    ("scratch", lambda row: row.scratch),
    ("flash", lambda row: row.flash),
)


def _layers(rows: Sequence[LayerRow]) -> str:
    largest = {name: max((value(row) for row in rows), default=0) for name, value in _NUMBERS}
    lines = []
    for row in rows:
        shape = "×".join(str(d) for d in row.shape)
        first = "".join(f"<td>{escape(text)}</td>" for text in (str(row.index), row.source[0], row.op, shape))
        numbers = "".join(_bar(value(row), largest[name]) for name, value in _NUMBERS)
        lines.append(f"<tr>{first}{numbers}<td>{escape(kernel_text(row))}</td></tr>")
    return _table(("#", "layer", "op", "output", *(name for name, _ in _NUMBERS), "kernel"), lines)


def _bar(value: int, largest: int) -> str:
    share = 100 * value / largest if largest else 0
    bar = f"linear-gradient(to right,#cfe2f3 {share:.0f}%,transparent {share:.0f}%)"
    return f'<td class="number" style="background-image:{bar}">{value:,}</td>'


def _decisions(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        verdict = "accepted" if row["accepted"] else "rejected"
        gains = ", ".join(f"{row[unit]:+,} {unit}" for unit in ("bytes", "cycles") if row[unit] is not None)
        cells = (row["pass"], row["node"], row["candidate"], verdict, row["reason"], gains)
        lines.append(f'<tr class="{verdict}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return _table(("pass", "node", "candidate", "", "reason", "gain"), lines)


def _table(head: Iterable[str], lines: Iterable[str]) -> str:
    columns = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{columns}</tr></thead><tbody>" + "\n".join(lines) + "</tbody></table>"
