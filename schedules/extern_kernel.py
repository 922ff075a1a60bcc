# SPDX-License-Identifier: Apache-2.0
"""Names of `tvm_tiny.schedules.tensorize` for rules that have not moved."""

from tvm_tiny.schedules.tensorize import named_by_content
from tvm_tiny.schedules.tensorize import tensorized as extern_schedule

__all__ = ["extern_schedule", "named_by_content"]
