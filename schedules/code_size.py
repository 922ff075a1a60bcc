# SPDX-License-Identifier: Apache-2.0
"""How much flash the code of kernels takes, estimated from its text: good to some tens of per cent, and the same on every machine."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tvm import tirx

# Fitted to arm-none-eabi-gcc 12.2 -O2 on the MLPerf Tiny networks: microkernels are mostly 32-bit instructions.
_BYTES_PER_INSTRUCTION = 3.6
_BYTES_PER_STATEMENT = 9.0
_LOOP_KERNEL = 150
_ASSEMBLY = re.compile(r'^\s*"(?:[^".]+)\\n"$', re.MULTILINE)


def estimate_code_bytes(functions: Iterable[tirx.PrimFunc]) -> int:
    """Bytes of the kernels of a model: each microkernel once, however many functions call it."""
    texts: dict[str, str] = {}
    loops = 0
    for func in functions:
        sources = func.attrs.get("tiny.c_sources") if func.attrs is not None else None
        if sources is None:
            loops += 1
            continue
        texts.update({str(name): str(text) for name, text in sources if str(name) != "preamble"})
    return int(sum(_text_bytes(t) for t in texts.values())) + loops * _LOOP_KERNEL


def _text_bytes(text: str) -> float:
    instructions = len(_ASSEMBLY.findall(text))
    if instructions:
        return instructions * _BYTES_PER_INSTRUCTION
    return text.count(";") * _BYTES_PER_STATEMENT
