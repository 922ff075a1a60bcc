# SPDX-License-Identifier: Apache-2.0
"""What a term of `schedules/cycle_terms.py` costs by its instructions alone, on a Cortex-M7 and a Cortex-M4.

A fit to profiles is drawn to these costs, so that a term that profiles hardly tell from others keeps a sensible one, and a term that no
profile had is not free. Blocks of products are counted exactly from what the generator emits for one group of four products; the others are
the instructions of their loops, rounded.
"""

from __future__ import annotations

import re
from functools import lru_cache

_FETCH = 1.08  # cycles an instruction takes on a Cortex-M4, fetch stalls included
_WORDS = {"w16": 2}  # weight words of a group and channel
_UNPACKED = {"r8": 1, "w8": 2}  # instructions that take a weight word apart

COSTS: dict[str, tuple[float, float]] = {
    # products and sums
    "gemm own blocks": (8, 12),
    "gemm shared blocks": (16, 26),
    "gemm sums": (2.5, 8),
    "gemm sums single": (1.5, 5),
    "gemm sums accumulator": (30, 45),
    "gemm own walks": (28, 38),
    "gemm shared walks": (34, 44),
    "gemm own iterations": (3, 6),
    "gemm shared iterations": (4, 7),
    "gemm shared pairs": (3, 5),
    "gemm own long blocks": (10, 16),
    "gemm shared long blocks": (10, 16),
    "conv calls": (40, 60),
    "conv rows widened": (2.2, 5),
    "conv words copied": (1.3, 2.4),
    "dense products": (0.55, 1.1),
    "dense blocks": (12, 20),
    "dense inputs": (0.5, 1),
    "dense sums": (5, 9),
    "dense calls": (60, 80),
    "winograd products": (0.56, 1.1),
    "winograd left products": (1.0, 1.6),
    "winograd sums": (45, 80),
    "winograd sums single": (38, 68),
    "winograd inputs": (35, 80),
    "winograd rows inputs": (35, 80),
    "winograd tiles": (15, 25),
    "winograd blocks": (30, 45),
    "winograd calls": (60, 90),
    "winograd rows calls": (60, 90),
    # columns
    "expand words": (2.6, 5.5),
    "expand bytes": (2.6, 5.5),
    "expand pixels words": (2, 3),
    "expand pixels bytes": (2, 3),
    "expand calls words": (25, 35),
    "expand calls bytes": (25, 35),
    "gather words": (2.6, 5.5),
    "gather segments": (20, 30),
    "gather single segments": (22, 32),
    "gather taps": (16, 24),
    "gather calls": (30, 45),
    "gather straight words": (5, 10),
    "gather straight calls": (30, 40),
    "gather straight rows rows": (1, 2),
    "gather bytes words": (3, 6),
    "gather bytes": (1, 1.4),
    "gather bytes segments": (30, 45),
    "gather bytes taps": (25, 40),
    "gather bytes pixels": (15, 25),
    "band words": (4, 6.8),
    "bands": (150, 150),
    # depthwise
    "depthwise pairs": (1, 1.1),
    "depthwise loads": (0.5, 1.1),
    "depthwise taps": (0.5, 1.1),
    "depthwise outputs": (4, 8),
    "depthwise outputs single": (2.5, 5),
    "depthwise groups": (4, 8),
    "depthwise looped groups": (2, 4),
    "depthwise turns": (12, 14),
    "depthwise rows": (8, 14),
    "depthwise fours": (40, 60),
    "depthwise channels": (16, 30),
    "depthwise calls": (60, 90),
    "depthwise spread fours": (5, 9),
    "depthwise spread fours rows": (15, 25),
    "depthwise spread lines": (1.2, 2.5),
    "depthwise spread lines rows": (15, 25),
    "depthwise spread single": (12, 16),
    "depthwise spread single rows": (20, 30),
    "depthwise plain products": (6, 9),
    "depthwise plain outputs": (25, 35),
    "plain products": (6.4, 10),
    # elements
    "add linear": (3.5, 7.6),
    "add plain C": (40, 55),
    "add rows linear": (3.5, 7.6),
    "lookup calls": (50, 80),
    "mul calls": (50, 80),
    "windows": (35, 55),
    "taps": (2.2, 4),
    "turns": (3, 4),
    "chunks": (12, 18),
    "chunk rows": (4, 6),
    "words": (15, 25),
    "single taps": (4, 7),
    "single": (15, 25),
    "fallback windows": (1, 2),
    "fallback single": (6, 10),
    "fallback single taps": (2, 3),
    "rows single": (20, 30),
    "row maxima turns": (20, 25),
    "row maxima taps": (5.1, 10),
    "row maxima chunk rows": (0, 0),
    "avg_pool2d rows single taps": (14, 19),
    "avg_pool2d fallback single taps": (13.8, 19),
    "pieces": (5, 8),
    "concat words": (1.2, 2.3),
    "resize_nearest words": (1.2, 2.3),
    "resize_nearest uneven": (5.5, 6.5),
    "resize_bilinear pixels": (22, 32),
    "resize_bilinear fours": (32.5, 65),
    "resize_bilinear single": (14.5, 23),
    "strided_slice": (3.6, 6),
    "transpose": (3.2, 6),
    "mean fallback single taps": (4.5, 8),
    "requantize fallback": (19, 24),
    "prelu fallback": (18, 27),
    "inputs": (1, 1.6),
    "lookup": (2.2, 4),
    "requantize": (3, 6),
    "softmax": (60, 90),
    "mul": (6, 10),
    "mul fallback": (22, 40),
    "mul rows": (22, 40),
    "mul rows gate": (6, 10),
    "prelu": (25, 40),
    "maximum": (6, 10),
    "minimum": (6, 10),
    "requantize rows": (2.2, 4),
    "quantize": (7, 13.5),
    "quantize float": (7, 13.5),
    "dequantize": (7, 13.5),
    "quantize calls": (50, 80),
    "signed bytes": (1, 2.2),
    "dequantize calls": (50, 80),
    "float function": (1000, 2000),
    # drivers
    "call": (30, 45),
    "calls": (50, 80),
    "stream firings": (60, 110),
    "stream pointers": (14, 26),
    "strip calls": (150, 200),
    "strip pointers": (8, 11),
    "strip steps": (100, 130),
    "strip bytes kept": (0.35, 0.5),
    "strip products": (0.03, 0.001),
    "patches": (200, 300),
    "patch calls": (120, 200),
    "patch pointers": (10, 18),
    "flash lines": (12, 5),
    "lines again": (12, 5),
}
"""Cycles on a Cortex-M7 and a Cortex-M4 by words that the term's name has, in their order; the longest match counts."""
_ELSE = (6.0, 10.0)  # an element of an operator that has no words here


