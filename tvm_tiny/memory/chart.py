# SPDX-License-Identifier: Apache-2.0
"""The memory map over time, steps across and offsets upwards: as data for JSON and HTML, and as one SVG string."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from tvm_tiny.memory.plan import MemoryPlan

COLOURS = {"input": "#4e79a7", "output": "#f28e2b", "intermediate": "#76b7b2", "scratch": "#bab0ac", "constant": "#b07aa1"}
FONT = 'font-family="sans-serif" font-size="11"'
PLOT_WIDTH, PLOT_HEIGHT, MARGIN, GAP = 900, 360, 64, 40


def memory_map(plan: MemoryPlan) -> dict[str, Any]:
    """The map as plain data.

    Returns
    -------
    dict
        ``regions`` (name, size, used), ``steps`` (name, occupied bytes, live bytes, row order), ``peak_step`` (index) and
        ``blocks`` (buffer, kind, region, first and last step, offset, bytes), blocks sorted by region, offset and time.
    """
    steps = [
        {"name": s.name, "occupied": plan.occupied_bytes(i), "live": plan.live_bytes(i), "order": plan.orders.get(s.name)}
        for i, s in enumerate(plan.steps)
    ]
    blocks = [
        {
            "buffer": b.name,
            "kind": b.kind,
            "region": plan.placements[b.name].region,
            "first": b.first_use,
            "last": min(b.last_use, len(plan.steps) - 1),
            "offset": plan.offset(b.name),
            "nbytes": b.nbytes,
        }
        for b in plan.buffers
    ]
    blocks.sort(key=lambda k: (k["region"], k["offset"], k["first"], k["buffer"]))
    regions = [{"name": r.name, "nbytes": r.nbytes, "used": plan.used[r.name]} for r in plan.regions]
    return {"regions": regions, "steps": steps, "peak_step": plan.peak_step(), "blocks": blocks}


def memory_svg(plan: MemoryPlan) -> str:
    """The map as a self-contained SVG document: one panel a region, the peak step shaded, every block with a tooltip."""
    data = memory_map(plan)
    height = MARGIN + len(data["regions"]) * (PLOT_HEIGHT + GAP)
    panels = [_panel(data, region, MARGIN + i * (PLOT_HEIGHT + GAP)) for i, region in enumerate(data["regions"])]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PLOT_WIDTH + 2 * MARGIN} {height}" {FONT}>',
            f'<text x="{MARGIN}" y="20" font-size="14">memory map: {_summary(plan)}</text>',
            _legend(),
            *panels,
            "</svg>",
        ]
    )


def _summary(plan: MemoryPlan) -> str:
    proof = "optimal" if plan.optimal else f"lower bound {plan.lower_bound:,}"
    name = plan.steps[plan.peak_step()].name if plan.steps else "-"
    return escape(f"{plan.arena_bytes:,} bytes ({proof}), peak in step {plan.peak_step()} {name}")


def _legend() -> str:
    items = []
    for i, (kind, colour) in enumerate(COLOURS.items()):
        x = MARGIN + i * 110
        items.append(f'<rect x="{x}" y="30" width="10" height="10" fill="{colour}"/><text x="{x + 14}" y="39">{kind}</text>')
    return "".join(items)


def _panel(data: dict[str, Any], region: dict[str, Any], top: int) -> str:
    wide = PLOT_WIDTH / max(1, len(data["steps"]))
    tall = PLOT_HEIGHT / max(1, region["used"])
    size = "" if region["nbytes"] is None else f" of {region['nbytes']:,}"
    peak = f'x="{MARGIN + data["peak_step"] * wide:.2f}" y="{top}" width="{wide:.2f}" height="{PLOT_HEIGHT}"'
    parts = [
        f'<text x="{MARGIN}" y="{top - 4}">{escape(region["name"])}: {region["used"]:,}{size} bytes</text>',
        f'<rect {peak} class="peak" fill="#e15759" opacity="0.25"/>',
    ]
    for block in data["blocks"]:
        if block["region"] == region["name"]:
            parts.append(_block(block, top, wide, tall))
    parts.append(f'<rect x="{MARGIN}" y="{top}" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}" fill="none" stroke="#333"/>')
    return "\n".join(parts)


def _block(block: dict[str, Any], top: int, wide: float, tall: float) -> str:
    x, width = MARGIN + block["first"] * wide, (block["last"] - block["first"] + 1) * wide
    height = block["nbytes"] * tall
    y = top + PLOT_HEIGHT - block["offset"] * tall - height
    end = block["offset"] + block["nbytes"]
    what = f"{block['buffer']} ({block['kind']}): {block['nbytes']:,} bytes at {block['offset']:,}..{end:,}"
    title = escape(f"{what}, steps {block['first']}..{block['last']}")
    shape = f'x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"'
    return (
        f'<rect {shape} fill="{COLOURS[block["kind"]]}" fill-opacity="0.75" stroke="#fff" stroke-width="0.5"><title>{title}</title></rect>'
    )
