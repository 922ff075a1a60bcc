# SPDX-License-Identifier: Apache-2.0
"""When memory is too small: by how much, and which step decides."""

from __future__ import annotations

from tvm_tiny.errors import DoesNotFitError
from tvm_tiny.memory.plan import MemoryPlan, Region


class MemoryDoesNotFitError(DoesNotFitError):
    """A region of the board, or the given SRAM budget, is too small.

    Attributes
    ----------
    region : str
        The region exceeded most.
    excess : int
        Bytes missing there.
    step : str
        The step that occupies most of it.
    """

    def __init__(self, message: str, *, remedy: str, region: str, excess: int, step: str) -> None:
        super().__init__(message, remedy=remedy)
        self.region, self.excess, self.step = region, excess, step


def does_not_fit(plan: MemoryPlan) -> MemoryDoesNotFitError:
    """The error for a plan that exceeds its regions."""
    region, excess = _worst(plan)
    step = plan.peak_step(region.name)
    name = plan.steps[step].name if plan.steps else ""
    need = plan.used[region.name]
    best = "the least possible under the present schedule" if plan.optimal else "the least found"
    message = (
        f"the network needs {need:,} bytes of {region.name}, which has {region.nbytes:,}: {excess:,} too many ({best}).\n"
        f"  step {step} ({name}) decides: {_live(plan, step, region.name)}"
    )
    remedy = f"a board or budget with {excess:,} bytes more, or schedules that keep less of the largest tensors alive (optimize='sram')"
    return MemoryDoesNotFitError(message, remedy=remedy, region=region.name, excess=excess, step=name)


def _worst(plan: MemoryPlan) -> tuple[Region, int]:
    beyond = [(r, plan.used[r.name] - r.nbytes) for r in plan.regions if r.nbytes is not None]
    return max(beyond, key=lambda b: b[1])


def _live(plan: MemoryPlan, step: int, region: str) -> str:
    inside = [b for b in plan.buffers if plan.placements[b.name].region == region and b.first_use <= step <= b.last_use]
    return ", ".join(f"{b.name} {b.nbytes:,}" for b in sorted(inside, key=lambda b: (-b.nbytes, b.name)))