@lru_cache(maxsize=4096)
def counted_cost(name: str, core: str) -> float:
    """Cycles of a term of that name on "cortex-m7" or "cortex-m4"."""
    if block := re.fullmatch(r"gemm \w+ (\S+) groups (\d+)x(\d+)", name):
        return group_cost(str(block[1]), int(block[2]), int(block[3]), core)
    words = name.split()
    fitting = [key for key in COSTS if _has(words, key.split())]
    cost = COSTS[max(fitting, key=lambda key: len(key.split()))] if fitting else _ELSE
    return cost[0 if core == "cortex-m7" else 1]


def _has(words: list[str], wanted: list[str]) -> bool:
    """Whether all `wanted` words are among `words`, in their order."""
    left = iter(words)
    return all(word in left for word in wanted)


def group_cost(operand: str, channels: int, pixels: int, core: str) -> float:
    """Cycles of four products of each of a block's sums: two SMLAD a sum, loads of weights and columns, weights taken apart."""
    macs = 2 * channels * pixels
    loads = channels * _WORDS.get(operand, 1) + 2 * pixels
    fields = channels * _UNPACKED.get(operand, 0)
    if core == "cortex-m7":
        return max(macs, fields + loads / 2, (macs + loads + fields) / 2) * 1.04
    return (macs + loads + fields) * _FETCH + (2.0 if loads else 0.0)
