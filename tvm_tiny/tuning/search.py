# SPDX-License-Identifier: Apache-2.0
"""The pieces TVM's MetaSchedule asks for: space, legality, mutation, features of a candidate, builder and runner.

MetaSchedule proposes traces over the layer's function; what a trace means is read from its annotations (`schedules.space`). Builder
and runner look every candidate up in the records first, so an interrupted search that is started again repeats nothing.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.schedule import Schedule, Trace

from tvm_tiny.schedules.space import Choice, Space, rule_of
from tvm_tiny.tuning.records import Record
from tvm_tiny.tuning.task import Task

_HERTZ = 1e6  # MetaSchedule counts seconds; a cycle is a microsecond to it


def choice_of(mod: tvm.IRModule, spaces: dict[str, Space]) -> dict[str, int | str]:
    """The choice a replayed trace stands for."""
    return spaces[rule_of(mod)].read(mod["main"])


def space_generator(task: Task, seed: int) -> ms.SpaceGenerator:
    """All rules' spaces of a layer as design spaces of MetaSchedule."""

    def generate(sch: Schedule) -> list[Schedule]:
        made = []
        for space in task.spaces.values():
            copy = sch.copy()
            space.apply(copy)
            made.append(copy)
        return made

    return ms.space_generator.ScheduleFn(generate, sch_rules=[], postprocs=[Legal(task)], mutator_probs={MutateDecision(seed): 1.0})


@tvm.ir.utils.derived_object
class Legal(ms.postproc.PyPostproc):
    """Refuses decisions that do not go together before anything is generated for them."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def _initialize_with_tune_context(self, context: ms.TuneContext) -> None:
        """Nothing is taken from the context."""

    def apply(self, sch: Schedule) -> bool:
        """Whether the decisions are legal."""
        choice = choice_of(sch.mod, self.task.spaces)
        return self.task.spaces[str(choice["rule"])].legal(choice)

    def clone(self) -> Legal:
        """A copy for another thread."""
        return Legal(self.task)


@tvm.ir.utils.derived_object
class MutateDecision(ms.mutator.PyMutator):
    """Moves one decision, mostly to a neighbouring alternative: they are ordered, and cost is smooth in most of them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.random = seed, random.Random(seed)

    def _initialize_with_tune_context(self, context: ms.TuneContext) -> None:
        """Nothing is taken from the context."""

    def apply(self, trace: Trace, _state: Any = None) -> Trace | None:
        """The trace with one decision changed; None when there is nothing to change."""
        sampled = [i for i in trace.insts if i.kind.name == "SampleCategorical" and len(i.attrs[0]) > 1]
        if not sampled:
            return None
        instruction = self.random.choice(sampled)
        count, old = len(instruction.attrs[0]), int(trace.get_decision(instruction))
        near = [i for i in (old - 1, old + 1) if 0 <= i < count]
        anywhere = [i for i in range(count) if i != old]
        new = self.random.choice(near if self.random.random() < 0.7 else anywhere)
        return trace.with_decision(instruction, new, remove_postproc=True)

    def clone(self) -> MutateDecision:
        """A copy for another thread."""
        return MutateDecision(self.seed)


@tvm.ir.utils.derived_object
class DecisionFeatures(ms.feature_extractor.PyFeatureExtractor):
    """Features for the cost model: the decisions themselves, in logarithms and as words, with the products that decide cost.

    TVM's features per store would say what its own code of the tiled loops costs, not what the kernel does.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def extract_from(self, _context: ms.TuneContext, candidates: list[ms.MeasureCandidate]) -> list[Any]:
        """One row a candidate."""
        choices = [choice_of(c.sch.mod, self.task.spaces) for c in candidates]
        return [tvm.runtime.tensor(features(choice, self.task.spaces)[None, :]) for choice in choices]


def features(choice: Choice, spaces: dict[str, Space]) -> np.ndarray:
    """A vector of equal length for every candidate of a layer, whichever rule made it (float64)."""
    row: list[float] = []
    for name, space in spaces.items():
        mine = choice["rule"] == name
        row.append(float(mine))
        numbers = []
        for decision, alternatives in space.decisions.items():
            value = choice[decision] if mine else None
            if isinstance(alternatives[0], str):
                row += [float(value == word) for word in alternatives]
            else:
                numbers.append(0.0 if value is None else float(np.log2(1.0 + float(value))))
        row += [*numbers, *(a + b for i, a in enumerate(numbers) for b in numbers[:i])]
    return np.array(row, np.float64)


@tvm.ir.utils.derived_object
class Builder(ms.builder.PyBuilder):
    """Generates the kernel of every candidate; compiling is left to the runner, which does it for a whole image side by side."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def build(self, build_inputs: list[ms.builder.BuilderInput]) -> list[ms.builder.BuilderResult]:
        """One result an input; the artifact is the text of the choice."""
        results = []
        for given in build_inputs:
            choice = choice_of(given.mod, self.task.spaces)
            error = self.task.prepare(choice)
            results.append(ms.builder.BuilderResult(None if error else Task.name(choice), error))
        self.task.flush()
        return results


