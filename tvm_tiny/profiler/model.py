# SPDX-License-Identifier: Apache-2.0
"""Cycle models: what a core model is, and which one stands for which `-mcpu`.

A model gives a basic block a static cost; execution counts from the emulator do the rest. Everything is taken to lie in memory without
wait states; what a board's flash adds is a separate term (board_terms.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from tvm_tiny.errors import TargetError
from tvm_tiny.profiler.instructions import Instruction, decode
from tvm_tiny.profiler.model_m0 import CORTEX_M0, CORTEX_M0PLUS
from tvm_tiny.profiler.model_m3 import CORTEX_M3
from tvm_tiny.profiler.model_m4 import CORTEX_M4, CORTEX_M33
from tvm_tiny.profiler.model_m7 import CORTEX_M7


class CycleModel(Protocol):
    """A core's timing. `source` says where the numbers come from and how far they can be trusted."""

    @property
    def name(self) -> str:
        """The core, as `-mcpu` names it."""

    @property
    def source(self) -> str:
        """Where the numbers come from."""

    @property
    def mispredict(self) -> float:
        """Cycles of a mispredicted conditional branch; 0 when the core does not predict."""

    def block(self, block: Sequence[Instruction]) -> tuple[float, float]:
        """(cycles, extra when the final branch is taken) of one basic block."""

    def loop(self, body: Sequence[Instruction]) -> float:
        """Cycles of one iteration of a loop body in its steady state, its closing branch taken."""


MODELS: dict[str, CycleModel] = {m.name: m for m in (CORTEX_M0, CORTEX_M0PLUS, CORTEX_M3, CORTEX_M4, CORTEX_M33, CORTEX_M7)}
_ALIASES = {"cortex-m1": "cortex-m0", "cortex-m35p": "cortex-m33"}  # same pipelines: M1 is an M0 for FPGAs, M35P a hardened M33


def has_model(core: str) -> bool:
    """Whether `model_for` has one for this core."""
    return _ALIASES.get(core, core) in MODELS


def model_for(core: str) -> CycleModel:
    """The cycle model of a core, e.g. ``"cortex-m7"``.

    Raises
    ------
    TargetError
        No model: for the core (say Cortex-M55, whose vector timing is not published in a usable form) or for the name.
    """
    model = MODELS.get(_ALIASES.get(core, core))
    if model is None:
        known = ", ".join(MODELS)
        raise TargetError(f"no cycle model for {core!r}; there are: {known}", remedy="count instructions only, or choose such a core")
    return model


_LABEL = re.compile(r"^[.\w]+:\s*")


def read_block(lines: Iterable[str]) -> list[Instruction]:
    """Decode assembly text, one or more instructions a line; labels, directives, comments (``@``, ``//``) and blank lines are skipped."""
    statements = (_LABEL.sub("", s.strip()) for line in lines for s in re.split(r"[\n;]", line))
    return [decode(s) for s in statements if s and not s.startswith((".", "@", "//"))]


def cycles_of_block(lines: Sequence[str], core: str, *, loop: bool = True) -> float:
    """Estimated cycles of a piece of straight assembly.

    Parameters
    ----------
    lines : sequence of str
        Instructions in unified syntax (see `read_block`).
    core : str
        "cortex-m7", "cortex-m4", …
    loop : bool
        True: cycles of one iteration in the steady state of a loop; False: cycles of one execution from an idle pipeline.

    Raises
    ------
    UnknownInstructionError
        An instruction without a known timing.
    """
    block = read_block(lines)
    model = model_for(core)
    return model.loop(block) if loop else model.block(block)[0]
