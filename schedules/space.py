# SPDX-License-Identifier: Apache-2.0
"""Tuning spaces: the decisions of a rule as samples of a TVM schedule, so that MetaSchedule searches them and a trace records them.

Decisions about loops are splits, orders and unrolling of the layer (`nests/products.py`, `nests/planes.py`), and are read off the loops
(`nests/loops.py`); those that are no loops are annotations `tiny.choice.<name>` of the function's root block.
`tvm_tiny.schedules.rules.realise` makes the kernel that both describe, so a replayed trace gives the same kernel, and a schedule whose
loops no kernel has is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.errors import OptionError

_KEY = "tiny.choice."
_RULE = "tiny.choice_rule"

Choice = Mapping[str, int | str]
"""The decisions of one candidate with the rule that made it: {"rule": "conv2d", "channels": 2, …}."""


@dataclass(frozen=True)
class Tiling:
    """How decisions become loops, and loops decisions.

    Attributes
    ----------
    schedule : callable
        Schedules a function with the decisions, by name: random variables or numbers. It must not fail for any of them: TVM's search
        would end there.
    read : callable
        From the scheduled function to the decisions; raises OptionError where no decisions give these loops.
    names : tuple of str
        The decisions that loops make.
    fixed : mapping of str to int
        Those of them that the rule does not choose.
    """

    schedule: Callable[[Schedule, Mapping[str, Any]], None]
    read: Callable[[tirx.PrimFunc], dict[str, int]]
    names: tuple[str, ...]
    fixed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Space:
    """The alternatives of one rule for one layer.

    Attributes
    ----------
    rule : str
        Name in `tvm_tiny.schedules.rules.RULES`.
    decisions : mapping of str to tuple
        Alternatives of each decision, integers or words.
    legal : callable
        Tells cheaply whether decisions go together; what it lets pass may still turn out to need too many registers.
    form : callable
        From the layer's function to what is scheduled: the same meaning, maybe over flat tensors. Equal for all spaces of a layer.
    loops : Tiling or None
        Schedules that with the sampled decisions; None where no decision is about loops.
    """

    rule: str
    decisions: Mapping[str, tuple[int | str, ...]]
    legal: Callable[[Choice], bool] = field(default=lambda _choice: True, compare=False)
    form: Callable[[tirx.PrimFunc], tirx.PrimFunc] = field(default=lambda func: func, compare=False)
    loops: Tiling | None = field(default=None, compare=False)

    @property
    def size(self) -> int:
        """Number of combinations, illegal ones included."""
        total = 1
        for alternatives in self.decisions.values():
            total *= len(alternatives)
        return total

    def sample(self, func: tirx.PrimFunc) -> Schedule:
        """Return a traced schedule of `func` whose decisions are sampled. Words are sampled by their index."""
        return self.schedule(func, None)

    def schedule(self, func: tirx.PrimFunc, choice: Choice | None) -> Schedule:
        """The same with the decisions of `choice`: what a record stands for, with its trace."""
        sch = Schedule(tvm.IRModule({"main": self.form(func)}))
        self.apply(sch, choice)
        return sch

    def apply(self, sch: Schedule, choice: Choice | None = None) -> None:
        """Sample every decision, or take it from `choice`; schedule the loops of `main`; and annotate its root block with what is no loop.

        In this order: TVM takes what lies under a new root block for its own alone, though the sequence of nests in it is still that of the
        function it came from, and would change loops of both in place.
        """
        found: dict[str, Any] = {}
        for name, alternatives in self.decisions.items():
            numbers = list(range(len(alternatives))) if isinstance(alternatives[0], str) else list(alternatives)
            decided = None if choice is None else alternatives.index(choice[name])
            found[name] = sch.sample_categorical(numbers, [1.0 / len(numbers)] * len(numbers), decided)
        if self.loops is not None:
            self.loops.schedule(sch, {**self.loops.fixed, **found})
        root = sch.get_sblock("root")
        sch.annotate(root, _RULE, self.rule)
        for name in self._annotated:
            sch.annotate(root, _KEY + name, found[name])

    @property
    def _annotated(self) -> list[str]:
        return [name for name in self.decisions if self.loops is None or name not in self.loops.names]

    def read(self, func: tirx.PrimFunc) -> dict[str, int | str]:
        """The choice that a scheduled function stands for.

        Raises
        ------
        OptionError
            Its loops are none that the rule's kernels have, or a decision is none of the alternatives.
        """
        annotations = func.body.block.annotations
        found: dict[str, int] = {} if self.loops is None else self.loops.read(func)
        found |= {name: int(annotations[_KEY + name]) for name in self._annotated}
        choice: dict[str, int | str] = {"rule": self.rule}
        for name, alternatives in self.decisions.items():
            value = alternatives[found[name]] if isinstance(alternatives[0], str) else found[name]
            choice[name] = self._one_of(name, value, alternatives)
        for name, value in self.loops.fixed.items() if self.loops is not None else ():
            self._one_of(name, found[name], (value,))
        return choice

    def _one_of(self, name: str, value: int | str, alternatives: tuple[int | str, ...]) -> int | str:
        if value in alternatives:
            return value
        remedy = f"choose one of {', '.join(map(str, alternatives))}"
        raise OptionError(f"rule {self.rule} has no kernel for {name} {value} in this layer", remedy=remedy)


def rule_of(mod: tvm.IRModule) -> str:
    """The rule whose space made a module, or whose trace was replayed on it."""
    return str(mod["main"].body.block.annotations[_RULE])


def divisions(extent: int, most: int) -> tuple[int, ...]:
    """Sizes that cut `extent` into even parts, the whole first halved and halved again; at most `most` of them, ascending."""
    sizes, parts = {extent}, 1
    while len(sizes) < most and parts < extent:
        parts *= 2
        sizes.add(-(-extent // parts))
    return tuple(sorted(sizes))[-most:]
