# SPDX-License-Identifier: Apache-2.0
"""Why a network was compiled the way it was: every candidate a pass considered, whether it was taken, and the reason.

A pass tells its `Explainer` of each candidate:

    why = Explainer("fuse-ops")
    why.accepted(node.name, "clamp of lookup_3", "its table only clamps", cycles=-1200)
    why.rejected(node.name, "pad of pad_1", "two operators read the padded tensor")

The line goes to the log "tvm_tiny.passes.<pass>" and, inside `collecting()`, to the list that `tvm_tiny.build` keeps with the model:
`model.explanation`, `build(explain=…)`, `tvm-tiny compile --explain`, and "explain" in the JSON report.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvm_tiny.errors import InputError


@dataclass(frozen=True)
class Decision:
    """One candidate.

    Attributes
    ----------
    pass_name : str
        Kebab-case name of the pass.
    node : str
        Variable of the call the candidate is about; "" for one about the whole network.
    candidate : str
        What could be done.
    accepted : bool
    reason : str
    bytes : int or None
        What doing it changes in memory (arena, or flash for weights): negative saves, a kernel's scratch is positive. None where it was
        not computed.
    cycles : int or None
        The same for estimated cycles.
    """

    pass_name: str
    node: str
    candidate: str
    accepted: bool
    reason: str
    bytes: int | None = None
    cycles: int | None = None

    def __str__(self) -> str:
        figures = [f"{value:+,} {unit}" for value, unit in ((self.bytes, "bytes"), (self.cycles, "cycles")) if value is not None]
        verdict = "accepted" if self.accepted else "rejected"
        extra = f" ({', '.join(figures)})" if figures else ""
        return f"{verdict}: {self.node or 'network'}: {self.candidate}: {self.reason}{extra}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; `pass_name` is called "pass"."""
        data = asdict(self)
        return {"pass": data.pop("pass_name"), **data}


_COLLECTED: ContextVar[dict[Decision, None] | None] = ContextVar("tvm_tiny_explain", default=None)


@contextmanager
def collecting() -> Iterator[dict[Decision, None]]:
    """Gather what passes decide inside the context: an ordered set, since a pass that runs to a fixed point repeats itself."""
    collected: dict[Decision, None] = {}
    token = _COLLECTED.set(collected)
    try:
        yield collected
    finally:
        _COLLECTED.reset(token)


def adopt(decisions: Iterable[Decision]) -> None:
    """Hand what was gathered in an inner `collecting()` to the one around it."""
    collected = _COLLECTED.get()
    if collected is not None:
        collected.update(dict.fromkeys(decisions))


class Explainer:
    """What a pass tells its decisions to."""

    def __init__(self, pass_name: str) -> None:
        self.pass_name = pass_name
        self._log = logging.getLogger(f"tvm_tiny.passes.{pass_name}")

    def accepted(self, node: str, candidate: str, reason: str, *, bytes: int | None = None, cycles: int | None = None) -> None:
        """The candidate was taken."""
        self._add(Decision(self.pass_name, node, candidate, True, reason, bytes, cycles))

    def rejected(self, node: str, candidate: str, reason: str, *, bytes: int | None = None, cycles: int | None = None) -> None:
        """The candidate was left."""
        self._add(Decision(self.pass_name, node, candidate, False, reason, bytes, cycles))

    def _add(self, decision: Decision) -> None:
        self._log.info("%s", decision)
        collected = _COLLECTED.get()
        if collected is not None:
            collected[decision] = None


def to_text(decisions: Iterable[Decision], tensors: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The decisions as text, by pass in the order they ran.

    `tensors` is the source model's table (`tvm_tiny.memory.program.Program.model["tensors"]`): its names are printed beside the IR's.
    """
    lines: list[str] = []
    current = None
    for decision in decisions:
        if decision.pass_name != current:
            current = decision.pass_name
            lines.append(f"{current}:")
        source = (tensors or {}).get(decision.node, {}).get("name", "")
        lines.append(f"  {decision}" + (f"  [{source}]" if source and source != decision.node else ""))
    return "\n".join(lines)


def write(path: str | Path, decisions: Iterable[Decision], tensors: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write the decisions: JSON when the file's name ends in .json, else text.

    Raises
    ------
    InputError
        The file can't be written.
    """
    found = list(decisions)
    text = json.dumps([d.to_dict() for d in found], indent=2) if str(path).endswith(".json") else to_text(found, tensors)
    try:
        Path(path).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror}", remedy="choose a file you may write to") from None
