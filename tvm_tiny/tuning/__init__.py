# SPDX-License-Identifier: Apache-2.0
"""Tuning on TVM MetaSchedule: spaces from the schedule rules, candidates built into few firmware images, checked, and timed under QEMU.

- `tune`: tune the layers of a network.
- `Record`, `Records`, `read_records`, `load_records`: what was measured, and what `build` chooses from.
- `Workload`: what makes two layers the same.

`records` and `workload` import nothing of the search, so that `build` stays quick.
"""

from __future__ import annotations

from tvm_tiny.tuning.records import Record, Records, load_records, read_records, shipped_records
from tvm_tiny.tuning.workload import Workload

__all__ = ["Record", "Records", "Workload", "load_records", "read_records", "shipped_records", "tune"]


def __getattr__(name: str) -> object:
    if name != "tune":
        raise AttributeError(f"module 'tvm_tiny.tuning' has no attribute {name!r}")
    from tvm_tiny.tuning.network import tune

    return tune
