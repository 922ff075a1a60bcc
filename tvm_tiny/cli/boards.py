# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny boards`: the boards the library knows, and the facts of one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from tvm_tiny.boards import Board, find_board, load_boards
from tvm_tiny.cli.guard import AsJson, Debug, emit
from tvm_tiny.device.project import find_handler


def boards(
    name: Annotated[str | None, typer.Argument(help="Show the facts of one board.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the boards, or show one."""
    if name is not None:
        board = find_board(name)
        emit(as_json, describe(board), lambda console: _show_one(console, board))
        return
    known = load_boards()
    emit(as_json, {"boards": [describe(b) for b in known.values()]}, lambda console: _show_all(console, known))


def describe(board: Board) -> dict[str, Any]:
    """Facts of a board as plain data; sizes in bytes, the clock in hertz."""
    return {
        "name": board.name,
        "title": board.title,
        "aliases": list(board.aliases),
        "mcpu": board.mcpu,
        "clock_hz": board.clock_hz,
        "template": board.template,
        "zephyr": board.zephyr or None,
        "emulated": board.emulated,
        "tools": [{"name": t.name, "purpose": t.purpose, "path": t.path, "remedy": t.remedy} for t in find_handler(board).needs(board)],
        "flash": board.limits.flash,
        "sram": board.limits.sram,
        "arena": board.limits.arena,
        "memory": [asdict(region) for region in board.memory],
        "source": board.source,
        "note": board.note,
    }


def _show_all(console: Console, known: dict[str, Board]) -> None:
    table = Table(Column("board", no_wrap=True), "core", "MHz", "flash KiB", "SRAM KiB", "template", "missing here", "what it is")
    for board in known.values():
        missing = ", ".join(tool.name for tool in find_handler(board).needs(board) if tool.path is None) or "–"
        sizes = (_kib(board.limits.flash), _kib(board.limits.sram))
        table.add_row(board.name, board.mcpu, _mhz(board), *sizes, board.template, missing, board.title)
    console.print(table)


def _show_one(console: Console, board: Board) -> None:
    where = "emulated by QEMU" if board.emulated else "the host" if board.target.is_host else "a real board"
    console.print(f"{board.name}: {board.title} ({where}; template {board.template})", highlight=False)
    zephyr = f"; in Zephyr {board.zephyr}" if board.zephyr else ""
    console.print(f"target {board.target}; {_mhz(board)} MHz{zephyr}", highlight=False)
    table = Table("memory", "kind", "address", "KiB", "speed", "holds")
    for region in board.memory:
        table.add_row(region.name, region.kind, f"{region.base:#010x}", _kib(region.size), region.speed, ", ".join(region.sections))
    if board.memory:
        console.print(table)
    needs = Table("tool", "what for", "where")
    for tool in find_handler(board).needs(board):
        needs.add_row(tool.name, tool.purpose, tool.path or f"missing: {tool.remedy}")
    console.print(needs)
    console.print(f"source: {board.source}", highlight=False)
    if board.note:
        console.print(f"note: {board.note}", highlight=False)


def _mhz(board: Board) -> str:
    return f"{board.clock_hz / 1e6:g}" if board.clock_hz else "–"


def _kib(size: int | None) -> str:
    return "–" if size is None else f"{size / 1024:,.0f}"
