# SPDX-License-Identifier: Apache-2.0
"""The form of a row kernel: one C signature, and what a stage needs to know to call it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.microkernels import CFunction

SIGNATURE = "const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end, const void *packed, void *scratch"


@dataclass(frozen=True)
class RowKernel:
    """One operator's row kernel.

    Attributes
    ----------
    name : str
        The C function.
    functions : tuple of CFunction
        Callees first; exactly those `name` needs.
    packed : bytes
        Its constants; must lie at a multiple of four.
    scratch_bytes : int
        Scratch of one firing.
    sums_bytes : int
        Scratch that must survive from firing to firing (given to the kernel instead of `scratch`).
    kernel : str
        For reports.
    """

    name: str
    functions: tuple[CFunction, ...]
    packed: bytes = b""
    scratch_bytes: int = 0
    sums_bytes: int = 0
    kernel: str = "plain C"


def row_function(stem: str, body: str) -> tuple[str, tuple[CFunction, ...]]:
    """A static function of the common signature; unused parameters are cast to void."""
    name = f"{PREFIX}{stem}_row"
    unused = "".join(f"  (void){p};\n" for p in ("rows", "out", "begin", "end", "packed", "scratch") if not re.search(rf"\b{p}\b", body))
    return name, (CFunction(name, f"static void {name}({SIGNATURE}) {{\n{unused}{body}}}\n"),)
