# SPDX-License-Identifier: Apache-2.0
"""The report as a table for the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

from tvm_tiny.boards import find_board, load_boards
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
    measured = [row for row in report.layers if "cycles" in row.kernel]
    return Group(table, *([chosen(measured)] if measured else []), summary(report))


def chosen(rows: Sequence[LayerRow]) -> Table:
    """What chose the kernel of each measured layer, what it takes, and the next best with what it would take more."""
    board_terms = ", ".join(dict.fromkeys(str(row.kernel["board_term"]) for row in rows))
    table = Table(title=f"kernels as measured ({board_terms})", title_justify="left")
    for column in ("#", "rule", "block", "unroll", "chosen by", "cycles", "per MAC", "next best", "costs"):
        table.add_column(column, justify="right" if column in ("cycles", "per MAC", "costs") else "left")
    for row in rows:
        k = row.kernel
        figures = (f"{k['cycles']:,}", f"{k['cycles_per_mac']:.3f}" if "cycles_per_mac" in k else "–")
        table.add_row(str(row.index), *(str(k.get(n, "–")) for n in ("rule", "block", "unroll", "source")), *figures, *_next_best(k))
    return table


def _next_best(kernel: dict[str, Any]) -> tuple[str, str]:
    other = kernel.get("next_best")
    if not other:
        return "–", "–"
    told = ("rule", "cycles", "cycles_per_mac", "board_term")
    words = " ".join([str(other["rule"]), *(f"{k}={v}" for k, v in other.items() if k not in told)])
    return words, f"{other['cycles'] / kernel['cycles'] - 1:+.1%}"


def kernel_text(row: LayerRow) -> str:
    """What runs a layer: rule, kernel and block, and where the choice comes from unless it is the default."""
    kernel = " ".join(str(row.kernel[k]) for k in ("rule", "kernel", "block") if k in row.kernel)
    source, note = row.kernel.get("source", "default"), row.kernel.get("note")
    notes = [text for text in (source if source != "default" else None, note) if text]
    return f"{kernel} ({', '.join(notes)})" if notes else kernel


def summary(report: Report) -> str:
    """Return the totals in a few lines."""
    proof = "proven least for these kernels" if report.arena_optimal else f"lower bound {report.arena_lower_bound:,}"
    lines = [
        f"arena: {report.arena_bytes:,} bytes ({proof}; decided by {report.peak_layer})",
        f"constants: {report.constants_bytes:,} bytes    work: {report.macs:,} MAC",
    ]
    lines += _recomputed(report.decisions.get("recompute", {}))
    if len(report.memories) > 1:
        lines.append("of these " + ", ".join(_memory(report, name, used) for name, used in report.memories.items()))
    lines += _curve(report.decisions.get("curve", {}), report.decisions.get("cycles", {}))
    lines += _code(report.decisions.get("code", {}))
    lines += _data_dependent(report.layers)
    if report.float_layers:
        lines.append(f"left in float: {', '.join(report.float_layers)}")
    return "\n".join(lines)


def _data_dependent(rows: Sequence[LayerRow]) -> list[str]:
    """What layers take whose time depends on the input."""
    found = [row for row in rows if "most_cycles" in row.kernel]
    if not found:
        return []
    half, most = (sum(row.kernel[key] for row in found) for key in ("half_cycles", "most_cycles"))
    where = ", ".join(str(row.index) for row in found)
    return [f"data-dependent: layers {where}: {half:,} cycles with half of their inputs at zero, up to {most:,} when no input is zero "
            "(estimated, without waits for flash); constant_time leaves such kernels out"]  # fmt: skip


def _memory(report: Report, name: str, used: int) -> str:
    """Bytes in a memory of the board, of how many, and how fast it is."""
    region = next((r for r in find_board(report.board).arena_regions if r.name == name), None) if report.board in load_boards() else None
    return f"{used:,} bytes in {name}" + (f" ({region.arena_bytes:,}; {region.speed})" if region is not None else "")


def _recomputed(decision: dict[str, Any]) -> list[str]:
    """What is computed twice instead of being kept."""
    if not decision or not decision["chosen"]["operators"]:
        return []
    chosen = decision["chosen"]
    return [f"computed twice: {', '.join(_short(n) for n in chosen['operators'])} ({100 * chosen['extra_macs']:+.1f} % MAC)"]


def _code(decision: dict[str, Any]) -> list[str]:
    """What code takes, estimated, and how much of the flash is the price of speed."""
    if not decision:
        return []
    limits = [f"{name} {decision[key]:,}" for name, key in (("code", "budget"), ("flash", "flash")) if decision[key] is not None]
    text = f"code: {decision['code_bytes']:,} bytes, estimated" + (f" (limits: {', '.join(limits)})" if limits else "")
    text += f"; {decision['sharing']} of {decision['operators']} convolutions share theirs"
    price = f"speed costs {decision['own_code_bytes']:,} bytes of code made for single layers"
    if decision["transformed_bytes"]:
        price += f" and {decision['transformed_bytes']:,} bytes of Winograd weights"
    return [text, price]


_BAR = 24


def _curve(decision: dict[str, Any], cycles: dict[str, Any]) -> list[str]:
    """What was chosen and why, and the curve of memory against estimated cycles, every point as built, drawn; `*` marks the choice."""
    if not decision:
        return []
    lines = [f"memory and cycles (optimize={decision['goal']}; {cycles['core']}, {cycles['board_term']}): {decision['reason']}"]
    most = max(point["arena_bytes"] for point in decision["curve"])
    for point in decision["curve"]:
        bar = "█" * max(1, round(_BAR * point["arena_bytes"] / (most or 1)))
        mark = "*" if point == decision["chosen"] else " "
        cost = f"{point['cycles'] / 1e6:8.2f} M cycles ({100 * point['extra_work']:+.1f} %)"
        again = f", {100 * point['extra_macs']:+.1f} % MAC" if point["extra_macs"] else ""
        lines.append(f"  {mark} {point['arena_bytes']:>10,} bytes {bar:<{_BAR}} {cost}  {point['text']}{again}")
    return lines


def render_text(report: Report, width: int = 140) -> str:
    """Return the report as plain text."""
    out = io.StringIO()
    Console(file=out, width=width).print(render(report))
    return out.getvalue()


def _short(name: str) -> str:
    """The last part of a tensor's name: TFLite joins the names of everything fused into it."""
    return name.split(";")[-1].removesuffix("1").split("/")[-2 if name.count("/") else -1][-32:] if ";" in name else name[-32:]
