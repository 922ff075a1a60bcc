# SPDX-License-Identifier: Apache-2.0
"""What the compiler decided, as data: one row a layer, and the totals a user asks for before flashing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tvm_tiny.boards import Board
from tvm_tiny.explain import Decision
from tvm_tiny.memory.plan import MemoryPlan
from tvm_tiny.memory.program import KernelCall, Program
from tvm_tiny.target import TinyTarget


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes
    ----------
    source : list of str
        Names of the source model's tensors the layer produces.
    kernel : dict
        What chose the kernel: rule, kernel, block, unroll … (attribute `tiny.kernel` of the function).
    sram : int
        Bytes of the arena that hold something while the layer runs.
    flash : int
        Bytes of its constants (shared constants count at every layer that reads them).
    """

    index: int
    name: str
    op: str
    source: list[str]
    shape: list[int]
    macs: int
    kernel: dict[str, Any]
    function: str
    sram: int
    scratch: int
    flash: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """The whole model: see `tvm_tiny.report.terminal` for how it is printed. `explain` has a row for every candidate of every pass."""

    name: str
    target: str
    board: str | None
    arena_bytes: int
    arena_optimal: bool
    arena_lower_bound: int
    memories: dict[str, int]
    peak_layer: str
    constants_bytes: int
    macs: int
    float_layers: list[str]
    layers: list[LayerRow]
    decisions: dict[str, Any]
    explain: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    def __str__(self) -> str:
        from tvm_tiny.report.terminal import render_text

        return render_text(self)


def make_report(
    program: Program, plan: MemoryPlan, target: TinyTarget, board: Board | None, explanation: Iterable[Decision] = ()
) -> Report:
    """Collect the report of a planned program."""
    layers = [_row(program, plan, i, call) for i, call in enumerate(program.calls)]
    return Report(
        name=program.name,
        target=str(target),
        board=board.name if board else None,
        arena_bytes=plan.arena_bytes,
        arena_optimal=plan.optimal,
        arena_lower_bound=plan.lower_bound,
        memories=dict(plan.used),
        peak_layer=plan.steps[plan.peak_step()].name if plan.steps else "",
        constants_bytes=sum(a.nbytes for a in program.constants.values()),
        macs=sum(call.macs for call in program.calls),
        float_layers=[row.name for row in layers if row.op == "float"],
        layers=layers,
        decisions=program.decisions,
        explain=[d.to_dict() for d in explanation],
    )


def _row(program: Program, plan: MemoryPlan, index: int, call: KernelCall) -> LayerRow:
    tensors = program.model.get("tensors", {})
    attrs = program.kernels[call.kernel].attrs
    return LayerRow(
        index=index,
        name=call.layer,
        op=call.op.removeprefix("tiny."),
        source=[tensors.get(w, {}).get("name", w) for w in call.writes],
        shape=list(program.buffers[call.writes[0]].shape),
        macs=call.macs,
        kernel={"source": "default", **json.loads(str(attrs["tiny.kernel"]))} if "tiny.kernel" in attrs else {},
        function=call.kernel,
        sram=plan.occupied_bytes(index),
        scratch=sum(program.buffers[s].nbytes for s in call.scratch),
        flash=sum(program.constants[n].nbytes for n in {n for kind, n in call.args if kind == "constant"}),
    )