@tvm.ir.utils.derived_object
class Runner(ms.runner.PyRunner):
    """Measures a batch in one image and reports cycles as microseconds; refused candidates and those over a limit are errors."""

    def __init__(self, task: Task, done: Callable[[Record], None]) -> None:
        super().__init__()
        self.task, self.done = task, done

    def run(self, runner_inputs: list[ms.runner.RunnerInput]) -> list[ms.runner.RunnerFuture]:
        """One future an input, all of them ready."""
        records = self.task.measure([str(given.artifact_path) for given in runner_inputs])
        for record in records:
            self.done(record)
        return [Future(self.task.objection(record), record.cycles) for record in records]


@tvm.ir.utils.derived_object
class Future(ms.runner.PyRunnerFuture):
    """A result that is there already."""

    def __init__(self, objection: str, cycles: float) -> None:
        super().__init__()
        self.objection, self.cycles = objection, cycles

    def done(self) -> bool:
        """Always."""
        return True

    def result(self) -> ms.runner.RunnerResult:
        """Cycles as microseconds, or why there are none."""
        return ms.runner.RunnerResult(None if self.objection else [self.cycles / _HERTZ], self.objection or None)


def search(task: Task, trials: int, batch: int, work_dir: str, seed: int, done: Callable[[Record], None]) -> None:
    """Let MetaSchedule try `trials` candidates of a layer, `batch` at a time."""
    small = max(8, min(32, trials))  # a replay takes milliseconds, and spaces have hundreds of candidates
    strategy = ms.search_strategy.EvolutionarySearch(
        population_size=3 * small, init_measured_ratio=0.2, init_min_unmeasured=small, max_fail_count=3, genetic_num_iters=2,
        genetic_mutate_prob=0.85, genetic_max_fail_count=10, eps_greedy=0.1,
    )  # fmt: skip
    with _quiet_logger(), _without_tensor_intrinsics(), _seeded(seed):
        ms.tir_integration.tune_tir(
            mod=task.outline,
            target=task.target.tvm_target(),
            work_dir=work_dir,
            max_trials_global=trials,
            num_trials_per_iter=batch,
            builder=Builder(task),
            runner=Runner(task, done),
            cost_model=cost_model(task),
            # The default list also removes the folder of every artifact; ours are no files.
            measure_callbacks=[ms.measure_callback.AddToDatabase(), ms.measure_callback.UpdateCostModel()],
            space=space_generator(task, seed),
            strategy=strategy,
            num_tuning_cores=1,  # the pieces above are Python
            seed=seed,
        )


@contextlib.contextmanager
def _quiet_logger() -> Iterator[None]:
    """MetaSchedule configures its logger anew each time, with files in the work folder; what it finds there must have names.

    In a notebook it would print tables of its own (and need pandas) instead of logging.
    """
    logger, asked = logging.getLogger("tvm.s_tir.meta_schedule"), "s_tir.meta_schedule.using_ipython"
    using_ipython = tvm.get_global_func(asked)
    tvm_ffi.register_global_func(asked, lambda: False, override=True)
    own, logger.handlers[:] = list(logger.handlers), []
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        tvm_ffi.register_global_func(asked, using_ipython, override=True)
        for handler in logger.handlers:
            handler.close()
        logger.handlers[:] = own


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """TVM's cost models guess with numpy's own generator until they have learned: from a seed here, and the caller's state afterwards."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


@contextlib.contextmanager
def _without_tensor_intrinsics() -> Iterator[None]:
    """TVM's TuneContext imports the tensor intrinsics of all its targets, which takes longer than tuning a layer; none is used here."""
    name = "tvm.s_tir.tensor_intrin"
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]


def cost_model(task: Task) -> Any:
    """XGBoost where it is installed (extra `tune`), else a random order."""
    try:
        import xgboost  # noqa: F401
    except ImportError:
        return ms.cost_model.RandomModel()
    return ms.cost_model.XGBModel(extractor=DecisionFeatures(task), num_warmup_samples=8, num_tuning_cores=1)


def outline(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function without its constants, which MetaSchedule need neither hash nor store."""
    for key in ("tiny.constants", "tiny.attrs", "tiny.scratch_room"):
        func = func.without_attr(key) if key in func.attrs else func
    return func.with_attr("global_symbol", "main")
