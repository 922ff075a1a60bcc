# SPDX-License-Identifier: Apache-2.0
"""The pipeline: which passes run, in which order, and why there. Registered with TVM as `relax.get_pipeline("tvm_tiny")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from tvm_tiny.errors import InputError, OptionError
from tvm_tiny.memory.design import Design
from tvm_tiny.memory.plan import Region
from tvm_tiny.memory.stream_choice import Costs, StreamOptions
from tvm_tiny.passes.apply_schedules import ApplySchedules
from tvm_tiny.passes.fetch_rows import Camera, FetchRows
from tvm_tiny.passes.fuse_ops import FuseOps
from tvm_tiny.passes.in_place import InPlace
from tvm_tiny.passes.lower_ops import LowerOps
from tvm_tiny.passes.order_ops import OrderOps
from tvm_tiny.passes.overlap import Overlap
from tvm_tiny.passes.patch_inference import PatchInference
from tvm_tiny.passes.plan_memory import PlanMemory
from tvm_tiny.passes.quantize_to_integer import QuantizeToInteger
from tvm_tiny.passes.recompute import Recompute
from tvm_tiny.passes.remove_constant_channels import RemoveConstantChannels
from tvm_tiny.passes.select_layout import SelectLayout
from tvm_tiny.passes.skip_zeros import SkipZeros
from tvm_tiny.passes.stream_rows import StreamRows
from tvm_tiny.schedules.cycles import core_of, cycle_costs, patch_costs
from tvm_tiny.schedules.memo import remembering
from tvm_tiny.schedules.microkernels import Core
from tvm_tiny.search import Allowed, search
from tvm_tiny.target import TinyTarget, parse_target
from tvm_tiny.tuning.records import Records, load_records

CODE_BUDGET = 32_400  # estimated bytes of kernels and entry, good to about a per cent: below 32 KB


@dataclass(frozen=True)
class Options:
    """What the passes may want to know. Passes read the fields they name; none changes them.

    `optimize`, `sram` and `flash` (bytes), `max_overhead` and `camera` are the goal and the budgets of `tvm_tiny.build`.
    """

    target: TinyTarget
    disable: frozenset[str] = frozenset()
    optimize: str = "balanced"
    sram: int | None = None
    flash: int | None = None
    max_overhead: float = 0.1
    camera: Camera = False
    regions: tuple[Region, ...] = ()
    pins: Mapping[str, str] = field(default_factory=dict)
    records: Records = field(default_factory=load_records)  # those shipped
    design: Design | None = None  # exactly this instead of what the passes that save memory choose

    @property
    def code_budget(self) -> int | None:
        """Bytes of kernel code: none set for speed, else what leaves room for the glue below 32 KB."""
        return None if self.optimize == "speed" else CODE_BUDGET

    def __post_init__(self) -> None:
        StreamOptions(self.optimize, self.sram, self.max_overhead)  # raises OptionError
        optional = {p.name for p in PIPELINE if p.optional}
        unknown = sorted(self.disable - optional)
        if unknown:
            raise OptionError(
                f"disable={', '.join(unknown)}: no optional pass of that name", remedy=f"choose from {', '.join(sorted(optional))}"
            )


@dataclass(frozen=True)
class Phase:
    """One position in the pipeline: a pass, and the reason why it stands there and not elsewhere. `optional` ones may be left out."""

    name: str
    make: Callable[[Options], Any]
    why: str
    optional: bool = False


def _costs(target: TinyTarget) -> Costs:
    """What kernels cost on the target."""
    return cycle_costs(dual_issue=Core.of(target.mcpu).dual_issue, pairs=target.has_dsp or target.is_host)


def _forced(options: Options, argument: str, part: str) -> dict[str, Any]:
    """Arguments that make a pass do its part of the design, if there is one."""
    return {argument: getattr(options.design, part), "arena": options.design.arena_bytes} if options.design is not None else {}


PIPELINE: tuple[Phase, ...] = (
    Phase("quantize-to-integer", lambda o: QuantizeToInteger(), "first: every later pass matches the tiny dialect"),
    Phase(
        "fuse-ops", lambda o: FuseOps(), "padding and clamps inside the operators make intervals tighter and kernels fewer", optional=True
    ),
    Phase("remove-constant-channels", lambda o: RemoveConstantChannels(), "before anything is decided by channel counts", optional=True),
    Phase("dead-code", lambda o: relax.transform.DeadCodeElimination(), "what only the float form used is gone"),
    Phase("fetch-rows", lambda o: FetchRows(o.camera), "what reads the inputs is final, and how many rows exist is still open"),
    Phase(
        "order-ops",
        lambda o: OrderOps(in_place="in-place" not in o.disable),
        "operators are final; before what groups consecutive ones",
        optional=True,
    ),
    Phase(
        "recompute",
        lambda o: Recompute(
            o.optimize, o.sram, o.max_overhead, rows="stream-rows" not in o.disable, readers=o.design.copies if o.design else None
        ),
        "operators are final; what it copies the next two passes group",
        optional=True,
    ),
    Phase(
        "patch-inference",
        lambda o: PatchInference(o.optimize, o.sram, o.max_overhead, rows="stream-rows" not in o.disable, **_forced(o, "stage", "patches")),
        "channels are final; before stream-rows, which takes what patches leave",
        optional=True,
    ),
    Phase(
        "stream-rows",
        lambda o: StreamRows(
            o.optimize,
            o.sram,
            o.max_overhead,
            target=o.target,
            pairs=o.design.pairs if o.design else None,
            strips=o.design.strips if o.design else "none",
            **_forced(o, "segments", "segments"),
        ),
        "channels are final, and what it groups must be lowered together",
        optional=True,
    ),
    Phase(
        "select-layout",
        lambda o: SelectLayout(o.target, o.optimize),
        "what works on rows wants NHWC and has chosen; what may run in place depends on the layout",
        optional=True,
    ),
    Phase(
        "in-place",
        lambda o: InPlace(o.target, overlap="overlap" not in o.disable),
        "the order is final, and kernels are chosen for it",
        optional=True,
    ),
    Phase(
        "skip-zeros",
        lambda o: SkipZeros(o.target, o.optimize, o.sram),
        "operators are final, clamps too, and kernels are chosen for it",
        optional=True,
    ),
    Phase("lower-ops", lambda o: LowerOps(), "after the last pass that looks at operators"),
    Phase(
        "apply-schedules",
        lambda o: ApplySchedules(
            o.target,
            o.code_budget,
            o.records,
            o.flash,
            o.design.scratch_arena if o.design else None,
            o.design.forms if o.design else None,
        ),
        "kernels decide scratch and overlap rights, which planning needs",
    ),
    Phase("overlap", lambda o: Overlap(), "distances are the kernels'", optional=True),
    Phase("plan-memory", lambda o: PlanMemory(o.regions, o.pins), "last: every buffer, scratch included, is known"),
)


DESIGNING = ("recompute", "patch-inference", "stream-rows")


def _chosen(options: Options) -> list[Phase]:
    left_out = set(options.disable)
    if options.design is not None:
        parts = (options.design.copies, options.design.patches, options.design.segments)
        left_out |= {name for name, part in zip(DESIGNING, parts, strict=True) if not part}
        left_out |= set() if options.design.planar else {"select-layout"}
    return [phase for phase in PIPELINE if phase.name not in left_out]


def run_pipeline(mod: tvm.IRModule, options: Options, dump: dict[str, str] | None = None) -> tvm.IRModule:
    """Run every phase; with `dump`, keep the printed module after each under `phase<N>_<name>`.

    Where `Sequential` takes the passes that save memory at their word, here the designs they may choose from are built to the end and
    compared (`tvm_tiny.search`).
    """
    names = [phase.name for phase in PIPELINE]
    first = min(names.index(name) for name in DESIGNING)
    before = [phase for phase in _chosen(options) if names.index(phase.name) < first]
    trail: list[tuple[str, tvm.IRModule]] = []
    mod = _run(before, options, mod, trail)

    def finish(design: Design) -> tuple[tvm.IRModule, list[tuple[str, tvm.IRModule]]]:
        bound, rest = replace(options, design=design), list[tuple[str, tvm.IRModule]]()
        return _run([p for p in _chosen(bound) if names.index(p.name) >= first], bound, mod, rest), rest

    if options.design is not None:
        out, rest = finish(options.design)
    else:
        goal = StreamOptions(options.optimize, options.sram, options.max_overhead)
        copies, patches, rows = (name not in options.disable for name in DESIGNING)
        costs = _costs(options.target)
        allowed = Allowed(copies, patches, rows, costs, patch_costs(costs, core_of(options.target)))
        with remembering():
            out, rest = search(mod, goal, allowed, finish, options.flash)
    for number, (name, made) in enumerate([*trail, *rest]):
        if dump is not None:
            dump[f"phase{number}_{name.replace('-', '_')}"] = made.script(show_meta=False)
    return out


def _run(phases: Sequence[Phase], options: Options, mod: tvm.IRModule, trail: list[tuple[str, tvm.IRModule]]) -> tvm.IRModule:
    for phase in phases:
        mod = phase.make(options)(mod)
        trail.append((phase.name, mod))
    return mod


def sequential(options: Options) -> tvm.ir.transform.Sequential:
    """Return the whole pipeline as one stock TVM pass."""
    return tvm.ir.transform.Sequential([phase.make(options) for phase in _chosen(options)], name="tvm_tiny")


def write_dump(dump: dict[str, str], directory: Path) -> None:
    """Write what `run_pipeline` kept, one file a phase."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in dump.items():
            (directory / f"{name}.py").write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{directory}: can't be written: {error.strerror}", remedy="choose a directory you may write to") from None


@relax.register_pipeline("tvm_tiny")
def _pipeline(target: str = "c") -> tvm.ir.transform.Sequential:
    return sequential(Options(parse_target(target)))
