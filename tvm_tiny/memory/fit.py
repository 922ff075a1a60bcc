# SPDX-License-Identifier: Apache-2.0
"""When memory is too small: by how much, and which step decides."""

from __future__ import annotations

import re

from tvm_tiny.errors import DoesNotFitError
from tvm_tiny.memory.plan import MemoryPlan, Region


class MemoryDoesNotFitError(DoesNotFitError):
    """A region of the board, or the given SRAM budget, is too small."""

    @property
    def region(self) -> str:
        """The region exceeded most."""
        return self._said(r"bytes of (.*), which has")

    @property
    def excess(self) -> int:
        """Bytes missing there."""
        return int(self._said(r": ([\d,]+) too many").replace(",", ""))

    @property
    def step(self) -> str:
        """The step that occupies most of it."""
        return self._said(r"\n  step \d+ \((.*)\) decides: ")

    def _said(self, pattern: str) -> str:
        """From the message, which is all that TVM keeps of an error (`tvm_tiny.tvm_errors`)."""
        found = re.search(pattern, self.message)
        assert found is not None, self.message
        return found.group(1)


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
    return MemoryDoesNotFitError(message, remedy=remedy)


def _worst(plan: MemoryPlan) -> tuple[Region, int]:
    beyond = [(r, plan.used[r.name] - r.nbytes) for r in plan.regions if r.nbytes is not None]
    return max(beyond, key=lambda b: b[1])


def _live(plan: MemoryPlan, step: int, region: str) -> str:
    inside = [b for b in plan.buffers if plan.placements[b.name].region == region and b.first_use <= step <= b.last_use]
    return ", ".join(f"{b.name} {b.nbytes:,}" for b in sorted(inside, key=lambda b: (-b.nbytes, b.name)))
