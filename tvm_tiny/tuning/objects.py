# SPDX-License-Identifier: Apache-2.0
"""Candidates compiled side by side into a folder, where equal ones are found again by the digest of their source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.compiled import COMPILE_FLAGS
from tvm_tiny.device.toolchain import find_tool, run_tool, tool_version
from tvm_tiny.errors import ToolchainError
from tvm_tiny.target import TinyTarget
from tvm_tiny.tuning.candidate import Candidate, Measurement


class Objects:
    """Object files of candidates for one target.

    Attributes
    ----------
    gcc, compiler, flags : str
        The cross compiler, what it calls itself, and the flags kernels are compiled with.
    """

    def __init__(self, target: TinyTarget, directory: Path) -> None:
        self.directory = directory
        self.gcc = str(find_tool("arm-gcc"))
        self.compiler = tool_version(Path(self.gcc))
        self._flags = (*target.cflags, *COMPILE_FLAGS)
        self.flags = " ".join(self._flags)

    def compile(self, candidates: Sequence[Candidate]) -> list[Path | str]:
        """For each candidate the object file, or what the compiler said; equal ones are compiled once."""
        distinct = {c.digest: c for c in candidates}
        with ThreadPoolExecutor(cpu_count() or 1) as pool:
            made = dict(zip(distinct, pool.map(self._compile, distinct.values()), strict=True))
        return [made[c.digest] for c in candidates]

    def _compile(self, candidate: Candidate) -> Path | str:
        source = self.directory / f"{candidate.digest}.c"
        made = source.with_suffix(".o")
        if made.is_file():
            return made
        source.write_text(candidate.source.replace(PREFIX, f"{candidate.entry}_"))  # candidates share an image
        symbol = candidate.symbol.replace(PREFIX, f"{candidate.entry}_")
        partial = source.with_suffix(".o.part")  # an object is there whole or not at all
        command = [self.gcc, *self._flags, f"-D{symbol}={candidate.entry}", "-c", str(source), "-o", str(partial)]
        try:
            run_tool(command, cwd=self.directory, timeout=300, what="compiling a candidate")
        except ToolchainError as error:
            return error.message
        return partial.rename(made)


def measure_distinct(
    objects: Objects, candidates: Sequence[Candidate], measure: Callable[[dict[int, Path]], dict[int, Measurement]]
) -> list[Measurement]:
    """Compile candidates and measure those that compiled, equal ones once; one measurement each, in order.

    Parameters
    ----------
    measure : callable
        From {number of a candidate: its object file} to {number: measurement}.
    """
    made = objects.compile(candidates)
    compiled = {i: o for i, o in enumerate(made) if isinstance(o, Path)}
    first = {candidates[i].digest: i for i in reversed(compiled)}
    results = {i: Measurement("build", message=str(o)) for i, o in enumerate(made) if i not in compiled}
    results |= measure({i: compiled[i] for i in sorted(first.values())})
    return [results[i] if i in results else results[first[c.digest]] for i, c in enumerate(candidates)]
