# SPDX-License-Identifier: Apache-2.0
"""`tiny.maximum`: the larger of two int8 of one scale and zero point, with broadcasting.

Meaning: TensorFlow Lite's MAXIMUM, int8 (reference_ops::MaximumMinimumBroadcastSlow).
"""

from __future__ import annotations

import numpy as np
from tvm import tirx

from tvm_tiny.ops.extremes import extreme

NAME = "tiny.maximum"
OP = extreme(NAME, np.maximum, tirx.max)
