# SPDX-License-Identifier: Apache-2.0
"""What a schedule rule is, and what rules share.

A rule is a module with `apply(func, target, tunable) -> None | Schedule | list[Schedule]`: None means "not mine"; with `tunable=False` it
returns one schedule, its default; with `tunable=True` it may return several, or one whose decisions are sampled (the tuning space).

A rule may change the parameter list of the function: weights repacked for the kernel, constants folded away, scratch added. The scheduled
function then says how its parameters are made, in attributes:

  tiny.args         list of "arg:<i>" (the i-th argument of the original call) and "packed:<i>" (the i-th array of `tiny.packed`), in order;
                    absent = the original arguments.
  tiny.packed       the arrays computed from the constants.
  tiny.scratch      bytes of each scratch buffer; they follow the outputs as uint8 parameters.
  tiny.c_sources    [[name, C text], …] of microkernels, callees first, the function calls by `call_extern`; equal texts are emitted once.
  tiny.intrinsics   names of the `TensorIntrin`s its inner blocks were replaced by.
  tiny.overlap      JSON {"<output>:<argument>": [[order, distance], …]}: how an output may lie over an argument, if a pass grants it
                    (`tvm_tiny.memory.rights`); scratch buffers are counted after the outputs.
  tiny.fetched      numbers of the arguments that are no arrays but functions of the application (`schedules/fetch.py`).
  tiny.operators    JSON [{"op", "lost", "functions", "constants"}, …] of a function that is several operators: the microkernels each needs,
                    the cycles it would lose by sharing them (`code_size.lost_cycles`), and bytes of its constants.
  tiny.kernel       JSON {"rule", "kernel", "block", "unroll", …}: what the report tells of the choice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import tvm
from tvm import s_tir, tirx

from tvm_tiny.target import TinyTarget

Applied: TypeAlias = s_tir.Schedule | list[s_tir.Schedule] | None
Rule = Callable[[tirx.PrimFunc, TinyTarget, bool], Applied]


@dataclass(frozen=True)
class Layer:
    """What `lower-ops` wrote on a function: the operator, its attributes and its constant arguments.

    `scratch_room` is the bytes of scratch that cost no memory: what is free in this step below the network's peak. `step_room` is set where
    the peak was chosen (by streaming), so that a kernel should rather be slower than exceed it: the peak less all tensors of this step,
    negative where some have to share bytes, as they may where the layer is the `last_reader` of its tensors. `small_code` asks for
    kernels with the least code of their own, because the code of all kernels together would exceed its budget: the numbers of a stage's
    operators, 0 for a layer alone; `short_code` those of them that share with layers of equally long sums alone, or of the same shift.
    `by_rows` asks for the row kernel that streamed stages use, to measure it.
    """

    op: str
    attrs: dict[str, Any]
    constants: dict[int, np.ndarray]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    scratch_room: int = 0
    small_code: frozenset[int] = frozenset()
    short_code: frozenset[int] = frozenset()
    step_room: int | None = None
    by_rows: bool = False
    last_reader: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulates of an operator with weights: those of one output channel, times the outputs."""
        weights = self.shapes[1]
        each = math.prod(weights[:2]) if self.op == "tiny.depthwise_conv2d" else math.prod(weights[1:])
        return each * math.prod(self.shapes[-1])

    @property
    def is_nhwc(self) -> bool:
        """Input and output lie in NHWC."""
        return all(self.attrs.get(k, "NHWC") == "NHWC" for k in ("x_layout", "y_layout"))

    @staticmethod
    def of(func: tirx.PrimFunc) -> Layer | None:
        """Read the annotations of `func`; None when it is no lowered tiny operator."""
        if func.attrs is None or "tiny.op" not in func.attrs:
            return None
        constants = {int(k): v.numpy() for k, v in func.attrs["tiny.constants"].items()}
        shapes = tuple(tuple(int(d) for d in p.ty.shape) for p in func.params)
        dtypes = tuple(str(p.ty.dtype) for p in func.params)
        room = int(func.attrs.get("tiny.scratch_room", 0))
        small, short = (frozenset(int(j) for j in func.attrs.get(f"tiny.{kind}_code", ())) for kind in ("small", "short"))
        step = int(func.attrs["tiny.step_room"]) if "tiny.step_room" in func.attrs else None
        rows, attrs = bool(func.attrs.get("tiny.by_rows", False)), json.loads(str(func.attrs["tiny.attrs"]))
        last = bool(func.attrs.get("tiny.last_reader", False))
        return Layer(str(func.attrs["tiny.op"]), attrs, constants, shapes, dtypes, room, small, short, step, rows, last)


def annotate(sch: s_tir.Schedule, kernel: dict[str, Any], **extra: Any) -> s_tir.Schedule:
    """Attach `tiny.kernel` (what was chosen) and further `tiny.*` attributes to the schedule's main function."""
    func = sch.mod["main"].with_attr("tiny.kernel", json.dumps(kernel))
    for key, value in extra.items():
        func = func.with_attr(f"tiny.{key}", value)
    return s_tir.Schedule(tvm.IRModule({"main": func}))
