# SPDX-License-Identifier: Apache-2.0
"""The generated kernels of a network as C text, and what their assembly takes that no compiler tells."""

from __future__ import annotations

import re

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.memory.program import Program

_ASSEMBLY = re.compile(r"__asm volatile\((.*?)\n  \);", re.DOTALL)
_PUSHED = re.compile(r'"push \{(.*?)\}')
_RESERVED = re.compile(r'"sub sp, sp, #(\d+)')


def microkernels(program: Program) -> list[str]:
    """The C of every microkernel, each once, callees first.

    Raises
    ------
    RuntimeError
        Two of a name differ.
    """
    texts: dict[str, str] = {}
    for func in program.kernels.values():
        for name, text in func.attrs.get("tiny.c_sources") or ():
            if texts.setdefault(str(name), str(text)) != str(text):
                raise RuntimeError(f"two different microkernels are called {name}")
    return [text.replace(PREFIX, f"tvmgen_{program.name}_") for text in texts.values()]


def deepest_frame(texts: list[str]) -> int:
    """Bytes of stack of the function of assembly that takes most (none of them calls another); 0 without assembly."""
    return max((_frame(body) for text in texts for body in _ASSEMBLY.findall(text)), default=0)


def _frame(body: str) -> int:
    saved = sum(4 * _registers(names) for names in _PUSHED.findall(body))
    return saved + sum(int(size) for size in _RESERVED.findall(body))


def _registers(names: str) -> int:
    """How many registers a list such as "r4-r7, lr" names."""
    count = 0
    for name in names.split(","):
        first, _, last = name.strip().removeprefix("r").partition("-r")
        count += int(last) - int(first) + 1 if last else 1
    return count
