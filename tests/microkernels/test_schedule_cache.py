# SPDX-License-Identifier: Apache-2.0
"""Scheduled bodies are remembered, and what is remembered is what would be computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_tiny.schedules.microkernels import schedule_cache, scheduler
from tvm_tiny.schedules.microkernels.assembly import Body
from tvm_tiny.schedules.microkernels.scheduler import Scheduled, schedule

POOL = ("r3", "r4", "r5", "r6", "r7")


def body(terms: int = 4) -> tuple[Body, int]:
    code = Body()
    total = code.alu("mov", tail="#0")
    for i in range(terms):
        total = code.mac("smlad", code.ldr("r0", 4 * i), code.ldr("r1", 4 * i), total)
    return code, total


def ask(terms: int = 4) -> Scheduled:
    code, total = body(terms)
    return schedule(code, POOL, dual_issue=True, live_out={total})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TVM_TINY_CACHE", str(tmp_path))
    schedule_cache.forget()
    return tmp_path


def entries(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.json"))


def test_a_later_process_reads_the_same_answer(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ask()
    schedule_cache.forget()
    monkeypatch.setattr(scheduler, "_search", lambda *_: pytest.fail("scheduled again"))
    assert ask() == first
    assert len(entries(cache)) == 1


def test_another_body_is_another_question(cache: Path) -> None:
    assert ask(4) != ask(5)
    assert len(entries(cache)) == 2


def test_a_changed_scheduler_asks_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask()
    monkeypatch.setattr(schedule_cache, "_state", None)
    monkeypatch.setattr(schedule_cache, "_SOURCES", ("scheduler.py",))
    ask()
    monkeypatch.setattr(schedule_cache, "_state", None)
    assert len(entries(cache)) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"key": "another"}', b"\xff\xfe"])
def test_damaged_entries_are_replaced(cache: Path, damage: bytes) -> None:
    first = ask()
    (entry,) = entries(cache)
    entry.write_bytes(damage)
    schedule_cache.forget()
    assert ask() == first
    schedule_cache.forget()
    assert ask() == first


def test_an_unwritable_directory_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TVM_TINY_CACHE", str(tmp_path / "file" / "below"))
    schedule_cache.forget()
    assert ask() == ask()


def test_off_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TVM_TINY_CACHE", "off")
    schedule_cache.forget()
    ask()
    assert not entries(tmp_path)


def test_no_order_beats_the_bound_that_ends_the_search(cache: Path) -> None:
    code, _ = body(8)
    assert scheduler._least_dual_cycles(code.instructions) <= ask(8).cycles
