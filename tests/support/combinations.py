# SPDX-License-Identifier: Apache-2.0
"""A network under many combinations of optional passes, where every step of the work is done once for all combinations that share it.

Most passes leave most networks alone. So each pass runs once for every module and settings it meets, designs are looked for once for every
module and goal, schedules made for one combination serve the others, and each different C is one model.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import tvm
from tvm_ffi import structural_equal, structural_hash

import tvm_tiny
from tvm_tiny import pipeline, search
from tvm_tiny.boards import find_board
from tvm_tiny.compiled import CompiledModel
from tvm_tiny.memory.design import Design
from tvm_tiny.memory.program import extract
from tvm_tiny.memory.stream_choice import StreamOptions
from tvm_tiny.passes.plan_memory import plan_of
from tvm_tiny.pipeline import PIPELINE, Options, Phase
from tvm_tiny.schedules.memo import remembering
from tvm_tiny.search import Allowed
from tvm_tiny.target import parse_target

OPTIONAL = tuple(p.name for p in PIPELINE if p.optional)
ALONE = [frozenset(OPTIONAL) - {name} for name in OPTIONAL]
PAIRS = [frozenset(OPTIONAL) - set(pair) for pair in itertools.combinations(OPTIONAL, 2)]
_DESIGNS = search.designs
EVERY = [frozenset[str](), frozenset(OPTIONAL), *ALONE, *PAIRS]


def named(disabled: Iterable[str]) -> str:
    """What is left on, for the name of a test."""
    on = [name for name in OPTIONAL if name not in disabled]
    return "all" if len(on) == len(OPTIONAL) else "+".join(on) or "none"


class Combinations:
    """The different models that one network becomes.

    Attributes
    ----------
    shared : int
        How many combinations came out as a model that an earlier one had given already.
    """

    def __init__(self, source: Path | tvm.IRModule, board: str | None = None, **options: Any) -> None:
        self._mod = source if isinstance(source, tvm.IRModule) else tvm_tiny.load(source)
        self._board = find_board(board) if board else None
        self._options = Options(self._board.target if self._board else parse_target("c"), **options)
        self._done: dict[tuple[Any, ...], list[tuple[tvm.IRModule, Any]]] = {}
        self._settings: list[dict[str, object]] = []  # alive, so that no two objects are known by the same number
        self.shared = 0

    def models(self, combinations: Iterable[frozenset[str]]) -> Iterator[tuple[str, CompiledModel]]:
        """Each different model, with the first combination that gives it."""
        seen: set[str] = set()
        with remembering():
            for disabled in combinations:
                model = self._model(replace(self._options, disable=disabled))
                text = b"".join(data for name, data in sorted(model.files.items()) if name.startswith(("codegen/", "parameters/")))
                digest = hashlib.sha256(text).hexdigest()
                if digest in seen:
                    self.shared += 1
                    continue
                seen.add(digest)
                yield named(disabled), model

    def _model(self, options: Options) -> CompiledModel:
        shared = {"_run": self._run, "remembering": nullcontext}
        with mock.patch.multiple(pipeline, **shared), mock.patch.object(search, "designs", self._designs):
            mod = pipeline.run_pipeline(self._mod, options)
        return CompiledModel(extract(mod, "net"), plan_of(mod), options.target, self._board, {})

    def _run(self, phases: Sequence[Phase], options: Options, mod: tvm.IRModule, trail: list[tuple[str, tvm.IRModule]]) -> tvm.IRModule:
        """As the pipeline runs phases one after the other, each from what is known already."""
        for phase in phases:
            mod = self._ran(phase, options, mod)
            trail.append((phase.name, mod))
        return mod

    def _ran(self, phase: Phase, options: Options, mod: tvm.IRModule) -> tvm.IRModule:
        """What a pass makes of a module, kept for the next who asks the same."""
        ready = phase.make(options)
        asked = vars(ready._inst) if hasattr(ready, "_inst") else {}  # TVM's own passes here take no settings
        self._settings.append(asked)
        settings = tuple((name, _comparable(value)) for name, value in sorted(asked.items()))
        return self._once(mod, (phase.name, settings), lambda: ready(mod))

    def _designs(self, mod: tvm.IRModule, options: StreamOptions, allowed: Allowed) -> list[Design]:
        """What `search.designs` answers; the costs are the target's, the same for all combinations."""
        return self._once(mod, (options, allowed.recompute, allowed.patches, allowed.rows), lambda: _DESIGNS(mod, options, allowed))

    def _once(self, mod: tvm.IRModule, question: tuple[Any, ...], ask: Callable[[], Any]) -> Any:
        """What was answered for an equal module, else what `ask` answers."""
        known = self._done.setdefault((*question, structural_hash(mod, map_free_vars=True)), [])
        for before, answer in known:
            if before.same_as(mod) or structural_equal(before, mod, map_free_vars=True):
                return answer
        known.append((mod, ask()))
        return known[-1][1]


def _comparable(value: object) -> object:
    """The value, if it can be a key; else which object it is."""
    if isinstance(value, dict) and not value:
        return ()
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value
