# SPDX-License-Identifier: Apache-2.0
"""What a runner is: it takes candidates of one layer and says of each what came of it, exact ones with their cycles.

There are two: `bench.Bench` (emulated, cycles estimated from executed instructions) and `rpc.RpcRunner` (devices of a tracker, timed by
their own counters). Another can be given to `tune(runner=…)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tvm_tiny.tuning.candidate import Candidate, Case, Measurement


@dataclass(frozen=True)
class Conditions:
    """What figures depend on besides the candidate: those of other conditions are never compared.

    Attributes
    ----------
    board_term : str
        Memory added to estimated cycles (`tvm_tiny.profiler.board_terms`), or "rpc:<key>": measured on devices of that key.
    compiler, flags : str
        Of the cross compiler.
    """

    board_term: str
    compiler: str
    flags: str


class Runner(Protocol):
    """Measures candidates."""

    @property
    def conditions(self) -> Conditions:
        """What every measurement of this runner has in common."""

    def measure(self, case: Case, candidates: Sequence[Candidate]) -> list[Measurement]:
        """Check candidates of one layer against `case` and time those that are exact; one measurement each, in order."""
