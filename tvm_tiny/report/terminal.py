# SPDX-License-Identifier: Apache-2.0
"""The report as a table for the terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

from tvm_tiny.report.report import LayerRow, Report


def render(report: Report) -> RenderableType:
    """Return the report as something rich can print."""
    table = Table(title=f"{report.name} for {report.target}", title_justify="left")
    for column in ("#", "layer", "op"):
        table.add_column(column, overflow="fold")
    for column in ("output", "MAC", "SRAM live", "scratch", "flash", "kernel"):
        table.add_column(column, justify="right" if column != "kernel" else "left")
    for row in report.layers:
        shape = "x".join(str(d) for d in row.shape)
        numbers = (f"{row.macs:,}", f"{row.sram:,}", f"{row.scratch:,}", f"{row.flash:,}")
        table.add_row(str(row.index), _short(row.source[0]), row.op, shape, *numbers, kernel_text(row))
    return Group(table, summary(report))


def kernel_text(row: LayerRow) -> str:
    """What runs a layer: rule, kernel and block, and where the choice comes from unless it is the default."""
    kernel = " ".join(str(row.kernel[k]) for k in ("rule", "kernel", "block") if k in row.kernel)
    if row.kernel.get("source", "default") != "default":
        kernel += f" ({row.kernel['source']}{', ' + row.kernel['note'] if 'note' in row.kernel else ''})"
    return kernel


def summary(report: Report) -> str:
    """Return the totals in a few lines."""
    proof = "proven least for these kernels" if report.arena_optimal else f"lower bound {report.arena_lower_bound:,}"
    lines = [
        f"arena: {report.arena_bytes:,} bytes ({proof}; decided by {report.peak_layer})",
        f"constants: {report.constants_bytes:,} bytes    work: {report.macs:,} MAC",
    ]
    lines += _patches(report.decisions.get("patches", {}))
    lines += _streaming(report.decisions.get("stream", {}))
    if report.float_layers:
        lines.append(f"left in float: {', '.join(report.float_layers)}")
    return "\n".join(lines)


def _patches(decision: dict[str, Any]) -> list[str]:
    """What runs in patches and why, and the trade-off: grid and depth against bytes and multiply-accumulates done again."""
    if not decision:
        return []
    lines = [f"patches (optimize={decision['goal']}): {'' if decision['chosen'] else 'none, '}{decision['reason']}"]
    for point in decision["curve"]:
        (first, last), (down, across) = point["operators"], point["grid"]
        mark = "*" if point == decision["chosen"] else " "
        more = f"{100 * point['extra_macs']:+6.1f} % MAC  {100 * point['extra_work']:+6.1f} % work"
        lines.append(f"  {mark} {point['arena_bytes']:>10,} bytes  {more}  operators {first}..{last - 1} in {down}x{across} patches")
    return lines


def _streaming(decision: dict[str, Any]) -> list[str]:
    """What was streamed and why, and the memory / work curve."""
    if not decision:
        return []
    lines = [f"streaming (optimize={decision['goal']}): {decision['reason']}"]
    for point in decision["curve"]:
        parts = ", ".join(f"{first}..{last - 1}" for first, last in point["segments"]) or "none"
        mark = "*" if point == decision["chosen"] else " "
        lines.append(f"  {mark} {point['arena_bytes']:>10,} bytes  {100 * point['extra_work']:+6.1f} % work  streamed operators: {parts}")
    return lines


def render_text(report: Report, width: int = 140) -> str:
    """Return the report as plain text."""
    out = io.StringIO()
    Console(file=out, width=width).print(render(report))
    return out.getvalue()


def _short(name: str) -> str:
    """The last part of a tensor's name: TFLite joins the names of everything fused into it."""
    return name.split(";")[-1].removesuffix("1").split("/")[-2 if name.count("/") else -1][-32:] if ";" in name else name[-32:]
