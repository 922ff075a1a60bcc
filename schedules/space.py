# SPDX-License-Identifier: Apache-2.0
"""Tuning spaces: the decisions of a rule as samples of a TVM schedule, so that MetaSchedule searches them and a trace records them.

Decisions about loops are splits, orders and unrolling of the layer (`nests/products.py`, `nests/planes.py`). Every decision is an
annotation `tiny.choice.<name>` of the function's root block as well: `tvm_tiny.schedules.rules.realise` makes the kernel the annotations
describe. The same annotations, read back from a replayed trace, give the same kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import Schedule

_KEY = "tiny.choice."
_RULE = "tiny.choice_rule"

Choice = Mapping[str, int | str]
"""The decisions of one candidate with the rule that made it: {"rule": "conv2d", "channels": 2, …}."""


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
    loops : callable
        Schedules that with the sampled decisions, by name. It must not fail for any of them: TVM's search would end there.
    """

    rule: str
    decisions: Mapping[str, tuple[int | str, ...]]
    legal: Callable[[Choice], bool] = field(default=lambda _choice: True, compare=False)
    form: Callable[[tirx.PrimFunc], tirx.PrimFunc] = field(default=lambda func: func, compare=False)
    loops: Callable[[Schedule, Mapping[str, Any]], None] = field(default=lambda _sch, _found: None, compare=False)

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
        """Sample every decision, or take it from `choice`; schedule the loops of `main`; and annotate its root block.

        In this order: TVM takes what lies under a new root block for its own alone, though the sequence of nests in it is still that of the
        function it came from, and would change loops of both in place.
        """
        found: dict[str, Any] = {}
        for name, alternatives in self.decisions.items():
            numbers = list(range(len(alternatives))) if isinstance(alternatives[0], str) else list(alternatives)
            decided = None if choice is None else alternatives.index(choice[name])
            found[name] = sch.sample_categorical(numbers, [1.0 / len(numbers)] * len(numbers), decided)
        self.loops(sch, found)
        root = sch.get_sblock("root")
        sch.annotate(root, _RULE, self.rule)
        for name, sampled in found.items():
            sch.annotate(root, _KEY + name, sampled)

    def read(self, annotations: Mapping[str, Any]) -> dict[str, int | str]:
        """The choice that the annotations of a root block stand for."""
        choice: dict[str, int | str] = {"rule": self.rule}
        for name, alternatives in self.decisions.items():
            value = int(annotations[_KEY + name])
            choice[name] = alternatives[value] if isinstance(alternatives[0], str) else value
        return choice


def annotated_rule(mod: tvm.IRModule) -> tuple[str, dict[str, Any]]:
    """The rule and the annotations of a module made by `Space.sample`, or by replaying its trace."""
    annotations = dict(mod["main"].body.block.annotations.items())
    return str(annotations[_RULE]), annotations


def divisions(extent: int, most: int) -> tuple[int, ...]:
    """Sizes that cut `extent` into even parts, the whole first halved and halved again; at most `most` of them, ascending."""
    sizes, parts = {extent}, 1
    while len(sizes) < most and parts < extent:
        parts *= 2
        sizes.add(-(-extent // parts))
    return tuple(sorted(sizes))[-most:]
