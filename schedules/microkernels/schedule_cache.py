# SPDX-License-Identifier: Apache-2.0
"""Scheduled bodies, remembered: the list scheduler is most of a compilation's time, and its answer depends on nothing but its question.

In the process, and on disk under `$XDG_CACHE_HOME/tvm_tiny/blocks` (or `~/.cache`; `TVM_TINY_CACHE` names another directory, or is `off`).
The key covers the body, the registers and the source text of the scheduler itself, so a changed scheduler never reads old answers.
A directory that can't be written or a damaged entry only costs time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_memory: dict[str, dict[str, Any]] = {}
_SOURCES = ("scheduler.py", "pipeline.py", "assembly.py")


def digest(question: Iterable[object]) -> str:
    """Name a question: its parts' `repr`, which must be complete and stable, together with the scheduler's own text."""
    state = _sources().copy()
    for part in question:
        state.update(repr(part).encode() + b"\0")
    return state.hexdigest()


def recall(key: str) -> dict[str, Any] | None:
    """The answer stored under `key`; None when there is none that is whole."""
    if key not in _memory:
        path = _path(key)
        try:
            entry = json.loads(path.read_text()) if path is not None else None
        except (OSError, ValueError):
            entry = None
        if not isinstance(entry, dict) or entry.get("key") != key:
            return None
        _memory[key] = entry
    return _memory[key]


def remember(key: str, answer: dict[str, Any]) -> None:
    """Store an answer (JSON-able) for this process and later ones."""
    entry = _memory[key] = {**answer, "key": key}
    path = _path(key)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as stream:
            json.dump(entry, stream)
        os.replace(stream.name, path)  # readers see the whole entry or none
    except OSError:
        return


def forget() -> None:
    """Drop what this process remembers (tests)."""
    _memory.clear()


def _path(key: str) -> Path | None:
    chosen = os.environ.get("TVM_TINY_CACHE", "")
    if chosen == "off":
        return None
    try:
        base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tvm_tiny"
    except RuntimeError:  # no home directory
        return None
    return base / "blocks" / key[:2] / f"{key}.json"


_state: Any = None


def _sources() -> Any:
    global _state
    if _state is None:
        _state = hashlib.sha256()
        for name in _SOURCES:
            _state.update((Path(__file__).parent / name).read_bytes())
    return _state
