# SPDX-License-Identifier: Apache-2.0
"""Damaging model files at random, reproducibly."""

from __future__ import annotations

import random
import time
from collections import Counter

from tvm import relax

from tvm_tiny.errors import TinyError
from tvm_tiny.frontend import load

MAX_SECONDS = 20.0


def damage(data: bytes, rng: random.Random) -> bytes:
    """One damaged copy: truncated, bits flipped, bytes or aligned words overwritten with values that hurt."""
    style = rng.randrange(5)
    if style == 0:
        return data[: rng.randrange(len(data))]
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(out))
        if style == 1:
            out[at] ^= 1 << rng.randrange(8)
        elif style == 2:
            out[at] = rng.choice((0, 255, 127, 128))
        else:
            word = rng.choice((0, 1, 4, 8, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, len(out), rng.randrange(1 << 32), rng.randrange(len(out))))
            out[at & ~3 : (at & ~3) + 4] = word.to_bytes(4, "little")
    return bytes(out)


def load_damaged(data: bytes, rounds: int, seed: int) -> Counter[str]:
    """Load `rounds` damaged copies; each must end in a `TinyError` or a well-formed module, and soon. Returns how they ended."""
    rng = random.Random(seed)
    ends: Counter[str] = Counter()
    for number in range(rounds):
        broken = damage(data, rng)
        started = time.monotonic()
        told = True
        try:
            relax.analysis.well_formed(load(broken))
            ends["ok"] += 1
        except TinyError as error:
            ends[error.code] += 1
            told = bool(error.remedy) or "; " in error.message
        except Exception as error:
            raise AssertionError(f"seed {seed}, round {number}: {error!r} escaped") from error
        assert told, f"seed {seed}, round {number}: an error without a remedy"
        assert time.monotonic() - started < MAX_SECONDS, f"seed {seed}, round {number} took too long"
    return ends
