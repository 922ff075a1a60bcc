# SPDX-License-Identifier: Apache-2.0
"""Cortex-M3: the Cortex-M4's pipeline without its single-cycle multiply-accumulate and without SIMD or VFP.

Source: Arm Cortex-M3 Technical Reference Manual (DDI 0337), table 3-1. Long multiplies end early on small operands (SMULL 3…5,
SMLAL 4…7 cycles); requantisation multiplies full 32-bit words, so the upper end is taken. Not validated on hardware.
"""

from __future__ import annotations

from tvm_tiny.profiler.model_m4 import TableModel

_MULTIPLY = {"mla": 2, "mls": 2, "smull": 5, "umull": 5, "smlal": 7, "umlal": 7}

CORTEX_M3 = TableModel("cortex-m3", "Arm TRM DDI 0337 table 3-1, long multiplies at their upper bound; not validated", multiply=_MULTIPLY)
